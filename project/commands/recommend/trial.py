"""Predicts time and memory of a candidate from a ``fit`` of a few steps in its own process."""

import json
import math
import os
import pkgutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import torch
from jsonargparse import ArgumentError, Namespace

from project import config_text
from project.commands.preparation import data_class
from project.commands.recommend.decoding import Timed, decode_some, seconds_to_decode
from project.data import Batch, data_of
from project.data.splits import spread
from project.environment import PACKAGE, peak_memory_mb, processor_seconds
from project.errors import UserError
from project.finetuning import FineTuningSchedule
from project.finetuning.phases import preset_phases
from project.mistakes import explain
from project.parsing import ProjectParser, build
from project.run_files import read_summary

STEPS = 4  # optimizer steps of each phase
WARM_UP = 2 if torch.cuda.is_available() else 1  # first ones, in which kernels are chosen
PIXELS = 64 * 64**2  # of a batch on a CPU; with more, a smaller batch tells the time as well
SMALL_BATCH = 16  # which has that many images at least
EVAL_BATCHES = {"val": 1, "test": 2}  # of each evaluation; the first of the test isn't counted
MOST_DECODED = 96  # files of a split that are decoded; more images are the same ones again
DECODING = 1.5  # seconds, after which no more of them are
TIMEOUT = 300  # seconds
SPLITS = ("train", "val", "test")
OF_SUMMARY = ("process_seconds", "peak_memory_mb", "gflop_per_image")  # of a trial's run


class Trial(L.Callback):
    """Cuts every split down to a few batches, and writes the time of each part of the run.

    Args:
        output: JSON file for the times.
    """

    def __init__(self, output: str) -> None:
        self.output = output
        self.found: dict[str, Any] = {}
        self._ends: list[list[float]] = []  # times at which the steps of each epoch ended
        self._evaluated: list[tuple[float, int]] = []  # end and images of each test batch
        self._epoch_starts: list[float] = []
        self._processor = (0.0, 0.0)  # seconds that threads ran and waited when it began

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Keep a few batches of each split, at equal distances, and decode them."""
        if self.found:
            return
        data = data_of(trainer)
        timed: list[Timed] = []
        for split in SPLITS:
            images = getattr(data, f"{split}_images")
            self.found[split] = len(images or ())
            if not images:
                continue
            count = STEPS * data.batch_size
            if split in EVAL_BATCHES:
                count = EVAL_BATCHES[split] * data.fitting_eval_batch_size
            count = min(count, len(images))
            if images.in_memory:
                part = images.subset(spread(len(images), count))
            else:
                files, times = decode_some(images, min(count, MOST_DECODED), DECODING)
                timed += times
                part = files.subset(torch.arange(count) % len(files))
            setattr(data, f"{split}_images", part)
            self.found[f"{split}_cut"] = count
        self.found["batch_size"] = data.batch_size * trainer.world_size
        self.found["memory_gb"] = data.memory_gb
        self.found["image_bytes"] = math.prod(data.image_shape) if timed else 0
        self.found["decoded"] = timed
        self._processor = processor_seconds()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin a list of the times of this epoch."""
        self.found.setdefault("memory_before_mb", peak_memory_mb(pl_module.device))
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
        """Note when a step ends."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._ends[-1].append(time.perf_counter())

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note when the test begins."""
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
        """Note when a batch is evaluated."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._evaluated.append((time.perf_counter(), len(batch.labels) * trainer.world_size))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the seconds per step in each epoch, per evaluated image, and between two epochs."""
        steps = [
            median(later - earlier for earlier, later in zip(ends[WARM_UP - 1 :], ends[WARM_UP:]))
            for ends in self._ends
        ]
        timed = self._evaluated[1:] if len(self._evaluated) > 2 else self._evaluated
        seconds = timed[-1][0] - timed[0][0]
        per_image = seconds / sum(images for _, images in timed[1:])
        between = [start - ends[-1] for ends, start in zip(self._ends, self._epoch_starts[1:])]
        self.found |= {"steps": steps, "per_image": per_image, "between": min(between)}
        ran, waited = (now - then for then, now in zip(self._processor, processor_seconds()))
        self.found["slowdown"] = 1 + max(waited, 0.0) / ran if ran > 0 else 1.0
        if trainer.global_rank == 0:
            Path(self.output).write_text(json.dumps(self.found))


@dataclass(frozen=True)
class Prediction:
    """Predicted time, memory and throughput of a whole run.

    Attributes:
        seconds: Seconds from the start to the end of the process.
        memory_mb: Peak memory in 10^6 bytes.
        images_per_second: Training throughput in the slowest phase.
        slowdown: How many times as long as alone it took, because other processes had the
            processor; 1 where the system doesn't tell.
        gflop_per_image: 10^9 operations of a prediction; None if they can't be counted.
    """

    seconds: float
    memory_mb: float
    images_per_second: float
    slowdown: float = 1.0
    gflop_per_image: float | None = None


