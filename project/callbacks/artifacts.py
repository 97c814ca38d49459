"""What a run makes and uses, as artifacts of W&B: its best checkpoint, its images, its backbone."""

from pathlib import Path

import lightning as L

from project.artifacts import PREFIX, is_artifact
from project.callbacks.checkpoint import best_and_last
from project.callbacks.record import RunRecord
from project.checkpoints import find_checkpoint
from project.data import data_of
from project.run_files import CHECKPOINTS, CONFIG
from project.tracking import model_of
from project.wandb_logger import RunLogger


class Artifacts(L.Callback):
    """Logs the best checkpoint, with its config, and what the training has used.

    Args:
        record: What identifies the images.
    """

    def __init__(self, record: RunRecord) -> None:
        self.record = record

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Say which images and which run of one's own the training starts from."""
        if stage != "fit":
            return
        data = data_of(trainer)
        root = getattr(data, "root", None)
        source = _source(str(pl_module.hparams.get("backbone") or ""))
        for logger in _loggers(trainer):
            logger.uses_images(type(data).__name__, root and Path(root), self.record.images)
            if source:
                logger.uses(source)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the best checkpoint."""
        checkpoint = best_and_last(trainer)
        best = Path(checkpoint.best_model_path) if checkpoint else Path()
        if checkpoint is None or not best.is_file():  # it is a folder if the strategy shards
            return
        trainer.strategy.checkpoint_io.teardown()  # which may still write it
        files = {
            f"{CHECKPOINTS}/{best.name}": best,
            CONFIG: Path(trainer.default_root_dir, CONFIG),
        }
        for logger in _loggers(trainer):
            logger.keep_model(files, checkpoint.best)


def _loggers(trainer: L.Trainer) -> list[RunLogger]:
    found = [logger for logger in trainer.loggers if isinstance(logger, RunLogger)]
    return found if trainer.is_global_zero else []


def _source(backbone: str) -> str | None:
    """Return the name in W&B of the model that a backbone is of, None if that isn't known."""
    if is_artifact(backbone):
        return backbone.removeprefix(PREFIX)
    if not backbone or not Path(backbone).exists():  # the name of an architecture
        return None
    return model_of(find_checkpoint(backbone).parent.parent)
