"""The verdict's first sentence and its grounds: as sure as the numbers are."""

import math
from collections.abc import Sequence

from project.commands.compare.choice import CHEAPER, MOST_SEEDS
from project.commands.compare.findings import Findings
from project.commands.compare.results import Row
from project.commands.compare.statistics import SIGNIFICANCE_LEVEL
from project.durations import duration

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NAMED = 3  # contenders that a headline names
FIRST_SEEDS = 3  # of a comparison that is to be settled


def headline(findings: Findings) -> str:
    """Return in one sentence which contender to use, and whether that is sure.

    Args:
        findings: What the results show.
    """
    choice, rows = findings.choice, _rows(findings)
    if choice is None:
        return "No run succeeded."
    if choice.settled:
        return _measured(findings, rows[choice.name])
    mine, others = rows[choice.name], [name for name in choice.running if name != choice.name]
    names = [_beside(mine, rows[name]) for name in others[: NAMED - 1]]
    if (more := len(others) - len(names)) > 0:
        names.append("another one" if more == 1 else f"one of {counted(more)} more")
    told = f"{_judges(findings)} can't tell it from {enumerated(names, 'or')}"
    return f"Use {mine.contender} for now: {told}."


def grounds(findings: Findings, jobs: int = 1) -> list[str]:
    """Return what a headline rests on, and what would settle it, as sentences.

    Args:
        findings: What the results show.
        jobs: Number of runs at the same time.
    """
    choice, rows = findings.choice, _rows(findings)
    if choice is None:
        return []
    mine = rows[choice.name]
    if choice.settled:
        lines = _against(findings, mine)
    else:
        shown = [rows[name] for name in choice.running[:NAMED]]
        scores = [
            f"{row.contender} {score(row, findings)} in {duration(row.cost)}" for row in shown
        ]
        seeds = f"over {_seeds(shown[0])} on {findings.images:,} training images"
        lines = [
            f"{findings.metric.title} {seeds}: {', '.join(scores)}.",
            *_doubts(findings, shown),
            *_next(findings, jobs),
            f"Until then: {mine.contender}, {_because(findings, mine)}.",
        ]
    if findings.ended:
        counts = sorted({len(row.results) for row in findings.top})
        each = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
        lines.append(f"Seeds were added up to {each} each, and no further ones, {findings.ended}.")
    if failed := [row.contender for row in findings.failed]:
        lines.append(f"Not compared, as all of their runs failed: {enumerated(failed)}.")
    return lines


def _rows(findings: Findings) -> dict[str, Row]:
    return {row.contender: row for row in findings.top}


def _measured(findings: Findings, mine: Row) -> str:
    """Return what the chosen contender reaches and costs."""
    return (
        f"Use {mine.contender}: {score(mine, findings)} {findings.metric.words} over "
        f"{_seeds(mine)} on {findings.images:,} training images, {duration(mine.cost)} per run."
    )


def _against(findings: Findings, mine: Row) -> list[str]:
    """Return why the chosen one of several is surely a right one."""
    next_one = next((row for row in findings.top if row is not mine), None)
    if next_one is None:
        return ["Nothing was compared with it."]
    lead = findings.leads[mine.contender, next_one.contender]
    than, error = f"{next_one.contender} ({score(next_one, findings)})", f"± {lead.error:.3f}"
    if lead.mean > 0:
        text = f"It is {lead.mean:.3f} {error} better than {than}."
    else:
        text = f"{than} is {abs(lead.mean):.3f} {error} better, which is no more than the margin"
        text += f", and takes {duration(next_one.cost)} per run."
    return [
        text,
        f"The chance that it is more than {findings.margin:g} worse than the best one, or slower "
        f"and no better, is at most {SIGNIFICANCE_LEVEL:.0%}.",
    ]


def _doubts(findings: Findings, shown: Sequence[Row]) -> list[str]:
    """Return how far the others are behind the best one, and which are out with a single seed."""
    best, *others = shown
    lines = []
    assert findings.choice is not None
    for row in others:
        lead = findings.leads[best.contender, row.contender]
        if not lead.seeds:
            lines.append(f"{row.contender} shares no seed with {best.contender}.")
        elif math.isnan(lead.error):
            lines.append(f"{row.contender} is {lead.mean:.3f} behind.")
        elif lead.seeds == 1:
            lines.append(
                f"{row.contender} is {lead.mean:.3f} behind, with ± {lead.error:.3f} from the test "
                "images alone."
            )
        else:
            ahead = 1 - lead.chance_above(-findings.margin)
            lines.append(
                f"{row.contender} is {lead.mean:.3f} ± {lead.error:.3f} behind ({chance(lead.p)}): "
                f"with a chance of {ahead:.0%} it is more than {findings.margin:g} ahead."
            )
    out = [row.contender for row in findings.top if row.contender not in findings.choice.running]
    if out and any(findings.leads[best.contender, name].seeds == 1 for name in out):
        lines.append(f"Too far behind for the usual luck of a seed: {enumerated(out)}.")
    return lines


