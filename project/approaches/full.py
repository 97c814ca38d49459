"""Complete training: random weights and a large data set make a foundation for other tasks."""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from project.approaches.base import ImageClassifier, NetworkFactory
from project.data import Batch
from project.errors import under
from project.networks import CNN


class FullTraining(ImageClassifier):
    """An established architecture with random weights, trained on a large data set.

    The backbone of its best checkpoint can be given to ``FineTuning``. For an average of the
    weights over time, add Lightning's ``EMAWeightAveraging`` to ``trainer.callbacks``.

    Args:
        network: ``CNN``, ``LibraryNetwork`` for an architecture of torchvision or timm, or a
            ``Network`` of your own.
        num_classes: Number of classes; given by the data.
        image_shape: Shape ``(C, H, W)`` of one image; given by the data.
        mixup: Parameter of the Beta distribution by which pairs of images are blended; 0 blends
            none (Zhang et al., 2018).
        cutmix: The same for rectangles that are pasted from one image into another (Yun et al.,
            2019). If both are given, each batch gets one or the other.
        kwargs: Options of every approach.
    """

    def __init__(
        self,
        num_classes: int,
        image_shape: tuple[int, int, int],
        network: NetworkFactory = CNN,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, image_shape=image_shape, **kwargs)
        with under("model.network"):
            self.network = network(image_shape, self.num_logits)
        mixers: list[nn.Module] = []
        if mixup:
            mixers.append(v2.MixUp(alpha=mixup, num_classes=num_classes))
        if cutmix:
            mixers.append(v2.CutMix(alpha=cutmix, num_classes=num_classes))
        self._mixers = mixers

    def training_batch(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return blended images and their class probabilities, or the batch as it is."""
        if not self._mixers:
            return super().training_batch(batch)
        mixer = self._mixers[int(torch.randint(len(self._mixers), ()))]
        images, targets = mixer(batch.images, batch.labels)
        return images, targets
