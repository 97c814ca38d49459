"""Optimizers, with torch's fused kernels where they work."""

from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.optim import Adam, Optimizer

FUSED_DEVICES = ("cpu", "cuda")


def build_optimizer(
    build: Callable[..., Any] | None,
    groups: Callable[[], list[dict[str, Any]]],
    trainer: L.Trainer | None = None,
) -> Optimizer:
    """Return an optimizer, fused if it has such a kernel and nobody chose otherwise.

    Args:
        build: Takes parameter groups and options; null is Adam with a learning rate of 0.001.
        groups: Returns the parameter groups; optimizers change those they are given.
        trainer: Who trains it, if that is known.
    """
    build = build or partial(Adam, lr=0.001)
    optimizer = build(groups())
    if _can_fuse(optimizer, trainer):
        optimizer = build(groups(), fused=True)
    assert isinstance(optimizer, Optimizer)
    return optimizer


def _can_fuse(optimizer: Optimizer, trainer: L.Trainer | None) -> bool:
    options = optimizer.defaults
    if options.get("fused", False) is not None:
        return False
    if any(options.get(name) for name in ("foreach", "capturable", "differentiable")):
        return False
    # Lightning 2.6 refuses it: https://github.com/Lightning-AI/pytorch-lightning/pull/21435
    if (
        trainer
        and trainer.gradient_clip_val
        and isinstance(trainer.precision_plugin, MixedPrecision)
    ):
        return False
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return all(p.device.type in FUSED_DEVICES and p.is_floating_point() for p in parameters)


def align_state(optimizer: Optimizer) -> None:
    """Lay a loaded state out in memory like its parameters.

    The fused kernels of the CPU take that for granted and compute nonsense otherwise, in silence.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
