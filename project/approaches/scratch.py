"""Training from scratch: a network of your own, random weights, your data."""

from typing import Any

from project.approaches.base import ImageClassifier, NetworkFactory
from project.errors import under
from project.networks import MLP


class TrainFromScratch(ImageClassifier):
    """A network of your own with random weights, trained on your data.

    Args:
        network: A subclass of ``Network``; it gets the shape of the images and the number of
            logits from here, and its other arguments from the config.
        num_classes: Number of classes; given by the data.
        image_shape: Shape ``(C, H, W)`` of one image; given by the data.
        kwargs: Options of every approach.
    """

    def __init__(
        self,
        num_classes: int,
        image_shape: tuple[int, int, int],
        network: NetworkFactory = MLP,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, image_shape=image_shape, **kwargs)
        with under("model.network"):
            self.network = network(image_shape, self.num_logits)
