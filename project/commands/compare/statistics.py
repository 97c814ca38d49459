"""Which differences between contenders are real, and how the metric depends on the images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from project.commands.compare.metrics import ACCURACY, OF_CLASSES, Metric, resampled
from project.commands.compare.results import Row
from project.commands.learning_curve import PowerLaw, error_of, power_law

SIGNIFICANCE_LEVEL = 0.05  # p-values below it mean a real difference
LUCK = 0.07  # standard deviation of the difference of two single runs, of a metric from 0 to 1


@dataclass(frozen=True)
class Difference:
    """How much better one contender is than another, and how sure that is.

    The variance of the mean is the sum of two parts: the variance between seeds over the number of
    seeds, and that of the choice of test images. This is slightly too large, because residual noise
    is in both parts. The degrees of freedom are those of Welch and Satterthwaite.

    Attributes:
        mean: Mean difference of the metric, over the seeds that both contenders have; positive if
            the one is better, also where small values are good.
        seeds: Number of seeds that both contenders have.
        of_seeds: Variance between seeds; nan for fewer than two.
        of_images: Variance that the mean has from the choice of test images; 0 if unknown.
        of_one: The same of the difference of a single seed.
        images: Number of test images; 0 if what their choice does is unknown.
    """

    mean: float
    seeds: int
    of_seeds: float
    of_images: float
    of_one: float
    images: int

    @property
    def error(self) -> float:
        """Standard error of the mean; nan if nothing is known of it.

        Where no image and no seed makes a difference, it is that of one image.
        """
        parts = self._parts
        if not parts:
            return math.nan
        error = math.sqrt(sum(part for part, _ in parts))
        return error or (1 / self.images if self.images else 0.0)

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the standard error."""
        whole = sum(part for part, _ in self._parts)
        if not whole:
            return max(self.images - 1, 1)
        return whole**2 / sum(part**2 / count for part, count in self._parts)

    @property
    def _parts(self) -> list[tuple[float, int]]:
        """Each part of the variance that is known, with its degrees of freedom."""
        parts = [(self.of_seeds / self.seeds, self.seeds - 1)] if self.seeds > 1 else []
        return parts + ([(self.of_images, self.images - 1)] if self.images > 1 else [])

    @property
    def p(self) -> float:
        """Two-sided p-value: the probability of a difference at least this large by chance."""
        if math.isnan(self.error) or self.mean == 0:
            return 1.0
        if self.error == 0:
            return 0.0
        return float(2 * _distribution().stdtr(self.freedom, -abs(self.mean) / self.error))

    def upper(self, level: float) -> float:
        """Return the upper confidence bound of the mean; infinite for a single seed.

        How much luck is in a seed can't be seen in one of them.

        Args:
            level: Probability that the true value is above.
        """
        if self.seeds < 2:
            return math.inf
        return self.mean - self.error * float(_distribution().stdtrit(self.freedom, level))

    def likely_upper(self, level: float) -> float:
        """Return the same, where a single seed is taken to have as much luck as :data:`LUCK`.

        That is more than most have, and no more than an assumption.
        """
        if self.seeds != 1 or not self.images:
            return self.upper(level)
        error = math.hypot(LUCK, math.sqrt(self.of_images))
        return self.mean - error * float(_distribution().ndtri(level))

    def chance_above(self, value: float) -> float:
        """Return how probable it is that the true value is above one, as far as the numbers tell.

        Nothing else is known of it beforehand: all values are alike.
        """
        if math.isnan(self.error) or self.seeds < 2:
            return math.nan
        if self.error == 0:
            return float(self.mean > value)
        return float(_distribution().stdtr(self.freedom, (self.mean - value) / self.error))

    def reversed(self) -> "Difference":
        """Return the same from the point of view of the other."""
        return replace(self, mean=-self.mean)

    def projected(self, seeds: int, images: float = 1.0) -> "Difference":
        """Return what other numbers of seeds and images would give, if all else is as measured.

        Args:
            seeds: Number of seeds.
            images: Times as many test images; may be infinite.
        """
        own = (self.of_one - self.of_images) / (1 - 1 / self.seeds)  # of each seed and image
        own = max(own, 0.0)
        shared = max(self.of_images - own / self.seeds, 0.0)
        return replace(
            self,
            seeds=seeds,
            of_images=(shared + own / seeds) / images,
            images=min(round(self.images * min(images, 1e9)), 10**9),
        )

    @property
    def is_real(self) -> bool:
        """Whether chance hardly explains the difference."""
        return self.p < SIGNIFICANCE_LEVEL


