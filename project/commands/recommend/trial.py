"""What a candidate will take: an ordinary ``fit`` of a few steps, in a process of its own."""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import torch
import yaml

from project.commands.recommend.scan import spread
from project.data import Batch, ImageDataModule
from project.data.files import in_memory
from project.data.folder import FolderImages
from project.errors import UserError
from project.finetuning import FineTuningSchedule
from project.finetuning.phases import preset_phases

STEPS = 5  # of each phase
WARM_UP = 2  # steps of each phase that don't count: kernels are chosen in them
EVAL_BATCHES = 3  # the first of which doesn't count
TIMEOUT = 300  # seconds
SPLITS = ("train", "val", "test")


class Trial(L.Callback):
    """Cuts every split down to a few batches, and writes down what each part of the run takes.

    Args:
        output: JSON file for the times.
    """

    def __init__(self, output: str) -> None:
        self.output = output
        self.found: dict[str, Any] = {}
        self._ends: list[list[float]] = []  # of the steps of each epoch
        self._evaluated: list[tuple[float, int]] = []  # when it was over, and images
        self._epoch_starts: list[float] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Decode a few batches of each split, from all over it, and leave out the rest."""
        if self.found:
            return
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]  # set late
        evaluated = EVAL_BATCHES * data.fitting_eval_batch_size
        decoded, seconds = 0, 0.0
        for split in SPLITS:
            images = getattr(data, f"{split}_images")
            self.found[split] = len(images or ())
            if not images:
                continue
            chosen = spread(len(images), STEPS * data.batch_size if split == "train" else evaluated)
            part = images.subset(chosen)
            if isinstance(part, FolderImages):
                start = time.perf_counter()
                files = part.files.subset(part.places)
                pixels = in_memory(files, progress=False)
                part = FolderImages(files, torch.arange(len(files)), part.labels, pixels)
                seconds += time.perf_counter() - start
                decoded += files.num_bytes
            setattr(data, f"{split}_images", part)
            self.found[f"{split}_cut"] = len(chosen)
        self.found["batch_size"] = data.batch_size * trainer.world_size
        self.found["memory_gb"] = getattr(data, "memory_gb", 0.0)
        self.found["image_bytes"] = math.prod(data.image_shape) if decoded else 0
        self.found["decode"] = seconds * self.found["image_bytes"] / max(decoded, 1)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the time."""
        self._ends.append([])

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Note when the first step of an epoch begins."""
        if batch_idx == 0:
            self._epoch_starts.append(time.perf_counter())

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Note when a step is over."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._ends[-1].append(time.perf_counter())

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the time."""
        self._evaluated.append((time.perf_counter(), 0))

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Note when a batch has been evaluated."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._evaluated.append((time.perf_counter(), len(batch.labels) * trainer.world_size))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the times: per step of each epoch, per image, and between two epochs."""
        steps = [
            median(later - earlier for earlier, later in zip(ends[WARM_UP - 1 :], ends[WARM_UP:]))
            for ends in self._ends
        ]
        timed = self._evaluated[1:] if len(self._evaluated) > 2 else self._evaluated
        seconds = timed[-1][0] - timed[0][0]
        per_image = seconds / sum(images for _, images in timed[1:])
        between = [start - ends[-1] for ends, start in zip(self._ends, self._epoch_starts[1:])]
        self.found |= {"steps": steps, "per_image": per_image, "between": min(between)}
        if trainer.global_rank == 0:
            Path(self.output).write_text(json.dumps(self.found))


@dataclass(frozen=True)
class Prediction:
    """What a whole run is expected to take.

    Attributes:
        seconds: Of the process, from its start to its end.
        memory_mb: Peak memory in 10^6 bytes.
        images_per_second: Throughput of the slowest phase's training.
    """

    seconds: float
    memory_mb: float
    images_per_second: float


