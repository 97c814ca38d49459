"""The two checkpoints that a run keeps."""

import shutil
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from project.checkpoints import load_checkpoint
from project.data import ImageDataModule
from project.errors import UserError
from project.upstream import write_last, write_last_within_epoch


class BestAndLast(ModelCheckpoint):
    """Keeps ``checkpoints/best.ckpt`` and ``checkpoints/last.ckpt`` in the run directory.

    Without validation images the last epoch counts as the best.

    Args:
        monitor: Metric that decides which epoch is the best.
        mode: Whether small or large values of it are good.
        every_n_steps: Write ``last.ckpt`` also after every n optimizer steps; null writes it after
            every epoch only.
    """

    def __init__(
        self,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] = "min",
        every_n_steps: int | None = None,
    ) -> None:
        super().__init__(
            filename="best",
            monitor=monitor,
            mode=mode,
            save_last=True,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        if every_n_steps is not None and every_n_steps < 1:
            raise UserError(
                f"checkpoint.every_n_steps: {every_n_steps} must be at least 1, or null"
            )
        self.every_n_steps = every_n_steps

    @property
    def state_key(self) -> str:
        """Name of the state in a checkpoint; there is one such callback, whatever it monitors."""
        return type(self).__name__

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Choose the folder, and monitor nothing if nothing is validated."""
        self._first_rank = trainer.is_global_zero
        self.dirpath = str(Path(trainer.default_root_dir, "checkpoints").resolve())
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if stage == "fit" and not data.val_images and (self.monitor or "").startswith("val/"):
            self.monitor = None
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the state of a checkpoint, with the best one of its run, if it is still there.

        Where the run has another directory, that is copied; a later best is not that of the state.
        """
        old, best = state_dict["dirpath"], Path(state_dict["best_model_path"])
        if old != self.dirpath:
            if not best.is_file() or _best_score(best) != state_dict["best_model_score"]:
                return
            if self._first_rank:
                Path(str(self.dirpath)).mkdir(parents=True, exist_ok=True)
                shutil.copy(best, Path(str(self.dirpath), best.name))
            state_dict = {key: self._moved(value, old) for key, value in state_dict.items()}
        super().load_state_dict(state_dict)

    def _moved(self, value: Any, old: str) -> Any:
        if isinstance(value, dict):
            return {self._moved(key, old): score for key, score in value.items()}
        return value.replace(old, str(self.dirpath)) if isinstance(value, str) else value

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save the last checkpoint within an epoch, at the end of an optimizer step."""
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if self.every_n_steps is None or not stepped or trainer.is_last_batch:
            return
        if trainer.global_step % self.every_n_steps == 0:
            write_last_within_epoch(self, trainer)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Save the last checkpoint when the run is told to terminate."""
        if isinstance(exception, SIGTERMException) and trainer.training:
            write_last(self, trainer)
            if trainer.global_rank == 0:
                run_dir = trainer.default_root_dir
                print(f"terminated at step {trainer.global_step}; --ckpt_path {run_dir} goes on")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the last checkpoint after every epoch."""
        super().on_train_epoch_end(trainer, pl_module)
        write_last(self, trainer)


def _best_score(best: Path) -> Any:
    return load_checkpoint(best)["callbacks"].get(BestAndLast.__name__, {}).get("best_model_score")


def best_and_last(trainer: L.Trainer) -> BestAndLast | None:
    """Return the run's own checkpoint callback; a config may have added others."""
    own = [
        callback for callback in trainer.checkpoint_callbacks if isinstance(callback, BestAndLast)
    ]
    return own[0] if own else None
