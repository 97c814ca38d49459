"""Looks at a comparison after each seed, without being fooled by having looked so often."""

from collections.abc import Mapping
from functools import cache

import numpy as np

from project.commands.compare.choice import Choice, Leads, is_hopeless, level_of

LEAST_SEEDS = 2  # that show how much luck is in a seed
SEEDS_BEFORE_GIVING_UP = 5
PATHS = 100_000  # that a boundary is worked out from


@cache
def nominal_level(error: float, first: int, last: int) -> float:
    """Return the one-sided level of each look that keeps the error of all looks together.

    It is the constant level of Pocock (1977), with bounds at each look that hold at all of them
    (repeated confidence intervals; Jennison and Turnbull, 1989). His table is of a known variance;
    of a few seeds, it is not. Here the statistic is Student's t of the seeds so far, which where
    there is no difference has one distribution, whatever the variance: so the smallest p-value of
    all looks has one, too, which is drawn :data:`PATHS` times, always with the same numbers. With
    this level, a bound is wrong at some look with a probability of ``error``, also if the looks
    stop sooner, for whatever reason. The numbers of the first and the last look must not depend on
    the results.

    Args:
        error: Probability that one comparison's bound is wrong at some look.
        first: Number of seeds at the first look, at least 2.
        last: Number of seeds at the last look.
    """
    from scipy import special  # slow to import

    draws = np.random.default_rng(0).standard_normal((PATHS, last), np.float32)
    seeds = np.arange(1, last + 1)
    means = draws.cumsum(1) / seeds
    squares = (draws**2).cumsum(1) - seeds * means**2
    looks = slice(first - 1, None)
    freedom = seeds[looks] - 1
    t = means[:, looks] * np.sqrt(seeds[looks] * freedom / np.maximum(squares[:, looks], 1e-12))
    smallest = special.stdtr(freedom.astype(float), t.astype(float)).min(1)
    return float(np.quantile(smallest, error))


def level_of_looks(contenders: int, seeds: int, max_seeds: int) -> float:
    """Return the one-sided level of each comparison at each look.

    Args:
        contenders: Number of contenders that were to be compared.
        seeds: Number of seeds that the comparison starts with.
        max_seeds: Largest number of seeds.
    """
    return nominal_level(level_of(contenders), max(seeds, LEAST_SEEDS), max_seeds)


def why_stop(
    choice: Choice,
    costs: Mapping[str, float],
    leads: Leads,
    level: float,
    margin: float,
    seeds: int,
    max_seeds: int,
) -> str:
    """Return why no further seeds are run, as the end of a sentence; empty if they are.

    Stopping is allowed at any time: it can leave a choice open, and can't make it a wrong one.

    Args:
        choice: What to use, by the seeds so far.
        costs: What a run of each contender costs.
        leads: For all pairs of contenders.
        level: One-sided level of each comparison, from :func:`level_of_looks`.
        margin: Differences up to it don't matter.
        seeds: Number of seeds so far.
        max_seeds: Largest number of seeds.
    """
    if choice.settled:
        return "as it is settled"
    if seeds >= max_seeds:
        return f"as that is max_seeds: {max_seeds}"
    if seeds >= SEEDS_BEFORE_GIVING_UP and is_hopeless(choice, costs, leads, level, margin):
        return "as no number of seeds would settle it with so few test images"
    return ""
