"""How pictures are drawn: rows of images, and what a test shows, each into a PNG file.

Nothing here draws from a random state.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from project.approaches.scores import BINS
from project.console import show

MOST_NAMED = 30  # classes whose counts or names can be read in one picture
MOST_CURVES = 8
INCHES = 1.5  # of an image in a row
RIGHT, WRONG = "tab:green", "tab:red"


@contextmanager
def allowed_to_fail(name: str) -> Iterator[None]:
    """Say in one line that a picture can't be drawn, whatever the reason, and go on."""
    try:
        yield
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        show(f"warning: {name} can't be drawn: {reason}")


@contextmanager
def drawing() -> Iterator[None]:
    """Draw names as they are: a dollar is no formula, and a letter that a font lacks no warning."""
    from matplotlib import rc_context  # slow to import, like all of matplotlib

    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def short(name: str, most: int = 24) -> str:
    """Return a name, cut to at most ``most`` characters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def in_legend(name: str) -> str:
    """Return a name, cut, for a legend, where matplotlib leaves out what begins with ``_``."""
    return f" {short(name)}" if name.startswith("_") else short(name)


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure of a size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


@dataclass(frozen=True)
class Row:
    """A row of images.

    Attributes:
        images: ``[N, C, H, W]`` with values in [0, 1].
        captions: A text below each image.
        heading: A text above the row.
        color: Of the captions.
    """

    images: Tensor
    captions: Sequence[str]
    heading: str = ""
    color: str = "black"


@drawing()
def draw_rows(rows: Sequence[Row], title: str, path: Path) -> None:
    """Draw rows of images.

    Args:
        rows: The rows; those without images are left out.
        title: Above all of them.
        path: PNG file to write.
    """
    rows = [row for row in rows if len(row.images)]
    columns = max((len(row.images) for row in rows), default=1)
    height, width = rows[0].images.shape[2:] if rows else (1, 1)
    most_lines = max((text.count("\n") + 1 for row in rows for text in row.captions), default=1)
    image, text = height / width, 0.12 * most_lines  # heights, in widths of an image
    top = 0.0
    places = []
    for row in rows:
        top += 0.25 if row.heading else 0.05
        places.append(top)
        top += image + text + 0.05
    figure = new_figure(INCHES * columns, INCHES * top + 0.4)
    axes = figure.subplots()
    for row, place in zip(rows, places):
        axes.text(0, place - 0.06, row.heading, fontsize=9, weight="bold", va="bottom")
        for column, (pixels, caption) in enumerate(zip(row.images, row.captions)):
            extent = (column + 0.03, column + 0.97, place + image * 0.97, place + image * 0.03)
            shown = pixels.permute(1, 2, 0)
            shown = shown.expand(-1, -1, 3) if shown.shape[2] != 3 else shown
            axes.imshow(shown.numpy(), extent=extent, interpolation="nearest")
            below = {"ha": "center", "va": "top", "fontsize": 7, "color": row.color}
            axes.text(column + 0.5, place + image, caption, **below)
    axes.set(xlim=(0, columns), ylim=(top, 0), aspect="equal")
    axes.axis("off")
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=100)


@drawing()
def draw_confusion_matrix(confusion: Tensor, class_names: Sequence[str], path: Path) -> None:
    """Draw counts, coloured by the share of each label.

    Args:
        confusion: Counts ``[K, K]``, labels by predictions.
        class_names: Name of each class.
        path: PNG file to write.
    """
    share = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    side = max(4.0, 1.5 + 0.45 * len(class_names))
    figure = new_figure(side + 1, side)
    axes = figure.subplots()
    image = axes.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the label", shrink=0.8)
    ticks = range(len(class_names))
    names = [short(name) for name in class_names]
    axes.set_xticks(ticks, names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, names)
    axes.set(xlabel="prediction", ylabel="label", title=f"{int(confusion.sum()):,} test images")
    if len(class_names) <= MOST_NAMED:
        for row in ticks:
            for column in ticks:
                if count := int(confusion[row, column]):
                    color = "white" if share[row, column] > 0.5 else "black"
                    axes.text(
                        column, row, f"{count:,}", ha="center", va="center", color=color, fontsize=8
                    )
    figure.savefig(path, dpi=150)


@drawing()
def draw_reliability(confidences: Tensor, right: Tensor, path: Path) -> None:
    """Draw accuracy against predicted probability (Guo et al., 2017), and how many are how sure.

    Args:
        confidences: Probability of the predicted class, ``[N]``.
        right: Whether the prediction is the label, bool ``[N]``.
        path: PNG file to write.
    """
    bins = (confidences * BINS).ceil().long().clamp(1, BINS) - 1
    counts = bins.bincount(minlength=BINS)
    sums = [torch.zeros(BINS).index_add(0, bins, x.float()) for x in (right, confidences)]
    accuracy, sure = (total / counts.clamp(min=1) for total in sums)
    figure = new_figure(5, 5.5)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], "--", color="grey", label="as sure as it is right")
    middles, filled = (torch.arange(BINS) + 0.5) / BINS, counts > 0
    above.bar(middles[filled], accuracy[filled], 0.9 / BINS, alpha=0.4)
    areas = 10 + 90 * counts[filled] / counts.max().clamp(min=1)
    label = "test images, in bins of probability; larger for more"
    above.scatter(sure[filled], accuracy[filled], areas, label=label, zorder=3)
    above.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.05))
    above.set_title("Below the line the model is too sure, above not sure enough", fontsize=10)
    below.bar(middles, counts, 0.9 / BINS, color="grey")
    below.set(xlabel="probability of the predicted class", ylabel="images")
    figure.legend(loc="outside lower center", fontsize=8)
    figure.savefig(path, dpi=120)


@drawing()
def draw_precision_recall(
    probabilities: Tensor, labels: Tensor, class_names: Sequence[str], path: Path
) -> None:
    """Draw precision against recall, each class against all others, the weakest in colour.

    Args:
        probabilities: ``[N, K]``.
        labels: int64 ``[N]``.
        class_names: Name of each class.
        path: PNG file to write.
    """
    curves = []
    for label, name in enumerate(class_names):
        scores, order = probabilities[:, label].sort(descending=True)
        hits = (labels[order] == label).cumsum(0)
        if not len(hits) or not hits[-1]:
            continue
        ends = torch.ones(len(hits), dtype=torch.bool)  # of images that are equally probable
        ends[:-1] = scores[:-1] != scores[1:]
        precision = (hits / torch.arange(1, len(hits) + 1))[ends]
        recall = (hits / hits[-1])[ends]
        average = float((precision * recall.diff(prepend=recall.new_zeros(1))).sum())
        curves.append((average, name, recall, precision))
    curves.sort(key=lambda curve: curve[0])
    figure = new_figure(6.5, 5)
    axes = figure.subplots()
    for _, _, recall, precision in curves[MOST_CURVES:]:
        axes.plot(recall, precision, color="lightgrey", linewidth=0.8)
    for average, name, recall, precision in curves[:MOST_CURVES]:
        axes.plot(recall, precision, label=f"{in_legend(name)}: {average:.3f}")
    more = f", weakest {MOST_CURVES}" if len(curves) > MOST_CURVES else ""
    axes.legend(title=f"average precision{more}", fontsize=8, title_fontsize=8)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.set_title(f"Each class against all others, {len(labels):,} test images", fontsize=10)
    figure.savefig(path, dpi=120)


@drawing()
def draw_class_accuracy(confusion: Tensor, class_names: Sequence[str], path: Path) -> None:
    """Draw the share of each class that is predicted right, the lowest first.

    Args:
        confusion: Counts ``[K, K]``, labels by predictions.
        class_names: Name of each class.
        path: PNG file to write.
    """
    images, right = confusion.sum(1), confusion.diag()
    accuracy = right / images.clamp(min=1)
    order = [label for label in accuracy.argsort().tolist() if images[label]]
    shown = order[:MOST_NAMED]
    figure = new_figure(7, 1.2 + 0.25 * len(shown))
    axes = figure.subplots()
    bars = axes.barh(range(len(shown)), accuracy[shown].numpy())
    counts = [f"{int(right[label]):,} of {int(images[label]):,}" for label in shown]
    axes.bar_label(bars, counts, fontsize=8, padding=3)
    axes.set_yticks(range(len(shown)), [short(class_names[label]) for label in shown])
    axes.invert_yaxis()
    more = f", the lowest {len(shown)} of {len(order)} classes" if len(order) > len(shown) else ""
    axes.set(xlabel="share that is predicted right", xlim=(0, 1.2))
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.set_title(f"Test accuracy of each class{more}", fontsize=10)
    figure.savefig(path, dpi=120)
