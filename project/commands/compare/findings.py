"""What the results of a comparison show: worked out once, for the verdict and all pages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from project.commands.compare.results import Row
from project.commands.compare.statistics import Crossing, Difference, crossings, difference, trend
from project.commands.learning_curve import PowerLaw


@dataclass(frozen=True)
class Findings:
    """What the results show.

    Attributes:
        rows: All rows, in the order of the config.
        top: Rows with results on the largest training set, the most accurate first.
        differences: How far each of the others in ``top`` is behind the first, by contender.
        tied: The first of ``top``, and those that count as equally accurate.
        winner: The cheapest of ``tied``; None if every run failed.
        trends: Learning curve of each contender that was trained on two or more sizes.
        crossings: Where learning curves cross.
    """

    rows: Sequence[Row]
    top: Sequence[Row]
    differences: Mapping[str, Difference]
    tied: Sequence[Row]
    winner: Row | None
    trends: Mapping[str, PowerLaw]
    crossings: Sequence[Crossing]

    @property
    def contenders(self) -> list[str]:
        """Names of all contenders, in the order of the config."""
        return list(dict.fromkeys(row.contender for row in self.rows))

    @property
    def images(self) -> int:
        """Number of images in the largest training set; 0 if every run failed."""
        return self.top[0].images if self.top else 0


def find(rows: Sequence[Row]) -> Findings:
    """Work out what the results show.

    The winner is the cheapest contender of all that are as accurate as the most accurate one.

    Args:
        rows: All rows, in the order of the config.
    """
    top = sorted(_largest(rows), key=lambda row: -row.mean("accuracy"))
    differences = {row.contender: difference(top[0], row) for row in top[1:]}
    tied = top[:1] + [row for row in top[1:] if differences[row.contender].is_tie]
    curves: dict[str, list[Row]] = {}
    for row in rows:
        curves.setdefault(row.contender, []).append(row)
    return Findings(
        rows=rows,
        top=top,
        differences=differences,
        tied=tied,
        winner=min(tied, key=lambda row: row.cost, default=None),
        trends={name: found for name, curve in curves.items() if (found := trend(curve))},
        crossings=crossings(rows),
    )


def _largest(rows: Sequence[Row]) -> list[Row]:
    good = [row for row in rows if row.results]
    most = max((row.images for row in good), default=0)
    return [row for row in good if row.images == most]
