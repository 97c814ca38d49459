"""What the results of a comparison mean: a choice, and what speaks for and against it."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from statistics import linear_regression, mean

import numpy as np

from project.commands.compare.results import Data, Row, largest
from project.commands.durations import duration
from project.commands.learning_curve import STEEPEST

SIGNIFICANT = 0.05
LARGEST_TIE = 0.02  # what is further apart is no tie, however much the seeds differ
FACTORS = ("data", "resources", "objective", "experience")


@dataclass(frozen=True)
class Difference:
    """How much more accurate one contender is than another.

    Attributes:
        mean: Of the accuracies, over the seeds that both have.
        error: Its standard error.
        p: How probable a difference this large is by chance, of either sign.
        seeds: Number of seeds.
    """

    mean: float
    error: float
    p: float
    seeds: int


def difference(one: Row, other: Row) -> Difference:
    """Compare two contenders by a paired t-test over seeds and test images.

    Both were trained with the same seeds and tested on the same images, so what is tested is the
    difference of each pair. Its variance is that between the seeds and that between the images,
    each over their number (a little too much, as both hold what is left to chance), with the
    degrees of freedom of Welch and Satterthwaite. A single seed leaves the images alone.

    Args:
        one: A row.
        other: A row on as many training images.
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
    """Yield the means of the rows and of the columns, where there are several."""
    for axis in (1, 0):
        means = table.mean(axis)
        if len(means) > 1:
            yield means


@dataclass(frozen=True)
class Trend:
    """The error as a power of the number of training images.

    Attributes:
        contender: Name of the contender.
        slope: Exponent; -0.5 halves the error with four times the images.
        offset: Logarithm of the error at one image.
    """

    contender: str
    slope: float
    offset: float

    def accuracy(self, images: float) -> float:
        """Return the accuracy to be expected with so many training images."""
        return 1 - math.exp(self.offset + self.slope * math.log(images))


def trend(rows: Sequence[Row]) -> Trend | None:
    """Fit the errors of a contender; null for fewer than two sizes.

    Hestness et al., 2017: the error falls about as a power of the size of the training set.
    """
    points = [
        (math.log(row.images), math.log(max(1 - row.mean("accuracy"), least_error(row))))
        for row in rows
        if row.results
    ]
    if len({images for images, _ in points}) < 2:
        return None
    slope = min(max(linear_regression(*zip(*points)).slope, STEEPEST), 0.0)
    offset = mean(error - slope * images for images, error in points)
    return Trend(rows[0].contender, slope, offset)


def least_error(row: Row) -> float:
    """Return the error of a contender that made no mistake: half of one."""
    return 0.5 / len(row.results[0].labels)


