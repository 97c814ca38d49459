"""Which labels are probably wrong, by confident learning (Northcutt, Jiang and Chuang, 2021).

"Confident Learning: Estimating Uncertainty in Dataset Labels", Journal of Artificial Intelligence
Research 70, https://doi.org/10.1613/jair.1.12125.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from project.commands.probing import held_out_probabilities
from project.errors import UserError

FOLDS = 5


@dataclass(frozen=True)
class Judged:
    """What a classifier that hasn't seen the images says of their labels.

    Attributes:
        suggested: The class that each image most probably has, if it isn't that of its label,
            int64 ``[N]``.
        of_label: Probability of the label, float32 ``[N]``.
        of_suggested: Probability of the suggested class, float32 ``[N]``.
        margin: Probability of the label minus the largest other one, float32 ``[N]``.
        suspects: Indices of the images whose label is probably wrong, the surest first, int64.
        errors: Estimated number of images with a label (row) that really are of another class
            (column), float32 ``[K, K]``; the diagonal is 0.
    """

    suggested: Tensor
    of_label: Tensor
    of_suggested: Tensor
    margin: Tensor
    suspects: Tensor
    errors: Tensor


def judge(probabilities: Tensor, labels: Tensor) -> Judged:
    """Judge the labels.

    An image is confidently of a class if its probability is at least the mean one of the images
    with that label; of several such classes, it is of the most probable one. So a class that the
    classifier is never sure of, such as a rare one, has a low threshold. A label is suspect where
    the image is confidently of another class, and the suspects are sorted by their margin.

    Args:
        probabilities: Of each class, by a classifier that hasn't seen the image, float32
            ``[N, K]``.
        labels: int64 ``[N]``, with images of each class.
    """
    classes = probabilities.shape[1]
    own = functional.one_hot(labels, classes)
    sizes = own.sum(0)
    thresholds = (probabilities * own).sum(0) / sizes
    highest, confident = probabilities.where(probabilities >= thresholds, -1.0).max(1)
    others, other = probabilities.where(own == 0, -1.0).max(1)
    of_label = probabilities.gather(1, labels[:, None]).flatten()
    margin = of_label - others
    counted = highest >= 0
    suspect = (counted & (confident != labels)).nonzero().flatten()
    pairs = labels[counted] * classes + confident[counted]
    joint = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
    errors = joint / joint.sum(1, keepdim=True).clamp_min(1) * sizes[:, None]
    suggested = other.index_copy(0, suspect, confident[suspect])
    return Judged(
        suggested=suggested,
        of_label=of_label,
        of_suggested=probabilities.gather(1, suggested[:, None]).flatten(),
        margin=margin,
        suspects=suspect[margin[suspect].argsort(stable=True)],
        errors=errors.fill_diagonal_(0),
    )


def judge_features(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Judged]:
    """Judge labels by a linear classifier of features, cross-validated.

    Args:
        features: float32 ``[N, F]``.
        labels: int64 ``[N]``.

    Returns:
        Indices of the images in classes of at least :data:`FOLDS`, int64; these classes, int64;
        and what is found of these images, in which classes are positions among these.

    Raises:
        UserError: If fewer than two classes have :data:`FOLDS` images.
    """
    classes = (torch.bincount(labels) >= FOLDS).nonzero().flatten()
    if len(classes) < 2:
        raise UserError(f"data: needs two classes of at least {FOLDS} training images each")
    known = torch.isin(labels, classes).nonzero().flatten()
    features, labels = features[known], torch.searchsorted(classes, labels[known])
    probabilities = held_out_probabilities(features, labels, len(classes), FOLDS)
    return known, classes, judge(probabilities, labels)
