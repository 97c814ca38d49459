# part: compare
"""Simulate ``compare --until_sure``: how often its verdict is wrong, and how many seeds it takes.

``python -m benchmarks.until_sure`` prints a table in Markdown, in about five minutes of one core;
``--times 200`` in one. Contenders have known gaps, so that the right verdict is known. Nothing is
trained: the scores of runs are random numbers. The rules are those of the command, by import.

- A verdict is *wrong* if it is settled and names a contender that is more than the margin worse
  than the best one, or dearer than the best one. The stated rate is 5%.
- *fixed* is the number of seeds, the same for all contenders, that settles as many of the verdicts
  when it is looked at once; ``>20`` if not even that many do.
- *naive* looks after each seed, too, but at the level of a single look: what one would do without
  the correction.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from project.commands.compare.choice import CHEAPER, MARGIN, Choice, choose, leads_of, level_of
from project.commands.compare.sequential import level_of_looks, why_stop
from project.commands.compare.statistics import Difference

FIRST, LAST = 3, 20  # seeds
GAPS = (0.0, 0.005, 0.01, 0.02, 0.05)
WORST = 0.0101  # just more than the margin
STDS = (0.005, 0.01, 0.025)
Scores = NDArray[np.float64]  # [contenders, seeds]


@dataclass(frozen=True)
class Case:
    """Contenders whose scores are known.

    Attributes:
        gaps: How much worse each is than the best one.
        costs: What a run of each costs.
        std: Standard deviation of the score over seeds.
        images: Standard error that the choice of test images gives to a difference.
        skewed: Whether seeds are seldom very bad, instead of normally distributed.
    """

    gaps: Sequence[float]
    costs: Sequence[float]
    std: float
    images: float = 0.0
    skewed: bool = False

    def draw(self, random: np.random.Generator) -> Scores:
        """Return the score of each contender with each seed."""
        shape = (len(self.gaps), LAST)
        luck = 1 - random.exponential(size=shape) if self.skewed else random.normal(size=shape)
        shared = random.normal(size=(len(self.gaps), 1)) * self.images / 2**0.5
        found: Scores = self.std * luck + shared - np.array(self.gaps)[:, None]
        return found

    def is_wrong(self, chosen: int) -> bool:
        """Return whether the contender isn't a right choice."""
        best = min(range(len(self.gaps)), key=lambda one: (self.gaps[one], self.costs[one]))
        dearer = self.costs[chosen] > CHEAPER * self.costs[best]
        return self.gaps[chosen] > MARGIN + 1e-12 or dearer


def look(
    case: Case, scores: Scores, seeds: Sequence[int], level: float, last: int = LAST
) -> tuple[Choice, str]:
    """Return the choice after these numbers of seeds, and why it stops there, if it does."""
    names = [str(one) for one in range(len(scores))]
    costs = dict(zip(names, case.costs))
    pairs = {}
    for one, other in combinations(range(len(scores)), 2):
        count = min(seeds[one], seeds[other])
        found = scores[one, :count] - scores[other, :count]
        variance, images = float(found.var(ddof=1)), case.images**2
        lead = Difference(float(found.mean()), count, variance, images, images, 1000)
        pairs[names[one], names[other]] = lead
    means = [scores[one, : seeds[one]].mean() for one in range(len(scores))]
    names.sort(key=lambda name: -means[int(name)])
    leads = leads_of(pairs)
    choice = choose(names, costs, leads, level)
    return choice, why_stop(choice, costs, leads, level, MARGIN, max(seeds), last)


def sequential(case: Case, scores: Scores, level: float) -> tuple[Choice, float]:
    """Add seeds to those that are running until it stops; return the choice and its mean seeds."""
    seeds = [FIRST] * len(scores)
    while True:
        choice, stop = look(case, scores, seeds, level)
        if stop:
            return choice, float(np.mean(seeds))
        for name in choice.running:
            seeds[int(name)] = max(seeds) if seeds[int(name)] < max(seeds) else seeds[int(name)] + 1


def fixed(case: Case, scores: Scores, level: float, seeds: int) -> tuple[Choice, float]:
    """Look once, after so many seeds of all."""
    choice, _ = look(case, scores, [seeds] * len(scores), level, seeds)
    return choice, seeds


@dataclass(frozen=True)
class Rates:
    """What many comparisons came to: shares of wrong and of settled verdicts, and mean seeds."""

    wrong: float
    settled: float
    seeds: float


def simulate(case: Case, times: int, way: Callable[[Case, Scores], tuple[Choice, float]]) -> Rates:
    """Return the rates over many comparisons, always with the same random numbers."""
    random = np.random.default_rng(0)
    found = [way(case, case.draw(random)) for _ in range(times)]
    wrong = [choice.settled and case.is_wrong(int(choice.name)) for choice, _ in found]
    settled = [choice.settled for choice, _ in found]
    rates = (np.mean(values) for values in (wrong, settled, [seeds for _, seeds in found]))
    return Rates(*map(float, rates))


def line(case: Case, name: str, times: int) -> str:
    """Return a line of a table."""
    once = level_of(len(case.gaps))
    found = simulate(
        case, times, partial(sequential, level=level_of_looks(len(case.gaps), FIRST, LAST))
    )
    naive = simulate(case, times, partial(sequential, level=once))
    enough = f">{LAST}"
    for seeds in range(2, LAST + 1):
        alike = simulate(case, times // 4, partial(fixed, level=once, seeds=seeds))
        if alike.settled >= found.settled:
            enough = str(seeds)
            break
    noise = f"{100 * case.std:g} | {100 * case.images:g}"
    rates = f"{found.wrong:.1%} | {found.settled:.0%} | {found.seeds:.1f} | {enough}"
    return f"| {name} | {noise} | {rates} | {naive.wrong:.1%} |"


def cases() -> list[tuple[str, Case]]:
    """Return cases with their names: points are hundredths of the score."""
    found = []
    pair = (("dearer", (6.0, 1.0)), ("cheaper", (1.0, 6.0)))
    for gap in sorted((*GAPS, WORST)):
        for std in STDS:
            for name, costs in pair if gap else pair[:1]:
                name = f"the {name} one by {100 * gap:g}" if gap else "none"
                found.append((name, Case((0.0, gap), costs, std)))
    for gap in (0.0, WORST):
        name = f"the dearer one by {100 * gap:g}" if gap else "none"
        found.append((f"{name}, skewed", Case((0.0, gap), (6.0, 1.0), 0.01, skewed=True)))
        found.append((name, Case((0.0, gap), (6.0, 1.0), 0.01, images=0.005)))
    five = ("five: 0, .5, 1, 2, 5 behind", GAPS, (6.0, 5.0, 4.0, 3.0, 1.0))
    same = ("five that are alike", (0.0,) * 5, (6.0, 5.0, 4.0, 3.0, 1.0))
    for name, gaps, costs in (five, same):
        found += [(name, Case(gaps, costs, std)) for std in STDS]
        found.append((name, Case(gaps, costs, 0.01, images=0.01)))
        found.append((f"{name}, skewed", Case(gaps, costs, 0.01, skewed=True)))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.until_sure", description=__doc__)
    parser.add_argument("--times", type=int, default=1000, help="comparisons of each case")
    times = parser.parse_args().times
    print(
        "| better, by points | std of a seed | of images | wrong | settled | seeds each "
        f"| fixed | naive wrong |\n|---{'|--:' * 7}|"
    )
    for name, case in cases():
        print(line(case, name, times), flush=True)


if __name__ == "__main__":
    main()
# end
