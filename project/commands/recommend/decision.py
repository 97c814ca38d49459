"""From rules to a choice: which approach, how sure that is, and what would change it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

from project.commands.recommend.candidates import CANDIDATES
from project.commands.recommend.evidence import gap
from project.commands.recommend.rules import (
    DECISIVE,
    FAR_AHEAD,
    LEAST_STANDARD_ERRORS,
    Measured,
    Rule,
)
from project.commands.recommend.trial import Prediction

SURE = 2.0  # standard errors that a gap of accuracy is away from where the choice would change
RIGHT = {"high": (5, 5), "medium": (0, 3), "low": (1, 1)}  # on the tested sets of docs/choosing.md


@dataclass(frozen=True)
class Decision:
    """The choice, and how sure it is.

    Attributes:
        choice: Name of the candidate to use; empty if all are excluded.
        runner_up: Name of the second-best candidate; empty if there is none.
        points: Points of each candidate that isn't excluded, best first.
        confidence: ``high``, ``medium`` or ``low``.
        reasons: Why the confidence isn't higher.
        changes: What would lead to another choice, in words.
    """

    choice: str
    runner_up: str
    points: Mapping[str, int]
    confidence: str
    reasons: Sequence[str]
    changes: Sequence[str]


def record(confidence: str) -> str:
    """Return in words how often a choice of this confidence was right, and how sure that is.

    The range is Wilson's interval of 90% for a binomial proportion (Wilson, 1927).
    """
    right, count = RIGHT[confidence]
    if not count:
        return "no data set was tried on which it was so"
    share, z = right / count, NormalDist().inv_cdf(0.95)
    middle, scale = share + z**2 / (2 * count), 1 + z**2 / count
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    low, high = ((middle + sign * half) / scale for sign in (-1, 1))
    return f"right on {right} of {count} data sets, so in {low:.0%} to {high:.0%} of all like these"


def decide(rules: Sequence[Rule], measured: Measured) -> Decision:
    """Choose the candidate with the most points; of equals, the one that takes the least time."""
    points = score(rules, measured)
    names = [*points, "", ""]
    reasons = _doubts(rules, measured, points)
    return Decision(
        choice=names[0],
        runner_up=names[1],
        points=points,
        confidence=("high", "medium", "low")[min(len(reasons), 2)],
        reasons=reasons,
        changes=_changes(rules, measured, names[0]),
    )


def score(rules: Sequence[Rule], measured: Measured) -> dict[str, int]:
    """Return the points of each candidate that isn't excluded, best first."""
    out = {name for rule in rules if rule.fired for name in rule.excludes}
    points = {one.name: 0 for one in CANDIDATES if one.name not in out}
    for rule in rules:
        for name, given in rule.points.items():
            if rule.fired and name in points:
                points[name] += given

    def order(name: str) -> tuple[float, float]:
        prediction = measured.predictions.get(name)
        seconds = prediction.seconds if isinstance(prediction, Prediction) else float("inf")
        return -points[name], seconds

    return {name: points[name] for name in sorted(points, key=order)}


def _doubts(rules: Sequence[Rule], measured: Measured, points: Mapping[str, int]) -> list[str]:
    doubts = []
    if any(rule.fired is None for rule in rules if rule.factor == "data"):
        reason = measured.no_weights or (
            "the backbone has no batch norm" if measured.probe else "a class has too few images"
        )
        doubts.append(f"not all of the data rules could be measured: {reason}")
        if measured.no_weights:
            doubts.append("with pretrained weights the answer may differ: --weights FILE")
    doubts += [
        f"{name} is excluded, although {rule.condition}"
        for rule in rules
        for name, given in rule.points.items()
        if rule.fired and given == DECISIVE and name not in points
    ]
    if len(points) > 1 and len({*list(points.values())[:2]}) == 1:
        doubts += ["the runner-up has as many points", "so the shorter time decides"]
    probe, scratch = measured.probe, measured.scratch
    if probe and scratch:
        mean, error = gap(probe, scratch)
        if abs(mean - LEAST_STANDARD_ERRORS * error) < SURE * error:
            doubts.append(
                f"probe and small network are close: {mean:+.3f} ± {error:.3f} in accuracy"
            )
    if probe and measured.all_images > FAR_AHEAD * probe.sizes[1]:
        doubts.append(
            f"the learning curves were measured on {probe.sizes[1]:.0f} images, and there are "
            f"{measured.scan.images:,}"
        )
    return doubts


def _changes(rules: Sequence[Rule], measured: Measured, choice: str) -> list[str]:
    """Return the other choices that result if a single rule turns out the other way."""
    found = []
    for place, rule in enumerate(rules):
        turned = [*rules[:place], replace(rule, fired=not rule.fired), *rules[place + 1 :]]
        other = next(iter(score(turned, measured)), "")
        if other and other != choice:
            unless = "unless" if rule.fired else "if"
            found.append(f"{other}, {unless} {rule.condition} ({rule.measured})")
    return found
