"""What Lightning's callbacks do, or fail to do, without saying so."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import Namespace
from lightning.pytorch.callbacks import (
    EarlyStopping,
    ModelCheckpoint,
    Timer,
    WeightAveraging,
)
from lightning.pytorch.utilities.types import LRSchedulerConfig

from project.approaches import ImageClassifier
from project.callbacks.checkpoint import VALIDATION, BestAndLast
from project.class_paths import init_args_of, those_of
from project.console import show
from project.data import data_of
from project.errors import UserError
from project.finetuning import FineTuningSchedule
from project.upstream.lightning import callbacks_of, ema_decay, has_averaged

ALL_OF = (  # loggers whose messages a config has asked for
    "lightning.pytorch.callbacks.early_stopping",  # verbose: true
    "lightning.pytorch.callbacks.model_summary",
    "lightning.pytorch.profilers.profiler",
)
SOME_OF = "lightning.pytorch.utilities.rank_zero"
FROM_IT = ("Epoch ",)  # ModelCheckpoint with verbose: true
MOSTLY = 0.5


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


def stop_after_validations(trainer: Namespace) -> None:
    """Let EarlyStopping look at a metric of the validation after it, at another after an epoch.

    By default the intervals of the validation decide that.

    Args:
        trainer: Config of the trainer; it is changed.
    """
    for stopping in those_of(trainer.callbacks, EarlyStopping):
        options = init_args_of(stopping)
        if "monitor" in options and options.get("check_on_train_epoch_end") is None:
            of_validation = str(options.monitor).startswith(VALIDATION)
            options.check_on_train_epoch_end = not of_validation


class Notices(L.Callback):
    """Says why a training has ended early, what an average is of, and where a profile is."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Say where the profiler writes to."""
        profiler: Any = trainer.profiler  # type: ignore[attr-defined]  # set late
        if trainer.is_global_zero and trainer.state.fn and profiler.filename and profiler.dirpath:
            rank = "" if trainer.world_size == 1 else f"-{trainer.local_rank}"
            name = f"{trainer.state.fn.value}-{profiler.filename}{rank}.txt"
            show(f"profile: {Path(profiler.dirpath, name)}")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say so if an average will be of nothing, or has few updates for its decay."""
        for stopping in callbacks_of(trainer, EarlyStopping):
            stopping.stopping_reason_message = None  # of the run that is resumed
        assert isinstance(pl_module, ImageClassifier)
        total = pl_module.total_steps()
        if total == math.inf:
            return
        for average in callbacks_of(trainer, WeightAveraging):
            _check_updates(average, trainer, int(total))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say why the training is over, if it is not its length, and what average it leaves."""
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]  # set late
            return
        where = f"after step {trainer.global_step:,}"
        for stopping in callbacks_of(trainer, EarlyStopping):
            if reason := stopping.stopping_reason_message:
                reason = reason.removesuffix(" Signaling Trainer to stop.")
                show(f"EarlyStopping: ended {where}: {reason}")
            elif stopping.best_score.isinf():
                show(f"EarlyStopping: had no {stopping.monitor} to look at")
        for checkpoint in callbacks_of(trainer, ModelCheckpoint):
            kept = checkpoint.best_model_path or checkpoint.last_model_path
            if not kept and not isinstance(checkpoint, BestAndLast):
                show("ModelCheckpoint: kept nothing, as the training was over before")
        for timer in callbacks_of(trainer, Timer):
            if (rest := timer.time_remaining()) is not None and rest <= 0:
                show(f"trainer.max_time: ended {where}")
        for average in callbacks_of(trainer, WeightAveraging):
            if not has_averaged(average):
                show(f"{type(average).__name__}: averaged nothing, as the training ended {where}")


