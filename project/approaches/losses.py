"""The loss: cross entropy, what may be changed about it for the training, and one of the config."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from project.errors import UserError

ClassWeights = Literal["none", "balanced", "effective"] | dict[str, float]

BETA = 0.999  # of the effective number of images, which is at most 1 / (1 - BETA)
MOST_WEIGHT = 1e6  # of a class
MOST_GAMMA = 100.0  # of the focal loss
MOST_NAMES = 20  # that a message lists


class CrossEntropy(nn.Module):
    """Cross entropy, for the training with options that change what the images count.

    The loss of an image is multiplied by the weight of its class, and by the focal factor: (1 - p)
    to the power of gamma, where p is the predicted probability of the label (Lin et al., 2017).
    With soft targets, of mixup or cutmix, the weight is the mean of those of their classes, and
    1 - p becomes half of the sum of |target - prediction| over the classes. That is the same for a
    label, and |target - prediction| for two classes (Li et al., 2020). Smoothing changes neither.

    The result is the mean over the images. torch divides by the sum of their weights instead; then
    an image would count more or less with the others in its batch, and the gradient of a batch that
    is spread over ranks, or accumulated, would be another one than that of the whole.

    Evaluation has none of the options, so that its losses can be compared between runs.

    Args:
        class_names: Name of each class.
        one_logit: Whether there is one logit, that of the second of two classes.
        label_smoothing: Fraction of the target that is spread evenly over all classes.
        class_weights: What :func:`weights_of_classes` takes, or ``none``.
        focal_gamma: The exponent gamma; 0 leaves the factor out.

    Raises:
        UserError: If a value is out of range, or there is no class of a name.
    """

    weights: Tensor | None  # float32 [K]

    def __init__(
        self,
        class_names: Sequence[str],
        one_logit: bool = False,
        label_smoothing: float = 0.0,
        class_weights: str | Mapping[str, float] = "none",
        focal_gamma: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing <= 1:
            raise UserError(f"{label_smoothing} must be in [0, 1]", "model.label_smoothing")
        if not 0 <= focal_gamma <= MOST_GAMMA:
            raise UserError(f"{focal_gamma} must be in [0, {MOST_GAMMA:g}]", "model.focal_gamma")
        if isinstance(class_weights, Mapping):
            class_weights = {str(name): weight for name, weight in class_weights.items()}  # as 3: 2
            _check_weights(class_weights, class_names)
        self.class_names = class_names
        self.one_logit = one_logit
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights
        self.focal_gamma = focal_gamma
        # there from the start, because an average of the weights copies a model before its setup
        weights = None if class_weights == "none" else torch.ones(len(class_names))
        self.register_buffer("weights", weights, persistent=False)

    def weigh(self, sizes: Tensor, shares: Tensor) -> None:
        """Set the weights of the classes, as :func:`weights_of_classes` has them.

        Args:
            sizes: Number of training images of each class, int64 ``[K]``.
            shares: Share of each class in the images of an epoch, float64 ``[K]``.
        """
        if self.weights is not None:
            weights = weights_of_classes(self.class_weights, self.class_names, sizes, shares)
            self.weights.copy_(weights)

    def forward(self, logits: Tensor, targets: Tensor, training: bool = False) -> Tensor:
        """Return the mean over the batch.

        Args:
            logits: ``[B, K]``, or ``[B, 1]`` with ``one_logit``.
            targets: Labels, int64 ``[B]``, or probabilities, float ``[B, K]``.
            training: Whether to train on it, with the options.
        """
        smoothing = self.label_smoothing if training else 0.0
        if not training or (self.weights is None and not self.focal_gamma):
            return self._losses(logits, targets, smoothing, "mean")
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if targets.ndim == 2:
            targets = targets.to(logits.dtype)
        losses = self._losses(logits, targets, smoothing, "none")
        if self.weights is not None:
            weights = self.weights
            losses = losses * (
                weights[targets] if targets.ndim == 1 else (targets * weights).sum(dim=1)
            )
        if self.focal_gamma:
            distance = self._distance(logits, targets)
            # the derivative of a power below 1 is infinite at 0
            positive = distance.clamp(min=torch.finfo(distance.dtype).eps)
            losses = losses * positive**self.focal_gamma
        return losses.mean()

    def of_images(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image in evaluation, float32 ``[B]``.

        Args:
            logits: As for :meth:`forward`.
            labels: int64 ``[B]``.
        """
        return self._losses(logits.float(), labels, 0.0, "none")

    def _losses(self, logits: Tensor, targets: Tensor, smoothing: float, reduction: str) -> Tensor:
        if not self.one_logit:
            return functional.cross_entropy(
                logits, targets, label_smoothing=smoothing, reduction=reduction
            )
        positive = targets.to(logits.dtype) if targets.ndim == 1 else targets[:, 1]
        positive = positive * (1 - smoothing) + smoothing / 2
        return functional.binary_cross_entropy_with_logits(
            logits.squeeze(1), positive, reduction=reduction
        )

    def _distance(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the total variation distance between targets and predictions, ``[B]``."""
        if targets.ndim == 1:
            return -torch.expm1(-self._losses(logits, targets, 0.0, "none"))
        if self.one_logit:
            return (targets[:, 1] - logits.squeeze(1).sigmoid()).abs()
        return (targets - logits.softmax(dim=1)).abs().sum(dim=1) / 2


def weights_of_classes(
    class_weights: str | Mapping[str, float],
    class_names: Sequence[str],
    sizes: Tensor,
    shares: Tensor,
) -> Tensor:
    """Return the weight of each class, float32 ``[K]``, such that their mean over an epoch is 1.

    So the learning rate keeps its meaning. ``balanced`` and ``effective`` say how much the images
    of a class count together: they allow for images that an epoch repeats or leaves out.

    Args:
        class_weights: ``balanced`` is N / (K n), with which all classes count alike (King and Zeng,
            2001); ``effective`` is (1 - β) / (1 - β^n), with β = 0.999, by the effective number of
            images (Cui et al., 2019). Or the weight of each class by its name, 1 if it is missing.
        class_names: Name of each class.
        sizes: Number of training images of each class, n, int64 ``[K]``.
        shares: Share of each class in the images of an epoch, float64 ``[K]``.

    Raises:
        UserError: If no class that there are images of has a weight above 0.
    """
    if isinstance(class_weights, Mapping):
        given = [class_weights.get(name, 1.0) for name in class_names]
        weights = torch.tensor(given, dtype=torch.float64)
    else:
        images = sizes.clamp(min=1).double()
        each = 1 / images if class_weights == "balanced" else (1 - BETA) / (1 - BETA**images)
        weights = torch.where(shares > 0, each * images / shares, 0.0)
    mean = float((shares * weights).sum())
    if mean == 0:
        raise UserError("leaves no class to train on", "model.class_weights")
    return (weights / mean).float()


def _check_weights(weights: Mapping[str, float], class_names: Sequence[str]) -> None:
    key = "model.class_weights"
    for name, weight in weights.items():
        if name not in class_names:
            more = ", …" if len(class_names) > MOST_NAMES else ""
            known = ", ".join(class_names[:MOST_NAMES])
            raise UserError(f"there is no class {name!r}; known are {known}{more}", key)
        if not (math.isfinite(weight) and 0 <= weight <= MOST_WEIGHT):
            raise UserError(f"{weight} of {name} must be in [0, {MOST_WEIGHT:,.0f}]", key)


def check_loss(loss: nn.Module, **options: float | str | Mapping[str, float]) -> None:
    """Check that a loss of the config has no options beside it that it would ignore.

    Args:
        loss: The loss.
        options: Options of the built-in cross entropy, by name.

    Raises:
        UserError: If one is given.
    """
    for name, value in options.items():
        if value not in (0, "none"):
            off = "none" if name == "class_weights" else "0"
            raise UserError(
                f"belongs to the built-in cross entropy; with model.loss, set it to {off}, and "
                f"give {type(loss).__name__} one of its own",
                f"model.{name}",
            )


def loss_of_config(loss: nn.Module, logits: Tensor, targets: Tensor) -> Tensor:
    """Return what a loss of the config computes.

    Args:
        loss: The loss.
        logits: ``[B, K]``.
        targets: Labels, int64 ``[B]``, or probabilities, float ``[B, K]``.

    Raises:
        UserError: If it isn't a scalar.
    """
    value: Tensor = loss(logits, targets)
    if value.ndim:
        raise UserError(
            f"returns a tensor of shape {list(value.shape)}, and must return a scalar, such as the "
            "mean over the batch",
            key="model.loss",
        )
    return value
