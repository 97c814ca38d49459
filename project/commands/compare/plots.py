"""The plots of a comparison, in a style for light pages and one for dark ones."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from project.callbacks.plots import allowed_to_fail, drawing, in_legend, short
from project.commands.compare.metrics import ACCURACY, Metric
from project.commands.compare.results import CURVES, Row
from project.commands.compare.statistics import Crossing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 5.2  # inches, of 96 CSS pixels on a page; two fit beside each other, one on a phone
DPI = 192
PARTS = {"train": ("training", "--"), "val": ("validation", "-")}
MAX_CROSSINGS = 6  # the verdict names the others

# Okabe and Ito, 2008: also told apart by colour-blind people. Yellow and black are left out: they
# are invisible on a white or a dark background.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c")
MARKERS = "osD^vPXp"  # for readers who can't tell the colours apart, and when colours repeat
DURATIONS = {
    count * seconds: f"{count:g} {unit}"
    for unit, seconds, counts in (
        ("s", 1, (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30)),
        ("min", 60, (1, 2, 5, 10, 20, 30)),
        ("h", 3600, (1, 2, 5, 10, 20, 50, 100, 200)),
    )
    for count in counts
}


@dataclass(frozen=True)
class Plot:
    """A plot in both styles.

    Attributes:
        name: Name of its file, without the suffix.
        alt: What it shows, for readers who can't see it.
        caption: What a reader must know to understand it.
        light: PNG for light pages.
        dark: PNG for dark pages.
        size: Width and height in CSS pixels.
        photos: Whether it holds photographs, for which lossy compression is good enough.
    """

    name: str
    alt: str
    caption: str
    light: bytes
    dark: bytes
    size: tuple[int, int]
    photos: bool


@dataclass(frozen=True)
class Look:
    """How a contender is drawn, the same in all plots."""

    color: str
    marker: str


def looks_of(contenders: Sequence[str]) -> dict[str, Look]:
    """Return the look of each contender."""
    return {
        name: Look(COLORS[place % len(COLORS)], MARKERS[place % len(MARKERS)])
        for place, name in enumerate(contenders)
    }


def plot(
    name: str, alt: str, caption: str, draw: Callable[[], "Figure"], photos: bool = False
) -> list[Plot]:
    """Draw a figure in both styles; see :class:`Plot`. If it can't be drawn, none is returned."""
    from matplotlib import rc_context  # slow to import, like all of matplotlib

    found = []
    with allowed_to_fail(f"plots/{name}.png"):
        files = []
        for style in (LIGHT, DARK):
            with drawing(), rc_context(style):  # type: ignore[arg-type,unused-ignore]  # newer stubs list all names
                figure = draw()
                figure.savefig(file := io.BytesIO(), dpi=DPI, format="png")
            files.append(file.getvalue())
        width, height = (round(96 * inches) for inches in figure.get_size_inches())
        found.append(Plot(name, alt, caption, files[0], files[1], (width, height), photos))
    return found


def _style(page: str, ink: str, muted: str, line: str) -> dict[str, Any]:
    return {
        "figure.facecolor": page,
        "axes.facecolor": page,
        "text.color": ink,
        "axes.edgecolor": line,
        "axes.labelcolor": muted,
        "xtick.color": muted,
        "ytick.color": muted,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": line,
        "grid.linewidth": 0.7,
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "lines.markersize": 5.5,
    }


LIGHT = _style("#ffffff", "#1b1e23", "#5a616b", "#dfe3e8")  # the colours of report.html.jinja
DARK = _style("#15171b", "#e7e9ec", "#a2a9b4", "#333941")


def accuracy_over_images(
    rows: Sequence[Row],
    crossings: Sequence[Crossing],
    looks: Mapping[str, Look],
    metric: Metric = ACCURACY,
) -> "Figure":
    """Draw the metric against the number of training images, and mark where curves clearly cross.

    Args:
        rows: Rows with results.
        crossings: Where curves cross.
        looks: How each contender is drawn.
        metric: What the curves show.
    """
    from matplotlib import rcParams
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    crossings = [crossing for crossing in crossings if crossing.clear][:MAX_CROSSINGS]
    figure, axes = figure_of(3.4 + 0.1 * len(looks) + 0.2 * len(crossings))
    for name, look in looks.items():
        curve = [row for row in rows if row.contender == name]
        _draw_mean(axes, sorted(curve, key=lambda row: row.images), look, metric.figure)
    notes = ["training images"]
    for letter, crossing in zip(ascii_uppercase, crossings):
        place = (crossing.images, crossing.accuracy)
        axes.plot(*place, "o", markersize=11, mfc="none", mec=rcParams["text.color"], zorder=5)
        style: dict[str, Any] = {"ha": "center", "weight": "bold", "zorder": 5}
        axes.annotate(letter, place, (0, 9), textcoords="offset points", **style)
        notes.append(
            f"{letter}  {short(crossing.after)} overtakes {short(crossing.before)} at about "
            f"{crossing.images:,.0f}"
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(_apart({row.images for row in rows})))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda images, _: f"{images:,.0f}"))
    axes.set_xlabel("\n".join(notes), loc="left", linespacing=1.5)
    axes.set_ylabel(metric.words)
    _legend(figure, axes, f"{metric.title} against training images")
    return figure


