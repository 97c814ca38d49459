"""A multilayer perceptron."""

import math
from collections import OrderedDict

from torch import nn

from project.networks.base import Network, check_dropout


class MLP(Network):
    """Dense layers with ReLU. The defaults are the network of the from-scratch reference job.

    With 784 inputs and 10 classes it has 109,386 parameters.

    Args:
        image_shape: Shape ``(C, H, W)`` of one image; given by the data.
        num_classes: Number of logits; given by the data.
        hidden: Sizes of the hidden layers.
        dropout: Fraction of each hidden layer's outputs that is dropped in training.

    Raises:
        UserError: If ``dropout`` is no fraction.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        hidden: tuple[int, ...] = (128, 64),
        dropout: float = 0.0,
    ) -> None:
        check_dropout(dropout)
        sizes = (math.prod(image_shape), *hidden)
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for number, (inputs, outputs) in enumerate(zip(sizes, hidden), start=1):
            layers[f"dense{number}"] = nn.Linear(inputs, outputs)
            layers[f"relu{number}"] = nn.ReLU()
            if dropout:
                layers[f"dropout{number}"] = nn.Dropout(dropout)
        super().__init__(nn.Sequential(layers), nn.Linear(sizes[-1], num_classes))
