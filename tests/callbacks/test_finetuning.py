"""The schedule of fine-tuning: what trains when, at which learning rate, and after a resume."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from tests.conftest import Run

SCHEDULE = """
trainer:
  logger: false
  callbacks:
    - class_path: FineTuningSchedule
      init_args:
        phases:
          - {name: probe, train: [head], epochs: 2}
          - {name: top, train: [head, stage2], steps: 6, lr_scale: 0.5, warmup_steps: 2,
             norm: affine_only, restore_best: true}
          - {name: all, train: all, norm: train, warmup_steps: 3,
             plateau: {max_epochs: 2, patience: 1}}
model:
  class_path: FineTuning
  init_args:
    dropout: 0.2
    lr_decay: 0.5
    optimizer:
      class_path: AdamW
      init_args: {lr: 0.01}
data:
  class_path: Digits
  init_args:
    limit_per_class: 6
    batch_size: 16
    augment: {shift: 1}
test_after_fit: false
"""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a complete training, with two stages that have batch norm."""
    from project.cli import main

    path = tmp_path_factory.mktemp("backbone") / "run"
    main(
        [
            *("fit", "--model=FullTraining", "--model.network=CNN", "--run_dir", str(path)),
            *("--model.network.channels=[4,8]", "--model.network.batch_norm=true"),
            *("--model.network.hidden=[]", "--data=Digits", "--data.limit_per_class=10"),
            *("--trainer.max_epochs=1", "--trainer.logger=false", "--test_after_fit=false"),
        ]
    )
    return path


@pytest.fixture
def schedule(tmp_path: Path, backbone: Path) -> tuple[str, ...]:
    """Arguments of a run of three phases."""
    file = tmp_path / "schedule.yaml"
    file.write_text(SCHEDULE)
    return ("fit", "--config", str(file), f"--model.backbone={backbone}")


class KeepAll(L.Callback):
    """Keeps a copy of the last checkpoint of every step, and of every epoch."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        folder = Path(trainer.default_root_dir)
        if trainer.global_step:
            shutil.copy(
                folder / "checkpoints" / "last.ckpt", folder / f"step{trainer.global_step}.ckpt"
            )


def equal(one: Any, other: Any) -> bool:
    """Whether two states are the same to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def last(run: Run) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(
        run.path / "checkpoints" / "last.ckpt", weights_only=True
    )
    return checkpoint


@pytest.mark.timeout(180)
def test_resume_at_every_step(run: Callable[..., Run], schedule: tuple[str, ...]) -> None:
    args = (*schedule, "--checkpoint.every_n_steps=1")
    whole = run(*args, f"--trainer.callbacks+={__name__}.KeepAll")
    expected = last(whole)
    steps = expected["global_step"]
    assert steps > 14
    for step in (2, 4, 8, 10, 12, 14, 16, 18, 20):
        resumed = last(run(*args, f"--ckpt_path={whole.path / f'step{step}.ckpt'}"))
        for key in ("state_dict", "optimizer_states", "global_step", "epoch"):
            assert equal(resumed[key], expected[key]), (step, key)
        for name in ("FineTuningSchedule",):
            assert equal(resumed["callbacks"][name], expected["callbacks"][name]), step
