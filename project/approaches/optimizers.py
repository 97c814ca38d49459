"""Optimizers: choice of torch's fused kernels, and changed options of a resumed run."""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from project.approaches.schedulers import plain_state
from project.console import show
from project.errors import UserError

FUSED_DEVICES = ("cpu", "cuda")
DEFAULT = partial(Adam, lr=0.001)


def build_optimizer(
    build: Callable[..., Any] | None,
    groups: Callable[[], list[dict[str, Any]]],
    trainer: L.Trainer | None = None,
) -> Optimizer:
    """Return an optimizer, with its fused kernel if it has one and the config doesn't decide it.

    Args:
        build: Takes parameter groups and options; None is Adam with a learning rate of 0.001.
        groups: Returns new parameter groups at each call, because optimizers modify them.
        trainer: The trainer, if there is one already.

    Raises:
        ValueError: If a learning rate or weight decay isn't finite; torch lets that pass.
    """
    build = build or DEFAULT
    optimizer = build(groups())
    for name in ("lr", "weight_decay"):
        value = optimizer.defaults.get(name)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} {value} must be finite")
    if _can_fuse(optimizer, trainer):
        optimizer = build(groups(), fused=True)
    assert isinstance(optimizer, Optimizer)
    return optimizer


def base_lr(build: Callable[..., Any] | None) -> float:
    """Return the learning rate that an optimizer gives groups that have none of their own.

    Args:
        build: As for :func:`build_optimizer`.

    Raises:
        UserError: If the optimizer refuses its options.
    """
    with optimizer_errors():
        optimizer = (build or DEFAULT)([nn.Parameter(torch.zeros(1))])
    lr: float = optimizer.defaults["lr"]
    return lr


@contextmanager
def optimizer_errors() -> Iterator[None]:
    """Say that it is the optimizer that refuses its options.

    Raises:
        UserError: In place of a TypeError or ValueError.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        raise UserError(str(error), "model.optimizer") from error


def _can_fuse(optimizer: Optimizer, trainer: L.Trainer | None) -> bool:
    options = optimizer.defaults
    takes_it = "fused" in inspect.signature(type(optimizer)).parameters
    if not takes_it or options.get("fused", False) is not None:
        return False
    if any(options.get(name) for name in ("foreach", "capturable", "differentiable")):
        return False
    # fused SGD fails if only some parameters have momentum already: newly trained layers have none
    if options.get("momentum"):
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
    """Give loaded optimizer state the memory format of its parameters.

    The fused kernels of the CPU rely on it; without it they compute wrong results without an error.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def configured(optimizer: Optimizer, scheduler: LRScheduler | None) -> dict[str, Any]:
    """Return the configuration of optimizer and scheduler before the first step."""
    return {
        "optimizer": type(optimizer).__name__,
        "groups": [
            {name: value for name, value in group.items() if name != "params"}
            for group in optimizer.param_groups
        ],
        "scheduler_class": type(scheduler).__name__ if scheduler else None,
        "scheduler": plain_state(scheduler.state_dict()) if scheduler else {},
    }


def other_scheduler(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> bool:
    """Return whether the schedulers of two configurations are of different classes."""
    before: Any = (old or {}).get("scheduler_class", new["scheduler_class"])
    return bool(before != new["scheduler_class"])


def change(
    optimizer: Optimizer, scheduler: Any, old: Mapping[str, Any], new: Mapping[str, Any]
) -> None:
    """Apply the options that differ between two configurations to a loaded optimizer and scheduler.

    Args:
        optimizer: The optimizer, with loaded state and the old options.
        scheduler: Its scheduler, or None.
        old: Result of :func:`configured` in the run that wrote the state.
        new: Result of :func:`configured` in this run.

    Raises:
        UserError: If the optimizer is of another class, which can't use the state.
    """
    if old["optimizer"] != new["optimizer"]:
        raise UserError(
            f"the checkpoint is from {old['optimizer']}; a resumed run can change its arguments, "
            f"but can't continue with {new['optimizer']}",
            key="model.optimizer",
        )
    begins_anew = other_scheduler(old, new)
    if begins_anew:
        was, now = old["scheduler_class"], new["scheduler_class"]
        show(f"model.lr_scheduler was {was} and is {now}: the learning rate begins anew")
    for group, before, after in zip(optimizer.param_groups, old["groups"], new["groups"]):
        changed = {name: value for name, value in after.items() if value != before.get(name)}
        changed.pop("fused", None)  # the state belongs to the kernel that wrote it
        lr_changed = changed.pop("lr", None) is not None
        if begins_anew:
            group.update(dict.fromkeys({"lr", "scheduled_lr"} & group.keys(), after["lr"]))
        elif lr_changed:
            for name in {"lr", "scheduled_lr"} & group.keys():
                group[name] *= after["lr"] / before["lr"] if before["lr"] else 0
        group.update(changed)
    for name, value in new["scheduler"].items() if not begins_anew else ():
        if value != old["scheduler"].get(name):
            setattr(scheduler, name, value)
