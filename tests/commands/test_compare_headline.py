"""What a comparison says first, over a table of cases: as sure as the numbers, and no surer."""

from dataclasses import replace

import numpy as np
import pytest

from project.commands.compare.choice import MARGIN
from project.commands.compare.findings import Findings, find
from project.commands.compare.headline import grounds, headline
from project.commands.compare.results import Result, rows_of
from tests.commands.made_up import broken, made_up


def runs(name: str, minutes: float, *scores: float, of: int = 1000) -> list[Result]:
    """A run for each seed. Images are hard or easy for all, and a little so for each run."""
    results = []
    for seed, score in enumerate(scores):
        own = np.random.default_rng([seed, *name.encode()]).normal(size=of)
        order = np.argsort(np.random.default_rng(7).random(of) + 0.15 * own)
        right = np.isin(np.arange(of), order[: round(score * of)])
        results.append(made_up(name, right, seed, process_seconds=60 * minutes))
    return results


PROBE = runs("probe", 2.5, 0.9, 0.91)
FULL = runs("full", 15, 0.93, 0.935, 0.931)
CASES = {
    "clear win": (
        [*FULL, *runs("probe", 2.5, 0.88, 0.885, 0.878)],
        "Use full: 0.932 ± 0.003 test accuracy over three seeds on 100 training images, 15 min",
        ["It is 0.051 ± 0.007 better than probe (0.881 ± 0.004).", "is at most 5%."],
    ),
    "tie with a cheaper one": (
        [
            *runs("full", 15, 0.75, 0.70, 0.731, of=10000),
            *runs("probe", 2.5, 0.67, 0.72, 0.692, of=10000),
        ],
        "Use full for now: three seeds can't tell it from the six times cheaper probe.",
        [
            "full 0.727 ± 0.025 in 15 min, probe 0.694 ± 0.025 in 2 min 30 s.",
            "probe is 0.033 ± 0.029 behind (p = 0.37): with a chance of 14% it is more than 0.01 ",
            "about 16 seeds would settle it: 3 h 47 min more. --until_sure true",
            "Until then: full, the best so far.",
        ],
    ),
    "tie with a dearer one": (
        [*runs("probe", 2.5, 0.75, 0.70, 0.731), *runs("full", 15, 0.67, 0.72, 0.692)],
        "Use probe for now: three seeds can't tell it from the six times slower full.",
        ["Until then: probe, the best so far, and the cheapest."],
    ),
    "shown to be equal": (
        [
            *runs("full", 15, 0.9, 0.901, 0.899, of=10000),
            *runs("probe", 2.5, 0.898, 0.899, 0.899, of=10000),
        ],
        "Use probe: 0.899 ± 0.001 test accuracy",
        ["full (0.900 ± 0.001) is 0.001 ± 0.002 better, which is no more than the margin, and"],
    ),
    "one seed only": (
        [*runs("full", 15, 0.93), *runs("probe", 2.5, 0.88)],
        "Use full for now: one seed can't tell it from the six times cheaper probe.",
        [
            "probe is 0.050 behind, with ± 0.0",
            "Three would show it, and may settle it: 35 min more.",
        ],
    ),
    "one seed, and one far behind": (
        [*runs("full", 15, 0.93), *runs("probe", 2.5, 0.9), *runs("scratch", 1, 0.6)],
        "Use full for now: one seed can't tell it from the six times cheaper probe.",
        ["Too far behind for the usual luck of a seed: scratch."],
    ),
    "one seed, and all others far behind": (
        [*runs("full", 15, 0.93), *runs("probe", 2.5, 0.7), *runs("scratch", 1, 0.6)],
        "Use full for now: one seed can't tell it from the six times cheaper probe.",
        ["Too far behind for the usual luck of a seed: scratch."],
    ),
    "a contender that failed": (
        [*FULL, *runs("probe", 2.5, 0.88, 0.885, 0.878), broken("huge"), broken("huge", 1)],
        "Use full: ",
        ["Not compared, as all of their runs failed: huge."],
    ),
    "the same results": (
        [*runs("full", 15, 1, 1, 1), *runs("probe", 2.5, 1, 1, 1)],
        "Use probe: 1.000 ± 0.000",
        ["full (1.000 ± 0.000) is 0.000 ± 0.001 better"],
    ),
    "the same results, few images": (
        [*runs("full", 15, 1, 1, 1, of=20), *runs("probe", 2.5, 1, 1, 1, of=20)],
        "Use probe for now: 20 test images can't tell it from the six times slower full.",
        [
            "20 test images are too few. About 290 would, with 3 seeds.",
            "Until then: probe, six times cheaper and no more than 0.01 behind.",
        ],
    ),
    "two ties of three": (
        [*FULL, *runs("lp_ft", 14, 0.92, 0.94, 0.925), *runs("scratch", 1, 0.5, 0.6, 0.55)],
        "Use lp_ft for now: three seeds can't tell it from full.",
        ["Test accuracy over three seeds on 100 training images: full 0.932"],
    ),
    "three of three": (
        [*FULL, *runs("lp_ft", 14, 0.92, 0.94, 0.925), *runs("probe", 1, 0.92, 0.93, 0.915)],
        "Use lp_ft for now: three seeds can't tell it from full or the 14 times cheaper probe.",
        [],
    ),
    "five of five": (
        [result for name in "abcde" for result in runs(name, 1, 0.9, 0.91, 0.9)],
        "Use a for now: three seeds can't tell it from b, c or one of two more.",
        [],
    ),
    "no seed in common": (
        [*runs("full", 15, 0.93), made_up("probe", np.arange(1000) < 880, 5, process_seconds=150)],
        "Use full for now: one seed can't tell it from the six times cheaper probe.",
        ["probe shares no seed with full."],
    ),
    "a clear winner, and one with too few seeds": (
        [
            *runs("full", 15, 0.93, 0.935, 0.931),
            *runs("probe", 2.5, 0.7, 0.71, 0.705),
            *runs("scratch", 1, 0.4),
            *(broken("scratch", seed) for seed in (1, 2)),
        ],
        "Use full for now: one seed can't tell it from the 15 times cheaper scratch.",
        ["Three would show it"],
    ),
    "seeds that aren't shared": (
        [*runs("full", 15, 0.93, 0.94), *(replace(x, seed=5 + x.seed) for x in PROBE)],
        "Use full for now: two seeds can't tell it from the six times cheaper probe.",
        ["They have too few seeds in common to be compared: give all of them the same."],
    ),
    "one test image": (
        [*runs("full", 15, 1, 0, 1, of=1), *runs("probe", 2.5, 0, 1, 1, of=1)],
        "Use ",
        [],
    ),
    "alone": (runs("only", 1, 0.9, 0.91), "Use only: 0.905", ["Nothing was compared with it."]),
    "none": ([broken("a")], "No run succeeded.", []),
}


