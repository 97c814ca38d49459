"""Fused optimizers: chosen where they work, and never with a state laid out another way."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adam, Optimizer

from project.approaches.optimizers import align_state, build_optimizer
from tests.conftest import Run
from tests.finetuning.schedules import phases

CNN = ("fit", "--model=TrainFromScratch", "--model.network=CNN", "--data=Digits")
SMALL = (
    *("--model.network.channels=[8,8]", "--model.network.padding=1", "--data.limit_per_class=10"),
    *("--trainer.logger=false", "--test_after_fit=false"),
)


@pytest.mark.parametrize(
    ("options", "fused"), [({}, True), ({"fused": False}, False), ({"foreach": True}, None)]
)
@pytest.mark.parametrize("kind", [Adam, SGD])
def test_fused_unless_somebody_chose_otherwise(
    kind: type[Optimizer], options: dict[str, bool], fused: bool | None
) -> None:
    def build(groups: object, **more: bool) -> Optimizer:
        return kind(groups, lr=0.1, **(options | more))  # type: ignore[call-arg,arg-type]

    optimizer = build_optimizer(build, lambda: [{"params": [torch.zeros(2, requires_grad=True)]}])
    assert optimizer.defaults["fused"] is fused


class OwnAdam(Adam):
    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, lr=lr)


def test_an_optimizer_that_cannot_be_asked_stays_as_it_is() -> None:
    groups = [{"params": [torch.zeros(2, requires_grad=True)]}]
    assert isinstance(build_optimizer(OwnAdam, lambda: groups), OwnAdam)


def test_momentum_of_layers_that_train_later(
    run: Callable[..., Run], schedule: tuple[str, ...]
) -> None:
    """Fused SGD fails where some parameters of a group have a momentum and some have none yet."""
    phase = "name: a, train: [head, stage2], steps: 3"
    later = f"{phase.replace('a,', 'b,', 1)}, norm: affine_only"
    run(
        *(*schedule, phases(f"{{{phase}}}", f"{{{later}}}"), "--model.optimizer=SGD"),
        *("--model.optimizer.lr=0.01", "--model.optimizer.momentum=0.9"),
        "--model.decay_norm_and_bias=true",
    )


def test_clipping_in_mixed_precision_works(run: Callable[..., Run]) -> None:
    run(
        *CNN,
        *SMALL,
        *("--trainer.max_epochs=1", "--trainer.precision=bf16-mixed"),
        "--trainer.gradient_clip_val=1.0",
    )


def test_a_state_of_another_memory_layout_is_brought_into_line() -> None:
    """The CPU's fused kernel goes through memory in order, whatever the strides."""
    weights = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        weight = torch.randn(4, 3, 2, 2).to(memory_format=layout).requires_grad_()
        optimizer = Adam([weight], lr=0.1, fused=True)
        for _ in range(3):
            (weight * torch.arange(48).view(4, 3, 2, 2)).pow(2).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            for name in ("exp_avg", "exp_avg_sq"):  # as a checkpoint of a contiguous network has
                optimizer.state[weight][name] = optimizer.state[weight][name].contiguous()
            align_state(optimizer)
        weights.append(weight.detach())
    torch.testing.assert_close(weights[0], weights[1])


def test_a_run_goes_on_in_another_memory_layout(run: Callable[..., Run], tmp_path: Path) -> None:
    args = (*CNN, *SMALL, "--model.optimizer=AdamW", "--model.optimizer.lr=0.01")
    half = run(*args, "--trainer.max_epochs=1", "--model.channels_last=false").path
    args = (*args, "--trainer.max_epochs=2", f"--ckpt_path={half}")
    weights = [
        torch.load(run(*args, option).path / "checkpoints" / "last.ckpt", weights_only=True)
        for option in ("--model.channels_last=true", "--model.channels_last=false")
    ]
    for name, value in weights[0]["state_dict"].items():
        torch.testing.assert_close(value, weights[1]["state_dict"][name], atol=1e-4, rtol=1e-3)
