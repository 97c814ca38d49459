"""The verdict in words: what to use, and what speaks for and against it."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from project.commands.compare.findings import Findings
from project.commands.compare.headline import chance, enumerated, grounds, headline, score
from project.commands.compare.results import Data, Row
from project.commands.compare.tables import number
from project.commands.learning_curve import LARGEST_TIE
from project.commands.preparation import UNEQUAL
from project.durations import duration

FEW = 50  # validation images: one of them is more than a difference that matters
FACTORS = ("data", "resources", "objective", "experience")


@dataclass(frozen=True)
class Verdict:
    """The choice, in words.

    Attributes:
        winner: Name of the contender to use, or to use for now; empty if every run failed.
        settled: Whether it is surely a right one.
        running: Names of those that may be right, with the best so far in front.
        headline: The choice, with its doubt.
        grounds: What it rests on, and what would settle it.
        differences: How each other contender compares, on the largest training set.
        more_data: What more training images would change.
        factors: For each of the four factors what was measured.
    """

    winner: str
    settled: bool
    running: Sequence[str]
    headline: str
    grounds: str
    differences: Sequence[str]
    more_data: Sequence[str]
    factors: Sequence[tuple[str, str]]


def verdict(findings: Findings, data: Data, device: str, jobs: int = 1) -> Verdict:
    """Put the findings into words.

    Args:
        findings: What the results show.
        data: What all contenders were given.
        device: What the runs were computed on, in words.
        jobs: Number of runs at the same time.
    """
    winner, top, choice = findings.winner, findings.top, findings.choice
    if winner is None or choice is None:
        return Verdict("", False, (), headline(findings), "", (), (), ())
    return Verdict(
        winner.contender,
        choice.settled,
        choice.running,
        headline(findings),
        " ".join([*grounds(findings, jobs), *_cautions(findings, data)]),
        [_compared(findings, top[0], row, data) for row in top[1:]],
        _more_data(findings, winner),
        _factors(findings, winner, data, device),
    )


def _cautions(findings: Findings, data: Data) -> list[str]:
    """Return what a reader of the numbers may overlook, as sentences."""
    lines = []
    if 0 < data.val_images < FEW:
        several = "s, of which each" if data.val_images > 1 else ", which"
        lines.append(
            f"The best epochs were chosen by {data.val_images} validation image{several} is "
            f"{1 / data.val_images:.3f} of the accuracy."
        )
    if words := _constant(findings.top[0], data):
        lines.append(f"{findings.top[0].contender} is best{words}.")
    sizes = np.bincount(findings.top[0].results[0].labels)
    if findings.metric.figure == "accuracy" and sizes.max() >= UNEQUAL * sizes[sizes > 0].min():
        best = max(findings.top, key=lambda row: row.mean("f1"))
        if best.mean("f1") > findings.top[0].mean("f1") + findings.margin:
            scores = " against ".join(f"{row.mean('f1'):.3f}" for row in (best, findings.top[0]))
            lines.append(
                f"By macro F1, in which each class counts the same, {best.contender} is the best: "
                f"{scores}."
            )
    return lines


def _compared(findings: Findings, best: Row, row: Row, data: Data) -> str:
    found, has = findings.differences[row.contender], f"{row.contender} has"
    if not found.seeds:
        return f"{has} {score(row, findings)}: it shares no seed with {best.contender}."
    if found.seeds == 1:
        return (
            f"{has} {score(row, findings)}, {found.mean:.3f} behind {best.contender} with one "
            f"seed, whose luck is unknown{_constant(row, data)}."
        )
    text = (
        f"{has} {score(row, findings)}, {found.mean:.3f} ± {found.error:.3f} behind "
        f"{best.contender} ({chance(found.p)}, {found.seeds} seeds): "
    )
    text += "a real difference" if found.is_real else "chance may explain it"
    return f"{text}{_constant(row, data)}."


def _constant(row: Row, data: Data) -> str:
    """Return that a contender always predicts the same class, if it does."""
    predicted = {label for result in row.results for label in result.predictions.tolist()}
    if len(predicted) > 1 or len({*row.results[0].labels.tolist()}) == 1:
        return ""
    return f"; all that it predicts is {data.class_names[predicted.pop()]}"


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
        unknown = "Unknown: this needs at least two training-set sizes."
        if not findings.metric.is_share:
            unknown = f"Unknown: there is no learning curve of {findings.metric.words}."
        return [*lines, unknown]
    if (last := _last_two(findings, winner)) and last[1] <= last[0]:
        before, now = (f"{value:.3f}" for value in last)
        lines.append(
            f"No forecast: with more images, {winner.contender} didn't get better ({before}, then "
            f"{now} on {images:,})."
        )
        return lines
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


def _last_two(findings: Findings, winner: Row) -> list[float]:
    """Return the metric on the two largest training sets; of one, nothing."""
    curve = {
        row.images: row.mean(findings.metric.figure)
        for row in findings.rows
        if row.contender == winner.contender and row.results
    }
    return [curve[images] for images in sorted(curve)[-2:]] if len(curve) > 1 else []


def _factors(findings: Findings, winner: Row, data: Data, device: str) -> list[tuple[str, str]]:
    top = findings.top
    pretrained = [row for row in top if row.results[0].pretrained]
    random = [row for row in top if not row.results[0].pretrained]
    texts = (
        _data_factor(findings, pretrained, random, winner, data),
        _resources_factor(top, winner, device),
        _objective_factor(findings, random, winner),
        _experience_factor(findings),
    )
    return list(zip(FACTORS, texts))


def _data_factor(
    findings: Findings,
    pretrained: Sequence[Row],
    random: Sequence[Row],
    winner: Row,
    data: Data,
) -> str:
    whole = sum(data.class_sizes)
    part = f", of {whole:,}" if whole > winner.images else ""
    text = (
        f"{winner.images:,} training images in {len(data.class_names)} classes{part}; there are "
        f"{min(data.class_sizes):,} in the smallest class and {max(data.class_sizes):,} in the "
        "largest."
    )
    if pretrained and random:
        first, own = pretrained[0].contender, random[0].contender
        gain = findings.leads[first, own]
        if not gain.seeds:
            return text
        text += (
            f" The best one with a pretrained backbone, {first}, is {abs(gain.mean):.3f} "
            f"{'better' if gain.mean >= 0 else 'worse'} than the best one without, {own}"
            f"{'' if gain.is_real and gain.seeds > 1 else ', which may be chance'}."
        )
        last = pretrained[-1].contender
        if findings.leads[last, own].mean < 0 < gain.mean:
            text += f" But not all pretraining helps: {last} is behind {own}."
    return text


def _resources_factor(top: Sequence[Row], winner: Row, device: str) -> str:
    text = (
        f"On {device}, {winner.contender} takes {duration(winner.cost)} per run and "
        f"{_memory(winner)} MB."
    )
    slowest = max(top, key=lambda row: row.cost)
    leanest = min(top, key=lambda row: row.mean("peak_memory_mb"))
    if len(top) > 1:
        text += (
            f" The slowest, {slowest.contender}, takes {duration(slowest.cost)}"
            f"{' with its source' if slowest.mean('source_seconds') else ''}; the one with the "
            f"least memory, {leanest.contender}, {_memory(leanest)} MB."
        )
    if not math.isnan(gflop := winner.mean("gflop_per_image")):
        text += f" A prediction costs {gflop:.3g} GFLOP."
    return text


def _memory(row: Row) -> str:
    return number(row.mean("peak_memory_mb"), whole=True)


def _objective_factor(findings: Findings, random: Sequence[Row], winner: Row) -> str:
    text = f"For this task itself: {winner.contender}."
    if not random:
        return (
            f"{text} No contender began with random weights, so research on an architecture and a "
            "foundation for other tasks were not measured."
        )
    own = random[0]
    if own is winner:
        return (
            f"{text} It began with random weights, so it also serves research on an architecture, "
            "and its backbone can be the foundation of other tasks."
        )
    loss = findings.leads[winner.contender, own.contender].mean
    if math.isnan(loss):
        return text
    return (
        f"{text} Research on an architecture of your own, or a backbone of your own for other "
        f"tasks, means {own.contender}, whose {findings.metric.words} is {abs(loss):.3f} "
        f"{'worse' if loss >= 0 else 'better'}."
    )


def _experience_factor(findings: Findings) -> str:
    failures = Counter[str]()
    for row in findings.rows:
        failures[row.contender] += len(row.failed)
    failed = [f"{name} ({count})" for name, count in failures.items() if count]
    text = f" Runs failed: {enumerated(failed)}." if failed else " No run failed."
    figure = findings.metric.figure
    spread = [row for row in findings.top if not math.isnan(row.std(figure))]
    if not spread:
        return "With one seed, the influence of chance is unknown." + text
    steady, shaky = (pick(spread, key=lambda row: row.std(figure)) for pick in (min, max))
    least = f"± {steady.std(figure):.3f} over seeds"
    luck = f"{steady.contender} depends least on chance ({least})"
    if shaky is not steady:
        luck += f", {shaky.contender} most (± {shaky.std(figure):.3f})"
    return f"{luck}.{text}"
