"""All plots of a report, with their captions."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from torch import Tensor

from project.commands.compare.findings import Findings
from project.commands.compare.mistakes import (
    confusion_matrix,
    hardest,
    mistakes,
    most_confused,
)
from project.commands.compare.plots import (
    Look,
    Plot,
    accuracy_over_images,
    accuracy_over_time,
    curves,
    looks_of,
    mean_curves,
    plot,
)
from project.commands.compare.results import Row


@dataclass(frozen=True)
class Gallery:
    """The plots of a report, by section.

    Attributes:
        overview: Accuracy against time, and against images if there are several sizes.
        curves: Training and validation, one for each contender.
        confusion: Confusion matrices, one for each contender.
        mistakes: Misclassified test images, one for each contender that has any.
    """

    overview: list[Plot] = field(default_factory=list)
    curves: list[Plot] = field(default_factory=list)
    confusion: list[Plot] = field(default_factory=list)
    mistakes: list[Plot] = field(default_factory=list)

    def __iter__(self) -> Iterator[Plot]:
        """Yield all plots."""
        yield from (*self.overview, *self.curves, *self.confusion, *self.mistakes)


def draw(
    findings: Findings, class_names: Sequence[str], picture: Callable[[int], Tensor] | None
) -> Gallery:
    """Draw all plots that the results allow.

    Args:
        findings: What the results show.
        class_names: Name of each class.
        picture: Returns a test image, uint8 ``[C, H, W]``; None shows no images.
    """
    top = findings.top
    looks = looks_of(findings.contenders)
    gallery = Gallery(_overview(findings, looks) if top else [])
    for number, row in enumerate(top, 1):
        name = row.contender
        file = f"{number}_{re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_')}"
        confused = most_confused(row, class_names)
        if len(mean_curves(row)["seconds"]):
            gallery.curves.extend(
                plot(
                    f"curves_{file}",
                    f"Accuracy and loss of {name} in training and validation, epoch by epoch",
                    "",
                    partial(curves, row, looks[name], top),
                )
            )
        gallery.confusion.extend(
            plot(
                f"confusion_{file}",
                f"Confusion matrix of {name}",
                f"Largest shares of a label: {confused}." if confused else "No mistakes.",
                partial(confusion_matrix, row, class_names),
            )
        )
        if picture and (found := hardest(row)):
            gallery.mistakes.extend(
                plot(
                    f"mistakes_{file}",
                    f"Test images that {name} gets wrong, each with label and prediction",
                    _share_of_mistakes(row, found),
                    partial(mistakes, row, class_names, picture),
                    photos=True,
                )
            )
    return gallery


def _share_of_mistakes(row: Row, shown: Sequence[tuple[int, int, int]]) -> str:
    """Return how many of the wrong images are shown, and in how many seeds they are wrong."""
    wrong = int(np.any([~result.correct for result in row.results], axis=0).sum())
    words = f"{len(shown)} of {wrong:,} test images that are wrong"
    if len(row.results) > 1:
        words += f" in any of {len(row.results)} seeds; these in {shown[-1][2]} or more"
    return f"{words}."


def _overview(findings: Findings, looks: Mapping[str, Look]) -> list[Plot]:
    """Return accuracy against time, preceded by that against images if there are several sizes."""
    rows, top = [row for row in findings.rows if row.results], findings.top
    names = ", ".join(dict.fromkeys(row.contender for row in rows))
    caption = (
        "Points: test of the epoch that was kept, at the end of the training, ± standard deviation "
        "between seeds."
    )
    if any(np.isfinite(mean_curves(row)["val/accuracy"]).any() for row in top):
        caption = f"Lines: validation after each epoch, mean over seeds. {caption}"
    if any(row.mean("source_seconds") > 0 for row in top):
        caption += (
            " Where a contender starts from the weights of a source, the time of that source comes "
            "first."
        )
    over_time = plot(
        "accuracy_over_time",
        f"Accuracy against the time of the training: {names}",
        caption,
        partial(accuracy_over_time, top, looks),
    )
    if len({row.images for row in rows}) == 1:
        return over_time
    over_images = plot(
        "accuracy_over_images",
        f"{findings.metric.title} against the number of training images: {names}",
        "Mean ± standard deviation between seeds; the number of images on a logarithmic axis.",
        partial(accuracy_over_images, rows, findings.crossings, looks, findings.metric),
    )
    return [*over_images, *over_time]
