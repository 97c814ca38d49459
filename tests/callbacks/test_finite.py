"""No checkpoint holds what isn't finite, and the step that would bring it about is named."""

import json
import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from project.approaches import TrainFromScratch
from project.callbacks.finite import FOUND, surely_finite
from project.checkpoints import load_checkpoint, not_finite
from project.cli import main
from project.upstream.torch import any_not_finite
from tests.conftest import Run
from tests.finetuning.schedules import equal, last

OWN = f"{__name__}."
FIT = (
    *("fit", f"--model={OWN}Breaks", "--data.limit_per_class=10", "--data.batch_size=15"),
    *("--trainer.max_epochs=2", "--trainer.logger=false", "--test_after_fit=false"),
)  # 7 steps an epoch


class Breaks(TrainFromScratch):
    """Its loss or its gradient isn't finite in one batch.

    Args:
        at: Number of the batch.
        kind: What isn't.
    """

    def __init__(self, *args: Any, at: int = 99, kind: str = "loss", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.at = at
        self.kind = kind
        self.register_buffer("mask", torch.tensor([-math.inf]))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        if self.trainer.fit_loop.total_batch_idx != self.at:
            return loss
        if self.kind == "gradient":
            next(self.parameters()).register_hook(lambda gradient: gradient * math.nan)
            return loss
        value = math.nan if self.kind == "loss" else math.inf
        self.train_metrics.loss_sum += value
        return loss * value


GRADIENTS = {  # and whether all values are finite
    "fine": (torch.tensor([1.0, -2.0]), True),
    "empty": (torch.zeros(0), True),
    "scalar": (torch.tensor(3.0), True),
    "nan": (torch.tensor([1.0, math.nan]), False),
    "infinite": (torch.tensor([[1.0], [math.inf]]), False),
    "both_infinities": (torch.tensor([math.inf, -math.inf]), False),
    "sum_too_large": (torch.full((10,), 3e38), True),
    "half": (torch.full((1000,), 6e4, dtype=torch.float16), True),
    "bfloat16": (torch.tensor([1.0, math.nan], dtype=torch.bfloat16), False),
    "complex": (torch.tensor([1j, math.nan]), False),
    "sparse": (torch.tensor([0.0, math.nan]).to_sparse(), False),
    "sparse_twice": (
        torch.sparse_coo_tensor([[0, 0]], [3e38, 3e38], (2,), check_invariants=True),
        False,
    ),
    "transposed": (torch.ones(3, 2).T, True),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_quick_look_says_finite_only_where_all_is(name: str) -> None:
    gradient, finite = GRADIENTS[name]
    gradients = [torch.ones(2, 2), gradient]
    assert (surely_finite(gradients) or not any_not_finite(gradients)) is finite
    assert finite or not surely_finite(gradients)
    assert surely_finite(gradients) or not finite or name in ("sum_too_large", "half")


def checkpoints_are_finite(run: Path) -> int:
    files = list(run.rglob("*.ckpt"))
    for file in files:
        state = load_checkpoint(file)["state_dict"]
        assert not not_finite({name: state[name] for name in state if name != "mask"}), file
    return len(files)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "kind, at, options",
    [
        ("loss", 0, []),
        ("loss", 13, []),
        ("gradient", 6, []),
        ("gradient", 13, ["--data.val_fraction=0"]),
        ("infinite", 9, ["--checkpoint.every_n_steps=1"]),
        ("loss", 9, ["--trainer.accumulate_grad_batches=4"]),
        ("gradient", 9, ["--trainer.val_check_interval=2", "--trainer.gradient_clip_val=1"]),
        ("gradient", 9, ["--trainer.callbacks=EMAWeightAveraging", "--checkpoint.every_n_steps=2"]),
    ],
)
def test_a_run_ends_before_the_step(
    kind: str, at: int, options: list[str], fails: Callable[..., str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    breaks = (f"--model.at={at}", f"--model.kind={kind}")
    message = fails(*FIT, *breaks, *options, f"--run_dir={run}")
    found = json.loads((run / FOUND).read_text())
    accumulates = 4 if "--trainer.accumulate_grad_batches=4" in options else 1
    batch = min((at % 7 // accumulates + 1) * accumulates, 7)
    assert (found["epoch"], found["batch"]) == (at // 7 + 1, batch)
    assert f"epoch {found['epoch']}, batch {batch}, step {found['step']}" in message
    what = "the gradient of network" if kind == "gradient" else "the training loss became"
    assert message.startswith(what)
    assert len(found["images"]) <= 15 * accumulates and found["gradients"]
    assert checkpoints_are_finite(run) >= (at > 6)
    assert message.endswith(found["replay"])


def test_the_command_that_it_names_finds_the_place(
    fails: Callable[..., str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    message = fails(*FIT, "--model.at=9", f"--run_dir={tmp_path / 'run'}")
    replay = shlex.split(message.partition("comes from: ")[2])
    with pytest.raises(SystemExit):
        main(replay[replay.index("fit") :])
    assert "returned nan values" in capfd.readouterr().err


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_is_left_out(run: Callable[..., Run], accumulate: int) -> None:
    options = (f"--trainer.accumulate_grad_batches={accumulate}", "--model.at=9")
    broken = run(*FIT, *options, "--max_skipped_steps=1")
    assert "is left out, as its gradient isn't finite (1 of at most 1)" in broken.out
    assert broken.summary["train/loss"] > 0
    assert last(broken.path)["callbacks"]["FiniteSteps"] == {"skipped": 1}
    checkpoints_are_finite(broken.path)
    stopped = run(*FIT, *options, "--max_skipped_steps=1", "--trainer.max_steps=3")
    resumed = run(*FIT, *options, "--trainer.max_steps=-1", f"--ckpt_path={stopped.path}")
    assert equal(last(resumed.path)["state_dict"], last(broken.path)["state_dict"])
