"""Layer groups: cutting a backbone into stages, and choosing parameters by name."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

from torch import nn
from torchvision.models.swin_transformer import PatchMerging, PatchMergingV2

from project.errors import UserError

MOST_PARTS = 10  # more of them are put together


def library_groups(backbone: nn.Module) -> dict[str, list[str]]:
    """Cut a backbone of torchvision or timm into layer groups from input to output.

    timm's models say themselves how they are cut. Of a torchvision model, the part that holds
    nearly all parameters is cut: into its own named parts (the layers of a ResNet, the blocks of a
    VGG), else where the resolution falls (EfficientNet, MobileNet, ConvNeXt, Swin), else into four
    equal groups of blocks (ViT). What comes before it is the ``stem``; what comes after it belongs
    to the last group.

    Returns:
        Name of each group to the names of its parameters, in ``backbone``.
    """
    if callable(matcher := getattr(backbone, "group_matcher", None)):
        return _timm_groups(backbone, matcher(coarse=True))
    trunk, path = _trunk(backbone)
    groups: dict[str, list[str]] = {"stem": []}
    parts = {f"{path}{name}.": group for name, group in _cut(trunk)}
    for name, _ in backbone.named_parameters():
        group = next((group for part, group in parts.items() if name.startswith(part)), None)
        if group is None:  # before the trunk, or a token inside of it, or after it
            after = len(groups) > 1 and not name.startswith(path)
            group = next(reversed(groups)) if after else "stem"
        groups.setdefault(group, []).append(name)
    return {name: members for name, members in groups.items() if members}


def _trunk(module: nn.Module, path: str = "") -> tuple[nn.Module, str]:
    """Return the part that holds nearly all parameters, and its path with a dot at the end."""
    for name, child in module.named_children():
        several = sum(_size(part) > 0 for part in child.children()) > 1
        if several and (name == "features" or _size(child) > 0.9 * _size(module)):
            return _trunk(child, f"{path}{name}.")
    return module, path


def _cut(trunk: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the name of each part of the trunk, and its group."""
    parts = [(name, part) for name, part in trunk.named_children() if _size(part)]
    if len(parts) <= MOST_PARTS and all(name[0].isalpha() for name, _ in parts):
        group = "stem"
        for name, part in parts:
            group = name if any(part.children()) else group  # a single layer goes with those before
            yield name, group
        return
    stages = [0] + [number for number, (_, part) in enumerate(parts) if number and _halves(part)]
    word = "stage"
    if len(stages) == 1:
        stages, word = [len(parts) * quarter // 4 for quarter in range(4)], "blocks"
    for number, (name, _) in enumerate(parts):
        yield name, f"{word}{sum(start <= number for start in stages)}"


def _halves(part: nn.Module) -> bool:
    """Whether the resolution falls in here."""
    kinds = (nn.MaxPool2d, nn.AvgPool2d, PatchMerging, PatchMergingV2)
    return any(
        isinstance(module, kinds) or (isinstance(module, nn.Conv2d) and module.stride[0] > 1)
        for module in part.modules()
    )


def _timm_groups(backbone: nn.Module, matcher: Any) -> dict[str, list[str]]:
    from timm.models import group_parameters

    layers = list(group_parameters(backbone, matcher).values())
    shapes = dict(backbone.named_parameters())
    stem, *stages = [list(names) for names in layers]
    while len(stages) > 1 and all(shapes[name].ndim == 1 for name in stages[-1]):
        last = stages.pop()  # the last norm is no stage
        stages[-1] += last
    word = "stage"
    if len(stages) >= MOST_PARTS:
        quarters = pairwise(len(stages) * quarter // 4 for quarter in range(5))
        stages = [sum(stages[start:end], []) for start, end in quarters]
        word = "blocks"
    return {"stem": stem} | {f"{word}{n}": names for n, names in enumerate(stages, start=1)}


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def group_of_parameters(network: nn.Module, groups: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the layer group of each parameter of a network.

    Args:
        network: The network.
        groups: Name of each group to the names of its submodules or parameters.

    Raises:
        UserError: If a parameter is in no group or in several, or a name is of nothing.
    """
    names = [name for name, _ in network.named_parameters()]
    owners: dict[str, str] = {}
    for group, members in groups.items():
        for member in members:
            found = [name for name in names if name == member or name.startswith(f"{member}.")]
            if not found:
                raise UserError(f"layer_groups: {member} of group {group} has no parameters")
            for name in found:
                if name in owners:
                    raise UserError(f"layer_groups: {name} is in {owners[name]} and in {group}")
                owners[name] = group
    if missing := [name for name in names if name not in owners]:
        raise UserError(f"layer_groups: {', '.join(missing[:3])} in no group")
    return {name: owners[name] for name in names}


def matching(names: Iterable[str], pattern: str) -> set[str]:
    """Return the parameters below the modules that a glob names.

    The glob is compared part by part between dots, so ``layer1`` never means ``layer10``.

    Args:
        names: Names of parameters, such as ``backbone.layer1.0.conv1.weight``.
        pattern: Such as ``backbone.layer4``, ``backbone.*.bn*`` or ``backbone.layer?.0``.
    """
    wanted = pattern.split(".")
    return {
        name
        for name in names
        if len(parts := name.split(".")) >= len(wanted) and all(map(fnmatchcase, parts, wanted))
    }