def try_out(config: Mapping[str, Any], pixels: float) -> Prediction:
    """Run a few steps of a config of ``fit``, and predict time and memory of the whole run.

    Args:
        config: The config, with ``trainer.max_epochs``.
        pixels: Mean number of pixels of an image, in its file.

    Raises:
        UserError: If the run fails; the message says why.
    """
    _, data = build(config)
    batch = data.batch_size
    if not torch.cuda.is_available():
        batch = min(batch, max(PIXELS // math.prod(data.image_shape[1:]), SMALL_BATCH))
    with tempfile.TemporaryDirectory() as folder:
        found = _run(config, Path(folder), batch)
    larger = data.batch_size / batch
    return predict(found, phases_of(config), pixels, data.steps_per_epoch, larger)


def phases_of(config: Mapping[str, Any]) -> list[tuple[int, bool]]:
    """Return for each phase its number of epochs, and whether it caches features."""
    epochs, augment = config["trainer"]["max_epochs"], config["data"]["init_args"].get("augment")
    for callback in _callbacks(config["trainer"].get("callbacks") or []):
        if issubclass(pkgutil.resolve_name(callback.class_path), FineTuningSchedule):
            if callback.init_args.preset is None:
                raise UserError("needs a preset, whose phases fit any length", "trainer.callbacks")
            phases = preset_phases(callback.init_args.preset, epochs)
            return [(int(p.epochs or 0), p.cache_features and not augment) for p in phases]
    return [(epochs, False)]


def _callbacks(given: Sequence[Mapping[str, Any]]) -> list[Namespace]:
    """Return callbacks of a config with all options and the import paths of their classes."""
    parser = ProjectParser(exit_on_error=False)
    parser.add_argument("--callbacks", type=list[L.Callback])
    try:
        parsed = parser.parse_object({"callbacks": deepcopy(given)})
    except (ArgumentError, TypeError, ValueError) as error:
        raise UserError(explain(str(error)), "trainer") from error
    found: list[Namespace] = parsed.callbacks
    return found


def _run(config: Mapping[str, Any], folder: Path, batch_size: int) -> dict[str, Any]:
    file, output, run_dir = folder / "config.yaml", folder / "trial.json", folder / "run"
    file.write_text(config_text.dump(dict(config)), encoding="utf-8")
    words = [
        *("fit", "--config", str(file), "--run_dir", str(run_dir), "--trainer.logger=false"),
        "--pictures=0",
        f"--trainer.max_epochs={max(len(phases_of(config)), 2)}",
        f"--data.cache_dir={folder / 'cache'}",
        f"--data.steps_per_epoch={STEPS}",
        f"--data.batch_size={batch_size}",
        f"--trainer.callbacks+={Trial.__module__}.{Trial.__name__}",
        f"--trainer.callbacks.init_args.output={output}",
    ]
    lazily = data_class(config["data"]["class_path"]).lazy_options
    texts = {option: "null" if value is None else value for option, value in lazily.items()}
    words += [f"--data.{option}={text}" for option, text in texts.items()]
    try:
        done = subprocess.run(
            [sys.executable, "-m", PACKAGE, *words],
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
    summary = read_summary(run_dir)
    found: dict[str, Any] = json.loads(output.read_text())
    return found | {name: summary[name] for name in OF_SUMMARY}


def predict(
    found: Mapping[str, Any],
    phases: Sequence[tuple[int, bool]],
    pixels: float = 0,
    steps_per_epoch: int | None = None,
    larger: float = 1.0,
) -> Prediction:
    """Predict time and memory of a run from those of its trial.

    Args:
        found: The output of :class:`Trial`, with :data:`OF_SUMMARY`.
        phases: Phases as :func:`phases_of` returns them.
        pixels: Mean number of pixels of an image, in its file.
        steps_per_epoch: Steps of an epoch; None goes through the images once.
        larger: How many times as large as in the trial the batches are. Time and memory of a step
            are in proportion to them.
    """
    one = len(phases) == 1  # the trial of a single phase has two epochs
    steps = found["steps"][-1:] if one else found["steps"]
    tried = [(2 if one else 1, cached) for _, cached in phases]
    whole = {split: found[split] for split in SPLITS}
    cut = {split: found.get(f"{split}_cut", 0) for split in SPLITS}
    between = found["between"]
    if not phases[0][1]:
        between = max(between - cut["val"] * found["per_image"], 0.0)
    found = {**found, "between": between}
    timed = [Timed(*row) for row in found["decoded"]]
    fixed: float = found["process_seconds"] - sum(row.seconds for row in timed)
    fixed -= _parts(found, cut, STEPS, tried, steps)
    images = sum(whole.values())
    length = steps_per_epoch or math.ceil(whole["train"] / (found["batch_size"] * larger))
    whole_steps = [step * larger for step in steps]
    before, peak = found["memory_before_mb"], found["peak_memory_mb"]
    resident = min(found["image_bytes"] * images, found["memory_gb"] * 1e9)
    return Prediction(
        seconds=max(fixed, 0.0)
        + seconds_to_decode(timed, images, pixels)
        + _parts(found, whole, length, phases, whole_steps),
        memory_mb=before
        + (peak - before) * larger
        + (0 if torch.cuda.is_available() else resident / 1e6),
        images_per_second=found["batch_size"] / max(steps),
        slowdown=found["slowdown"],
        gflop_per_image=found["gflop_per_image"],
    )


def _parts(
    found: Mapping[str, Any],
    counts: Mapping[str, int],
    steps_per_epoch: int,
    phases: Sequence[tuple[int, bool]],
    steps: Sequence[float],
) -> float:
    """Return the seconds of the parts that depend on the numbers of images and epochs."""
    seconds: float = counts["test"] * found["per_image"]
    for (epochs, cached), step in zip(phases, steps):
        per_epoch = steps_per_epoch * step + found["between"]
        if cached:
            seconds += (counts["train"] + counts["val"]) * found["per_image"]
        else:
            per_epoch += counts["val"] * found["per_image"]
        seconds += epochs * per_epoch
    return seconds
