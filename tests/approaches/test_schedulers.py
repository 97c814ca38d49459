"""Options of a scheduler that torch takes, and fails or computes nonsense with."""

from functools import partial
from typing import Any

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CyclicLR,
    ExponentialLR,
    OneCycleLR,
    StepLR,
)

from project.approaches.schedulers import Scheduler, WarmupCosine
from project.errors import UserError


def optimizer() -> SGD:
    return SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)


@pytest.mark.parametrize(
    ("scheduler", "option", "reason"),
    [
        (partial(StepLR, step_size=0), ".step_size", "0 must not be 0"),
        (partial(StepLR, step_size=-1), ".step_size", "-1 must be at least 0"),
        (partial(StepLR, step_size=1, gamma=float("nan")), ".gamma", "nan must be finite"),
        (partial(ExponentialLR, gamma=float("inf")), ".gamma", "inf must be finite"),
        (partial(CosineAnnealingLR, T_max=0), ".T_max", "0 must not be 0"),
        (partial(CyclicLR, base_lr=0.1, max_lr=1, step_size_up=0), "", "must not be 0"),
    ],
)
def test_refused(scheduler: Any, option: str, reason: str) -> None:
    with pytest.raises(UserError) as raised:
        Scheduler(scheduler).rehearse(optimizer())
    assert str(raised.value).startswith(f"model.lr_scheduler.scheduler{option}: ")
    assert reason in str(raised.value)


@pytest.mark.parametrize(
    "scheduler",
    [
        partial(StepLR, step_size=1, gamma=0.0),
        partial(OneCycleLR, max_lr=0.1, total_steps=1),
        partial(CosineAnnealingLR, T_max=5),
        partial(WarmupCosine),
    ],
)
def test_rehearsed_without_a_trace(scheduler: Any, recwarn: pytest.WarningsRecorder) -> None:
    Scheduler(scheduler, interval="step", frequency=3).rehearse(optimizer())
    assert not recwarn.list
