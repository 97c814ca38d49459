"""Which differences between contenders are real, and how accuracy depends on the images."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from project.commands.compare.results import Row
from project.commands.learning_curve import LARGEST_TIE, PowerLaw, error_of, power_law

SIGNIFICANCE_LEVEL = 0.05  # p-values below it mean a real difference


@dataclass(frozen=True)
class Difference:
    """How much more accurate one contender is than another.

    Attributes:
        mean: Mean difference of the accuracies, over the seeds that both contenders have.
        error: Standard error of the mean.
        p: Two-sided p-value: the probability of a difference at least this large by chance.
        seeds: Number of seeds that both contenders have.
    """

    mean: float
    error: float
    p: float
    seeds: int

    @property
    def is_real(self) -> bool:
        """Whether chance hardly explains the difference."""
        return self.p < SIGNIFICANCE_LEVEL

    @property
    def is_tie(self) -> bool:
        """Whether the less accurate contender counts as equally accurate."""
        return not self.is_real and self.mean <= LARGEST_TIE


def difference(one: Row, other: Row) -> Difference:
    """Compare two contenders by a paired t-test over seeds and test images.

    Both were trained with the same seeds and tested on the same images, so the test is on the
    difference of each pair. The variance of its mean is the sum of two parts: the variance between
    seeds over the number of seeds, and that between images over the number of images. This is
    slightly too large, because residual noise is in both parts. The degrees of freedom are those of
    Welch and Satterthwaite. With a single seed, only the part of the images remains.

    Args:
        one: A row.
        other: A row with the same number of training images.
    """
    from scipy import stats

    correct = {result.seed: result.correct for result in one.results}
    pairs = [
        correct[result.seed].astype(float) - result.correct
        for result in other.results
        if result.seed in correct
    ]
    if not pairs:
        return Difference(float("nan"), float("nan"), 1.0, 0)
    table = np.stack(pairs)  # [seeds, images]
    parts = [(values.var(ddof=1) / len(values), len(values) - 1) for values in _means(table)]
    variance = sum(part for part, _ in parts)
    mean = float(table.mean())
    if variance == 0:
        return Difference(mean, 0.0, 1.0 if mean == 0 else 0.0, len(pairs))
    freedom = variance**2 / sum(part**2 / count for part, count in parts)
    error = math.sqrt(variance)
    p = float(2 * stats.t.sf(abs(mean) / error, freedom))
    return Difference(mean, error, p, len(pairs))


def _means(table: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the means of the rows and of the columns, each only if there are several."""
    for axis in (1, 0):
        means = table.mean(axis)
        if len(means) > 1:
            yield means


def trend(rows: Sequence[Row]) -> PowerLaw | None:
    """Fit the learning curve of a contender; None for fewer than two sizes.

    Args:
        rows: All rows of one contender.
    """
    good = [row for row in rows if row.results]
    images = [row.images for row in good]
    if len(set(images)) < 2:
        return None
    return power_law(
        images, [error_of(row.mean("accuracy"), len(row.results[0].labels)) for row in good]
    )


@dataclass(frozen=True)
class Crossing:
    """Where the learning curves of two contenders cross.

    Attributes:
        before: The more accurate one with fewer images.
        after: The more accurate one with more images.
        images: Number of training images, interpolated between those that were tried.
        accuracy: Accuracy of both contenders at that number.
        clear: Whether the difference is real on both sides of the crossing.
    """

    before: str
    after: str
    images: float
    accuracy: float
    clear: bool


def crossings(rows: Sequence[Row]) -> list[Crossing]:
    """Return where curves cross, between sizes that were tried."""
    curves = {
        name: {row.images: row for row in rows if row.contender == name and row.results}
        for name in dict.fromkeys(row.contender for row in rows)
    }
    found = []
    for one, other in combinations(curves, 2):
        gaps = {
            images: gap
            for images in sorted(set(curves[one]) & set(curves[other]))
            if (gap := _accuracy(curves[one][images]) - _accuracy(curves[other][images]))
        }
        for low, high in pairwise(gaps):
            if gaps[low] * gaps[high] < 0:
                share = gaps[low] / (gaps[low] - gaps[high])
                images = math.exp(math.log(low) + share * math.log(high / low))
                start, end = (_accuracy(curves[one][size]) for size in (low, high))
                names = (one, other) if gaps[low] > 0 else (other, one)
                clear = all(
                    difference(curves[one][size], curves[other][size]).is_real
                    for size in (low, high)
                )
                found.append(Crossing(*names, images, start + share * (end - start), clear))
    return found


def _accuracy(row: Row) -> float:
    return row.mean("accuracy")
