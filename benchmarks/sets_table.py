# part: compare recommend
"""Say how good ``recommend`` was on the data sets of ``benchmarks/sets.json``.

``python -m benchmarks.sets_table`` applies today's rules to what was measured of each set, and
prints tables in Markdown for ``docs/choosing.md``. Nothing is trained. The thresholds of the rules
were set on one half of the sets, and are tested on the other.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any

import numpy as np

from benchmarks.sets import SETS, ImageSet
from benchmarks.sets_measure import RESULTS
from project.commands.learning_curve import LARGEST_TIE
from project.commands.recommend.checking import TIMES
from project.commands.recommend.decision import Decision, decide
from project.commands.recommend.evidence import Curve
from project.commands.recommend.rules import Measured, rules_of
from project.commands.recommend.scan import Scan
from project.commands.recommend.trial import Prediction
from project.durations import duration

CONFIDENCES = ("high", "medium", "low")


@dataclass(frozen=True)
class Outcome:
    """What came of a set.

    Attributes:
        of: The set.
        decision: What ``recommend`` says.
        measured: What it says it by.
        accuracies: Test accuracy of each contender.
        seconds: Time of a run of each contender.
    """

    of: ImageSet
    decision: Decision
    measured: Measured
    accuracies: Mapping[str, float]
    seconds: Mapping[str, float]

    def behind(self, name: str) -> float:
        """Return how far a contender is behind the best one, in accuracy."""
        return max(self.accuracies.values()) - self.accuracies[name]

    def dearer(self, name: str) -> float:
        """Return how many times as long it takes as the fastest of those that are as good."""
        good = [other for other in self.accuracies if self.behind(other) <= LARGEST_TIE]
        return self.seconds[name] / min(self.seconds[other] for other in good)

    def is_right(self, name: str) -> bool:
        """Return whether a contender is as accurate as the best one, within a tie."""
        return self.behind(name) <= LARGEST_TIE


def read(file: Path) -> list[Outcome]:
    """Return the outcomes of the sets that were measured, by today's rules."""
    content = json.loads(file.read_text())
    found = []
    for one in SETS:
        if one.name in content:
            measured, trained = measured_of(content[one.name]["measured"]), content[one.name]
            accuracies = {name: row["accuracy"] for name, row in trained["trained"].items()}
            seconds = {name: row["seconds"] for name, row in trained["trained"].items()}
            decision = decide(rules_of(measured), measured)
            found.append(Outcome(one, decision, measured, accuracies, seconds))
    return found


def measured_of(content: Mapping[str, Any]) -> Measured:
    """Return what was measured, from JSON."""
    curves = {
        name: Curve(
            tuple(content[name]["sizes"]),
            tuple(content[name]["accuracies"]),
            np.array(content[name]["correct"], bool),
        )
        for name in ("probe", "scratch")
        if content[name]
    }
    predictions = {
        name: one if isinstance(one, str) else Prediction(**one)
        for name, one in content["predictions"].items()
    }
    rest = {name: content[name] for name in Measured.__dataclass_fields__}
    facts = {"pixels": math.nan, **content["scan"]}  # which sets measured earlier don't have
    rest |= {"scan": Scan(**facts), "predictions": predictions, "suspects": ()}
    return Measured(**{**rest, **curves})


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a row for each set."""
    names = list(outcomes[0].accuracies)
    lines = [
        f"| data | `recommend` | {' | '.join(names)} | behind | × time | predicted time |",
        f"|---|---|{'--:|' * (len(names) + 3)}",
    ]
    for one in outcomes:
        choice = one.decision.choice
        cells = [
            f"**{one.accuracies[name]:.3f}**"
            if one.is_right(name)
            else f"{one.accuracies[name]:.3f}"
            for name in names
        ]
        ratios = times(one)
        lines.append(
            f"| {one.of.what} | {choice}, {one.decision.confidence} | {' | '.join(cells)} | "
            f"{one.behind(choice):.3f} | {one.dearer(choice):.1f} | "
            f"×{min(ratios.values()):.2f}–{max(ratios.values()):.2f} |"
        )
    return "\n".join(lines)


def times(one: Outcome) -> dict[str, float]:
    """Return predicted times as multiples of the measured ones."""
    return {
        name: prediction.seconds / one.seconds[name]
        for name, prediction in one.measured.predictions.items()
        if isinstance(prediction, Prediction) and name in one.seconds
    }


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return how good the choice was, beside that of one approach for all data sets."""
    ways: dict[str, Callable[[Outcome], str]] = {"`recommend`": lambda one: one.decision.choice}
    for name in outcomes[0].accuracies:
        ways[f"always {name}"] = lambda one, name=name: name  # type: ignore[misc]
    lines = ["| choice | right | behind, mean | worst | × time |", "|---|--:|--:|--:|--:|"]
    for way, choose in ways.items():
        right = sum(one.is_right(choose(one)) for one in outcomes)
        behind = [one.behind(choose(one)) for one in outcomes]
        dearer = geometric_mean(one.dearer(choose(one)) for one in outcomes)
        lines.append(
            f"| {way} | {right} of {len(outcomes)} | {fmean(behind):.3f} | {max(behind):.3f} | "
            f"{dearer:.1f} |"
        )
    return "\n".join(lines)


def record(outcomes: Sequence[Outcome]) -> dict[str, tuple[int, int]]:
    """Return for each confidence how often such a choice was right, and how often there was one."""
    found = {}
    for confidence in CONFIDENCES:
        mine = [one for one in outcomes if one.decision.confidence == confidence]
        found[confidence] = (sum(one.is_right(one.decision.choice) for one in mine), len(mine))
    return found


def calibration(outcomes: Sequence[Outcome]) -> str:
    """Return how often a choice of each confidence was right, on either half of the sets."""
    halves = [
        record([one for one in outcomes if one.of.sets_rules is half]) for half in (True, False)
    ]
    lines = ["| confidence | right, where the rules were set | tested |", "|---|--:|--:|"]
    for confidence in CONFIDENCES:
        cells = ["{} of {}".format(*half[confidence]) for half in halves]
        lines.append(f"| {confidence} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    outcomes = read(RESULTS)
    for half in (True, False):
        print(table([one for one in outcomes if one.of.sets_rules is half]) + "\n")
    print(f"{summary(outcomes)}\n\n{calibration(outcomes)}\n")
    ratios = [ratio for one in outcomes for ratio in times(one).values()]
    right = sum(1 / TIMES <= ratio <= TIMES for ratio in ratios)
    print(
        f"{right} of {len(ratios)} times within ×{TIMES}, all ×{min(ratios):.2f}–{max(ratios):.2f}"
    )
    content = json.loads(RESULTS.read_text())
    took = [content[one.of.name]["measured"]["took"] for one in outcomes]
    print(f"`recommend` took {duration(min(took))} to {duration(max(took))}")


if __name__ == "__main__":
    main()
# end
