"""What the runs of a comparison left behind, and its averages over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

import numpy as np
from numpy.typing import NDArray

CURVES = ("train/accuracy", "val/accuracy", "train/loss", "val/loss")
FIGURES = {  # what it is called, in the order of the columns
    "accuracy": "test accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "gap": "training − validation accuracy",
    "fit_seconds": "training, s",
    "process_seconds": "whole run, s",
    "source_seconds": "source, once, s",
    "best_epoch_seconds": "to the best epoch, s",
    "images_per_second": "images/s",
    "peak_memory_mb": "peak memory, MB",
    "parameters_trained": "trained parameters",
    "parameters_total": "parameters",
    "gflop_per_image": "GFLOP/image",
    "checkpoint_mb": "checkpoint, MB",
}


@dataclass(frozen=True)
class Result:
    """What one run left behind, or why it failed.

    Attributes:
        contender: Name of the contender.
        size: How much of the training images it saw, as the config says it: ``0.25``, ``20``.
        seed: Seed of the run.
        command: What to type to run it again, without the options that say where files go.
        run_dir: Its run directory.
        source: What to type to train the backbone that it starts from; empty if it has none.
        config_sha256: SHA-256 of its ``config.yaml``.
        error: Why it failed; empty if it didn't.
        approach: Class of its model: ``TrainFromScratch``, ``FullTraining``, ``FineTuning``.
        images: Number of training images.
        figures: By the keys of :data:`FIGURES`; precision, recall and F1 are means over classes.
        curves: For each epoch the ``seconds`` since the training began, and :data:`CURVES`; nan
            where there was no validation.
        labels: Label of each test image, int64 ``[N]``.
        predictions: Predicted class of each test image, int64 ``[N]``.
    """

    contender: str
    size: str
    seed: int
    command: str
    run_dir: Path
    source: str = ""
    config_sha256: str = ""
    error: str = ""
    approach: str = ""
    images: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    predictions: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each test image was classified correctly, ``[N]``."""
        return np.equal(self.labels, self.predictions)


@dataclass(frozen=True)
class Data:
    """What all contenders were given.

    Attributes:
        what: The data module and its options, in words.
        class_names: Name of each class.
        class_sizes: Training images of each class, before a part of them was taken.
        val_images: Number of validation images.
        test_images: Number of test images.
    """

    what: str
    class_names: Sequence[str]
    class_sizes: Sequence[int]
    val_images: int
    test_images: int


@dataclass(frozen=True)
class Row:
    """The runs of a contender on one size of the training set.

    Attributes:
        contender: Name of the contender.
        size: As in :class:`Result`.
        images: Number of training images.
        results: Those that succeeded, one for each seed.
        failed: Those that didn't.
    """

    contender: str
    size: str
    images: int
    results: Sequence[Result]
    failed: Sequence[Result]

    def mean(self, figure: str) -> float:
        """Return the mean of a figure over the seeds; nan if no run succeeded."""
        return mean(self._values(figure)) if self.results else float("nan")

    def std(self, figure: str) -> float:
        """Return the sample standard deviation over the seeds; nan for fewer than two."""
        if len(self.results) < 2:
            return float("nan")
        return float(np.std(self._values(figure), ddof=1))  # stdev of statistics raises for nan

    def _values(self, figure: str) -> list[float]:
        return [result.figures[figure] for result in self.results]

    def confusion(self, classes: int) -> NDArray[np.int64]:
        """Return the counts of all seeds together, ``[K, K]``, labels by predictions."""
        counts = np.zeros((classes, classes), np.int64)
        for result in self.results:
            np.add.at(counts, (result.labels, result.predictions), 1)
        return counts


def rows_of(results: Sequence[Result]) -> list[Row]:
    """Return the rows, in the order in which contenders and sizes occur."""
    rows = []
    for contender, size in dict.fromkeys((result.contender, result.size) for result in results):
        found = [
            result for result in results if (result.contender, result.size) == (contender, size)
        ]
        good = [result for result in found if not result.error]
        images = good[0].images if good else 0
        rows.append(Row(contender, size, images, good, [r for r in found if r.error]))
    return rows


def largest(rows: Sequence[Row]) -> list[Row]:
    """Return the row of each contender on the most training images, where a run succeeded."""
    good = [row for row in rows if row.results]
    most = max((row.images for row in good), default=0)
    return [row for row in good if row.images == most]
