"""Scores of a test that take all predictions at once: of each class, of the ranking, of confidence.

The definitions are those of scikit-learn. What a score can't be computed for, such as the recall of
a class without images, is nan, and left out of the mean over the classes.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional import classification

TOP = 5  # predictions among which the label may be, where there are more classes than that
COUNTS = ("images", "predicted")
BINS = 15  # of equal width in [0, 1], as in Guo et al. (2017)


def of_classes(probabilities: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return the scores of each class, float64 ``[K]``, by name.

    ``images`` and ``predicted`` count the images that are of the class, and are predicted to be.
    ``precision``, ``recall`` and ``f1`` are of the predictions. ``auroc`` and ``average_precision``
    are of the class against the rest, by its probability.

    Args:
        probabilities: float32 ``[N, K]``.
        labels: int64 ``[N]``.
    """
    classes = probabilities.shape[1]
    options: dict[str, Any] = {"average": "none", "validate_args": False}
    predictions = probabilities.argmax(1)
    counts = classification.multiclass_stat_scores(predictions, labels, classes, **options)
    right, wrong, _, missed, images = counts.double().unbind(1)
    with warnings.catch_warnings():  # of classes without images
        warnings.simplefilter("ignore")
        auroc = classification.multiclass_auroc(probabilities, labels, classes, **options)
        precision = classification.multiclass_average_precision(
            probabilities, labels, classes, **options
        )
    occurs = images > 0
    return {
        "images": images,
        "predicted": right + wrong,
        "precision": right / (right + wrong),
        "recall": right / images,
        "f1": 2 * right / (2 * right + wrong + missed),
        "auroc": auroc.double().where(occurs & (images < len(labels)), torch.nan),
        "average_precision": precision.double().where(occurs, torch.nan),
    }


def of_ranking(found: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the mean AUROC and average precision of the classes that have one.

    Args:
        found: What :func:`of_classes` has returned.
    """
    return {name: found[name].nanmean().item() for name in ("auroc", "average_precision")}


def places(scores: Tensor, labels: Tensor) -> Tensor:
    """Return how many classes come before the label, int64 ``[N]``; of equal ones, the first does.

    Args:
        scores: Logits or probabilities, ``[N, K]``.
        labels: int64 ``[N]``.
    """
    own = scores.gather(1, labels[:, None])
    earlier = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(1)


def calibration_error(confidences: Tensor, right: Tensor) -> float:
    """Return the expected calibration error (Naeini et al., 2015; Guo et al., 2017).

    It is the mean distance of confidence and accuracy over :data:`BINS` bins of confidence, each
    weighted by its images.

    Args:
        confidences: Probability of each prediction, float32 ``[N]``.
        right: Whether it is the label, bool ``[N]``.
    """
    found: Tensor = classification.binary_calibration_error(
        confidences, right.long(), n_bins=BINS, norm="l1", validate_args=False
    )
    return found.item()
