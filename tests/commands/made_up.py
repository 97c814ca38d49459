"""Invented results of runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from project.commands.compare.results import Data, Result, Row, rows_of

NAN = float("nan")


def made_up(
    contender: str,
    correct: ArrayLike,
    seed: int = 0,
    images: int = 100,
    classes: int = 3,
    **other: Any,
) -> Result:
    """A result that classifies some test images correctly, and gives others the next class.

    Args:
        contender: Its name.
        correct: Whether each test image is classified correctly.
        seed: Its seed.
        images: Number of training images; also the size of the result.
        classes: Number of classes; the labels of the test images go through them in turn.
        other: Figures, and attributes of the result.
    """
    right = np.asarray(correct, bool)
    labels = np.arange(len(right)) % classes
    accuracy = float(right.mean())
    figures: dict[str, float] = {
        **dict.fromkeys(("accuracy", "balanced_accuracy", "precision", "recall", "f1"), accuracy),
        "calibration_error": 0.031,
        "gap": 0.025,
        "fit_seconds": 10.0,
        "process_seconds": 15.0,
        "source_seconds": 0.0,
        "best_epoch_seconds": 8.0,
        "images_per_second": 1234.5,
        "peak_memory_mb": 812.3,
        "parameters_trained": 1000,
        "parameters_total": 109386,
        "gflop_per_image": 0.000219,
        "checkpoint_mb": 0.44,
    }
    figures |= {name: other.pop(name) for name in list(other) if name in {*figures, "loss"}}
    values: dict[str, Any] = {
        "command": f"python -m project fit --config {contender}.yaml --seed_everything {seed}",
        "run_dir": Path(f"runs/{contender}-{images}-{seed}"),
        "config_sha256": "0123456789abcdef",
        "approach": "TrainFromScratch",
        "curves": {
            "seconds": [5.0, 10.0],
            "train/accuracy": [0.5, accuracy],
            "val/accuracy": [0.4, accuracy],
            "train/loss": [1.0, 0.5],
            "val/loss": [1.1, 0.7],
        },
    }
    return Result(
        contender,
        str(images),
        seed,
        images=images,
        figures=figures,
        labels=labels,
        predictions=np.where(right, labels, (labels + 1) % classes),
        **(values | other),
    )


def broken(contender: str, seed: int = 0, size: str = "100", error: str = "no memory") -> Result:
    """The result of a run that failed."""
    return Result(contender, size, seed, "python -m project fit", Path("runs/broken"), error=error)


def first(count: int, of: int) -> np.ndarray:
    """Whether each of ``of`` test images is correct: the first ``count`` are."""
    return np.arange(of) < count


def row(*results: Result) -> Row:
    """The row of the results of one contender and size."""
    (found,) = rows_of(results)
    return found


def data(class_names: Sequence[str] = ("cat", "dog", "owl")) -> Data:
    """The data of the runs."""
    return Data("Pictures", class_names, [40] * len(class_names), 12, 20)
