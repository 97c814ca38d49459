"""Optimizers: torch's fused kernels where they work, and what a resumed run may change."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from project.approaches.schedulers import plain_state
from project.errors import UserError

FUSED_DEVICES = ("cpu", "cuda")
DEFAULT = partial(Adam, lr=0.001)


def build_optimizer(
    build: Callable[..., Any] | None,
    groups: Callable[[], list[dict[str, Any]]],
    trainer: L.Trainer | None = None,
) -> Optimizer:
    """Return an optimizer, fused if it has such a kernel and nobody chose otherwise.

    Args:
        build: Takes parameter groups and options; null is Adam with a learning rate of 0.001.
        groups: Returns the parameter groups; optimizers change those they are given.
        trainer: Who trains it, if that is known.
    """
    build = build or DEFAULT
    optimizer = build(groups())
    if _can_fuse(optimizer, trainer):
        optimizer = build(groups(), fused=True)
    assert isinstance(optimizer, Optimizer)
    return optimizer


def base_lr(build: Callable[..., Any] | None) -> float:
    """Return the learning rate that an optimizer gives groups that have none of their own.

    Args:
        build: As for :func:`build_optimizer`.

    Raises:
        UserError: If the optimizer refuses its options.
    """
    with optimizer_errors():
        optimizer = (build or DEFAULT)([nn.Parameter(torch.zeros(1))])
    lr: float = optimizer.defaults["lr"]
    return lr


@contextmanager
def optimizer_errors() -> Iterator[None]:
    """Say that it is the optimizer that refuses its options.

    Raises:
        UserError: In place of a TypeError or ValueError.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        raise UserError(str(error), "model.optimizer") from error


def _can_fuse(optimizer: Optimizer, trainer: L.Trainer | None) -> bool:
    options = optimizer.defaults
    takes_it = "fused" in inspect.signature(type(optimizer)).parameters
    if not takes_it or options.get("fused", False) is not None:
        return False
    if any(options.get(name) for name in ("foreach", "capturable", "differentiable")):
        return False
    if options.get("momentum"):  # fused SGD fails where some have none yet: newly trained layers
        return False
    # Lightning 2.6 refuses it: https://github.com/Lightning-AI/pytorch-lightning/pull/21435
    if (
        trainer
        and trainer.gradient_clip_val
        and isinstance(trainer.precision_plugin, MixedPrecision)
    ):
        return False
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return all(p.device.type in FUSED_DEVICES and p.is_floating_point() for p in parameters)


def align_state(optimizer: Optimizer) -> None:
    """Lay a loaded state out in memory like its parameters.

    The fused kernels of the CPU take that for granted and compute nonsense otherwise, in silence.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def configured(optimizer: Optimizer, scheduler: LRScheduler | None) -> dict[str, Any]:
    """Return how optimizer and scheduler are configured before the first step."""
    return {
        "optimizer": type(optimizer).__name__,
        "groups": [
            {name: value for name, value in group.items() if name != "params"}
            for group in optimizer.param_groups
        ],
        "scheduler": plain_state(scheduler.state_dict()) if scheduler else {},
    }


def change(
    optimizer: Optimizer, scheduler: Any, old: Mapping[str, Any], new: Mapping[str, Any]
) -> None:
    """Change a loaded optimizer and scheduler in what is configured otherwise now.

    Args:
        optimizer: The optimizer; loading its state has loaded its options, too.
        scheduler: Its scheduler, or null.
        old: Result of :func:`configured` in the run that the state is from.
        new: The same in this run.

    Raises:
        UserError: If the optimizer is another one, for which the state is no use.
    """
    if old["optimizer"] != new["optimizer"]:
        raise UserError(
            f"model.optimizer: the checkpoint is from {old['optimizer']}; a resumed run can "
            f"change its arguments, but not go on with {new['optimizer']}"
        )
    for group, before, after in zip(optimizer.param_groups, old["groups"], new["groups"]):
        changed = {name: value for name, value in after.items() if value != before.get(name)}
        changed.pop("fused", None)  # the state is that of the kernel it was trained with
        if changed.pop("lr", None) is not None:
            for name in {"lr", "scheduled_lr"} & group.keys():
                group[name] *= after["lr"] / before["lr"] if before["lr"] else 0
        group.update(changed)
    for name, value in new["scheduler"].items():
        if value != old["scheduler"].get(name):
            setattr(scheduler, name, value)
