"""Records the config and the environment of a run in every logger, and notes on its data."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from project import config_text
from project.approaches import ImageClassifier
from project.console import readable
from project.data import ImageDataModule, data_of
from project.environment import git_commit, versions
from project.metrics_file import last_values
from project.run_files import read_summary
from project.runs import RunDir
from project.wandb_logger import RunLogger


class RunRecord(L.Callback):
    """Gives the loggers the whole config, and what else a result depends on.

    Args:
        config: The complete config as YAML, without the paths of this run.
        directory: The run directory.

    Attributes:
        images: Number of images of each split of a training, and the SHA-256 that identifies them.
    """

    def __init__(self, config: str, directory: RunDir) -> None:
        self.config = config
        self.directory = directory
        self.images: dict[str, dict[str, Any]] = {}
        self._logged = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Log and write, once, on the first rank, before anything is trained."""
        if trainer.global_rank != 0:
            return
        known = self.directory.tracked != self.directory.path  # W&B has the config of the training
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.begin(trains=stage == "fit", by_epoch=_validates_once(trainer))
                if known:
                    logger.carry_on(_of_training(self.directory.tracked))
        if self._logged:
            return
        self._logged = True
        data_of(trainer).write_notes(self.directory.path)
        record: dict[str, Any] = {
            **config_text.load(self.config),
            "run_dir": str(self.directory.path),
            "versions": versions(),
            "git": git_commit(),
            "parameters": parameters(pl_module),
        }
        if stage == "fit":
            self.images = record["images"] = _images(data_of(trainer))
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger) or (known and isinstance(logger, WandbLogger)):
                continue  # config.yaml is beside the file already
            logger.log_hyperparams(_readable(record))

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Let a run that is resumed have this config, now that its checkpoint fits."""
        self.directory.go_on(self.config)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Do the same where only the end of an epoch was left."""
        self.directory.go_on(self.config)


def _of_training(run: Path) -> dict[str, float]:
    """Return the last values that a training has logged, and the scores of its best checkpoint."""
    summary = read_summary(run)
    best = {f"best/{name}": summary[name] for name in summary if name.startswith("val/")}
    return last_values(run) | best


def _validates_once(trainer: Any) -> bool:
    """Return whether an epoch has one validation at most."""
    interval = trainer.val_check_interval
    whole = isinstance(interval, float) and interval == 1
    return whole and trainer.check_val_every_n_epoch is not None


def _readable(value: Any) -> Any:
    """Return a config in which every text is UTF-8, as W&B demands; a path may be none."""
    if isinstance(value, dict):
        return {_readable(key): _readable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_readable(item) for item in value]
    return readable(value) if isinstance(value, str) else value


def _images(data: ImageDataModule) -> dict[str, dict[str, Any]]:
    splits = {"train": data.train_images, "val": data.val_images, "test": data.test_images}
    return {
        split: {"images": len(images), "sha256": images.content()}
        for split, images in splits.items()
        if images is not None
    }


def parameters(pl_module: L.LightningModule) -> dict[str, int]:
    """Return the number of parameters, in total and trained."""
    assert isinstance(pl_module, ImageClassifier)
    total = sum(parameter.numel() for parameter in pl_module.parameters())
    return {"total": total, "trained": pl_module.num_trained()}
