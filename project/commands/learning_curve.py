"""Learning curves: the error of a classifier as a power of its number of training images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, linear_regression

STEEPEST = -0.5  # smallest exponent that is believed
LARGEST_TIE = 0.02  # accuracies further apart than this never count as equal


@dataclass(frozen=True)
class PowerLaw:
    """The error as a power of the number of training images, through one point.

    Attributes:
        exponent: Exponent of the number of images; -0.5 halves the error with four times as many.
        images: Number of images at the point.
        error: Error at the point.
    """

    exponent: float
    images: float
    error: float

    def accuracy(self, images: float) -> float:
        """Return the accuracy to be expected with a number of training images."""
        return 1 - self.error * float((images / self.images) ** self.exponent)


def power_law(images: Sequence[float], errors: Sequence[float]) -> PowerLaw:
    """Fit a power law, through the geometric mean of the points.

    Hestness et al., 2017: the error falls about as a power of the size of the training set. The
    exponent is kept between :data:`STEEPEST` and 0.

    Args:
        images: Numbers of training images, at least two different ones.
        errors: The error with each, greater than 0.
    """
    sizes, heights = [math.log(count) for count in images], [math.log(error) for error in errors]
    exponent = min(max(linear_regression(sizes, heights).slope, STEEPEST), 0.0)
    return PowerLaw(exponent, math.exp(fmean(sizes)), math.exp(fmean(heights)))


def error_of(accuracy: float, test_images: int) -> float:
    """Return the error that belongs to an accuracy, never 0: no mistake counts as half of one."""
    return max(1 - accuracy, 0.5 / test_images)
