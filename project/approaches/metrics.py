"""The metrics of an epoch: those that every approach has, and those that a config adds."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from project.errors import UserError

SCORES = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "loss")
"""Names of what :class:`EpochMetrics` computes."""

MAX_CONFUSION = 1000  # classes, of which a matrix takes 8 MB for each of three splits

MetricFactory = Callable[[int], Metric]
"""Takes the number of classes and returns a metric of torchmetrics."""


def natural_mode(monitor: str) -> Literal["min", "max"] | None:
    """Return whether small or large values of a metric are good; None if it is none of these."""
    name = monitor.rpartition("/")[2]
    if name in ("loss", "loss_step"):
        return "min"
    return "max" if name in SCORES else None


class EpochMetrics(Metric):
    """Loss, accuracy, balanced accuracy, precision, recall and F1 of an epoch, over all ranks.

    A step adds to the sum of the losses and to a confusion matrix, both on its device, without
    waiting for the GPU. The results are on the CPU. Beyond :data:`MAX_CONFUSION` classes, a matrix
    would take too much memory, and the images of each class are counted alone: those that are of
    it, that were predicted to be of it, and both.

    Attributes:
        total_confusion: int64 ``[K, K]``, labels by predictions, at the last ``compute()``; None
            if only the images of each class are counted.

    Args:
        num_classes: Number of classes, K.
    """

    full_state_update = False
    loss_sum: Tensor
    confusion: Tensor  # int64 [K, K]
    counts: Tensor  # int64 [3, K]: labels, predictions, and correct predictions
    total_confusion: Tensor | None = None

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.has_confusion = num_classes <= MAX_CONFUSION
        self.add_state("loss_sum", torch.zeros(()), dist_reduce_fx="sum")
        name, rows = ("confusion", num_classes) if self.has_confusion else ("counts", 3)
        zeros = torch.zeros(rows, num_classes, dtype=torch.long)
        self.add_state(name, zeros, dist_reduce_fx="sum")

    def update(self, loss: Tensor, scores: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            loss: Its mean loss.
            scores: ``[B, K]``; the largest is the prediction.
            labels: int64 ``[B]``.
        """
        self.loss_sum += loss.detach() * len(labels)
        predictions = scores.detach().argmax(dim=1)
        ones = torch.ones_like(labels)
        # torch.bincount, which torchmetrics uses, would wait for the GPU in each step
        if self.has_confusion:
            self.confusion.view(-1).index_add_(0, labels * self.num_classes + predictions, ones)
        else:
            correct = (labels == predictions).long()
            for row, classes, images in zip(
                self.counts, (labels, predictions, labels), (ones, ones, correct)
            ):
                row.index_add_(0, classes, images)

    def sums(self) -> dict[str, Tensor]:
        """Return the sums over the epoch so far, of this rank."""
        names = ("loss_sum", "confusion" if self.has_confusion else "counts")
        return {name: getattr(self, name) for name in names}

    def so_far(self) -> tuple[float, float]:
        """Return loss and accuracy of the epoch so far, of this rank, and wait for the device."""
        if self.has_confusion:
            images, correct = self.confusion.sum(), self.confusion.diagonal().sum()
        else:
            images, correct = self.counts[0].sum(), self.counts[2].sum()
        loss, accuracy = torch.stack([self.loss_sum.double(), correct.double()]) / images
        return loss.item(), accuracy.item()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue an epoch after a reset.

        Args:
            state: What :meth:`sums` returned, over all ranks.
        """
        nothing = torch.zeros(0, self.num_classes, device=self.device)
        self.update(torch.zeros((), device=self.device), nothing, nothing.argmax(1))
        for name, value in self.sums().items():
            value += state[name].to(self.device)

    def compute(self) -> dict[str, Tensor]:
        """Return the means over the epoch.

        Precision, recall and F1 are unweighted (macro) means over the classes that occur among
        labels or predictions. Balanced accuracy is the mean recall of those that occur among the
        labels (Brodersen et al., 2010): a class that is predicted, but isn't there, has none.
        """
        if self.has_confusion:
            self.total_confusion = self.confusion.clone()  # of all ranks, which only this sees
            confusion = self.confusion.cpu().double()
            actual, predicted, correct = confusion.sum(1), confusion.sum(0), confusion.diagonal()
        else:
            actual, predicted, correct = self.counts.cpu().double()
        occurs = predicted + actual > 0
        recall = correct / actual.clamp(min=1)
        return {
            "loss": (self.loss_sum.cpu() / actual.sum()).float(),
            "accuracy": (correct.sum() / actual.sum()).float(),
            "balanced_accuracy": recall[actual > 0].mean().float(),
            "precision": (correct / predicted.clamp(min=1))[occurs].mean().float(),
            "recall": recall[occurs].mean().float(),
            "f1": (2 * correct / (predicted + actual).clamp(min=1))[occurs].mean().float(),
        }


def metrics_of_config(
    factories: Mapping[str, MetricFactory] | None, num_classes: int
) -> MetricCollection:
    """Build the metrics that a config adds.

    Args:
        factories: Name of each metric to its factory.
        num_classes: Number of classes, K.

    Returns:
        Metrics that take probabilities ``[B, K]`` and labels, int64 ``[B]``.

    Raises:
        UserError: If a name is that of a built-in metric, or a metric refuses its arguments.
    """
    metrics: dict[str, Metric | MetricCollection] = {}
    for name, build in (factories or {}).items():
        if name in SCORES:
            raise UserError(
                f"{name!r} is the name of a built-in metric; choose another", key="model.metrics"
            )
        if not name.isidentifier() or hasattr(MetricCollection, name):
            raise UserError(
                f"{name!r} can't be the name of a metric; take a word of letters, digits and _",
                key="model.metrics",
            )
        try:
            metric = metrics[name] = build(num_classes)
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{error} (it is given the number of classes, as a metric such as "
                "torchmetrics.classification.MulticlassAUROC takes it)",
                key=f"model.metrics.{name}",
            ) from error
        if hasattr(metric, "validate_args"):
            # labels are valid here, and checking them would wait for the GPU in each step
            metric.validate_args = False
    return MetricCollection(metrics, compute_groups=False)


def scalars(metrics: MetricCollection) -> dict[str, Tensor]:
    """Return the value of each metric of a config.

    Raises:
        UserError: If one isn't a single number, which could not be logged.
    """
    values: dict[str, Tensor] = {}
    for name, metric in metrics.items():
        value = metric.compute()
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise UserError(
                "its result must be one number; average it over the classes",
                key=f"model.metrics.{name}",
            )
        values[name] = value.float()
    return values
