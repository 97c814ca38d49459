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

SHOWN_SECONDS = 0.5  # the device is waited for, to show the loss, no more often than that


class Bar(TQDMProgressBar):
    """Shows phase, loss, accuracy, learning rate, images per second and the time left.

    Loss and accuracy are those of the epoch up to now, of this rank; the time left is that of the
    epoch.
    """

    BAR_FORMAT = "{desc} {percentage:3.0f}%|{bar:10}| {postfix}"

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
            bar_format=self.BAR_FORMAT,
        )

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Begin to count the images of the epoch."""
        super().on_train_epoch_start(trainer)
        last = "" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs}"
        self.train_progress_bar.set_description_str(f"epoch {trainer.current_epoch + 1}{last}")
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
        bar = self.train_progress_bar
        bar.n = min(batch_idx + 1, bar.total or batch_idx + 1)
        assert isinstance(pl_module, ImageClassifier)
        bar.set_postfix_str("  ".join(self._parts(trainer, pl_module, batch_idx + 1)))

    def _parts(self, trainer: L.Trainer, model: ImageClassifier, done: int) -> list[str]:
        loss, accuracy = model.train_metrics.so_far()
        parts = [
            f"phase {schedule.progress.phase.name}"
            for schedule in trainer.callbacks  # type: ignore[attr-defined]  # set late
            if isinstance(schedule, FineTuningSchedule)
        ]
        parts += [f"loss {loss:.3f}", f"acc {accuracy:.3f}"]
        optimizer = model.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        parts.append(f"lr {max(group['lr'] for group in optimizer.param_groups):.1e}")
        seconds = time.perf_counter() - self._begun
        parts.append(f"{self._images * trainer.world_size / seconds:,.0f} img/s")
        total = self.train_progress_bar.total
        if total:
            left = seconds / done * (total - done)
            parts.append(f"{duration(left)} left")
        return parts


def duration(seconds: float) -> str:
    """Return a duration as minutes and seconds, or with hours."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
