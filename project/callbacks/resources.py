"""The cost of a training: time, throughput and memory."""

import time
from typing import Any

import lightning as L
import torch

from project.data import Batch
from project.environment import peak_memory_mb


class ResourceMonitor(L.Callback):
    """Measures each epoch and logs it under ``workload/``, with the images that were seen.

    Attributes:
        epoch_seconds: Seconds of the training part of each epoch, without validation.
        images: Images trained on, over all epochs and ranks.
        fit_seconds: Seconds from the first step's preparation to the end of the last epoch.

    A resumed run counts on from what the checkpoint has cost.
    """

    def __init__(self) -> None:
        self.epoch_seconds: list[float] = []
        self.images = 0
        self.fit_seconds = 0.0
        self._fit_start = 0.0
        self._before = 0, 0.0  # images and seconds of the parts of the run before this one
        self._begun = 0, 0.0  # the same of the epoch in which it resumes
        self._epoch_start: float | None = None
        self._epoch_images = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what the training has cost up to now."""
        done, begun = list(self.epoch_seconds), 0.0
        if self._epoch_start is not None:
            begun = time.perf_counter() - self._epoch_start
        elif self._epoch_images:  # only its end is left
            begun = done.pop()
        return {
            "images": self.images,
            "fit_seconds": self._seconds(),
            "epoch_seconds": done,
            "begun": [self._epoch_images, begun],
        }

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Count on from what the run that is resumed has cost."""
        state = checkpoint["callbacks"].get(self.state_key)
        if trainer.state.fn != "fit" or not state:
            return
        self.images = state["images"]
        self.epoch_seconds = list(state["epoch_seconds"])
        self._before = self.images, state["fit_seconds"]
        images, seconds = state["begun"]
        self._begun = images, seconds
        self._epoch_images = images

    def _seconds(self) -> float:
        return self._before[1] + time.perf_counter() - self._fit_start

    @property
    def idle(self) -> bool:
        """Whether no epoch was trained in this process."""
        return self.images == self._before[0]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._fit_start = time.perf_counter()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of an epoch in whose middle a run resumes."""
        self.on_train_epoch_start(trainer, pl_module)
        self._epoch_images, seconds = self._begun
        self._epoch_start = time.perf_counter() - seconds

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the epoch's clock."""
        self._epoch_start = time.perf_counter()
        self._epoch_images = 0

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count the images, and log them where the metrics of the step are logged."""
        self._epoch_images += len(batch.labels)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set late
        if every and trainer.global_step % every == 0:
            pl_module.log("images", self._seen(trainer), batch_size=len(batch.labels))

    def _seen(self, trainer: L.Trainer) -> float:
        """Return the number of images trained on so far, over all epochs and ranks."""
        return float(self.images + self._epoch_images * trainer.world_size)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log how many images the weights that were validated have seen."""
        if trainer.state.fn == "fit":
            pl_module.log("images", self._seen(trainer))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the epoch's clock for the validation at its end."""
        if not trainer.sanity_checking and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the epoch's time, throughput and memory."""
        self._stop(trainer)
        if not self._epoch_images:  # a resumed run that begins with an epoch's end
            return
        images = self._epoch_images * trainer.world_size
        self.images += images
        self._epoch_images = 0
        pl_module.log_dict(
            {
                "images": float(self.images),
                "workload/fit_seconds": self._seconds(),
                "workload/epoch_seconds": self.epoch_seconds[-1],
                "workload/images_per_second": images / self.epoch_seconds[-1],
                "workload/peak_memory_mb": peak_memory_mb(pl_module.device),
            }
        )

    def _stop(self, trainer: L.Trainer) -> None:
        if self._epoch_start is not None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.epoch_seconds.append(time.perf_counter() - self._epoch_start)
            self._epoch_start = None

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        self.fit_seconds = self._seconds()

    @property
    def images_per_second(self) -> float:
        """Throughput of the training, over all epochs and ranks."""
        return self.images / sum(self.epoch_seconds) if self.epoch_seconds else 0.0
