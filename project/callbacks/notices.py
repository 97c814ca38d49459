"""What Lightning's callbacks do, or fail to do, without saying so."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
from lightning.pytorch.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    ModelCheckpoint,
    Timer,
    WeightAveraging,
)

from project.approaches import ImageClassifier
from project.callbacks.checkpoint import BestAndLast
from project.console import show
from project.data import ImageDataModule
from project.errors import UserError
from project.finetuning import FineTuningSchedule
from project.upstream import ema_decay, has_averaged

ALL_OF = (  # loggers whose messages a config has asked for
    "lightning.pytorch.callbacks.early_stopping",  # verbose: true
    "lightning.pytorch.callbacks.model_summary",
    "lightning.pytorch.profilers.profiler",
)
SOME_OF = "lightning.pytorch.utilities.rank_zero"
FROM_IT = ("Epoch ",)  # ModelCheckpoint with verbose: true
MOSTLY = 0.5
Kind = TypeVar("Kind", bound=L.Callback)


def show_messages() -> None:
    """Show those messages of Lightning's that a config has asked for; the others stay hidden."""
    for name in (*ALL_OF, SOME_OF):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addFilter(_show_information)


def _show_information(record: logging.LogRecord) -> bool:
    """Print what is below a warning, without what Lightning puts around it."""
    if record.levelno > logging.INFO:
        return True
    message = record.getMessage().strip()
    if record.name in ALL_OF or message.startswith(FROM_IT):
        show(message)
    return False


class Notices(L.Callback):
    """Says why a training has ended early, what an average is of, and where a profile is."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Say where the profiler writes to."""
        profiler: Any = trainer.profiler  # type: ignore[attr-defined]  # set late
        if trainer.is_global_zero and trainer.state.fn and profiler.filename and profiler.dirpath:
            path = Path(profiler.dirpath, f"{trainer.state.fn.value}-{profiler.filename}*")
            show(f"profile: {path}")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse an average that begins too late; say so if it has too few steps.

        Raises:
            UserError: If it would average nothing.
        """
        for stopping in _callbacks(trainer, EarlyStopping):
            stopping.stopping_reason_message = None  # of the run that is resumed
        assert isinstance(pl_module, ImageClassifier)
        steps = pl_module.total_steps()
        for average in _callbacks(trainer, EMAWeightAveraging):
            by_epoch = average.update_starting_at_epoch is not None
            start = average.update_starting_at_step or 0
            if start >= steps and not by_epoch:
                raise UserError(
                    f"{type(average).__name__}: update_starting_at_step: {start:,} is after the "
                    f"training, which has {int(steps):,} steps",
                    "trainer.callbacks",
                )
            schedules = _callbacks(trainer, FineTuningSchedule)
            for schedule in schedules:  # it begins anew with each phase
                steps = min(steps, schedule.resolved.phases[-1].steps)
            if steps != math.inf and average.update_every_n_steps > 0:
                _say_share(average, max(steps - start, 1) / average.update_every_n_steps, trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say why the training is over, if it is not its length, and what average it leaves."""
        if not trainer.is_global_zero:
            return
        where = f"after step {trainer.global_step:,}"
        for stopping in _callbacks(trainer, EarlyStopping):
            if reason := stopping.stopping_reason_message:
                reason = reason.removesuffix(" Signaling Trainer to stop.")
                show(f"EarlyStopping: ended {where}: {reason}")
        for timer in _callbacks(trainer, Timer):
            if (rest := timer.time_remaining()) is not None and rest <= 0:
                show(f"trainer.max_time: ended {where}")
        for average in _callbacks(trainer, WeightAveraging):
            if not has_averaged(average):
                show(f"{type(average).__name__}: averaged nothing, as the training ended {where}")


def _say_share(average: EMAWeightAveraging, updates: float, trainer: L.Trainer) -> None:
    decay = ema_decay(average)
    share = 0.0 if decay is None else decay ** (updates - 1)
    if share > MOSTLY and updates > 1 and trainer.is_global_zero:
        show(
            f"{type(average).__name__}: decay {decay:g} is slow for {updates:,.0f} updates; "
            f"{share:.0%} of the average will be the weights after the first one"
        )


class MonitorCheck(L.Callback):
    """Looks in the first validation, not after an epoch, whether what is monitored exists."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse to monitor a validation that there is not.

        Raises:
            UserError: Naming what monitors it.
        """
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if data.val_images and trainer.limit_val_batches:
            return
        for key, monitor in _monitors(trainer):
            if monitor.startswith("val/") and not key.startswith("checkpoint"):
                raise UserError(f"{monitor}: nothing is validated; monitor train/loss", key)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse metrics of the validation that it hasn't logged.

        Raises:
            UserError: Naming what monitors it, and the metrics that there are.
        """
        if trainer.state.fn != "fit":
            return
        known = [name for name in trainer.callback_metrics if name.startswith("val/")]
        for key, monitor in _monitors(trainer):
            if monitor.startswith("val/") and monitor not in known:
                names = ", ".join(sorted([*known, "train/accuracy", "train/loss"]))
                raise UserError(f"there is no {monitor!r}; known are {names}", key)


def _monitors(trainer: L.Trainer) -> Iterator[tuple[str, str]]:
    for stopping in _callbacks(trainer, EarlyStopping):
        if stopping.strict:
            yield "trainer.callbacks.EarlyStopping.monitor", stopping.monitor
    for checkpoint in _callbacks(trainer, ModelCheckpoint):
        own = isinstance(checkpoint, BestAndLast)
        key = "checkpoint" if own else "trainer.callbacks.ModelCheckpoint"
        if checkpoint.monitor is not None:
            yield f"{key}.monitor", checkpoint.monitor
    for scheduler in trainer.lr_scheduler_configs:
        if scheduler.reduce_on_plateau and scheduler.monitor is not None:
            yield "model.lr_scheduler.monitor", scheduler.monitor


def _callbacks(trainer: L.Trainer, kind: type[Kind]) -> list[Kind]:
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set late
    return [callback for callback in callbacks if isinstance(callback, kind)]
