"""Writes predictions to files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch.distributed
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from project.approaches import ImageClassifier
from project.console import readable, show
from project.csv_text import table
from project.data import ImageDataModule

MAX_CLASSES = 1000  # whose probabilities are columns; of more, the table couldn't be opened
PREDICTIONS = "predictions.csv"
TEST_PREDICTIONS = "test_predictions.csv"


class PredictionWriter(BasePredictionWriter):
    """Writes ``predictions.csv``: which image, the class, its probability, all probabilities.

    Beyond :data:`MAX_CLASSES`, only the probability of the predicted class is kept.
    """

    def __init__(self) -> None:
        super().__init__(write_interval="batch")
        self._rows: list[tuple[int, str, float, list[float]]] = []

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
        probabilities = prediction["probabilities"]
        largest = probabilities.amax(dim=1)
        if probabilities.shape[1] > MAX_CLASSES:
            probabilities = probabilities[:, :0]
        columns = (prediction["indices"], largest, probabilities)
        index, most, every = (column.tolist() for column in columns)
        self._rows += zip(index, prediction["class"], most, every)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Collect the predictions of all ranks and write them in the order of the images."""
        rows = of_all_ranks(trainer, self._rows)
        if trainer.global_rank != 0:
            return
        assert isinstance(pl_module, ImageClassifier)
        classes = pl_module.class_names
        if len(classes) > MAX_CLASSES:
            show(
                f"{PREDICTIONS}: has the probability of the predicted class only, as "
                f"{len(classes):,} classes are more than {MAX_CLASSES:,}"
            )
            classes = ()
        with table(Path(trainer.default_root_dir, PREDICTIONS)) as to:
            names = [f"probability_{name}" for name in classes]
            to.row(["image", "class", "probability", *names])
            for index, name, most, every in sorted(rows):
                to.row([_name(trainer, index), name, *(round(one, 6) for one in (most, *every))])


class TestPredictions(L.Callback):
    """Writes ``test_predictions.csv``: which image, its label, the prediction, its probability."""

    __test__ = False  # for pytest

    def __init__(self) -> None:
        self._batches: list[dict[str, Tensor]] = []

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what was predicted, without waiting for the device."""
        self._batches.append(outputs)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Collect the predictions of all ranks and write them in the order of the images."""
        assert isinstance(pl_module, ImageClassifier)
        columns = [
            torch.cat([batch[name] for batch in self._batches]).tolist()
            for name in ("indices", "labels", "predictions", "probabilities")
        ]
        self._batches = []
        rows = of_all_ranks(trainer, list(zip(*columns)))
        if trainer.global_rank != 0:
            return
        names = pl_module.class_names
        with table(Path(trainer.default_root_dir, TEST_PREDICTIONS)) as to:
            to.row(["image", "label", "prediction", "probability"])
            for index, label, predicted, probability in sorted(rows):
                image = _name(trainer, index)
                to.row([image, names[label], names[predicted], round(probability, 6)])


def of_all_ranks(trainer: L.Trainer, rows: list[Any]) -> list[Any]:
    """Return the rows of all ranks, on each of them."""
    if trainer.world_size == 1:
        return rows
    parts: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(parts, rows)
    return [row for part in parts for row in part]


def _name(trainer: L.Trainer, index: int) -> str | int:
    data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
    path = data.path(index)
    return index if path is None else readable(path)