def _distribution() -> Any:
    from scipy import special  # slow to import

    return special


UNKNOWN = Difference(math.nan, 0, math.nan, 0.0, 0.0, 0)


def difference(one: Row, other: Row, metric: Metric = ACCURACY) -> Difference:
    """Compare two contenders by seeds and test images that both have.

    Of the accuracy, every test image has a difference. Of a mean over classes, the part of the
    images is worked out by a paired bootstrap; of other scores it is unknown.

    Args:
        one: A row.
        other: A row with the same number of training images.
        metric: By what they are compared.
    """
    before = {result.seed: result for result in one.results}
    pairs = [(before[result.seed], result) for result in other.results if result.seed in before]
    if not pairs:
        return UNKNOWN
    found = [a.figures[metric.figure] - b.figures[metric.figure] for a, b in pairs]
    mean, between = float(np.mean(found)), math.nan
    if len(pairs) > 1:
        between = float(np.var(found, ddof=1))
    images, of_images, of_one = len(pairs[0][0].labels), 0.0, 0.0
    if metric.figure == "accuracy":
        table = np.stack([a.correct.astype(float) - b.correct for a, b in pairs])
        if images > 1:
            of_images = float(table.mean(0).var(ddof=1)) / images
            of_one = float(table.var(1, ddof=1).mean()) / images
    elif metric.figure in OF_CLASSES:
        figure = metric.figure
        table = np.stack([resampled(a, figure) - resampled(b, figure) for a, b in pairs])
        of_images = float(table.mean(0).var(ddof=1))
        of_one = float(table.var(1, ddof=1).mean())
    else:
        images = 0
    return Difference(metric.sign * mean, len(pairs), between, of_images, of_one, images)


def trend(rows: Sequence[Row], metric: Metric = ACCURACY) -> PowerLaw | None:
    """Fit the learning curve of a contender; None for fewer than two sizes.

    Args:
        rows: All rows of one contender.
        metric: Of what; a curve is known for what lies between 0 and 1.
    """
    good = [row for row in rows if row.results]
    images = [row.images for row in good]
    if len(set(images)) < 2 or not metric.is_share:
        return None
    return power_law(
        images, [error_of(row.mean(metric.figure), len(row.results[0].labels)) for row in good]
    )


@dataclass(frozen=True)
class Crossing:
    """Where the learning curves of two contenders cross.

    Attributes:
        before: The better one with fewer images.
        after: The better one with more images.
        images: Number of training images, interpolated between those that were tried.
        accuracy: What both contenders reach at that number: the accuracy, or another metric.
        clear: Whether the difference is real on both sides of the crossing.
    """

    before: str
    after: str
    images: float
    accuracy: float
    clear: bool


def crossings(rows: Sequence[Row], metric: Metric = ACCURACY) -> list[Crossing]:
    """Return where curves cross, between sizes that were tried."""
    figure = metric.figure
    curves = {
        name: {row.images: row for row in rows if row.contender == name and row.results}
        for name in dict.fromkeys(row.contender for row in rows)
    }
    found = []
    for one, other in combinations(curves, 2):
        gaps = {
            images: gap
            for images in sorted(set(curves[one]) & set(curves[other]))
            if (gap := curves[one][images].mean(figure) - curves[other][images].mean(figure))
        }
        for low, high in pairwise(gaps):
            if gaps[low] * gaps[high] < 0:
                share = gaps[low] / (gaps[low] - gaps[high])
                images = math.exp(math.log(low) + share * math.log(high / low))
                start, end = (curves[one][size].mean(figure) for size in (low, high))
                names = (one, other) if metric.sign * gaps[low] > 0 else (other, one)
                clear = all(
                    difference(curves[one][size], curves[other][size], metric).is_real
                    for size in (low, high)
                )
                found.append(Crossing(*names, images, start + share * (end - start), clear))
    return found
