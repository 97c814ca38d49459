"""The progress bar of a person at a terminal: one line with what one looks for while waiting."""

import sys
import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from project.approaches import ImageClassifier
from project.data import Batch
from project.finetuning import FineTuningSchedule
from project.upstream.lightning import callbacks_of

SHOWN_SECONDS = 0.5  # the device is waited for, to show the loss, no more often than that


class Bar(TQDMProgressBar):
    """Shows the time left, phase, loss, accuracy, learning rate and images per second.

    Loss and accuracy are those of the epoch up to now, of this rank; the time left is that of the
    epoch.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=1)
        self._images = 0
        self._begun = self._shown = 0.0

    def init_train_tqdm(self) -> Tqdm:
        """Return a bar that is gone when the training is over: each epoch has left its line."""
        return Tqdm(
            desc="training",
            disable=self.is_disabled,
            leave=False,
            dynamic_ncols=True,
            file=sys.stdout,
            bar_format="{desc}",  # has everything, as there is no room for more in 80 columns
        )

    def init_sanity_tqdm(self) -> Tqdm:
        """Return a bar of the sanity check."""
        return _short(super().init_sanity_tqdm(), "sanity check")

    def init_validation_tqdm(self) -> Tqdm:
        """Return a bar of a validation."""
        return _short(super().init_validation_tqdm(), "validation")

    def init_test_tqdm(self) -> Tqdm:
        """Return a bar of the test."""
        return _short(super().init_test_tqdm(), "test")

    def init_predict_tqdm(self) -> Tqdm:
        """Return a bar of a prediction."""
        return _short(super().init_predict_tqdm(), "prediction")

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Begin to count the images of the epoch."""
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description_str(_epoch(trainer))
        self._images, self._begun, self._shown = 0, time.perf_counter(), 0.0

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Show how far the training is, if that was not shown just now."""
        self._images += len(batch.labels)
        now = time.perf_counter()
        if self.is_disabled or now - self._shown < SHOWN_SECONDS:
            return
        self._shown = now
        assert isinstance(pl_module, ImageClassifier)
        parts = self._parts(trainer, pl_module, batch_idx + 1)
        self.train_progress_bar.set_description_str("  ".join(parts))

    def _parts(self, trainer: L.Trainer, model: ImageClassifier, done: int) -> list[str]:
        loss, accuracy = model.train_metrics.so_far()
        seconds = time.perf_counter() - self._begun
        parts = [_epoch(trainer)]
        if total := self.train_progress_bar.total:
            left = Tqdm.format_interval(seconds / done * (total - done))
            parts = [f"{parts[0]} {min(done / total, 1):4.0%}", f"{left} left"]
        parts += [
            schedule.progress.phase.name for schedule in callbacks_of(trainer, FineTuningSchedule)
        ]
        optimizer = model.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        rate = max(group["lr"] for group in optimizer.param_groups)
        speed = self._images * trainer.world_size / seconds
        return [
            *parts,
            f"loss {loss:.3f}",
            f"acc {accuracy:.3f}",
            f"lr {rate:.1e}",
            f"{speed:,.0f}/s",
        ]


def _short(bar: Tqdm, what: str) -> Tqdm:
    """Let a bar fit into 80 columns, and be gone at its end."""
    bar.leave = False
    bar.bar_format = what + " {percentage:3.0f}%  {n_fmt} of {total_fmt} batches  {remaining} left"
    return bar


def _epoch(trainer: L.Trainer) -> str:
    last = "" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs}"
    return f"epoch {trainer.current_epoch + 1}{last}"