def _check_updates(average: WeightAveraging, trainer: L.Trainer, steps: int) -> None:
    per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    start = 0
    for schedule in callbacks_of(trainer, FineTuningSchedule):  # each phase begins a new average
        start = steps - schedule.resolved.phases[-1].steps
    updates = sum(average.should_update(step_idx=step) for step in range(start, steps))
    epochs = range(start // per_epoch, math.ceil(steps / per_epoch))
    updates += sum(average.should_update(epoch_idx=epoch) for epoch in epochs)
    name, decay = type(average).__name__, ema_decay(average)
    if not updates and trainer.is_global_zero:
        show(
            f"{name}: begins after the end of the training, which has {steps:,} steps in "
            f"{len(epochs):,} epochs: nothing will be averaged"
        )
    share = 0.0 if decay is None else decay ** (updates - 1)
    if share > MOSTLY and updates > 1 and trainer.is_global_zero:
        show(
            f"{name}: decay {decay:g} is slow for {updates:,} updates; {share:.0%} of the average "
            "will be the weights after the first one"
        )


class MonitorCheck(L.Callback):
    """Looks before or in the first validation whether what is needed later will be there.

    Args:
        tests: Whether a test follows the training.
    """

    def __init__(self, tests: bool = False) -> None:
        self.tests = tests

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse to monitor a validation that there is not, and to test a part of a batch.

        Raises:
            UserError: Naming what monitors it, or the limit.
        """
        data = data_of(trainer)
        limit: Any = trainer.limit_test_batches
        if self.tests and isinstance(limit, float) and limit and data.test_images:
            batches = len(data.test_dataloader())
            if int(limit * batches) < 1:
                reason = (
                    f"{limit:g} of {batches:,} is less than one batch; give more, or 0 for none"
                )
                raise UserError(reason, "trainer.limit_test_batches")
        if data.val_images and trainer.limit_val_batches:
            return
        for key, monitor in _monitors(trainer):
            if monitor.startswith("val/") and not key.startswith("checkpoint"):
                raise UserError(f"{monitor}: nothing is validated; monitor train/loss", key)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a scheduler that would look at a validation before there is one.

        Raises:
            UserError: Naming its frequency, and what would be right.
        """
        for scheduler in trainer.lr_scheduler_configs:
            monitor = scheduler.monitor or ""
            if scheduler.reduce_on_plateau and monitor.startswith("val/"):
                _check_frequency(trainer, scheduler)

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


def _check_frequency(trainer: Any, scheduler: LRSchedulerConfig) -> None:
    between = trainer.val_check_batch  # batches from one validation to the next
    epochs = trainer.check_val_every_n_epoch  # None counts the batches through all epochs
    if scheduler.interval == "step":
        fits = epochs in (None, 1) and scheduler.frequency % between == 0
        right = f"interval: epoch, and frequency: {epochs or 1}"
    elif epochs is None:
        right = f"frequency: {math.ceil(between / trainer.num_training_batches)}"
        fits = scheduler.frequency * trainer.num_training_batches >= between
    else:
        fits, right = scheduler.frequency % epochs == 0, f"frequency: {epochs}"
    if not fits:
        raise UserError(
            f"{scheduler.frequency} {scheduler.interval} is over before {scheduler.monitor} is "
            f"measured; set {right}",
            "model.lr_scheduler.frequency",
        )


def _monitors(trainer: L.Trainer) -> Iterator[tuple[str, str]]:
    for stopping in callbacks_of(trainer, EarlyStopping):
        if stopping.strict:
            yield "trainer.callbacks.EarlyStopping.monitor", stopping.monitor
    for checkpoint in callbacks_of(trainer, ModelCheckpoint):
        own = isinstance(checkpoint, BestAndLast)
        key = "checkpoint" if own else "trainer.callbacks.ModelCheckpoint"
        if checkpoint.monitor is not None:
            yield f"{key}.monitor", checkpoint.monitor
    for scheduler in trainer.lr_scheduler_configs:
        if scheduler.reduce_on_plateau and scheduler.monitor is not None:
            yield "model.lr_scheduler.monitor", scheduler.monitor
