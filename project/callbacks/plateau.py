"""``ReduceLROnPlateau``, stepped where every checkpoint either has the step or still does it."""

import sys
from typing import Any

import lightning as L
from lightning.pytorch.utilities.types import LRSchedulerConfig


class PlateauSteps(L.Callback):
    """Steps the schedulers that look at a metric, at the start of what follows.

    Lightning steps them after the last callback of an epoch or a batch, which has saved the
    checkpoint, and not at all when it resumes there. Here the step belongs to what comes next,
    which a resumed run does, too. The metrics that it needs are in the checkpoint.
    """

    def __init__(self) -> None:
        self._before: dict[str, Any] = {}  # metrics of the run that is resumed
        self._schedulers: list[tuple[LRSchedulerConfig, int]] = []  # with their frequencies

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the schedulers over from Lightning, once their frequencies are checked."""
        self._schedulers = [(config, config.frequency) for config in _plateaus(trainer)]
        for config, _ in self._schedulers:
            config.frequency = sys.maxsize

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the metrics that schedulers look at."""
        values = self._before | trainer.callback_metrics
        monitors = [config.monitor for config in _plateaus(trainer)]
        checkpoint["monitored"] = {
            name: float(values[name]) for name in monitors if name is not None and name in values
        }

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember the metrics of the run that is resumed."""
        if trainer.state.fn == "fit":
            self._before = checkpoint.setdefault("monitored", {})  # Resume may empty it

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Step for the epoch before."""
        self._step(trainer, pl_module, "epoch", trainer.current_epoch)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Step for the batch before, if it was followed by an optimizer step."""
        if not self._schedulers:
            return
        first = batch_idx == 0 and trainer.current_epoch > 0
        batches = int(trainer.num_training_batches) if first else batch_idx
        if first or batch_idx % trainer.accumulate_grad_batches == 0:
            self._step(trainer, pl_module, "step", batches)

    def _step(self, trainer: L.Trainer, model: L.LightningModule, interval: str, done: int) -> None:
        metrics = self._before | trainer.callback_metrics
        for config, frequency in self._schedulers:
            due = config.interval == interval and done and done % frequency == 0
            if due and config.monitor in metrics:  # else nothing was validated yet
                model.lr_scheduler_step(config.scheduler, float(metrics[config.monitor]))


def _plateaus(trainer: L.Trainer) -> list[LRSchedulerConfig]:
    return [config for config in trainer.lr_scheduler_configs if config.reduce_on_plateau]