@dataclass(frozen=True)
class Crossing:
    """Where the learning curves of two contenders cross.

    Attributes:
        before: The more accurate one with fewer images.
        after: The more accurate one with more images.
        images: Number of training images, interpolated between those that were tried.
        accuracy: Of both, there.
        clear: Whether chance alone would hardly put them in this order on both sides.
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
                    difference(curves[one][size], curves[other][size]).p < SIGNIFICANT
                    for size in (low, high)
                )
                found.append(Crossing(*names, images, start + share * (end - start), clear))
    return found


def _accuracy(row: Row) -> float:
    return row.mean("accuracy")


@dataclass(frozen=True)
class Verdict:
    """The choice, in words.

    Attributes:
        winner: What to use; empty if every run failed.
        headline: The choice and what it rests on.
        differences: How each other contender compares, on the largest training set.
        more_data: What more training images would change.
        factors: For each of the four factors what was measured.
    """

    winner: str
    headline: str
    differences: Sequence[str]
    more_data: Sequence[str]
    factors: Sequence[tuple[str, str]]


def cost(row: Row) -> float:
    """Return the seconds of a run, with those of the source that it starts from."""
    return row.mean("process_seconds") + row.mean("source_seconds")


def verdict(rows: Sequence[Row], data: Data, device: str) -> Verdict:
    """Choose: of all that are as accurate as the most accurate one, the cheapest.

    As accurate are those that differ by no more than :data:`LARGEST_TIE`, and by no more than
    chance would explain.

    Args:
        rows: All rows.
        data: What they were trained on.
        device: What they were trained on it with, in words.
    """
    top = sorted(largest(rows), key=lambda row: -row.mean("accuracy"))
    if not top:
        return Verdict("", "No run succeeded.", (), (), ())
    best = top[0]
    found = {row.contender: difference(best, row) for row in top[1:]}
    tied = [best, *(row for row in top[1:] if _is_tie(found[row.contender]))]
    winner = min(tied, key=cost)
    lines = [_compared(best, row, found[row.contender]) for row in top[1:]]
    return Verdict(
        winner.contender,
        _headline(winner, best, tied),
        lines,
        _more_data(rows, winner),
        _factors(rows, top, winner, data, device),
    )


def _is_tie(found: Difference) -> bool:
    return found.p >= SIGNIFICANT and found.mean <= LARGEST_TIE


def score(row: Row) -> str:
    """Return mean and standard deviation of the test accuracy."""
    mean, std = row.mean("accuracy"), row.std("accuracy")
    return f"{mean:.3f}" if math.isnan(std) else f"{mean:.3f} ± {std:.3f}"


def _headline(winner: Row, best: Row, tied: Sequence[Row]) -> str:
    images = f"{winner.images:,} training images"
    text = f"Use {winner.contender}: {score(winner)} test accuracy on {images}"
    text += f", {duration(cost(winner))} a run."
    if winner is not best:
        text += (
            f" {best.contender} has {score(best)}, which is no more than chance explains, and "
            f"takes {duration(cost(best))}."
        )
    elif len(tied) > 1:
        others = _listed([row.contender for row in tied if row is not winner])
        text += f" As accurate within the noise, but slower: {others}."
    return text


def _compared(best: Row, row: Row, found: Difference) -> str:
    if not found.seeds:
        return f"{row.contender} has {score(row)}: it shares no seed with {best.contender}."
    seeds = "one seed" if found.seeds == 1 else f"{found.seeds} seeds"
    text = (
        f"{row.contender} has {score(row)}, {found.mean:.3f} ± {found.error:.3f} less than "
        f"{best.contender} ({_chance(found.p)}, {seeds}): "
    )
    if found.p < SIGNIFICANT:
        return text + "a real difference."
    if _is_tie(found):
        return text + "within the noise."
    return text + "too large to call it equal, and too uncertain to be sure; more seeds would tell."


def _chance(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _more_data(rows: Sequence[Row], winner: Row) -> list[str]:
    curves = {
        name: [row for row in rows if row.contender == name]
        for name in dict.fromkeys(row.contender for row in rows)
    }
    trends = {name: found for name, curve in curves.items() if (found := trend(curve))}
    lines = [
        f"{crossing.before} is ahead up to about {crossing.images:,.0f} training images, "
        f"{crossing.after} from there on"
        + ("." if crossing.clear else "; within the noise, though.")
        for crossing in crossings(rows)
    ]
    here, images = trends.get(winner.contender), winner.images
    if here is None:
        return [*lines, "Unknown: it takes at least two train_fractions to tell."]
    lines.append(
        f"If its learning curve goes on as it did, {winner.contender} reaches "
        f"{here.accuracy(2 * images):.3f} with twice the images, and "
        f"{here.accuracy(4 * images):.3f} with four times as many."
    )
    overtaking = [
        (name, factor)
        for name, other in trends.items()
        if name != winner.contender
        for factor in (2, 4)
        if other.accuracy(factor * images) > here.accuracy(factor * images) + LARGEST_TIE
    ]
    for name, factor in dict(reversed(overtaking)).items():
        lines.append(
            f"With {factor} times the images, {name} would be ahead, at about "
            f"{trends[name].accuracy(factor * images):.3f}."
        )
    if not overtaking and len(trends) > 1:
        lines.append("Up to four times the images, nothing would clearly overtake it.")
    return lines


def _factors(
    rows: Sequence[Row], top: Sequence[Row], winner: Row, data: Data, device: str
) -> list[tuple[str, str]]:
    pretrained = [row for row in top if row.results[0].approach == "FineTuning"]
    random = [row for row in top if row not in pretrained]
    return list(
        zip(
            FACTORS,
            (
                _data_factor(pretrained, random, winner, data),
                _resources_factor(top, winner, device),
                _objective_factor(random, winner),
                _experience_factor(rows, top),
            ),
        )
    )


def _data_factor(pretrained: Sequence[Row], random: Sequence[Row], winner: Row, data: Data) -> str:
    text = (
        f"{winner.images:,} training images in {len(data.class_names)} classes; before a part was "
        f"taken, the smallest class had {min(data.class_sizes):,} and the largest "
        f"{max(data.class_sizes):,}."
    )
    if pretrained and random:
        gain = pretrained[0].mean("accuracy") - random[0].mean("accuracy")
        text += (
            f" A pretrained backbone is worth {gain:+.3f} accuracy here "
            f"({pretrained[0].contender} against {random[0].contender})."
        )
    return text


def _resources_factor(top: Sequence[Row], winner: Row, device: str) -> str:
    text = (
        f"On {device}, {winner.contender} takes {duration(cost(winner))} a run and "
        f"{winner.mean('peak_memory_mb'):,.0f} MB."
    )
    slowest, leanest = max(top, key=cost), min(top, key=lambda row: row.mean("peak_memory_mb"))
    if len(top) > 1:
        text += (
            f" The slowest, {slowest.contender}, takes {duration(cost(slowest))}; the one with the "
            f"least memory, {leanest.contender}, {leanest.mean('peak_memory_mb'):,.0f} MB."
        )
    if not math.isnan(gflop := winner.mean("gflop_per_image")):
        text += f" A prediction costs {gflop:.3g} GFLOP."
    return text


def _objective_factor(random: Sequence[Row], winner: Row) -> str:
    text = f"For this task itself: {winner.contender}."
    if not random:
        return (
            f"{text} No contender began with random weights, so research and foundation are open."
        )
    own = random[0]
    loss = winner.mean("accuracy") - own.mean("accuracy")
    if own is winner:
        return (
            f"{text} It began with random weights, so it also serves research on an architecture, "
            "and its backbone other tasks."
        )
    return (
        f"{text} Research on an architecture of your own, or a backbone of your own for other "
        f"tasks, means {own.contender}, at {loss:.3f} less accuracy."
    )


def _experience_factor(rows: Sequence[Row], top: Sequence[Row]) -> str:
    failures = Counter[str]()
    for row in rows:
        failures[row.contender] += len(row.failed)
    failed = [f"{name} ({count})" for name, count in failures.items() if count]
    text = f" Runs failed: {_listed(failed)}." if failed else " No run failed."
    spread = [row for row in top if not math.isnan(row.std("accuracy"))]
    if not spread:
        return "With one seed, how much depends on luck is unknown." + text
    steady, shaky = (pick(spread, key=lambda row: row.std("accuracy")) for pick in (min, max))
    least = f"± {steady.std('accuracy'):.3f} over seeds"
    luck = f"Least depends on luck with {steady.contender} ({least})"
    if shaky is not steady:
        luck += f", most with {shaky.contender} (± {shaky.std('accuracy'):.3f})"
    return f"{luck}.{text}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
