"""What the runs of a comparison wrote, and its averages over seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

CURVES = ("train/accuracy", "val/accuracy", "train/loss", "val/loss")
FIGURES = {  # figure: its name in tables, in the order of the columns
    "accuracy": "test accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "calibration_error": "calibration error",
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
    """What one run wrote, or why it failed.

    Attributes:
        contender: Name of the contender.
        size: Size of its training set as in the config: ``0.25`` for a fraction, ``20`` per class.
        seed: Seed of the run.
        command: The command that runs it again, without the options for output folders.
        run_dir: Its run directory.
        source: The command that trains the backbone it starts from; empty if it has none.
        config_sha256: SHA-256 of its ``config.yaml``.
        error: Why it failed; empty if it succeeded.
        approach: Class of its model: ``TrainFromScratch``, ``FullTraining``, ``FineTuning``.
        pretrained: Whether the training started from a pretrained network.
        images: Number of training images.
        figures: By the keys of :data:`FIGURES`, and every score of the test by its name;
            precision, recall and F1 are means over classes.
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
    pretrained: bool = False
    images: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    predictions: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def place(self, folder: Path) -> str:
        """Return the run directory, relative to the report's folder if it is below that."""
        run_dir, folder = self.run_dir.resolve(), folder.resolve()
        return str(run_dir.relative_to(folder) if run_dir.is_relative_to(folder) else run_dir)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each test image was classified correctly, ``[N]``."""
        return np.equal(self.labels, self.predictions)


@dataclass(frozen=True)
class Data:
    """The data that all contenders were given.

    Attributes:
        what: The data module and its options, in words.
        class_names: Name of each class.
        class_sizes: Training images of each class, before a subset was taken.
        val_images: Number of validation images.
        test_images: Number of test images.
    """

    what: str
    class_names: Sequence[str]
    class_sizes: Sequence[int]
    val_images: int
    test_images: int


@dataclass(frozen=True)
class Comparison:
    """Everything that a report shows, as it was measured.

    Attributes:
        name: Title of the report.
        data: What all contenders were given.
        results: One for each run, including failed ones, in the order of the config.
        budget: What each run was allowed, in words: ``10 epochs each``.
        device: What the runs were computed on, in words.
        versions: Version of each package that a result depends on.
        git: Commit of the code; None outside of git.
        config: The config of the comparison, YAML.
        command: The command that runs the comparison again.
        created: Date and time, in words.
        jobs: Number of runs at the same time.
        epochs: Epochs of each run; None if time was the whole budget.
        picture: Returns a test image, uint8 ``[C, H, W]``, by its index in ``Result.labels``;
            None shows no images.
    """

    name: str
    data: Data
    results: Sequence[Result]
    budget: str
    device: str
    versions: Mapping[str, str]
    git: str | None
    config: str
    command: str
    created: str
    jobs: int = 1
    epochs: int | None = None
    picture: Callable[[int], Tensor] | None = None


@dataclass(frozen=True)
class Row:
    """The runs of a contender on one size of the training set.

    Attributes:
        contender: Name of the contender.
        size: As in :class:`Result`.
        images: Number of training images.
        results: Results of the runs that succeeded, one for each seed.
        failed: Results of the runs that failed.
    """

    contender: str
    size: str
    images: int
    results: Sequence[Result]
    failed: Sequence[Result]

    def mean(self, figure: str) -> float:
        """Return the mean of a figure over the seeds; nan if no run succeeded."""
        return float(np.mean(self._values(figure))) if self.results else float("nan")

    def std(self, figure: str) -> float:
        """Return the sample standard deviation over the seeds; nan for fewer than two."""
        if len(self.results) < 2:
            return float("nan")
        return float(np.std(self._values(figure), ddof=1))  # stdev of statistics raises for nan

    @property
    def cost(self) -> float:
        """Mean seconds of a run, including the training of the source that it starts from."""
        return self.mean("process_seconds") + self.mean("source_seconds")

    def _values(self, figure: str) -> list[float]:
        return [result.figures.get(figure, float("nan")) for result in self.results]

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
