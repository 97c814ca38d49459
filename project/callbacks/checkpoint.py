"""The two checkpoints that a run keeps."""

from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint


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

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Choose the folder, and whether there is anything to monitor."""
        self.dirpath = str(Path(trainer.default_root_dir, "checkpoints"))
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the state of a checkpoint, if it is of the same run directory."""
        if state_dict["dirpath"] == self.dirpath:
            super().load_state_dict(state_dict)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Monitor nothing if nothing is validated."""
        if not sum(trainer.num_val_batches) and (self.monitor or "").startswith("val/"):
            self.monitor = None
        super().on_train_start(trainer, pl_module)
