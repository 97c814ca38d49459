"""Complete training: from random weights on a large data set, to get a backbone for other tasks."""

from typing import Any

from project.approaches.base import ImageClassifier, NetworkFactory
from project.errors import under
from project.networks import CNN


class FullTraining(ImageClassifier):
    """An established architecture with random weights, trained on a large data set.

    ``FineTuning`` can start from the backbone of its best checkpoint. For a moving average of the
    weights, add Lightning's ``EMAWeightAveraging`` to ``trainer.callbacks``.

    Args:
        network: ``CNN``, ``LibraryNetwork`` for an architecture of torchvision or timm, or a
            ``Network`` of your own.
        num_classes: Number of classes; given by the data.
        image_shape: Shape ``(C, H, W)`` of one image; given by the data.
        kwargs: Options of every approach.
    """

    def __init__(
        self,
        num_classes: int,
        image_shape: tuple[int, int, int],
        network: NetworkFactory = CNN,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, image_shape=image_shape, **kwargs)
        with under("model.network"):
            self.network = network(image_shape, self.num_logits)