def try_out(config: Mapping[str, Any]) -> Prediction:
    """Let a config of ``fit`` make a few steps, and work out what the whole run takes.

    Args:
        config: The config, with ``trainer.max_epochs``.

    Raises:
        UserError: If it can't run; the message says why.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = _run(config, Path(folder))
    return predict(found, phases_of(config), config["data"]["init_args"].get("steps_per_epoch"))


def phases_of(config: Mapping[str, Any]) -> list[tuple[int, bool]]:
    """Return the epochs of each phase of a config, and whether it caches features."""
    trainer, augmented = config["trainer"], bool(config["data"]["init_args"].get("augment"))
    for callback in trainer.get("callbacks") or []:
        if callback["class_path"].endswith(FineTuningSchedule.__name__):
            phases = preset_phases(callback["init_args"]["preset"], trainer["max_epochs"])
            return [(int(p.epochs or 0), p.cache_features and not augmented) for p in phases]
    return [(trainer["max_epochs"], False)]


def _run(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    file, output, run_dir = folder / "config.yaml", folder / "trial.json", folder / "run"
    file.write_text(yaml.safe_dump(dict(config)))
    words = [
        *("fit", "--config", str(file), "--run_dir", str(run_dir), "--trainer.logger=false"),
        f"--trainer.max_epochs={max(len(phases_of(config)), 2)}",
        f"--data.cache_dir={folder / 'cache'}",
        f"--data.steps_per_epoch={STEPS}",
        f"--trainer.callbacks+={Trial.__module__}.{Trial.__name__}",
        f"--trainer.callbacks.init_args.output={output}",
    ]
    if config["data"]["class_path"] == "ImageFolder":
        words.append("--data.cache=off")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "project", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            env=os.environ | {"WANDB_MODE": "disabled"},
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"a few steps took more than {TIMEOUT} s") from error
    if done.returncode or not output.is_file():
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise UserError((lines or ["it printed nothing"])[-1].removeprefix("error: "))
    summary = json.loads((run_dir / "summary.json").read_text())
    found: dict[str, Any] = json.loads(output.read_text())
    return found | {name: summary[name] for name in ("process_seconds", "peak_memory_mb")}


def predict(
    found: Mapping[str, Any], phases: Sequence[tuple[int, bool]], steps_per_epoch: int | None = None
) -> Prediction:
    """Return what a run takes, from what a trial of it took.

    Args:
        found: What :class:`Trial` wrote, with ``process_seconds`` and ``peak_memory_mb``.
        phases: As from :func:`phases_of`.
        steps_per_epoch: Steps of an epoch; null goes through the images once.
    """
    one = len(phases) == 1  # of which the trial had two epochs
    steps = found["steps"][-1:] if one else found["steps"]
    tried = [(2 if one else 1, cached) for _, cached in phases]
    whole = {split: found[split] for split in SPLITS}
    cut = {split: found.get(f"{split}_cut", 0) for split in SPLITS}
    between = found["between"]
    if not phases[0][1]:
        between = max(between - cut["val"] * found["per_image"], 0.0)
    found = {**found, "between": between}
    decoding = found["decode"]
    fixed = found["process_seconds"] - decoding * sum(cut.values())
    fixed -= _parts(found, cut, STEPS, tried, steps)
    images = sum(whole.values())
    length = steps_per_epoch or math.ceil(whole["train"] / found["batch_size"])
    resident = min(found["image_bytes"] * images, found["memory_gb"] * 1e9)
    return Prediction(
        seconds=max(fixed, 0.0) + decoding * images + _parts(found, whole, length, phases, steps),
        memory_mb=found["peak_memory_mb"] + (0 if torch.cuda.is_available() else resident / 1e6),
        images_per_second=found["batch_size"] / max(steps),
    )


def _parts(
    found: Mapping[str, Any],
    counts: Mapping[str, int],
    steps_per_epoch: int,
    phases: Sequence[tuple[int, bool]],
    steps: Sequence[float],
) -> float:
    """Return the seconds of what takes longer with more images or more epochs."""
    seconds: float = counts["test"] * found["per_image"]
    for (epochs, cached), step in zip(phases, steps):
        per_epoch = steps_per_epoch * step + found["between"]
        if cached:
            seconds += (counts["train"] + counts["val"]) * found["per_image"]
        else:
            per_epoch += counts["val"] * found["per_image"]
        seconds += epochs * per_epoch
    return seconds
