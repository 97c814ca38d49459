"""Freezing parts of a network: gradients, and the modes of norm layers and dropout."""

from collections.abc import Collection
from typing import Literal

from torch import nn

Norm = Literal["eval", "train", "affine_only"]


def norm_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that keep statistics of their inputs in training, by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if getattr(module, "running_mean", None) is not None
    }


def train_only(network: nn.Module, names: Collection[str]) -> None:
    """Let these parameters of a network train, and freeze all others.

    Args:
        network: The network.
        names: Names of the parameters that train.
    """
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in names)
        if name not in names:
            parameter.grad = None  # or the optimizer would go on moving the parameter


def evaluate_frozen(network: nn.Module) -> None:
    """Put what is frozen into evaluation mode: norm statistics, dropout, stochastic depth.

    A module without parameters belongs to the smallest module around it that is frozen, or trained,
    as a whole, else to the layer before it.
    """
    frozen = [not parameter.requires_grad for parameter in network.parameters()]
    if all(frozen):
        network.eval()
    elif any(frozen):
        before = frozen[0]
        for child in network.children():
            own = [not parameter.requires_grad for parameter in child.parameters()]
            if own:
                evaluate_frozen(child)
                before = own[-1]
            elif before:
                child.eval()
