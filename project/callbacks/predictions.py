"""Writes the predictions of ``predict`` to a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from project.approaches import ImageClassifier
from project.console import readable, show
from project.csv_text import table
from project.data import data_of
from project.data.ranks import of_all_ranks

MAX_CLASSES = 1000  # whose probabilities are columns; of more, the table couldn't be opened
PREDICTIONS = "predictions.csv"


class PredictionWriter(BasePredictionWriter):
    """Writes ``predictions.csv``: which image, the class, its probability, all probabilities.

    Beyond :data:`MAX_CLASSES`, only the probability of the predicted class is kept.
    """

    def __init__(self) -> None:
        super().__init__(write_interval="batch")
        self._batches: list[tuple[Tensor, list[str], Tensor, Tensor]] = []

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: dict[str, Any],
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Keep the predictions of a batch."""
        probabilities = prediction["probabilities"].cpu()
        every = probabilities if probabilities.shape[1] <= MAX_CLASSES else probabilities[:, :0]
        indices, most = prediction["indices"].cpu(), probabilities.amax(dim=1)
        self._batches.append((indices, prediction["class"], most, every))

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Collect the predictions of all ranks and write them in the order of the images."""
        batches, self._batches = of_all_ranks(self._batches, trainer.world_size), []
        if trainer.global_rank != 0:
            return
        assert isinstance(pl_module, ImageClassifier)
        columns = probability_columns(pl_module.class_names, PREDICTIONS)
        indices, _, most, every = zip(*batches)
        names = [name for _, batch, _, _ in batches for name in batch]
        image, largest, each = torch.cat(indices), torch.cat(most), torch.cat(every)
        with table(Path(trainer.default_root_dir, PREDICTIONS)) as to:
            to.row(["image", "class", "probability", *columns])
            for place in image.argsort().tolist():
                numbers = (largest[place].item(), *each[place].tolist())
                name = named(trainer, int(image[place]))
                to.row([name, names[place], *(round(one, 6) for one in numbers)])


def probability_columns(class_names: Sequence[str], file: str) -> list[str]:
    """Return the names of the columns that hold the probabilities of the classes.

    There are none beyond :data:`MAX_CLASSES`, which is said.

    Args:
        class_names: Name of each class.
        file: Name of the table.
    """
    if len(class_names) <= MAX_CLASSES:
        return [f"probability_{name}" for name in class_names]
    show(
        f"{file}: has the probability of the predicted class only, as {len(class_names):,} "
        f"classes are more than {MAX_CLASSES:,}"
    )
    return []


def named(trainer: L.Trainer, index: int) -> str | int:
    """Return the path of a test image as a table has it; its index if it has no file."""
    data = data_of(trainer)
    path = data.path(index)
    return index if path is None else readable(path)
