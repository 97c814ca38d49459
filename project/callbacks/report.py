"""What a person sees of a run, and the summary that a program can read."""

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import Namespace
from lightning.pytorch.callbacks import EarlyStopping, ProgressBar, Timer
from lightning.pytorch.loggers import WandbLogger
from rich.table import Table

from project import STARTED
from project.approaches import ImageClassifier
from project.approaches.metrics import SCORES
from project.callbacks.bar import Bar
from project.callbacks.checkpoint import VALIDATION, best_and_last
from project.callbacks.record import RunRecord, parameters
from project.callbacks.resources import ResourceMonitor
from project.callbacks.tested import MOST_IN_SUMMARY, TestResults
from project.class_paths import those_of
from project.console import print_table, show
from project.data import data_of
from project.environment import bfloat16_speedup, device_name, peak_memory_mb, versions
from project.networks.flops import gflop_per_image
from project.run_files import SUMMARY
from project.saving import write
from project.tracking import Tracking

SPLITS = ("train/", "val/")


def progress_bars(trainer: Namespace) -> list[L.Callback]:
    """Return a progress bar, if a person at a terminal sees it and the config names none.

    Args:
        trainer: Config of the trainer; it is changed.
    """
    if those_of(trainer.callbacks, ProgressBar):
        return []
    if trainer.enable_progress_bar is None:
        trainer.enable_progress_bar = sys.stderr.isatty()
    return [Bar()] if trainer.enable_progress_bar else []