def found(results: list[Result]) -> Findings:
    return find(rows_of(results))


@pytest.mark.parametrize(("results", "first", "more"), CASES.values(), ids=CASES)
def test_headline(results: list[Result], first: str, more: list[str]) -> None:
    findings = found(results)
    assert headline(findings).startswith(first)
    text = " ".join(grounds(findings))
    for part in more:
        assert part in text, text


def test_the_same_order_whichever_is_first_in_the_config() -> None:
    results = CASES["tie with a cheaper one"][0]
    assert headline(found(results)) == headline(found(results[::-1]))


def test_parallel_runs_take_less_time() -> None:
    text = " ".join(grounds(found(CASES["tie with a cheaper one"][0]), jobs=4))
    assert "16 seeds would settle it: 56 min 52 s more." in text


def test_a_margin_that_settles_it_does() -> None:
    """Also where a cheaper contender, which is out, comes back at a larger margin."""
    random = np.random.default_rng(0)
    told = 0
    for _ in range(60):
        results = []
        for name in "abc":
            mean, minutes = 0.9 - random.uniform(0, 0.2), random.uniform(1, 9)
            scores = random.normal(mean, 0.03, 3).clip(0, 1)
            results += runs(name, minutes, *scores, of=200)
        if margin := found(results).enough_margin:
            told += 1
            choice = find(rows_of(results), margin=margin).choice
            assert margin > MARGIN and choice is not None and choice.settled
    assert told > 10