def accuracy_over_time(rows: Sequence[Row], looks: Mapping[str, Look]) -> "Figure":
    """Draw accuracy against time: validation as lines, the test as points at their ends.

    The time of a source is put in front.

    Args:
        rows: Rows with results, all on the same number of images.
        looks: How each contender is drawn.
    """
    figure, axes = figure_of(3.4 + 0.1 * len(looks))
    times: list[float] = []
    for row in rows:
        look, source = looks[row.contender], row.mean("source_seconds")
        epochs, end = mean_curves(row), source + row.mean("fit_seconds")
        seconds = source + epochs["seconds"]
        axes.plot(seconds, epochs["val/accuracy"], color=look.color)
        _draw_mean(axes, [row], look, "accuracy", end)
        times += [*seconds.tolist(), end]
    _time_axis(axes, [time for time in times if time > 0])
    axes.set_ylabel("accuracy")
    _legend(figure, axes, "Accuracy against time")
    return figure


def _time_axis(axes: "Axes", times: Sequence[float]) -> None:
    """Make the axis logarithmic if times differ by a factor of 5, with ticks at round times."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = min(times, default=1), max(times, default=1)
    if high < 5 * low:
        axes.set_xlabel("time of the training, s", loc="left")
        return
    low, high = low / 1.2, high * 1.2
    ticks = [duration for duration in DURATIONS if low <= duration <= high]
    while len(ticks) > 6:
        ticks = ticks[::2]
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: DURATIONS.get(seconds, "")))
    axes.set_xlabel("time of the training, logarithmic", loc="left")


def curves(row: Row, look: Look, among: Sequence[Row]) -> "Figure":
    """Draw accuracy and loss of each epoch, in training and validation.

    Args:
        row: A row with results.
        look: How its contender is drawn.
        among: All rows that get such a plot; the vertical axes fit all of them.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    for axes, score in zip(panels, ("accuracy", "loss")):
        for part, (label, line) in PARTS.items():
            values = mean_curves(row)[f"{part}/{score}"]
            if np.isfinite(values).any():
                epochs = range(1, len(values) + 1)
                axes.plot(epochs, values, f"{line}o", color=look.color, markersize=2.5, label=label)
        axes.set_ylabel(score)
        shown = [mean_curves(other)[f"{part}/{score}"] for other in among for part in PARTS]
        known = (together := np.concatenate(shown))[np.isfinite(together)]
        if len(known):
            margin = 0.04 * float(np.ptp(known)) or 0.01
            axes.set_ylim(known.min() - margin, known.max() + margin)
    panels[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[1].set_xlabel("epoch", loc="left")
    _legend(figure, panels[0], short(row.contender))
    return figure


def mean_curves(row: Row) -> dict[str, NDArray[np.float64]]:
    """Return the curves averaged over those seeds that have any, up to their last common epoch."""
    names = ("seconds", *CURVES)
    logged = [result.curves for result in row.results if result.curves]
    if not logged:
        return {name: np.empty(0) for name in names}
    epochs = min(len(curves.get(name, ())) for curves in logged for name in names)
    return {
        name: np.array([curves.get(name, ())[:epochs] for curves in logged]).mean(0)
        for name in names
    }


def figure_of(height: float, width: float = WIDTH) -> tuple["Figure", "Axes"]:
    """Return a figure of this size in inches, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _draw_mean(
    axes: "Axes", rows: Sequence[Row], look: Look, score: str, end: float | None = None
) -> None:
    """Draw mean and standard deviation of each row at its number of images, or at ``end``."""
    if not rows:
        return
    axes.errorbar(
        [row.images if end is None else end for row in rows],
        [row.mean(score) for row in rows],
        None if math.isnan(rows[0].std(score)) else [row.std(score) for row in rows],
        label=in_legend(rows[0].contender),
        color=look.color,
        marker=look.marker,
        capsize=3,
        elinewidth=1.2,
    )


def _legend(figure: "Figure", axes: "Axes", title: str) -> None:
    """Put title and legend above the axes, where they cover nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=2,
        title=title,
        alignment="left",
        title_fontproperties={"weight": "bold", "size": 11},
    )


def _apart(sizes: set[int]) -> list[int]:
    """Return the sizes whose labels don't overlap on a logarithmic axis."""
    kept: list[int] = []
    for size in sorted(sizes, reverse=True):
        if not kept or 1.4 * size <= kept[-1]:
            kept.append(size)
    return kept
