"""The learning rate of each group in each phase, whatever scheduler there is."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.optim import Optimizer
from torch.optim import lr_scheduler as lr

from project.approaches import WarmupCosine
from tests.conftest import Run
from tests.finetuning.schedules import RECORD, STEPS_PER_EPOCH, States, phases


class Halved(lr.LambdaLR):
    """LambdaLR, whose function no config can name."""

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(optimizer, lambda step: 0.5 ** (step / 4))


class Multiplied(lr.MultiplicativeLR):
    """MultiplicativeLR, likewise."""

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(optimizer, lambda step: 0.9)


class Sequence(lr.SequentialLR):
    """SequentialLR, whose schedulers need the optimizer."""

    def __init__(self, optimizer: Optimizer) -> None:
        parts: list[lr.LRScheduler] = [lr.LinearLR(optimizer, 0.1, total_iters=4)]
        parts.append(lr.ExponentialLR(optimizer, 0.8))
        super().__init__(optimizer, parts, milestones=[4])


class Chained(lr.ChainedScheduler):
    """ChainedScheduler, likewise."""

    def __init__(self, optimizer: Optimizer) -> None:
        parts: list[lr.LRScheduler] = [lr.ConstantLR(optimizer, 0.1, total_iters=4)]
        parts.append(lr.ExponentialLR(optimizer, 0.9))
        super().__init__(parts, optimizer)


def warmup_cosine(optimizer: Optimizer) -> WarmupCosine:
    scheduler = WarmupCosine(optimizer, warmup=0.25, total_steps=12)
    scheduler.set_total_steps(12)
    return scheduler


PLATEAU = {"patience": 0, "threshold": 9, "threshold_mode": "abs", "factor": 0.5}
SCHEDULERS: dict[str, tuple[str, Callable[..., Any]]] = {
    "StepLR": ("{step_size: 3}", partial(lr.StepLR, step_size=3)),
    "MultiStepLR": ("{milestones: [3, 9]}", partial(lr.MultiStepLR, milestones=[3, 9])),
    "ConstantLR": ("{total_iters: 6}", partial(lr.ConstantLR, total_iters=6)),
    "LinearLR": ("{total_iters: 6}", partial(lr.LinearLR, total_iters=6)),
    "ExponentialLR": ("{gamma: 0.9}", partial(lr.ExponentialLR, gamma=0.9)),
    "PolynomialLR": (
        "{total_iters: 9, power: 2}",
        partial(lr.PolynomialLR, total_iters=9, power=2),
    ),
    "CosineAnnealingLR": ("{T_max: 12}", partial(lr.CosineAnnealingLR, T_max=12)),
    "CosineAnnealingWarmRestarts": ("{T_0: 5}", partial(lr.CosineAnnealingWarmRestarts, T_0=5)),
    "OneCycleLR": (
        "{max_lr: 0.1, total_steps: 12}",
        partial(lr.OneCycleLR, max_lr=0.1, total_steps=12),
    ),
    "CyclicLR": (
        "{base_lr: 0.001, max_lr: 0.1, step_size_up: 3}",
        partial(lr.CyclicLR, base_lr=0.001, max_lr=0.1, step_size_up=3),
    ),
    f"{__name__}.Halved": ("{}", Halved),
    f"{__name__}.Multiplied": ("{}", Multiplied),
    f"{__name__}.Sequence": ("{}", Sequence),
    f"{__name__}.Chained": ("{}", Chained),
    "WarmupCosine": ("{total_steps: 12, warmup: 0.25}", warmup_cosine),
    "torch.optim.lr_scheduler.ReduceLROnPlateau": (
        "{patience: 0, threshold: 9, threshold_mode: abs, factor: 0.5}",
        lambda optimizer: lr.ReduceLROnPlateau(optimizer, **PLATEAU),
    ),
}
BY_STEP = [(name, "step") for name in SCHEDULERS if not name.endswith("Plateau")]
BY_EPOCH = [(name, "epoch") for name in SCHEDULERS if name not in ("OneCycleLR", "WarmupCosine")]


@pytest.mark.sampled(8)
@pytest.mark.parametrize(("name", "interval"), BY_STEP + BY_EPOCH)
def test_every_scheduler_goes_through_all_phases(
    name: str, interval: str, run: Callable[..., Run], schedule: tuple[str, ...]
) -> None:
    """The learning rate of each group is that of the scheduler, times what the phase says."""
    options, build = SCHEDULERS[name]
    three = (
        *("{name: a, train: [head], epochs: 1}", "{name: b, train: 2, epochs: 1, lr_scale: 0.5}"),
        "{name: c, train: all, epochs: 1, lr_scale: 0.2, warmup_steps: 2}",
    )
    scheduler = f"{{class_path: {name}, init_args: {options}}}"
    given = f"--model.lr_scheduler={{scheduler: {scheduler}, interval: {interval}}}"
    sgd = ("--model.optimizer=SGD", "--model.optimizer.lr=0.04", "--model.optimizer.momentum=0.9")
    run(*schedule, phases(*three), *sgd, given, f"{RECORD}States")
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.04, momentum=0.9)
    reference = build(optimizer)
    assert len(States.states) == 12
    for step, state in enumerate(States.states):
        phase, since = divmod(step, STEPS_PER_EPOCH)
        scheduled = optimizer.param_groups[0]["lr"]
        warm = min((since + 1) / 3, 1)
        expected = {
            "head": scheduled * (1, 0.5, 0.2)[phase],
            "stage2": 0.5 * scheduled * (0, 0.5, 0.2)[phase],
            "stage1": 0.25 * scheduled * (0, 0, 0.2 * warm)[phase],
        }
        for group, rate in expected.items():
            assert state["lr"][group] == pytest.approx(rate, rel=1e-6), (step, group)
        optimizer.step()
        if interval == "step" or (step + 1) % STEPS_PER_EPOCH == 0:
            reference.step(*[1.0] * name.endswith("Plateau"))


def test_shape_within_a_phase(run: Callable[..., Run], schedule: tuple[str, ...]) -> None:
    three = (
        "{name: a, train: [head], epochs: 1}",
        "{name: b, train: 2, epochs: 1, shape: linear, warmup_steps: 1}",
        "{name: c, train: all, steps: 4, shape: constant, norm: train}",
    )
    run(*schedule, phases(*three), "--model.group_lr={stage1: 0.5}", f"{RECORD}States")
    rates = [state["lr"] for state in States.states]
    cosine = [(1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    linear = [1, 0.75, 0.5, 0.25]
    assert [rate["head"] for rate in rates] == pytest.approx(
        [0.01 * shape for shape in (*cosine, *linear, 1, 1, 1, 1)]
    )
    warm = [0.5 * shape * factor for shape, factor in zip(linear, (0.5, 1, 1, 1))]
    assert [rate["stage2"] for rate in rates] == pytest.approx(
        [0.01 * factor for factor in (0, 0, 0, 0, *warm, 0.5, 0.5, 0.5, 0.5)]
    )
    assert [rate["stage1"] for rate in rates] == pytest.approx([0] * 8 + [0.5] * 4)
    # the biases of batch norm, which norm: eval leaves out
    assert [rate["stage2/no_decay"] for rate in rates] == [0] * 8 + [pytest.approx(0.005)] * 4
