"""What each contender gets wrong: confusion matrices and misclassified test images."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from project.callbacks.plots import short
from project.commands.compare.plots import COLORS, WIDTH, figure_of
from project.commands.compare.results import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_COUNTED_CLASSES = 16  # with more, the numbers would be illegible
MAX_NAMED_CLASSES = 30
MISTAKES, MISTAKES_PER_LINE = 8, 4


def confusion_matrix(row: Row, class_names: Sequence[str]) -> "Figure":
    """Draw the percentage of each label that was given each prediction, over all seeds.

    Args:
        row: A row with results.
        class_names: Name of each class.
    """
    from matplotlib import rcParams
    from matplotlib.colors import LinearSegmentedColormap

    share, ticks = shares(row, len(class_names)), range(len(class_names))
    named, counted = len(ticks) <= MAX_NAMED_CLASSES, len(ticks) <= MAX_COUNTED_CLASSES
    width = max(WIDTH, 1.2 + 0.16 * len(ticks)) if named else WIDTH
    figure, axes = figure_of(0.92 * width, width)
    colors = [rcParams["axes.facecolor"], COLORS[0]]
    colormap = LinearSegmentedColormap.from_list("share", colors)
    image = axes.imshow(100 * share, cmap=colormap, vmin=0, vmax=100)
    axes.grid(False)
    axes.set_title(short(row.contender))
    axes.set(xlabel="prediction", ylabel="label", xticks=[], yticks=[])
    if named:
        names = [short(name, 20) for name in class_names]
        axes.set_xticks(ticks, names, rotation=45, ha="right", rotation_mode="anchor", fontsize=9)
        axes.set_yticks(ticks, names, fontsize=9)
    if not counted:
        figure.colorbar(image, label="% of the label", shrink=0.7)
        return figure
    for label, prediction in zip(*np.nonzero(share >= 0.005)):
        percent = share[label, prediction]
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9}
        style["color"] = "white" if percent > 0.5 else rcParams["text.color"]
        axes.text(prediction, label, f"{100 * percent:.0f}", **style)
    return figure


def shares(row: Row, classes: int) -> NDArray[np.float64]:
    """Return the share of each label that was given each prediction, ``[K, K]``."""
    counts = row.confusion(classes)
    found: NDArray[np.float64] = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return found


def mistakes(row: Row, class_names: Sequence[str], picture: Callable[[int], Tensor]) -> "Figure":
    """Draw the test images of :func:`hardest`, each with label → prediction below.

    Args:
        row: A row with a wrong prediction.
        class_names: Name of each class.
        picture: Returns a test image, uint8 ``[C, H, W]``.
    """
    from matplotlib.figure import Figure

    found = hardest(row)
    lines = -(-len(found) // MISTAKES_PER_LINE)
    figure = Figure(figsize=(WIDTH, 0.35 + 1.7 * lines), layout="constrained")
    figure.suptitle(short(row.contender), x=0.01, ha="left", fontsize=11, weight="bold")
    panels = figure.subplots(lines, MISTAKES_PER_LINE, squeeze=False)
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes, (index, prediction, _) in zip(panels.flat, found):
        pixels = picture(index).permute(1, 2, 0).squeeze(2).numpy()  # grey ones without channels
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        label = class_names[row.results[0].labels[index]]
        words = f"{short(label, 15)}\n→ {short(class_names[prediction], 13)}"
        axes.set_xlabel(words, fontsize=9, linespacing=1.3)
    return figure


def hardest(row: Row) -> list[tuple[int, int, int]]:
    """Return the test images that are wrong with most seeds, up to :data:`MISTAKES`.

    Among those that are wrong equally often, classes take turns.

    Args:
        row: A row with results.

    Returns:
        For each the index, the usual wrong prediction and the number of seeds.
    """
    labels = row.results[0].labels
    predictions = np.stack([result.predictions for result in row.results])  # [seeds, N]
    wrong = predictions != labels
    seeds, turns = wrong.sum(0), Counter[tuple[int, int]]()
    order = []
    for index in np.flatnonzero(seeds).tolist():
        kind = (int(seeds[index]), int(labels[index]))
        order.append((-kind[0], turns[kind], index))
        turns[kind] += 1
    found = []
    for negative, _, index in sorted(order)[:MISTAKES]:
        guesses = Counter(predictions[wrong[:, index], index].tolist())
        found.append((index, int(guesses.most_common(1)[0][0]), -negative))
    return found


def most_confused(row: Row, class_names: Sequence[str], count: int = 3) -> str:
    """Return the most frequent mistakes in words; empty if there are none.

    Args:
        row: A row with results.
        class_names: Name of each class.
        count: Largest number of them.
    """
    share = shares(row, len(class_names))
    np.fill_diagonal(share, 0)
    worst = zip(*np.unravel_index(np.argsort(-share, axis=None)[:count], share.shape))
    return ", ".join(
        f"{class_names[label]} taken for {class_names[prediction]} ({found:.0%})"
        for label, prediction in worst
        if (found := share[label, prediction])
    )
