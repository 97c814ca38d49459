"""Layer groups: cutting a backbone into stages, and choosing parameters by name."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

from torch import nn
from torchvision.models.swin_transformer import PatchMerging, PatchMergingV2

from project.errors import UserError

Train = int | str | list[str]
"""Which parameters train: ``all``, the number of the last layer groups, or names and globs."""

MOST_PARTS = 10  # a backbone of more parts is cut into stages or quarters


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
    """Return the part that holds nearly all parameters, and its path, which ends with a dot."""
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
    """Return whether a part reduces the resolution."""
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


@dataclass(frozen=True)
class OptimizerGroups:
    """The groups in which an optimizer holds parameters: layer groups, or parts of them.

    Attributes:
        group_of: Optimizer group of each parameter, by name. Parameters that are missing here are
            not in the optimizer.
        layer_group: Layer group that each optimizer group is, or is a part of; input first.
    """

    group_of: Mapping[str, str]
    layer_group: Mapping[str, str]

    def holding(self, names: Collection[str]) -> list[str]:
        """Return the optimizer groups that hold any of these parameters, input first."""
        found = {self.group_of[name] for name in names}
        return [group for group in self.layer_group if group in found]

    def only(self, names: Collection[str]) -> "OptimizerGroups":
        """Return the groups of an optimizer that holds these parameters alone."""
        group_of = {name: group for name, group in self.group_of.items() if name in names}
        kept = set(group_of.values())
        return OptimizerGroups(group_of, {g: of for g, of in self.layer_group.items() if g in kept})


class LayerGroups:
    """The layer groups of a network, and the choice of parameters by them.

    Args:
        groups: Name of each layer group to the names of its submodules or parameters, input first.
        parameters: Names of all parameters of the network.

    Attributes:
        names: Names of the layer groups, input first.
        group_of: Layer group of each parameter, by name.

    Raises:
        UserError: If a parameter is in no group or in several, a name is of nothing, or the last
            group isn't ``head``.
    """

    def __init__(self, groups: Mapping[str, Sequence[str]], parameters: Sequence[str]) -> None:
        self.names = tuple(groups)
        if not self.names or self.names[-1] != "head":
            last = f"is {self.names[-1]!r}" if self.names else "is missing"
            raise UserError(f"the last of layer_groups() {last}, and must be 'head'", "network")
        self.group_of = _group_of(groups, parameters)

    def select(self, train: Train) -> set[str]:
        """Return the names of the parameters that ``train`` means.

        Raises:
            UserError: If a name or a glob means nothing, or there are fewer layer groups.
        """
        if train == "all":
            return set(self.group_of)
        if isinstance(train, int):
            if not 1 <= train <= len(self.names):
                known = ", ".join(self.names)
                raise UserError(f"{train} is not in 1 to {len(self.names)} layer groups: {known}")
            train = list(self.names[-train:])
        wanted = [train] if isinstance(train, str) else train
        return {name for one in wanted for name in self._named(one)}

    def _named(self, wanted: str) -> set[str]:
        if wanted in self.names:
            return {name for name, group in self.group_of.items() if group == wanted}
        if found := matching(self.group_of, wanted):
            return found
        close, known = get_close_matches(wanted, self.names, n=2), ", ".join(self.names)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known are {known}"
        raise UserError(f"{wanted!r} is no layer group and matches no module; {hint}")

    def distance(self, group: str) -> int:
        """Return how many layer groups lie between a layer group and the end of the network."""
        return len(self.names) - 1 - self.names.index(group)

    def optimizer_groups(self, wanted: Iterable[str] = ()) -> OptimizerGroups:
        """Return optimizer groups that are the layer groups, cut where globs cut them.

        Args:
            wanted: Names of layer groups and globs of modules that are trained at different times.
        """
        globs = {one: self._named(one) for one in wanted if one not in self.names}
        labels = {
            name: ":".join([group, *(glob for glob, found in globs.items() if name in found)])
            for name, group in self.group_of.items()
        }
        group_of: dict[str, str] = {}
        layer_group: dict[str, str] = {}
        for group in self.names:
            members = [name for name, owner in self.group_of.items() if owner == group]
            whole = len({labels[name] for name in members}) == 1
            group_of |= {name: group if whole else labels[name] for name in members}
            layer_group |= dict.fromkeys(sorted({group_of[name] for name in members}), group)
        return OptimizerGroups({name: group_of[name] for name in self.group_of}, layer_group)


def _group_of(groups: Mapping[str, Sequence[str]], parameters: Sequence[str]) -> dict[str, str]:
    owners: dict[str, str] = {}
    for group, members in groups.items():
        for member in members:
            found = [n for n in parameters if n == member or n.startswith(f"{member}.")]
            if not found:
                raise UserError(f"layer_groups: {member} of group {group} has no parameters")
            for name in found:
                if name in owners:
                    raise UserError(f"layer_groups: {name} is in {owners[name]} and in {group}")
                owners[name] = group
    if missing := [name for name in parameters if name not in owners]:
        raise UserError(f"layer_groups: {', '.join(missing[:3])} in no group")
    return {name: owners[name] for name in parameters}


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
