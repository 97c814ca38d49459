"""What the results of a comparison show: worked out once, for the verdict and all pages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from project.commands.compare.choice import (
    MARGIN,
    Choice,
    Leads,
    Settling,
    choose,
    enough_margin,
    leads_of,
    level_of,
    settling,
)
from project.commands.compare.metrics import ACCURACY, Metric
from project.commands.compare.results import FIGURES, Row
from project.commands.compare.statistics import Crossing, Difference, crossings, difference, trend
from project.commands.learning_curve import PowerLaw


@dataclass(frozen=True)
class Findings:
    """What the results show.

    Attributes:
        rows: All rows, in the order of the config.
        top: Rows with results on the largest training set, the best first.
        failed: Rows without results on the largest training set.
        metric: By what they are compared.
        margin: Differences of the metric up to it don't matter.
        leads: How much better each of ``top`` is than each other one.
        choice: Which of ``top`` to use; None if every run failed.
        settling: What would settle the choice; None if it is settled, or that is unknown.
        trends: Learning curve of each contender that was trained on two or more sizes.
        crossings: Where learning curves cross.
        ended: Why no further seeds were run, as the end of a sentence; empty if their number was
            fixed.
        enough_margin: A margin that would settle a choice that is open; None if none would.
    """

    rows: Sequence[Row]
    top: Sequence[Row]
    failed: Sequence[Row]
    metric: Metric
    margin: float
    leads: Leads
    choice: Choice | None
    settling: Settling | None
    trends: Mapping[str, PowerLaw]
    crossings: Sequence[Crossing]
    ended: str = ""
    enough_margin: float | None = None

    @property
    def contenders(self) -> list[str]:
        """Names of all contenders, in the order of the config."""
        return list(dict.fromkeys(row.contender for row in self.rows))

    @property
    def images(self) -> int:
        """Number of images in the largest training set; 0 if every run failed."""
        return self.top[0].images if self.top else 0

    @property
    def winner(self) -> Row | None:
        """The contender to use, also where that isn't settled; None if every run failed."""
        name = self.choice.name if self.choice else None
        return next((row for row in self.top if row.contender == name), None)

    @property
    def differences(self) -> Mapping[str, Difference]:
        """How far each of the others in ``top`` is behind the first, by contender."""
        names = [row.contender for row in self.top]
        return {name: self.leads[names[0], name] for name in names[1:]}

    @property
    def figures(self) -> list[str]:
        """Keys of the figures that tables have."""
        return list(dict.fromkeys([*FIGURES, self.metric.figure]))


def find(
    rows: Sequence[Row],
    metric: Metric = ACCURACY,
    margin: float = MARGIN,
    level: float | None = None,
) -> Findings:
    """Work out what the results show.

    Args:
        rows: All rows, in the order of the config.
        metric: By what they are compared.
        margin: Differences of the metric up to it don't matter.
        level: One-sided level of each comparison; None takes that of contenders whose numbers of
            seeds were fixed beforehand.
    """
    top, failed = _largest(rows)
    top = sorted(top, key=lambda row: -metric.sign * row.mean(metric.figure))
    names = [row.contender for row in top]
    costs = {row.contender: row.cost for row in top}
    pairs = combinations(top, 2)
    leads = leads_of({(a.contender, b.contender): difference(a, b, metric) for a, b in pairs})
    fixed = level is None
    level = level_of(len({row.contender for row in rows})) if level is None else level
    choice = choose(names, costs, leads, level, margin, guess=fixed) if top else None
    open_ = choice is not None and not choice.settled
    curves: dict[str, list[Row]] = {}
    for row in rows:
        curves.setdefault(row.contender, []).append(row)
    return Findings(
        rows=rows,
        top=top,
        failed=failed,
        metric=metric,
        margin=margin,
        leads=leads,
        choice=choice,
        settling=settling(choice, costs, leads, level, margin) if choice and open_ else None,
        trends={name: found for name, curve in curves.items() if (found := trend(curve, metric))},
        crossings=crossings(rows, metric),
        enough_margin=enough_margin(names, costs, leads, level, margin) if open_ else None,
    )


def _largest(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Return the rows of the largest training set with results, and those without."""
    good = [row for row in rows if row.results]
    most = max((row.images for row in good), default=0)
    top = [*{row.contender: row for row in good if row.images == most}.values()]
    sizes = {row.size for row in top}
    return top, [row for row in rows if not row.results and row.size in sizes]
