"""How many floating point operations a network takes."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from project.approaches import ImageClassifier


def _convolution_backward(
    grad_out: Any, images: Any, weight: Any, *arguments: Any, out_shape: Any, **_: Any
) -> int:
    """Count a convolution's backward pass; torch takes grouped convolutions for dense ones."""
    transposed, output_mask = arguments[4], arguments[7]
    passes: int = output_mask[0] + output_mask[1]
    return passes * conv_flop_count(images, weight, grad_out, transposed=transposed)


CORRECTED = {torch.ops.aten.convolution_backward: _convolution_backward}


class NetworkCost:
    """Counts operations on a copy of the network on the meta device: shapes without values."""

    def __init__(self, model: ImageClassifier) -> None:
        assert isinstance(model.example_input_array, Tensor)
        self.images = model.example_input_array.to("meta")
        tensors: dict[int, Tensor] = {}
        for parameter in model.network.parameters():
            tensors[id(parameter)] = nn.Parameter(parameter.to("meta"))
        for buffer in model.network.buffers():
            tensors[id(buffer)] = buffer.to("meta")
        self.network = copy.deepcopy(model.network, tensors).eval()  # copies no values

    def training(self, trained: set[str], cached: bool = False) -> float | None:
        """Return 1e9 operations to train on an image; null if an operation needs values.

        Args:
            trained: Names of the parameters that train.
            cached: Whether what the frozen stages before them make of it is known already.
        """
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name in trained)
        depth = self.network.frozen_depth() if cached else 0
        for cut in dict.fromkeys((depth, 0)):  # not every backbone can be cut
            try:
                inputs = self.network.prefix(self.images, cut) if cut else self.images
                with FlopCounterMode(display=False, custom_mapping=CORRECTED) as counter:
                    logits = self.network(inputs, cut) if cut else self.network(inputs)
                    logits.sum().backward()
            except Exception:  # a forward method may raise anything
                continue
            return float(counter.get_total_flops()) / 1e9
        return None


def gflop_per_image(model: ImageClassifier) -> float | None:
    """Return 1e9 operations to classify an image; null if an operation needs values."""
    try:
        cost = NetworkCost(model)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            cost.network(cost.images)
    except Exception:  # copying a network or its forward method may raise anything
        return None
    return float(counter.get_total_flops()) / 1e9