def _next(findings: Findings, jobs: int) -> list[str]:
    """Return what would settle it, and the time that this takes."""
    choice, rows = findings.choice, _rows(findings)
    assert choice is not None
    running = [rows[name] for name in choice.running]
    now = min(len(row.results) for row in running)
    found = findings.settling
    if now >= 2 and found is None:
        return ["They have too few seeds in common to be compared: give all of them the same."]
    if found is None:
        seeds = max(FIRST_SEEDS, now + 1)
        return [
            "How much luck there is in a seed can't be seen in one of them. "
            f"{counted(seeds).capitalize()} would show it, and may settle it: "
            f"{_cost(running, seeds - now, jobs)} more."
        ]
    if found.seeds and not found.images:
        hint = "" if findings.ended else " --until_sure true runs as many as it takes."
        return [
            f"If the differences are as measured, about {found.seeds} seeds would settle it: "
            f"{_cost(running, found.seeds - now, jobs)} more.{hint}"
        ]
    if found.images:
        return [
            f"More seeds alone won't settle it: {_tested(running[0])} are too few. About "
            f"{_round(found.images):,} would, with {found.seeds} seeds."
        ]
    text = (
        f"It would take more than {MOST_SEEDS} seeds, with any number of test images: the noise is "
        f"large beside differences of {findings.margin:g}, which count."
    )
    if findings.enough_margin:
        text += f" With margin: {findings.enough_margin:g} it is settled now."
    return [text]


def _judges(findings: Findings) -> str:
    """Return what is too few: the seeds, or the test images."""
    row, found = findings.top[0], findings.settling
    if found is not None and found.images:
        return _tested(row)
    assert findings.choice is not None
    rows = _rows(findings)
    return _seeds(min((rows[n] for n in findings.choice.running), key=lambda r: len(r.results)))


def _tested(row: Row) -> str:
    count = len(row.results[0].labels)
    return f"{count:,} test image{'s' if count > 1 else ''}"


def _because(findings: Findings, mine: Row) -> str:
    best = findings.top[0]
    if mine is best:
        others = [row.cost for row in findings.top if row is not mine]
        cheapest = all(cost > CHEAPER * mine.cost for cost in others)
        return "the best so far, and the cheapest" if cheapest else "the best so far"
    if best.cost > CHEAPER * mine.cost:
        return f"{_times(best.cost / mine.cost)}cheaper and no more than {findings.margin:g} behind"
    return f"no more than {findings.margin:g} behind"


def _beside(one: Row, other: Row) -> str:
    """Return another contender with what it costs beside one."""
    if one.cost > CHEAPER * other.cost:
        return f"the {_times(one.cost / other.cost)}cheaper {other.contender}"
    if other.cost > CHEAPER * one.cost:
        return f"the {_times(other.cost / one.cost)}slower {other.contender}"
    return other.contender


def _times(ratio: float) -> str:
    """Return ``six times``, with a space; nothing for less than two."""
    return f"{counted(round(ratio))} times " if ratio >= 1.95 else ""


def _cost(rows: Sequence[Row], seeds: int, jobs: int) -> str:
    """Return the time that more seeds of these contenders take."""
    return duration(seeds * sum(row.mean("process_seconds") for row in rows) / jobs)


def _seeds(row: Row) -> str:
    count = len(row.results)
    return "one seed" if count == 1 else f"{counted(count)} seeds"


def _round(count: int) -> int:
    """Return a number with two digits, as it is no more than an estimate."""
    return int(float(f"{count:.1e}"))


def counted(number: int) -> str:
    """Return a number as a word, if it is a small one."""
    return NUMBERS[number] if number < len(NUMBERS) else f"{number:,}"


def score(row: Row, findings: Findings) -> str:
    """Return mean and standard deviation of the metric."""
    figure = findings.metric.figure
    mean, std = row.mean(figure), row.std(figure)
    return f"{mean:.3f}" if math.isnan(std) else f"{mean:.3f} ± {std:.3f}"


def chance(p: float) -> str:
    """Return a p-value in words."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def enumerated(names: Sequence[str], last: str = "and") -> str:
    """Return names with commas, and a word before the last one."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"