class RunReport(L.Callback):
    """Prints a line per epoch and a table at the end, and writes ``summary.json``.

    Args:
        resources: Where times and throughput come from.
        results: Where the scores of single classes come from.
        tracking: What there is to say of W&B.
        record: What identifies the images.
    """

    def __init__(
        self,
        resources: ResourceMonitor,
        results: TestResults,
        tracking: Tracking,
        record: RunRecord,
    ) -> None:
        self.resources = resources
        self.results = results
        self.tracking = tracking
        self.record = record
        self.summary: dict[str, Any] = {}
        self._epoch: int | None = None  # that is not reported yet
        self._validated = False  # since the last report

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show model, data and run directory."""
        if trainer.global_rank != 0:
            return
        data = data_of(trainer)
        count = parameters(pl_module)
        trained = "all" if count["trained"] == count["total"] else f"{count['trained']:,}"
        splits = self.summary["data"] = self.record.images
        names = {"train": "training", "val": "validation", "test": "test"}
        counts = {split: found["images"] for split, found in splits.items()}
        sizes = ", ".join(f"{counts.get(name, 0):,} {word}" for name, word in names.items())
        shape = "×".join(str(length) for length in data.image_shape)
        network = getattr(pl_module.network, "name", type(pl_module.network).__name__)
        several = f"{trainer.world_size} × " if trainer.world_size > 1 else ""
        rows = {
            "model": f"{type(pl_module).__name__}, {network}, {count['total']:,} parameters, "
            f"{trained} trained",
            "data": f"{data.name or type(data).__name__}, {data.num_classes} classes, "
            f"{shape} pixels",
            "images": sizes,
            "device": f"{several}{device_name(pl_module.device)}, {trainer.precision}",
            "run": trainer.default_root_dir,
            "W&B": self.tracking.mode,
        }
        show("\n".join(f"{name:<6} {text}" for name, text in rows.items() if text))
        on_cpu = pl_module.device.type == "cpu"
        if on_cpu and trainer.precision.startswith("bf16") and (speedup := bfloat16_speedup()) < 1:
            show(
                f"trainer.precision: {trainer.precision}, but this CPU convolves in bfloat16 at "
                f"{speedup:.2f} of its speed in float32; 32-true is faster"
            )

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the result of ``validate``; of a training, the scores of the best checkpoint."""
        self._validated = not trainer.sanity_checking
        if trainer.state.fn == "validate":
            self._take(trainer, "val/")
            self._write(trainer, pl_module)
            self._log_best(trainer, self.summary)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the epoch before, whose metrics are complete only now."""
        self._close_epoch(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember the epoch, which a resumed run may have begun in its middle."""
        self._epoch = trainer.current_epoch

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the last epoch, and a minimum that another limit has cut off."""
        self._close_epoch(trainer)
        for name, done in (
            ("min_epochs", trainer.current_epoch),
            ("min_steps", trainer.global_step),
        ):
            least = getattr(trainer, name) or 0
            if done < least and trainer.global_rank == 0:
                show(f"trainer.{name}: {least} is not reached, as another limit ends at {done}")

    def _close_epoch(self, trainer: L.Trainer) -> None:
        if self._epoch is None:
            return
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        if trainer.global_rank == 0 and "train/loss" in metrics:
            last = "" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs}"
            columns = [f"epoch {self._epoch + 1}{last}"]
            shown = {name for name in metrics if self._validated or not name.startswith(VALIDATION)}
            for split in ("train", "val"):
                scores = {"loss": f"{split}/loss", "acc": f"{split}/accuracy"}
                parts = [f"{short} {metrics[x]:.4f}" for short, x in scores.items() if x in shown]
                columns += [" ".join([split, *parts])] if parts else []
                shown -= set(scores.values())
            monitor = getattr(best_and_last(trainer), "monitor", None)
            columns += [f"{monitor} {metrics[monitor]:.4f}"] if monitor in shown else []
            if (seconds := metrics.get("workload/epoch_seconds")) is not None:
                columns.append(f"{seconds:.1f} s")
            show("  ".join(columns))
        if (checkpoint := best_and_last(trainer)) is not None:
            self._log_best(trainer, checkpoint.best)
        self._epoch, self._validated = None, False

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the cost of the training and the scores of its best epoch."""
        assert isinstance(pl_module, ImageClassifier)
        data = data_of(trainer)
        count = parameters(pl_module)
        checkpoint = best_and_last(trainer)
        best = checkpoint.best_model_path if checkpoint else None
        scores = checkpoint.best if checkpoint else {}
        if self.resources.idle and trainer.global_rank == 0:
            show(f"nothing was trained: {_why_not(trainer)}")
        self.summary |= {
            "approach": type(pl_module).__name__,
            "pretrained": pl_module.pretrained,
            **{name: value for name, value in scores.items() if name.startswith(SPLITS)},
            "best_epoch": scores.get("epoch"),
            "best_epoch_seconds": scores.get("workload/fit_seconds"),
            "best_checkpoint": os.path.relpath(best, trainer.default_root_dir) if best else None,
            "fit_seconds": self.resources.fit_seconds,
            "epoch_seconds": [round(seconds, 4) for seconds in self.resources.epoch_seconds],
            "train_images_per_second": self.resources.images_per_second,
            "peak_memory_mb": peak_memory_mb(pl_module.device),
            "parameters_total": count["total"],
            "parameters_trained": count["trained"],
            "gflop_per_image": gflop_per_image(pl_module.network, data.image_shape),
        }
        self._write(trainer, pl_module)

    def _log_best(self, trainer: L.Trainer, scores: Mapping[str, float]) -> None:
        """Write the scores of the best checkpoint into the summary of W&B.

        W&B's own ``define_metric(summary="min")`` takes the best of each metric alone, from epochs
        that may differ, and no longer has the last value under the name of the metric.
        """
        best = {f"best/{name}": scores[name] for name in scores if name.startswith(VALIDATION)}
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and trainer.global_rank == 0:
                logger.experiment.summary.update(best)

    def lacks_validation(self, trainer: L.Trainer) -> bool:
        """Return whether the best checkpoint of a training can be validated, and never was."""
        data = data_of(trainer)
        measured = any(name.startswith("val/") for name in self.summary)
        return bool(not measured and data.val_images and trainer.limit_val_batches)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the test scores."""
        self._take(trainer, "test/")
        if 0 < len(self.results.classes) <= MOST_IN_SUMMARY:
            self.summary["test_classes"] = self.results.classes
        self._write(trainer, pl_module)

    def end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record that nothing of the run is left to do."""
        self.summary["ended"] = True
        self._write(trainer, pl_module)

    def _take(self, trainer: L.Trainer, prefix: str) -> None:
        for name, value in trainer.callback_metrics.items():
            if name.startswith(prefix):
                self.summary[name] = value.item()

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_rank != 0:
            return
        self.summary |= {
            "process_seconds": time.perf_counter() - STARTED,
            "versions": versions(),
            "device": device_name(pl_module.device),
        }
        text = json.dumps(_finite(self.summary), indent=2)
        write(Path(trainer.default_root_dir, SUMMARY), text + "\n")

    def show_result(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the scores, what they cost and where everything is."""
        if trainer.global_rank != 0:
            return
        assert isinstance(pl_module, ImageClassifier)
        splits = [s for s in ("val", "test") if f"{s}/accuracy" in self.summary]
        if splits:
            kept = best_and_last(trainer) if self.resources.images else None
            chosen = kept.best.get("epoch") if kept else None
            title = f"best epoch ({chosen:.0f}), by {kept.monitor}" if kept and chosen else None
            table = Table(title=title)
            table.add_column("")
            for split in splits:
                table.add_column({"val": "validation"}.get(split, split), justify="right")
            prefixes = ("val/", "test/")
            more = [name.split("/", 1)[1] for name in self.summary if name.startswith(prefixes)]
            for score in dict.fromkeys([*SCORES, *more]):
                values = [self.summary.get(f"{split}/{score}") for split in splits]
                table.add_row(score, *("" if v is None else f"{v:.4f}" for v in values))
            print_table(table)
        lines = []
        if self.resources.images:
            lines.append(
                f"trained in {self.summary['fit_seconds']:.1f} s, "
                f"{self.summary['train_images_per_second']:,.0f} images/s, "
                f"peak memory {self.summary['peak_memory_mb']:,.0f} MB"
            )
        lines.append(f"run directory: {trainer.default_root_dir}")
        if self.tracking.viewing and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set late
            lines.append(self.tracking.viewing)
        show("\n".join(lines))


def _finite(value: Any) -> Any:
    """Return a value as JSON can hold it: it has no word for what isn't a number."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _why_not(trainer: Any) -> str:
    """Return why a training has no steps."""
    if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
        return f"trainer.max_steps: {trainer.max_steps}, and step {trainer.global_step} is reached"
    if trainer.max_epochs != -1 and trainer.current_epoch >= trainer.max_epochs:
        return f"trainer.max_epochs: {trainer.max_epochs}, and {trainer.current_epoch} are over"
    for callback in trainer.callbacks:
        rest = callback.time_remaining() if isinstance(callback, Timer) else None
        if rest is not None and rest <= 0:
            return "trainer.max_time is over"
        if isinstance(callback, EarlyStopping) and trainer.should_stop:
            return "EarlyStopping has ended the training before"
    return "all phases are over"
