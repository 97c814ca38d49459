"""By which score of the test a comparison judges, and how test images make it vary."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from project.approaches.metrics import natural_mode
from project.commands.preparation import UNEQUAL

if TYPE_CHECKING:
    from project.commands.compare.results import Result

RESAMPLES = 500
NAMES = {"macro_f1": "f1"}  # in a config: as it is logged
WORDS = {
    "accuracy": "test accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1": "macro F1",
    "loss": "test loss",
    "precision": "precision",
    "recall": "recall",
}
SMALL_IS_GOOD = ("loss", "error")  # ends of the names of scores
OF_CLASSES = ("balanced_accuracy", "precision", "recall", "f1")  # means over the classes


@dataclass(frozen=True)
class Metric:
    """A score of the test.

    Attributes:
        figure: Its name as it is logged, without ``test/``.
        why: Why it was chosen, if the config doesn't say; may be empty.
    """

    figure: str
    why: str = ""

    @property
    def words(self) -> str:
        """Its name in the text of a report."""
        return WORDS.get(self.figure, self.figure.replace("_", " "))

    @property
    def title(self) -> str:
        """Its name at the beginning of a sentence."""
        return self.words[0].upper() + self.words[1:]

    @property
    def sign(self) -> int:
        """1 if large values are good, -1 if small ones are."""
        small = natural_mode(self.figure) == "min" or self.figure.endswith(SMALL_IS_GOOD)
        return -1 if small else 1

    @property
    def is_share(self) -> bool:
        """Whether it is between 0 and 1, so that 1 minus it is an error."""
        return self.figure == "accuracy" or self.figure in OF_CLASSES

    @property
    def noise(self) -> str:
        """What its noise is worked out from, in words."""
        if self.figure == "accuracy":
            return "By Welch's t-test, paired by seed and test image."
        if self.figure in OF_CLASSES:
            return (
                f"By Welch's t-test, paired by seed and test image. What the choice of images does "
                f"to {self.words} is worked out by a paired bootstrap, {RESAMPLES:,} times, within "
                "each class."
            )
        return (
            f"By a t-test, paired by seed. What the choice of test images does to {self.words} "
            "isn't known, so the differences are less sure than they look."
        )


ACCURACY = Metric("accuracy")


def metric_of(name: str | None, class_sizes: Sequence[int]) -> Metric:
    """Return the metric that a config names, or the one that suits the classes.

    Args:
        name: ``accuracy``, ``macro_f1``, or another score as the test logs it; None takes macro F1
            where the largest class has :data:`UNEQUAL` times the images of the smallest, else
            accuracy.
        class_sizes: Training images of each class.
    """
    if name is not None:
        name = name.removeprefix("test/")
        return Metric(NAMES.get(name, name))
    least, most = min(class_sizes), max(class_sizes)
    if most < UNEQUAL * least:
        return ACCURACY
    return Metric(
        "f1",
        f"The classes are very unequal, {least:,} to {most:,} training images, so the "
        "verdict goes by macro F1, in which each class counts the same.",
    )


def of_classes(
    figure: str, right: NDArray[np.int64], predicted: NDArray[np.int64], images: NDArray[np.int64]
) -> float:
    """Return a mean over the classes, as the test logs it.

    Args:
        figure: One of :data:`OF_CLASSES`.
        right: Images of each class that are predicted to be of it, ``[K]``.
        predicted: Images that are predicted to be of each class, ``[K]``.
        images: Images of each class, ``[K]``.
    """
    occurs = images > 0 if figure == "balanced_accuracy" else predicted + images > 0
    of = {"precision": predicted, "f1": (predicted + images) / 2}.get(figure, images)
    return float((right / np.where(of > 0, of, 1))[occurs].mean())


def resampled(result: "Result", figure: str) -> NDArray[np.float64]:
    """Return a mean over classes for resampled test images, ``[RESAMPLES]``.

    Images are drawn with replacement within each class, whose sizes are given by how the data was
    split (the stratified bootstrap; Efron and Tibshirani, 1993, chapter 8). Results with the same
    labels get the same images, so that their differences are paired.

    Args:
        result: The result of a run.
        figure: One of :data:`OF_CLASSES`.
    """
    return _resampled(figure, result.labels.tobytes(), result.predictions.tobytes())


@lru_cache(maxsize=1024)
def _resampled(figure: str, label_bytes: bytes, prediction_bytes: bytes) -> NDArray[np.float64]:
    labels, predictions = (np.frombuffer(b, np.int64) for b in (label_bytes, prediction_bytes))
    classes = int(max(labels.max(), predictions.max())) + 1
    images = np.bincount(labels, minlength=classes)
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    first, sizes = (np.cumsum(images) - images)[ordered], images[ordered]
    random = np.random.default_rng(0)
    found = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        drawn = order[first + (random.random(len(labels)) * sizes).astype(np.int64)]
        guesses = predictions[drawn]
        right = np.bincount(guesses[guesses == ordered], minlength=classes)
        predicted = np.bincount(guesses, minlength=classes)
        found[number] = of_classes(figure, right, predicted, images)
    return found
