"""What an inspection finds: suspect labels, and groups of images that show the same picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from project.commands.duplicates import originals
from project.commands.inspect.images import Found
from project.commands.suspects import FOLDS, judge_features


class Suspect(NamedTuple):
    """An image whose label is probably wrong.

    Attributes:
        image: The image.
        suggested: The class that it more probably has.
        of_label: Probability of its label.
        of_suggested: Probability of the suggested class.
        margin: Probability of its label minus the largest other one.
    """

    image: int
    suggested: str
    of_label: float
    of_suggested: float
    margin: float


@dataclass(frozen=True)
class Labels:
    """What is found out about the labels.

    Attributes:
        suspects: The suspects, the surest first.
        judged: Number of labels that were judged.
        margin: Probability of each image's label minus the largest other one, float32 ``[N]``; 0
            for those that weren't judged.
        errors: Label, class that it is mistaken for, and how many of these there are by estimate;
            the most frequent first.
        skipped: Classes with fewer than :data:`FOLDS` images, which aren't judged.
    """

    suspects: Sequence[Suspect]
    judged: int
    margin: Tensor
    errors: Sequence[tuple[str, str, float]]
    skipped: Sequence[str]

    @property
    def wrong(self) -> float:
        """Estimated number of wrong labels."""
        return sum(count for _, _, count in self.errors)


@dataclass(frozen=True)
class Group:
    """Images that show the same picture.

    Attributes:
        images: The images; all but the first can be left out.
        labels: How many different labels they have.
        splits: How many splits they are in.
    """

    images: Sequence[int]
    labels: int
    splits: int


def judge_labels(found: Found, images: Tensor, features: Tensor) -> Labels:
    """Judge labels by a classifier of features, cross-validated.

    Args:
        found: All images.
        images: Those to judge, int64 ``[M]``.
        features: Their features, float32 ``[M, F]``.

    Raises:
        UserError: If fewer than two classes have :data:`FOLDS` images.
    """
    names, sizes = found.class_names, torch.bincount(found.labels[images]).tolist()
    known, classes, judged = judge_features(features, found.labels[images])
    margin = torch.zeros(len(found)).index_copy(0, images[known], judged.margin)
    own = [names[label] for label in classes.tolist()]
    numbers = (judged.of_label, judged.of_suggested, judged.margin)
    columns = (images[known], judged.suggested, *numbers)
    rows = zip(*(column[judged.suspects].tolist() for column in columns))
    confused = judged.errors.nonzero().tolist()
    errors = [(own[one], own[other], float(judged.errors[one, other])) for one, other in confused]
    return Labels(
        suspects=[Suspect(image, own[suggested], *rest) for image, suggested, *rest in rows],
        judged=len(known),
        margin=margin,
        errors=sorted(errors, key=lambda error: -error[2]),
        skipped=[name for name, size in zip(names, sizes) if 0 < size < FOLDS],
    )


def group(found: Found, margin: Tensor) -> list[Group]:
    """Return the groups of images that show the same picture.

    Of each, the image comes first that should be kept: one of the test set, else one of the
    validation set, as training images can be left out without changing what is measured; else the
    one whose label is the most probable. Groups with different labels are the first, then those
    that reach into several splits, then the largest.

    Args:
        found: All images.
        margin: Probability of each image's label minus the largest other one, float32 ``[N]``.
    """
    order = (-margin).argsort(stable=True)
    order = order[(-found.split[order]).argsort(stable=True)]
    members: dict[int, list[int]] = {}
    for place, original in enumerate(originals(found.thumbnails[order]).tolist()):
        members.setdefault(original, []).append(int(order[place]))
    groups = [
        Group(images, *(len(set(of[images].tolist())) for of in (found.labels, found.split)))
        for images in members.values()
        if len(images) > 1
    ]
    return sorted(groups, key=lambda one: (one.labels == 1, one.splits == 1, -len(one.images)))
