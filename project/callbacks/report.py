"""What a person sees of a run, and the summary that a program can read."""

import json
import math
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import WandbLogger
from rich.table import Table

from project import STARTED
from project.approaches import ImageClassifier
from project.callbacks.checkpoint import BestAndLast, best_and_last
from project.callbacks.record import parameters
from project.callbacks.resources import ResourceMonitor
from project.console import print_table, show
from project.data import ImageDataModule
from project.environment import bfloat16_speedup, device_name, peak_memory_mb, versions
from project.networks.flops import gflop_per_image
from project.tracking import Tracking

SCORES = ("accuracy", "precision", "recall", "f1", "loss")


class RunReport(L.Callback):
    """Prints a line per epoch and a table at the end, and writes ``summary.json``.

    Args:
        resources: Where times and throughput come from.

    Attributes:
        tracking: What there is to say of W&B.
    """

    def __init__(self, resources: ResourceMonitor) -> None:
        self.resources = resources
        self.tracking = Tracking()
        self.summary: dict[str, Any] = {}
        self._epochs: list[dict[str, float]] = []
        self._epoch: int | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say what is about to be trained on what."""
        if trainer.global_rank != 0:
            return
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        count = parameters(pl_module)
        trained = "all" if count["trained"] == count["total"] else f"{count['trained']:,}"
        splits = {"train": data.train_images, "val": data.val_images, "test": data.test_images}
        self.summary["data"] = {
            split: {"images": len(images), "sha256": images.identity()}
            for split, images in splits.items()
            if images is not None
        }
        names = {"train": "training", "val": "validation", "test": "test"}
        sizes = ", ".join(f"{len(splits[name] or ()):,} {word}" for name, word in names.items())
        shape = "×".join(str(length) for length in data.image_shape)
        network = getattr(pl_module.network, "name", type(pl_module.network).__name__)
        rows = {
            "model": f"{type(pl_module).__name__}, {network}, {count['total']:,} parameters, "
            f"{trained} trained",
            "data": f"{type(data).__name__}, {sizes} images of {shape}, {data.num_classes} classes",
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

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the scores of all epochs, so that a resumed run knows those of its best one."""
        checkpoint["epochs"] = [*self._epochs, _metrics(trainer)]

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take over the scores of the epochs before."""
        self._epochs = list(checkpoint.get("epochs", []))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say where a resumed run goes on."""
        if trainer.global_step and trainer.global_rank == 0:
            show(f"goes on in epoch {trainer.current_epoch + 1}, after step {trainer.global_step}")

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the epoch before; only now are all of its metrics there."""
        self._close_epoch(trainer)
        self._epoch = trainer.current_epoch

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the last epoch."""
        self._close_epoch(trainer)

    def _close_epoch(self, trainer: L.Trainer) -> None:
        if self._epoch is None:
            return
        metrics = _metrics(trainer)
        self._epochs.append(metrics)
        if trainer.global_rank == 0:
            last = "" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs}"
            columns = [f"epoch {self._epoch + 1}{last}"]
            for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy"):
                if name in metrics:
                    columns.append(f"{name} {metrics[name]:.4f}")
            seconds = metrics.get("resources/epoch_seconds", math.nan)
            rate = metrics.get("resources/images_per_second", math.nan)
            show("  ".join([*columns, f"{seconds:.1f} s", f"{rate:,.0f} images/s"]))
        self._epoch = None

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write down what the training cost and what its best epoch reached."""
        assert isinstance(pl_module, ImageClassifier)
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]  # set late
        count = parameters(pl_module)
        checkpoint = best_and_last(trainer)
        best = checkpoint.best_model_path if checkpoint else None
        self.summary |= {
            "approach": type(pl_module).__name__,
            **self._best_epoch(checkpoint),
            "best_checkpoint": best or None,
            "fit_seconds": self.resources.fit_seconds,
            "epoch_seconds": [round(seconds, 4) for seconds in self.resources.epoch_seconds],
            "train_images_per_second": self.resources.images_per_second,
            "peak_memory_mb": peak_memory_mb(pl_module.device),
            "parameters_total": count["total"],
            "parameters_trained": count["trained"],
            "gflop_per_image": gflop_per_image(pl_module.network, data.image_shape),
        }
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and trainer.global_rank == 0:
                scores = {f"best/{k}": v for k, v in self.summary.items() if k.startswith("val/")}
                logger.experiment.summary.update(scores)
        self._write(trainer, pl_module)

    def _best_epoch(self, checkpoint: BestAndLast | None) -> dict[str, float | None]:
        """Scores of the epoch that the best checkpoint is from, and when that was over."""
        epochs = self._epochs
        if checkpoint is not None and checkpoint.monitor is not None:
            monitor, score = checkpoint.monitor, checkpoint.best_model_score
            epochs = [epoch for epoch in epochs if epoch.get(monitor) == score][:1]
        last = epochs[-1] if epochs else {}
        scores = {
            name: value
            for name, value in last.items()
            if name.startswith(("train/", "val/")) and name != "train/loss_step"
        }
        return {**scores, "best_epoch_seconds": last.get("resources/fit_seconds")}

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write down the result of ``validate``; those of a training are kept per epoch."""
        if trainer.state.fn == "validate":
            self._take(trainer, "val/")
            self._write(trainer, pl_module)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write down the test scores."""
        self._take(trainer, "test/")
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
        text = json.dumps(self.summary, indent=2)
        Path(trainer.default_root_dir, "summary.json").write_text(text + "\n")

    def show_result(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the scores, what they cost and where everything is."""
        if trainer.global_rank != 0:
            return
        assert isinstance(pl_module, ImageClassifier)
        splits = [s for s in ("val", "test") if f"{s}/accuracy" in self.summary]
        if splits:
            table = Table()
            table.add_column("")
            for split in splits:
                table.add_column({"val": "validation"}.get(split, split), justify="right")
            for score in SCORES:
                values = [self.summary[f"{split}/{score}"] for split in splits]
                table.add_row(score, *(f"{value:.4f}" for value in values))
            print_table(table)
        lines = []
        if "fit_seconds" in self.summary:
            lines.append(
                f"trained in {self.summary['fit_seconds']:.1f} s, "
                f"{self.summary['train_images_per_second']:,.0f} images/s, "
                f"peak memory {self.summary['peak_memory_mb']:,.0f} MB"
            )
        lines.append(f"run directory: {trainer.default_root_dir}")
        if self.tracking.viewing and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set late
            lines.append(self.tracking.viewing)
        show("\n".join(lines))


def _metrics(trainer: L.Trainer) -> dict[str, float]:
    return {name: value.item() for name, value in trainer.callback_metrics.items()}
