"""What a resumed run logs: each value once, as the uninterrupted one does."""

import sys
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import CSVLogger

from project.metrics_file import metrics_file
from project.upstream.lightning import log_by_steps_alone, unlogged


class LoggedOnce(L.Callback):
    """Lets the loggers go on where a checkpoint was written, if a run goes on in its directory.

    Lightning logs the metrics of a step and of an epoch after the last callback, which has saved
    the checkpoint. They are in the checkpoint, with the number of rows before them, and a resumed
    run logs them first if the run was ended in between.
    """

    def __init__(self) -> None:
        self._missing: dict[str, Any] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let the end of a training log nothing that it would not log otherwise."""
        log_by_steps_alone(trainer)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save how much is logged, and what will be logged next."""
        files = [metrics_file(logger) for logger in _csv(trainer)]
        checkpoint["logged"] = {
            "rows": [0 if file is None else file.rows for file in files],
            "next": unlogged(trainer),
        }

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Let ``metrics.csv`` go on where the run does so in its directory."""
        folders = Path(str(trainer.ckpt_path)).resolve().parents
        here = trainer.ckpt_path and Path(trainer.default_root_dir).resolve() in folders
        if trainer.state.fn != "fit" or not here:
            return
        logged = checkpoint.get("logged", {})
        self._missing = logged.get("next")
        unknown = repeat(sys.maxsize)  # another logger, or a checkpoint of an older version
        for logger, rows in zip(_csv(trainer), chain(logged.get("rows", []), unknown)):
            if (file := metrics_file(logger)) is None:
                continue
            if file.go_on(rows, rows + (self._missing is not None)) > rows:
                self._missing = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log what the run before would have logged next."""
        if self._missing is not None:
            for logger in trainer.loggers:
                logger.log_metrics(self._missing["metrics"], self._missing["step"])
                logger.save()
            self._missing = None


def _csv(trainer: L.Trainer) -> list[CSVLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, CSVLogger)]
