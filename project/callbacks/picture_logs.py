"""Gives pictures to the loggers of a run, and a table of predictions to W&B."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

OF_WANDB = "WANDB_DATA_DIR"


def log_picture(trainer: L.Trainer, key: str, path: Path) -> None:
    """Give a picture to every logger that takes some.

    Args:
        trainer: Whose loggers get it, at its step.
        key: Name in the logger, such as ``test/mistakes``.
        path: PNG file.
    """
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(key, [str(path)], trainer.global_step)
        elif isinstance(logger, TensorBoardLogger):
            import numpy as np
            from PIL import Image

            pixels = np.asarray(Image.open(path).convert("RGB"))
            logger.experiment.add_image(key, pixels, trainer.global_step, dataformats="HWC")
        elif isinstance(logger, MLFlowLogger) and logger.run_id is not None:
            folder, _, _ = key.rpartition("/")
            logger.experiment.log_artifact(logger.run_id, str(path), folder or None)


def log_table(
    trainer: L.Trainer, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """Give a table to W&B, where it can be sorted and filtered.

    Args:
        trainer: Whose loggers get it.
        key: Name in W&B.
        columns: Their names.
        rows: Their values; a uint8 array ``[H, W]`` or ``[H, W, 3]`` is shown as an image.
    """
    for logger in wandb_loggers(trainer):
        import numpy as np
        import wandb

        with _staged_beside(logger):
            data = [
                [wandb.Image(one) if isinstance(one, np.ndarray) else one for one in row]
                for row in rows
            ]
            logger.log_table(key, list(columns), data, step=trainer.global_step)


def log_confusion(
    trainer: L.Trainer, key: str, labels: list[int], predictions: list[int], names: Sequence[str]
) -> None:
    """Let W&B draw a confusion matrix of its own, which shows each count."""
    for logger in wandb_loggers(trainer):
        import wandb

        with _staged_beside(logger):
            plot = wandb.plot.confusion_matrix(
                y_true=labels, preds=predictions, class_names=list(names), title="test images"
            )
            logger.log_metrics({key: plot}, trainer.global_step)  # type: ignore[dict-item]


def wandb_loggers(trainer: L.Trainer) -> list[WandbLogger]:
    """Return the loggers of W&B."""
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]


@contextmanager
def _staged_beside(logger: WandbLogger) -> Iterator[None]:
    """Let W&B keep the images of a table beside its log, not in the home directory.

    An offline run is uploaded later, maybe after that was emptied:
    https://github.com/wandb/wandb/issues/4611
    """
    before = os.environ.get(OF_WANDB)
    os.environ.setdefault(OF_WANDB, str(Path(logger.save_dir or ".", "wandb").resolve()))
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(OF_WANDB)
