"""The arithmetic: from the figures of all runs to medians and ratios."""

import math
from collections.abc import Mapping, Sequence
from statistics import mean, median, stdev
from typing import Any

from benchmarks.contenders import Extent

DRIFT = 0.1  # a round whose anchors move by more than this share is marked
GATE = 0.01  # how much less accurate than the base a contender may be

Figures = dict[str, Any]
CLOCKS = ("epoch_seconds", "training_seconds", "process_seconds")


def drifted(before: Mapping[str, float], after: Mapping[str, float]) -> bool:
    """Whether the speed of the machine changed in a round."""
    return any(abs(after[name] / speed - 1) > DRIFT for name, speed in before.items())


def timed(epochs: Sequence[float]) -> Sequence[float]:
    """Return the epochs that count: all but the first, where there are several."""
    return epochs[1:] or epochs


def whole_job(figures: Figures, images: int, epochs: int, extent: Extent) -> Figures:
    """Return a run's times for the whole job.

    Args:
        figures: What the run reported.
        images: Images of an epoch of the job.
        epochs: Epochs of the job.
        extent: How much of the job it did.

    Returns:
        ``epoch_seconds`` of each epoch that counts, ``training_seconds`` and ``process_seconds``
        of the job, and whether anything of them is ``extrapolated``.
    """
    scale = images / figures["images"]
    measured = [seconds * scale for seconds in figures["epoch_seconds"]]
    counted = timed(measured)
    missing = 0 if extent == "recipe" else max(epochs - len(measured), 0)
    if extent == "steps":
        training = epochs * median(counted)
    else:  # the first epoch may hold what the others rest on
        training = sum(measured) + missing * median(counted)
    training += figures["preparation_seconds"]
    outside = (
        figures["wall_seconds"] - sum(figures["epoch_seconds"]) - figures["preparation_seconds"]
    )
    return {
        "epoch_seconds": list(counted),
        "training_seconds": training,
        "process_seconds": outside + training,
        "extrapolated": missing > 0 or scale != 1,
    }


def contender_summary(
    runs: Sequence[Figures], images: int, epochs: int, extent: Extent
) -> dict[str, Any]:
    """Return the medians of a contender over its rounds; without a run that succeeded, nothing.

    Those rounds that trained the most epochs give accuracy (the mean) and times of the whole job.
    """
    good = [run for run in runs if "error" not in run]
    if not good:
        return {"errors": [run["error"] for run in runs]}
    jobs = [whole_job(run, images, epochs, extent) for run in good]
    most = max(len(run["epoch_seconds"]) for run in good)
    longest = [index for index, run in enumerate(good) if len(run["epoch_seconds"]) == most]
    seconds = [value for job in jobs for value in job["epoch_seconds"]]
    scores = [good[index]["accuracy"] for index in longest]
    known = None not in scores
    return {
        "epoch_seconds": median(seconds),
        "epoch_seconds_range": [min(seconds), max(seconds)],
        "training_seconds": median(jobs[index]["training_seconds"] for index in longest),
        "process_seconds": median(jobs[index]["process_seconds"] for index in longest),
        "extrapolated": all(jobs[index]["extrapolated"] for index in longest),
        "accuracy": mean(scores) if known else None,
        "accuracy_error": stdev(scores) / len(scores) ** 0.5 if known and len(scores) > 1 else 0.0,
        "epochs": most,
        "errors": [run["error"] for run in runs if "error" in run],
    }


def learns_less(summary: Figures, base: Figures) -> bool:
    """Whether a contender is less accurate than the base, by more than chance."""
    if summary["accuracy"] is None or base["accuracy"] is None:
        return False
    error = math.hypot(summary["accuracy_error"], base["accuracy_error"])
    gap: float = base["accuracy"] - summary["accuracy"]
    return gap > max(GATE, 2 * error)


def add_ratios(contenders: dict[str, dict[str, Any]], base: str) -> None:
    """Add how many times as fast as the base each contender is, unless it learns less.

    Args:
        contenders: Summaries by name; changed.
        base: Name of the contender that the others are compared with.
    """
    standard = contenders.get(base, {})
    for summary in contenders.values():
        if "epoch_seconds" not in summary or "epoch_seconds" not in standard:
            continue
        summary["learns_less"] = learns_less(summary, standard)
        if not summary["learns_less"]:
            summary["ratios"] = {clock: standard[clock] / summary[clock] for clock in CLOCKS}
