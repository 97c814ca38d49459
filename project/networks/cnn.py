"""A small convolutional network."""

from collections import OrderedDict

from torch import nn

from project.networks.base import Network, dense_head


class CNN(Network):
    """3×3 convolutions with ReLU, pooling in between, then one dense layer.

    The defaults are the network of the complete-training reference job: with images of 3×32×32 and
    10 classes it has 122,570 parameters.

    Args:
        image_shape: Shape ``(C, H, W)`` of one image; given by the data.
        num_classes: Number of logits; given by the data.
        channels: Output channels of each convolution; all but the last are followed by a 2×2 pool.
        hidden: Sizes of the dense layers before the logits.
        padding: Zero padding of each convolution in pixels.
        batch_norm: Normalise each convolution's output over the batch.
        dropout: Fraction of the inputs of each dense layer that is dropped in training.
        glorot: Start with the weights of Glorot and Bengio, 2010, and biases of zero, as Keras
            does, instead of torch's own.

    Raises:
        ValueError: If the image is too small for that many layers.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        channels: tuple[int, ...] = (32, 64, 64),
        hidden: tuple[int, ...] = (64,),
        padding: int = 0,
        batch_norm: bool = False,
        dropout: float = 0.0,
        glorot: bool = False,
    ) -> None:
        inputs, height, width = image_shape
        stages: OrderedDict[str, nn.Module] = OrderedDict()
        for number, outputs in enumerate(channels, start=1):
            layers: list[nn.Module] = [
                nn.Conv2d(inputs, outputs, 3, padding=padding, bias=not batch_norm)
            ]
            layers += [nn.BatchNorm2d(outputs)] if batch_norm else []
            layers += [nn.ReLU()]
            height, width = height + 2 * padding - 2, width + 2 * padding - 2
            if number < len(channels):
                layers += [nn.MaxPool2d(2)]
                height, width = height // 2, width // 2
            if min(height, width) < 1:
                raise ValueError(
                    f"CNN: images of {image_shape[1]}×{image_shape[2]} are too small for "
                    f"{len(channels)} convolutions; use fewer channels or padding: 1"
                )
            stages[f"stage{number}"] = nn.Sequential(*layers)
            inputs = outputs
        head = dense_head(inputs * height * width, num_classes, hidden, dropout)
        super().__init__(nn.Sequential(stages), head)
        if glorot:
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    nn.init.xavier_uniform_(layer.weight)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)
