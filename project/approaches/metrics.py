"""Loss, accuracy, precision, recall and F1 of an epoch, from one confusion matrix."""

import torch
from torch import Tensor
from torchmetrics import Metric


class EpochMetrics(Metric):
    """Sums up the loss and the confusion matrix of an epoch, over all ranks.

    A step adds to two tensors on its device and waits for nothing. The scores are on the CPU.

    Attributes:
        total_confusion: int64 ``[K, K]``, labels by predictions, as of the last ``compute()``.

    Args:
        num_classes: Number of classes, K.
    """

    full_state_update = False
    loss_sum: Tensor
    confusion: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("loss_sum", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state(
            "confusion",
            torch.zeros(num_classes, num_classes, dtype=torch.long),
            dist_reduce_fx="sum",
        )

    def update(self, loss: Tensor, scores: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            loss: Its mean loss.
            scores: ``[B, K]``; the largest is the prediction.
            labels: int64 ``[B]``.
        """
        self.loss_sum += loss.detach() * len(labels)
        cells = labels * self.num_classes + scores.detach().argmax(dim=1)
        # torch.bincount, which torchmetrics uses, would wait for the GPU in each step
        self.confusion.view(-1).index_add_(0, cells, torch.ones_like(cells))

    def compute(self) -> dict[str, Tensor]:
        """Return the means over the epoch.

        Precision, recall and F1 are unweighted means over the classes that occur among labels or
        predictions.
        """
        self.total_confusion = self.confusion.clone()  # of all ranks, which only compute() sees
        confusion = self.confusion.cpu().double()
        correct, predicted, actual = confusion.diagonal(), confusion.sum(0), confusion.sum(1)
        occurs = predicted + actual > 0
        return {
            "loss": (self.loss_sum.cpu() / actual.sum()).float(),
            "accuracy": (correct.sum() / actual.sum()).float(),
            "precision": (correct / predicted.clamp(min=1))[occurs].mean().float(),
            "recall": (correct / actual.clamp(min=1))[occurs].mean().float(),
            "f1": (2 * correct / (predicted + actual).clamp(min=1))[occurs].mean().float(),
        }
