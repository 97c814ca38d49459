"""Writes predictions to a file."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch.distributed
from lightning.pytorch.callbacks import BasePredictionWriter

from project.approaches import ImageClassifier
from project.data import ImageDataModule, ImageFolder


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
        rows = self._rows
        if trainer.world_size > 1:
            parts: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, rows)
            rows = [row for part in parts for row in part]
        if trainer.global_rank != 0:
            return
        assert isinstance(pl_module, ImageClassifier)
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        with Path(trainer.default_root_dir, "predictions.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            names = [f"probability_{name}" for name in pl_module.class_names]
            writer.writerow(["image", "class", "probability", *names])
            for index, name, probabilities in sorted(rows):
                image = data.path(index) if isinstance(data, ImageFolder) else index
                digits = [f"{probability:.6f}" for probability in probabilities]
                writer.writerow([image, name, f"{max(probabilities):.6f}", *digits])
