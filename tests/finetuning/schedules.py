"""A schedule on tiny data, and callbacks that look at its run from inside."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor

from project.finetuning.features import FeatureCache

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
STEPS_PER_EPOCH = 4
RECORD = f"--trainer.callbacks+={__name__}."


def phases(*given: str) -> str:
    """Other phases for the schedule; comes before other callbacks on the command line."""
    return f"--trainer.callbacks.init_args.phases=[{', '.join(given)}]"


def last(path: Path) -> dict[str, Any]:
    """The last checkpoint of a run."""
    checkpoint: dict[str, Any] = torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint


def equal(one: Any, other: Any) -> bool:
    """Whether two states are the same to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def assert_same_end(one: dict[str, Any], other: dict[str, Any]) -> None:
    for key in ("state_dict", "optimizer_states", "global_step", "epoch"):
        assert equal(one[key], other[key]), key
    name = "FineTuningSchedule"
    assert equal(one["callbacks"][name], other["callbacks"][name])


def check_resume(run: Callable[..., Any], args: tuple[str, ...], every: int = 1) -> None:
    args = (*args, "--checkpoint.every_n_steps=1")
    whole = run(*args, f"{RECORD}KeepAll").path
    for step in range(every, last(whole)["global_step"], every):
        resumed = run(*args, f"--ckpt_path={whole / f'step{step}.ckpt'}")
        assert_same_end(last(resumed.path), last(whole))


class KeepAll(L.Callback):
    """Keeps a copy of the last checkpoint of every step."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        folder = Path(trainer.default_root_dir)
        if trainer.global_step:
            shutil.copy(
                folder / "checkpoints" / "last.ckpt", folder / f"step{trainer.global_step}.ckpt"
            )


class States(L.Callback):
    """Keeps weights, modes, gradients and learning rates of every step in ``states``."""

    states: ClassVar[list[dict[str, Any]]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.states.clear()

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any
    ) -> None:
        network: Any = pl_module.network
        self.states.append(
            {
                "frozen": {
                    name: parameter.grad is None and not parameter.requires_grad
                    for name, parameter in network.named_parameters()
                },
                "training": {name: module.training for name, module in network.named_modules()},
                "lr": {group["name"]: group["lr"] for group in optimizer.param_groups},
            }
        )

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        weights = pl_module.network.state_dict()  # type: ignore[union-attr,operator]
        self.states[-1]["weights"] = {name: value.clone() for name, value in weights.items()}


class RankDifference(L.Callback):
    """Writes the largest difference between the parameters of two ranks after every epoch."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        mine = torch.cat([p.detach().flatten() for p in pl_module.parameters()])
        first: Tensor = mine.clone()
        dist.broadcast(first, 0)
        difference = (mine - first).abs().max()
        dist.all_reduce(difference, op=dist.ReduceOp.MAX)
        if trainer.global_rank == 0:
            with Path(trainer.default_root_dir, "differences.txt").open("a") as file:
                file.write(f"{difference.item()}\n")


class Scores(L.Callback):
    """Writes the metrics of every epoch."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch:
            self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        scores = {name: value.item() for name, value in trainer.callback_metrics.items()}
        with Path(trainer.default_root_dir, "scores.txt").open("a") as file:
            file.write(f"{json.dumps(scores)}\n")


class Drift(L.Callback):
    """Changes a weight on one rank alone."""

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.global_rank == 1 and trainer.global_step == 6:
            weight: Tensor = pl_module.network.head[-1].weight.data  # type: ignore
            weight[0, 0] += 1e-6


class Inputs(L.Callback):
    """Keeps index and first values of everything that is trained on, for each epoch."""

    def __init__(self) -> None:
        self.epochs: list[list[tuple[int, Tensor]]] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.epochs.append([])

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        rows = batch.images.flatten(1).float()
        self.epochs[-1] += zip(batch.indices.tolist(), rows.clone())

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        torch.save(self.epochs, Path(trainer.default_root_dir, "inputs.pt"))


class CountComputed(L.Callback):
    """Writes how many images each rank puts through the frozen layers for the cache."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        file = Path(trainer.default_root_dir, f"rank{trainer.global_rank}.txt")
        compute = FeatureCache._compute

        def counted(cache: FeatureCache, batch: Any, view: int | None) -> Tensor:
            with file.open("a") as lines:
                lines.write(f"{len(batch.labels)}\n")
            return compute(cache, batch, view)

        FeatureCache._compute = counted  # type: ignore[method-assign]
