"""The tables of a report, with numbers rounded for reading."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from project.commands.compare.findings import Findings
from project.commands.compare.metrics import Metric
from project.commands.compare.results import FIGURES, Row

QUALITY = ("accuracy", "precision", "recall", "f1", "calibration_error", "gap")
COST = tuple(figure for figure in FIGURES if figure not in QUALITY)
UNKNOWN = "–"
MOST_CLASSES = 30  # that a table names


@dataclass(frozen=True)
class Line:
    """A line of a table.

    Attributes:
        name: Name of the contender, or of the class.
        cells: Its figures, one for each column.
        note: A remark, such as failed runs; may be empty.
        tag: What the verdict says of the contender, such as ``use this``; may be empty.
    """

    name: str
    cells: Sequence[str]
    note: str
    tag: str


@dataclass(frozen=True)
class Table:
    """A table with a line for each contender, or each class.

    Attributes:
        columns: Name and unit of each column after the first; units may be empty.
        lines: The lines.
        head: Name of the first column.
    """

    columns: Sequence[tuple[str, str]]
    lines: Sequence[Line]
    head: str = "contender"


def table(
    rows: Sequence[Row],
    figures: Sequence[str],
    tags: Mapping[str, str] | None = None,
    sizes: bool = False,
) -> Table:
    """Return a table of those figures that at least one row has.

    Args:
        rows: Its rows.
        figures: Keys of :data:`FIGURES`, or other scores of the test.
        tags: What is to be said of contenders, by their names.
        sizes: Whether to add a column with the number of training images.
    """
    shown = [figure for figure in figures if any(_is_known(row, figure) for row in rows)]
    columns = [_heading(FIGURES.get(figure, Metric(figure).words)) for figure in shown]
    lines = []
    for row in rows:
        cells = [cell(row, figure) for figure in shown]
        if sizes:
            cells.insert(0, f"{row.images:,}" if row.images else row.size)
        lines.append(Line(row.contender, cells, _note(row), (tags or {}).get(row.contender, "")))
    return Table([("images", ""), *columns] if sizes else columns, lines)


def of_classes(findings: Findings, class_names: Sequence[str]) -> Table | None:
    """Return a table of the F1 of each class, over all seeds together, the weakest first.

    Args:
        findings: Its columns are the contenders on the largest training set.
        class_names: Name of each class, K.
    """
    rows, winner = findings.top, findings.winner
    if winner is None:
        return None
    counts = [row.confusion(len(class_names)) for row in rows]
    images = np.bincount(rows[0].results[0].labels, minlength=len(class_names))
    f1 = np.stack([2 * c.diagonal() / np.maximum(c.sum(0) + c.sum(1), 1) for c in counts])  # [R, K]
    order = [label for label in np.argsort(f1[rows.index(winner)], kind="stable") if images[label]]
    columns = [("test images", ""), *((row.contender, "") for row in rows)]
    lines = [
        Line(class_names[k], [f"{images[k]:,}", *(f"{score:.3f}" for score in f1[:, k])], "", "")
        for k in order[:MOST_CLASSES]
    ]
    return Table(columns, lines, "class")


def _is_known(row: Row, figure: str) -> bool:
    mean = row.mean(figure)
    return math.isfinite(mean) and (mean != 0 or figure != "source_seconds")


def _heading(text: str) -> tuple[str, str]:
    """Split ``training, s`` into name and unit."""
    name, _, unit = text.rpartition(", ")
    return (name, unit) if name else (text, "")


def _note(row: Row) -> str:
    if not row.failed:
        return ""
    runs = len(row.failed) + len(row.results)
    return f"{len(row.failed)} of {runs} failed" if row.results else "failed"


def cell(row: Row, figure: str) -> str:
    """Return the mean over the seeds, for scores with the standard deviation."""
    mean, std = row.mean(figure), row.std(figure)
    if not _is_known(row, figure):
        return UNKNOWN
    if figure in COST or math.isnan(mean):
        return number(mean, whole=figure.startswith("parameters"))
    text = f"{mean:+.3f}".replace("-", "−") if figure == "gap" else f"{mean:.3f}"
    return text if math.isnan(std) else f"{text} ± {std:.3f}"


def number(value: float, whole: bool = False) -> str:
    """Return a number with three significant digits, or with all digits before the point.

    Args:
        value: The number; one that isn't finite is shown as unknown.
        whole: Whether to leave out the digits after the point.
    """
    if not math.isfinite(value):
        return UNKNOWN
    digits = 0 if whole or value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def markdown(table: Table) -> str:
    """Return a table in Markdown."""
    head = [f"{name}, {unit}" if unit else name for name, unit in table.columns]
    lines = [[table.head, *map(escape_markdown, head)], ["---", *["--:"] * len(head)]]
    for line in table.lines:
        name, *cells = map(escape_markdown, (line.name, *line.cells))
        name = f"**{name}** ({line.tag})" if line.tag else name
        lines.append([f"{name}, {line.note}" if line.note else name, *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def escape_markdown(text: str) -> str:
    """Escape text so that Markdown shows it unchanged, even in a table."""
    return re.sub(r"([\\`*<>&|\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", text)
