"""Holds what was predicted against what ``compare`` measured on the same data."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from project.commands.learning_curve import LARGEST_TIE
from project.commands.recommend.decision import Decision
from project.commands.recommend.rules import Measured
from project.commands.recommend.scan import Scan
from project.commands.recommend.trial import Prediction
from project.console import print_table, show
from project.durations import duration
from project.errors import UserError

RESULTS = "results.json"
TIMES = 1.3  # a predicted time is right if it is off by no more than this factor
SAME = 0.05  # by so much, operations of the same network may differ
OFF = 0.05  # a predicted accuracy is right if it is off by no more than this


class Trained(NamedTuple):
    """What a comparison measured of a contender: means over its seeds.

    Attributes:
        score: What the comparison judges by.
        accuracy: Test accuracy.
        seconds: Seconds of a run, from the start to the end of its process.
        gflop_per_image: 10^9 operations of a prediction; None if that isn't known.
    """

    score: float
    accuracy: float
    seconds: float
    gflop_per_image: float | None = None


@dataclass(frozen=True)
class Compared:
    """A comparison on its largest training set.

    Attributes:
        metric: What it judges by.
        images: Number of training images.
        test_images: Number of test images.
        class_names: Name of each class.
        epochs: Epochs of each run; None if time was the budget, or that isn't told.
        trained: What it measured, by contender.
    """

    metric: str
    images: int
    test_images: int
    class_names: tuple[str, ...]
    epochs: int | None
    trained: Mapping[str, Trained]


def read_comparison(folder: Path) -> Compared:
    """Read the results of a comparison.

    Raises:
        UserError: If the folder holds none, or none of its runs has succeeded.
    """
    file = folder / RESULTS
    try:
        content: dict[str, Any] = json.loads(file.read_text("utf-8"))
        rows = [row for row in content["rows"] if row["seeds"]]
        images = max(row["images"] for row in rows)
        return Compared(
            metric=content["metric"],
            images=images,
            test_images=content["data"]["test_images"],
            class_names=tuple(content["data"]["class_names"]),
            epochs=content.get("epochs"),
            trained={
                row["contender"]: Trained(
                    row["mean"][content["metric"]],
                    row["mean"]["accuracy"],
                    row["mean"]["process_seconds"],
                    row["mean"].get("gflop_per_image"),
                )
                for row in rows
                if row["images"] == images
            },
        )
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; it needs the folder of compare", "check") from (
            error
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} holds no results that can be read", "check") from error


def refuse_other_data(compared: Compared, scan: Scan) -> None:
    """See that both saw the same data, as far as numbers tell.

    Raises:
        UserError: If they didn't.
    """
    theirs = (list(compared.class_names), compared.images, compared.test_images)
    if theirs != (list(scan.class_names), scan.images, scan.test_images):
        raise UserError(
            f"it compared {compared.images:,} training and {compared.test_images:,} test images in "
            f"{len(compared.class_names)} classes, and data has {scan.images:,} and "
            f"{scan.test_images:,} in {len(scan.class_names)}; give the same data with the same "
            "options, such as data.limit_per_class",
            "check",
        )


class Finding(NamedTuple):
    """Something that was predicted, and what came of it.

    Attributes:
        what: What it is about.
        predicted: In words.
        measured: In words.
        right: Whether it came out so; None if there is no telling.
    """

    what: str
    predicted: str
    measured: str
    right: bool | None


def findings_of(decision: Decision, measured: Measured, compared: Compared) -> list[Finding]:
    """Return everything that was predicted of a contender that was trained."""
    return [
        *_choice(decision, compared),
        *_order(decision, compared),
        *_accuracies(measured, compared),
        *_times(measured, compared),
    ]


def _choice(decision: Decision, compared: Compared) -> list[Finding]:
    mine = compared.trained.get(decision.choice)
    if mine is None:
        return []
    best = max(compared.trained, key=lambda name: compared.trained[name].score)
    behind = compared.trained[best].score - mine.score
    found = f"{best} is the best, {behind:.3f} ahead" if behind else "it is the best"
    return [Finding("use", decision.choice, found, behind <= LARGEST_TIE)]


def _order(decision: Decision, compared: Compared) -> list[Finding]:
    """Return the order of each two candidates; what is no more than a tie tells nothing."""
    found = []
    known = [name for name in decision.points if name in compared.trained]
    for one, other in combinations(known, 2):
        points = decision.points[one], decision.points[other]
        lead = compared.trained[one].score - compared.trained[other].score
        right = None if abs(lead) <= LARGEST_TIE or points[0] == points[1] else lead > 0
        predicted = f"{points[0]} against {points[1]} points"
        found.append(Finding(f"{one} before {other}", predicted, f"{lead:+.3f}", right))
    return found


def _accuracies(measured: Measured, compared: Compared) -> list[Finding]:
    found = []
    for name, curve in (("probe", measured.probe), ("scratch", measured.scratch)):
        if curve and name in compared.trained:
            expected, reached = curve.at(measured.all_images), compared.trained[name].accuracy
            other = _other(measured, compared, name)
            right = None if other else abs(expected - reached) <= OFF
            words = f"{expected:.3f}, by its learning curve"
            found.append(Finding(f"accuracy of {name}", words, f"{reached:.3f}{other}", right))
    return found


def _times(measured: Measured, compared: Compared) -> list[Finding]:
    found = []
    for name, prediction in measured.predictions.items():
        if isinstance(prediction, Prediction) and name in compared.trained:
            took, other = compared.trained[name].seconds, _other(measured, compared, name)
            ratio = prediction.seconds / took
            words = duration(took) + (other or f": ×{ratio:.2f}")
            right = None if other else 1 / TIMES <= ratio <= TIMES
            found.append(Finding(f"time of {name}", duration(prediction.seconds), words, right))
    return found


def _other(measured: Measured, compared: Compared, name: str) -> str:
    """Return by what a contender is another one than was meant; empty if it is the same.

    Its network or the size of its images is, where a prediction takes another number of operations.
    """
    prediction, found = measured.predictions.get(name), compared.trained[name].gflop_per_image
    meant = prediction.gflop_per_image if isinstance(prediction, Prediction) else None
    if not meant or not found or math.isclose(meant, found, rel_tol=SAME):
        return ""
    return f", at {found:.2g} GFLOP an image and not at {meant:.2g}"


def show_check(findings: list[Finding], compared: Compared) -> None:
    """Print what was predicted beside what was measured, and how much of it was right."""
    table = Table("predicted", "recommend", f"compare ({compared.metric})", "right")
    words = {True: "yes", False: "no", None: "no telling"}
    for one in findings:
        table.add_row(one.what, one.predicted, one.measured, words[one.right])
    print_table(table)
    told = [one.right for one in findings if one.right is not None]
    show(f"{sum(told)} of {len(told)} predictions that can be judged were right")
