"""A callback that says when the first training step is over."""

import time
from typing import Any

import lightning as L

from benchmarks.startup import MARK


class FirstStep(L.Callback):
    """Prints the time after the first step, and ends the training."""

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Print the time, in seconds since 1970."""
        if trainer.global_step == 1:
            print(f"{MARK}{time.time()}")
            trainer.should_stop = True
