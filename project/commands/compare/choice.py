"""Which contender to use, how sure that is, and what would settle it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from project.commands.compare.statistics import SIGNIFICANCE_LEVEL, Difference

MARGIN = 0.01  # differences up to it don't matter
POWER = 0.84  # standard errors that make it 80% likely that a difference is found
CHEAPER = 1.25  # times the cost: less than that is no difference
MOST_SEEDS = 100  # beyond that, more seeds are no way to settle anything
ENDLESS = 10**9  # seeds
MARGINS = (0.02, 0.03, 0.05, 0.1, 0.15, 0.2)
STEP = 1.25  # of the numbers that are tried
MOST_IMAGES = 1000  # times as many test images

Leads = Mapping[tuple[str, str], Difference]
"""How much better the first of two contenders is than the second, both ways round."""


@dataclass(frozen=True)
class Choice:
    """Which contender to use.

    The right one is the best one, or one that is cheaper and worse by no more than a margin.

    Attributes:
        name: The contender.
        settled: Whether the chance that it is a wrong one is below the stated rate.
        running: Contenders that may still be the right one, with the best so far in front.
    """

    name: str
    settled: bool
    running: Sequence[str]


@dataclass(frozen=True)
class Settling:
    """What would probably settle a choice, if the differences are as measured.

    Attributes:
        seeds: Number of seeds of each contender that is running; 0 if no number is enough.
        images: Number of test images; 0 if there are enough, or if no number is.
    """

    seeds: int
    images: int


def leads_of(differences: Mapping[tuple[str, str], Difference]) -> Leads:
    """Return differences both ways round."""
    return {**differences, **{(b, a): found.reversed() for (a, b), found in differences.items()}}


def level_of(contenders: int, error: float = SIGNIFICANCE_LEVEL) -> float:
    """Return the one-sided level of each comparison, so that a wrong choice has at most ``error``.

    A choice is wrong only if a comparison of the best contender with another is, so Bonferroni's
    correction is for these. A wrong choice is more than the margin worse than the best one, or
    dearer and no better.

    Args:
        contenders: Number of contenders that were to be compared.
        error: Largest probability of a wrong choice.
    """
    return error / max(contenders - 1, 1)


def choose(
    names: Sequence[str],
    costs: Mapping[str, float],
    leads: Leads,
    level: float,
    margin: float = MARGIN,
    power: float = 0.0,
    guess: bool = False,
) -> Choice:
    """Choose a contender.

    It is settled if no cheaper one can be as good, and no other one better by more than the margin.
    A contender is out if another one is surely better by more than the margin, or surely better and
    not dearer. Of those that may be chosen, the cheapest is.

    Args:
        names: Contenders, the best so far in front.
        costs: What a run of each costs.
        leads: For all of their pairs.
        level: One-sided level of each comparison.
        margin: Differences up to it don't matter.
        power: Standard errors that are added to each bound.
        guess: With one seed nothing is sure, and at least two contenders may be right; but
            those are out that are too far behind for the usual luck of a seed.
    """
    most = {pair: lead.upper(level) + power * lead.error for pair, lead in leads.items()}
    likely = {pair: lead.likely_upper(level) for pair, lead in leads.items()} if guess else most

    def cheaper(one: str, other: str) -> bool:
        return costs[one] * CHEAPER < costs[other]

    def loses(one: str, other: str) -> bool:
        return likely[one, other] < (-margin if cheaper(one, other) else 0)

    def stands(one: str) -> bool:
        return all(
            most[other, one] < 0 if cheaper(other, one) else most[other, one] <= margin
            for other in names
            if other != one
        )

    running = [one for one in names if not any(loses(one, x) for x in names if x != one)]
    running = running or list(names[:1])
    if guess and len(running) == 1:
        others = (one for one in names if one not in running)
        running += [one for one in others if leads[running[0], one].seeds < 2][:1]
    right = [one for one in running if stands(one)] or (running if len(running) == 1 else [])
    alike = [one for one in running if one == running[0] or leads[running[0], one].mean <= margin]
    name = min(right or alike, key=lambda one: costs[one])
    return Choice(name, bool(right), [name] if right else running)


def settling(
    choice: Choice,
    costs: Mapping[str, float],
    leads: Leads,
    level: float,
    margin: float = MARGIN,
) -> Settling | None:
    """Return what would settle a choice with a probability of 80%; None if that is unknown.

    With more seeds the part of the noise that the test images make stays, and may be too large.

    Args:
        choice: A choice that isn't settled.
        costs: What a run of each costs.
        leads: For all of the pairs.
        level: One-sided level of each comparison.
        margin: Differences up to it don't matter.
    """
    now = min(leads[pair].seeds for pair in combinations(choice.running, 2))
    if now < 2:
        return None

    def enough(seeds: int, images: float) -> bool:
        return _enough(seeds, images, choice, costs, leads, level, margin, POWER)

    for seeds in range(now + 1, MOST_SEEDS + 1):
        if enough(seeds, 1.0):
            return Settling(seeds, 0)
    images = max(leads[pair].images for pair in combinations(choice.running, 2))
    ways = []
    for count in _grid(now, MOST_SEEDS) if images else ():
        seeds = round(count)
        times = next((n for n in _grid(STEP, MOST_IMAGES) if enough(seeds, n)), None)
        if times:
            ways.append((seeds * times, Settling(seeds, math.ceil(times * images))))
    return min(ways, key=lambda way: way[0], default=(0, Settling(0, 0)))[1]


def enough_margin(
    names: Sequence[str], costs: Mapping[str, float], leads: Leads, level: float, margin: float
) -> float | None:
    """Return the smallest of some larger margins that settles the choice; None if none does."""
    larger = (one for one in MARGINS if one > margin)
    return next((m for m in larger if choose(names, costs, leads, level, m).settled), None)


def is_hopeless(
    choice: Choice, costs: Mapping[str, float], leads: Leads, level: float, margin: float
) -> bool:
    """Return whether any number of seeds leaves the choice open, if differences are as measured."""
    pairs = [leads[pair] for pair in combinations(choice.running, 2)]
    known = all(lead.seeds >= 2 for lead in pairs)
    return known and not _enough(ENDLESS, 1.0, choice, costs, leads, level, margin)


def _enough(
    seeds: int,
    images: float,
    choice: Choice,
    costs: Mapping[str, float],
    leads: Leads,
    level: float,
    margin: float,
    power: float = 0.0,
) -> bool:
    """Return whether so many seeds and times as many test images settle a choice."""
    pairs = combinations(choice.running, 2)
    then = leads_of({pair: leads[pair].projected(seeds, images) for pair in pairs})
    return choose(choice.running, costs, then, level, margin, power).settled


def _grid(start: float, end: float) -> Iterator[float]:
    while start < end:
        yield start
        start *= STEP
