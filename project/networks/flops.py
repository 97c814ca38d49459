"""Floating point operations of a network."""

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from project.networks.base import Network


def _convolution_backward(
    grad_out: Any, images: Any, weight: Any, *arguments: Any, out_shape: Any, **_: Any
) -> int:
    """Count a convolution's backward pass; torch takes grouped convolutions for dense ones."""
    transposed, output_mask = arguments[4], arguments[7]
    passes: int = output_mask[0] + output_mask[1]
    return passes * conv_flop_count(images, weight, grad_out, transposed=transposed)


CORRECTED = {torch.ops.aten.convolution_backward: _convolution_backward}


class NetworkCost:
    """Counts operations on a copy of a network on the meta device: shapes without values.

    Args:
        network: The network.
        image_shape: Shape ``(C, H, W)`` of one image.
    """

    def __init__(self, network: Network, image_shape: tuple[int, int, int]) -> None:
        self.images = torch.zeros(1, *image_shape, device="meta")
        tensors: dict[int, Tensor] = {}
        for parameter in network.parameters():
            tensors[id(parameter)] = nn.Parameter(parameter.to("meta"))
        for buffer in network.buffers():
            tensors[id(buffer)] = buffer.to("meta")
        self.network = copy.deepcopy(network, tensors).eval()  # copies no values

    def training(self, trained: Collection[str], cached: bool = False) -> float | None:
        """Return the 1e9 operations of training on an image; None if an operation needs values.

        Args:
            trained: Names of the parameters that train.
            cached: Whether the features of the frozen stages before them are known already.
        """
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name in trained)
        depth = self.network.frozen_depth() if cached else 0
        for cut in dict.fromkeys((depth, 0)):  # not every backbone can be cut
            try:
                inputs = self.network.prefix(self.images, cut) if cut else self.images
                with (
                    torch.autograd.set_detect_anomaly(
                        False
                    ),  # which would print what can't be counted
                    FlopCounterMode(display=False, custom_mapping=CORRECTED) as counter,
                ):
                    logits = self.network(inputs, cut) if cut else self.network(inputs)
                    logits.sum().backward()
            except Exception:  # a forward method may raise anything
                continue
            return float(counter.get_total_flops()) / 1e9
        return None


def gflop_per_image(network: Network, image_shape: tuple[int, int, int]) -> float | None:
    """Return the 1e9 operations of classifying an image; None if an operation needs values.

    Args:
        network: The network.
        image_shape: Shape ``(C, H, W)`` of one image.
    """
    try:
        cost = NetworkCost(network, image_shape)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            cost.network(cost.images)
    except Exception:  # copying a network or its forward method may raise anything
        return None
    return float(counter.get_total_flops()) / 1e9
