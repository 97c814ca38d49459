"""Writes predictions to files."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import torch.distributed
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from project.approaches import ImageClassifier
from project.console import readable
from project.data import ImageDataModule

if TYPE_CHECKING:
    from _csv import Writer

PREDICTIONS = "predictions.csv"
TEST_PREDICTIONS = "test_predictions.csv"


class PredictionWriter(BasePredictionWriter):
    """Writes ``predictions.csv``: which image, the class, its probability, all probabilities."""

    def __init__(self) -> None:
        super().__init__(write_interval="batch")
        self._rows: list[tuple[int, str, list[float]]] = []

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
        columns = (prediction["indices"], prediction["probabilities"])
        index, probabilities = (column.tolist() for column in columns)
        self._rows += zip(index, prediction["class"], probabilities)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Collect the predictions of all ranks and write them in the order of the images."""
        rows = _of_all_ranks(trainer, self._rows)
        if trainer.global_rank != 0:
            return
        assert isinstance(pl_module, ImageClassifier)
        with _table(trainer, PREDICTIONS) as writer:
            names = [f"probability_{name}" for name in pl_module.class_names]
            writer.writerow(["image", "class", "probability", *names])
            for index, name, probabilities in sorted(rows):
                digits = [f"{probability:.6f}" for probability in probabilities]
                writer.writerow([_name(trainer, index), name, f"{max(probabilities):.6f}", *digits])


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
        rows = _of_all_ranks(trainer, list(zip(*columns)))
        if trainer.global_rank != 0:
            return
        names = pl_module.class_names
        with _table(trainer, TEST_PREDICTIONS) as writer:
            writer.writerow(["image", "label", "prediction", "probability"])
            for index, label, predicted, probability in sorted(rows):
                image = _name(trainer, index)
                writer.writerow([image, names[label], names[predicted], f"{probability:.6f}"])


@contextmanager
def _table(trainer: L.Trainer, name: str) -> "Iterator[Writer]":
    """Open a table in the run directory."""
    path = Path(trainer.default_root_dir, name)
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        yield csv.writer(file)


def _of_all_ranks(trainer: L.Trainer, rows: list[Any]) -> list[Any]:
    if trainer.world_size == 1:
        return rows
    parts: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(parts, rows)
    return [row for part in parts for row in part]


def _name(trainer: L.Trainer, index: int) -> str | int:
    data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
    path = data.path(index)
    return index if path is None else readable(path)
