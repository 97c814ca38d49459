"""What torch has no public name for."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor


def allow_recompilation() -> None:
    """Let ``torch.compile`` make a program for each phase of a schedule, not 8 in all."""
    torch._dynamo.config.recompile_limit = 64


def any_not_finite(tensors: Sequence[Tensor]) -> Tensor:
    """Return whether one of the values isn't finite, as a float scalar, without a wait for a GPU.

    It is what ``torch.amp.GradScaler`` looks with, which has no public name and takes a third of
    the time of a norm.

    Args:
        tensors: Gradients of any shapes; those on other devices than the first are looked at there.
    """
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        if tensor.is_sparse:
            tensor = tensor.coalesce().values()
        if tensor.is_complex():
            tensor = torch.view_as_real(tensor)
        groups.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    found = torch.zeros((), device=tensors[0].device)
    for (device, _), group in groups.items():
        here = found if device == found.device else torch.zeros((), device=device)
        torch._amp_foreach_non_finite_check_and_unscale_(group, here, _one(device))
        if here is not found:
            found += here.to(found.device)
    return found


@cache
def _one(device: torch.device) -> Tensor:
    return torch.ones((), device=device)
