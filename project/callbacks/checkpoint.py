"""The two checkpoints that a run keeps."""

from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from project.data import ImageDataModule


class BestAndLast(ModelCheckpoint):
    """Keeps ``checkpoints/best.ckpt`` and ``checkpoints/last.ckpt`` in the run directory.

    Without validation images the last epoch counts as the best.

    Args:
        monitor: Metric that decides which epoch is the best.
        mode: Whether small or large values of it are good.
    """

    def __init__(self, monitor: str = "val/loss", mode: Literal["min", "max"] = "min") -> None:
        super().__init__(
            filename="best",
            monitor=monitor,
            mode=mode,
            save_last=True,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )

    @property
    def state_key(self) -> str:
        """Name of the state in a checkpoint; there is one such callback, whatever it monitors."""
        return type(self).__name__

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Choose the folder, and monitor nothing if nothing is validated."""
        self.dirpath = str(Path(trainer.default_root_dir, "checkpoints").resolve())
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if stage == "fit" and not data.val_images and (self.monitor or "").startswith("val/"):
            self.monitor = None
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the state of a checkpoint, if it is of the same run directory."""
        if state_dict["dirpath"] == self.dirpath:
            super().load_state_dict(state_dict)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the last checkpoint after every epoch; Lightning does only where one is the best."""
        super().on_train_epoch_end(trainer, pl_module)
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))


def best_and_last(trainer: L.Trainer) -> BestAndLast | None:
    """Return the run's own checkpoint callback; a config may have added others."""
    own = [
        callback for callback in trainer.checkpoint_callbacks if isinstance(callback, BestAndLast)
    ]
    return own[0] if own else None
