"""Which of several validations counts as the best, where their differences may be luck."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Rule = Literal["minimum", "noise_aware", "last"]

MOST_IMAGES = 10**6  # whose values are kept, 4 MB; of more, differences are hardly luck
NOISE_OF = {"val/loss": "losses", "val/accuracy": "right"}
"""Metrics that are the mean of a value of each image, and the name of these values."""


@dataclass
class Validated:
    """A validation.

    Attributes:
        score: Its metric.
        values: What the metric is the mean of, float32 ``[N]``, in the order of the images; None if
            that isn't known.
    """

    score: float
    values: Tensor | None = None


class Selection:
    """Chooses one validation after the other.

    ``minimum`` takes the best metric, and of equal ones the first. ``last`` takes the last one.
    ``noise_aware`` takes the last one that is no worse than the best metric by more than the
    standard error of their difference over the validation images: with few of them, the best is
    the luckiest among equals, and the last of these has learnt for longer, at lower learning rates.
    That is the one-standard-error rule (Breiman et al., 1984; Hastie et al., 2009, 7.10), for the
    paired difference.

    Args:
        rule: One of these.
        mode: Whether small (``min``) or large values (``max``) are good.
        reference: The validation with the best metric so far, None before the first.
    """

    def __init__(self, rule: Rule, mode: str, reference: Validated | None = None) -> None:
        self.rule = rule
        self._sign = 1 if mode == "max" else -1
        self.reference = reference

    def takes(self, new: Validated) -> bool:
        """Return whether a validation takes the place of the one that is chosen."""
        if math.isnan(new.score):
            return False
        best = self.reference
        if best is None or self._sign * new.score > self._sign * best.score:
            self.reference = new
            return True
        if self.rule == "last":
            return True
        return self.rule == "noise_aware" and may_be_luck(best, new)


def may_be_luck(one: Validated, other: Validated) -> bool:
    """Return whether a difference of two validations is within its standard error.

    It isn't said to be where the values of the images aren't known.
    """
    if one.values is None or other.values is None or one.values.shape != other.values.shape:
        return False
    difference = one.values.double() - other.values.double()
    error = difference.std() / math.sqrt(len(difference)) if len(difference) > 1 else 0.0
    return bool(difference.mean().abs() <= error)
