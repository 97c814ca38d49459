"""The verdict in words: what to use, and what speaks for and against it."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from project.commands.compare.findings import Findings
from project.commands.compare.results import Data, Row
from project.commands.compare.statistics import Difference
from project.commands.durations import duration
from project.commands.learning_curve import LARGEST_TIE

FACTORS = ("data", "resources", "objective", "experience")


@dataclass(frozen=True)
class Verdict:
    """The choice, in words.

    Attributes:
        winner: Name of the contender to use; empty if every run failed.
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


def verdict(findings: Findings, data: Data, device: str) -> Verdict:
    """Put the findings into words.

    Args:
        findings: What the results show.
        data: What all contenders were given.
        device: What the runs were computed on, in words.
    """
    winner, top = findings.winner, findings.top
    if winner is None:
        return Verdict("", "No run succeeded.", (), (), ())
    return Verdict(
        winner.contender,
        _headline(winner, top[0], findings.tied),
        [_compared(top[0], row, findings.differences[row.contender]) for row in top[1:]],
        _more_data(findings, winner),
        _factors(findings, winner, data, device),
    )


def score(row: Row) -> str:
    """Return mean and standard deviation of the test accuracy."""
    mean, std = row.mean("accuracy"), row.std("accuracy")
    return f"{mean:.3f}" if math.isnan(std) else f"{mean:.3f} ± {std:.3f}"


def _headline(winner: Row, best: Row, tied: Sequence[Row]) -> str:
    images = f"{winner.images:,} training images"
    text = f"Use {winner.contender}: {score(winner)} test accuracy on {images}"
    text += f", {duration(winner.cost)} per run."
    if winner is not best:
        text += (
            f" {best.contender} has {score(best)}, a difference that chance explains, and takes "
            f"{duration(best.cost)}."
        )
    elif len(tied) > 1:
        others = _enumerated([row.contender for row in tied if row is not winner])
        text += f" Equally accurate within the noise, but slower: {others}."
    return text


def _compared(best: Row, row: Row, found: Difference) -> str:
    if not found.seeds:
        return f"{row.contender} has {score(row)}: it shares no seed with {best.contender}."
    seeds = "one seed" if found.seeds == 1 else f"{found.seeds} seeds"
    text = (
        f"{row.contender} has {score(row)}, {found.mean:.3f} ± {found.error:.3f} less than "
        f"{best.contender} ({_chance(found.p)}, {seeds}): "
    )
    if found.is_real:
        return text + "a real difference."
    if found.is_tie:
        return text + "within the noise."
    return text + "too large to call it equal, and too uncertain to be sure; more seeds would tell."


def _chance(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _more_data(findings: Findings, winner: Row) -> list[str]:
    trends = findings.trends
    lines = [
        f"{crossing.before} is ahead up to about {crossing.images:,.0f} training images, "
        f"{crossing.after} from there on"
        + ("." if crossing.clear else ", but the difference is within the noise.")
        for crossing in findings.crossings
    ]
    here, images = trends.get(winner.contender), winner.images
    if here is None:
        return [*lines, "Unknown: this needs at least two training-set sizes."]
    lines.append(
        f"If its learning curve continues as measured, {winner.contender} reaches "
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
        lines.append(
            f"Up to four times the images, nothing would clearly overtake {winner.contender}."
        )
    return lines


def _factors(findings: Findings, winner: Row, data: Data, device: str) -> list[tuple[str, str]]:
    top = findings.top
    pretrained = [row for row in top if row.results[0].pretrained]
    random = [row for row in top if not row.results[0].pretrained]
    texts = (
        _data_factor(pretrained, random, winner, data),
        _resources_factor(top, winner, device),
        _objective_factor(random, winner),
        _experience_factor(findings),
    )
    return list(zip(FACTORS, texts))


def _data_factor(pretrained: Sequence[Row], random: Sequence[Row], winner: Row, data: Data) -> str:
    text = (
        f"{winner.images:,} training images in {len(data.class_names)} classes; before a subset "
        f"was taken, the smallest class had {min(data.class_sizes):,} and the largest "
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
        f"On {device}, {winner.contender} takes {duration(winner.cost)} per run and "
        f"{winner.mean('peak_memory_mb'):,.0f} MB."
    )
    slowest = max(top, key=lambda row: row.cost)
    leanest = min(top, key=lambda row: row.mean("peak_memory_mb"))
    if len(top) > 1:
        text += (
            f" The slowest, {slowest.contender}, takes {duration(slowest.cost)}; the one with the "
            f"least memory, {leanest.contender}, {leanest.mean('peak_memory_mb'):,.0f} MB."
        )
    if not math.isnan(gflop := winner.mean("gflop_per_image")):
        text += f" A prediction costs {gflop:.3g} GFLOP."
    return text


def _objective_factor(random: Sequence[Row], winner: Row) -> str:
    text = f"For this task itself: {winner.contender}."
    if not random:
        return (
            f"{text} No contender began with random weights, so research on an architecture and a "
            "foundation for other tasks were not measured."
        )
    own = random[0]
    loss = winner.mean("accuracy") - own.mean("accuracy")
    if own is winner:
        return (
            f"{text} It began with random weights, so it also serves research on an architecture, "
            "and its backbone can be the foundation of other tasks."
        )
    return (
        f"{text} Research on an architecture of your own, or a backbone of your own for other "
        f"tasks, means {own.contender}, at {loss:.3f} less accuracy."
    )


def _experience_factor(findings: Findings) -> str:
    failures = Counter[str]()
    for row in findings.rows:
        failures[row.contender] += len(row.failed)
    failed = [f"{name} ({count})" for name, count in failures.items() if count]
    text = f" Runs failed: {_enumerated(failed)}." if failed else " No run failed."
    spread = [row for row in findings.top if not math.isnan(row.std("accuracy"))]
    if not spread:
        return "With one seed, the influence of chance is unknown." + text
    steady, shaky = (pick(spread, key=lambda row: row.std("accuracy")) for pick in (min, max))
    least = f"± {steady.std('accuracy'):.3f} over seeds"
    luck = f"{steady.contender} depends least on chance ({least})"
    if shaky is not steady:
        luck += f", {shaky.contender} most (± {shaky.std('accuracy'):.3f})"
    return f"{luck}.{text}"


def _enumerated(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
