"""What only a GPU can show: no step waits for it, and a training that goes on ends alike."""

import traceback
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import lightning as L
import pytest
import torch

from tests.conftest import CONFIGS, Run
from tests.data.pictures import OPERATIONS, pictures
from tests.finetuning.schedules import equal

pytestmark = pytest.mark.gpu

DIGITS = ("fit", "--data=Digits", "--data.limit_per_class=60", "--trainer.max_epochs=2")
AIRBENCH = ("--model.network=Airbench", "--model.network.widths=[16,32]", "--model.flip_tta=true")
CLASSES = ("--model.class_weights=effective", "--model.focal_gamma=2", "--data.sampling=balanced")
TRAININGS = {
    "scratch": ("fit", "--config", CONFIGS / "quickstart.yaml"),
    "full": (*DIGITS, "--model=FullTraining", *AIRBENCH, "--trainer.precision=bf16-mixed"),
    "half": (*DIGITS, "--model=FullTraining", *AIRBENCH, "--trainer.precision=16-mixed"),
    "classes": (*DIGITS, "--model=TrainFromScratch", "--model.network=MLP", *CLASSES),
    "moved": (
        *(*DIGITS, "--model=TrainFromScratch", "--model.network=MLP"),
        *("--data.augment.flip=0.5", "--data.augment.shift=2", "--model.network.dropout=0.2"),
    ),
    "clipped": (
        *(*DIGITS, "--model=TrainFromScratch", "--model.network=MLP"),
        *("--trainer.gradient_clip_val=1", "--trainer.accumulate_grad_batches=2"),
    ),
    "augmented": (
        *(*DIGITS, "--model=FullTraining", *AIRBENCH),
        *("--data.augment.flip=0.5", "--data.augment.shift=2", "--data.augment.cutout=2"),
        *("--data.augment.min_scale=0.5", "--data.augment.contrast=0.2"),
    ),
    "augmented by a list": (
        *(*DIGITS, "--model=FullTraining", *AIRBENCH),
        "--data.augment=[RandomResizedCrop, Rotation, GaussianBlur, TrivialAugment, RandomErasing]",
    ),
}


class NoWaiting(L.Callback):
    """Notes each place where a step waits for the GPU; those of a logger's step are left out."""

    found: ClassVar[list[str]] = []
    seen = 0

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 2:  # constants of the first batches are on the GPU by now
            warnings.simplefilter("always")
            warnings.showwarning = self._note
            torch.cuda.set_sync_debug_mode("warn")
        NoWaiting.seen += 1

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            torch.cuda.set_sync_debug_mode("default")

    def _note(self, message: Warning | str, *args: Any, **kwargs: Any) -> None:
        if "called a synchronizing" in str(message):
            lines = [f"{f.filename}:{f.lineno} {f.line}" for f in traceback.extract_stack()[-7:-1]]
            self.found.append("\n".join(lines))


@pytest.mark.parametrize("name", TRAININGS)
def test_no_step_waits(name: str, run: Callable[..., Run]) -> None:
    NoWaiting.found.clear()
    NoWaiting.seen = 0
    watch = "--trainer.callbacks+=tests.test_gpu.NoWaiting"
    with warnings.catch_warnings():
        run(
            *TRAININGS[name],
            watch,
            "--trainer.log_every_n_steps=100000",
            "--trainer.accelerator=gpu",
        )
    assert NoWaiting.seen > 6
    assert not NoWaiting.found, "\n\n".join(dict.fromkeys(NoWaiting.found))


def test_no_step_of_a_fine_tuning_waits(schedule: tuple[str, ...], run: Callable[..., Run]) -> None:
    NoWaiting.found.clear()
    watch = "--trainer.callbacks+=tests.test_gpu.NoWaiting"
    with warnings.catch_warnings():
        run(*schedule, watch, "--trainer.log_every_n_steps=100000", "--trainer.accelerator=gpu")
    assert not NoWaiting.found, "\n\n".join(dict.fromkeys(NoWaiting.found))


@pytest.mark.parametrize("name", ["moved", "classes"])
def test_a_resumed_training_ends_alike(name: str, run: Callable[..., Run]) -> None:
    options = (
        "--trainer.accelerator=gpu",
        "--trainer.deterministic=true",
        "--trainer.max_epochs=2",
    )
    whole = run(*TRAININGS[name], *options)
    part = run(*TRAININGS[name], *options, "--trainer.max_steps=7")
    last = part.path / "checkpoints" / "last.ckpt"
    rest = run(*TRAININGS[name], *options, f"--ckpt_path={last}", "--trainer.max_steps=-1")
    states = [torch.load(one.path / "checkpoints" / "last.ckpt") for one in (whole, rest)]
    assert equal(states[0]["state_dict"], states[1]["state_dict"])


def test_images_are_changed_as_on_the_cpu() -> None:
    for operation in OPERATIONS:
        images, keys = pictures(60), torch.arange(60)
        expected = operation(images, keys, 3).float()
        found = operation(images.cuda(), keys.cuda(), 3).float().cpu()
        assert (found - expected).abs().mean() < 0.01, operation  # a threshold may be just met


def test_a_copy_on_the_gpu_changes_nothing(
    schedule: tuple[str, ...], run: Callable[..., Run]
) -> None:
    options = ("--trainer.accelerator=gpu", "--trainer.deterministic=true")
    copied, batches = (run(*schedule, *options, f"--data.device_gb={size}") for size in (8, 0))
    assert equal(copied.best["state_dict"], batches.best["state_dict"])
