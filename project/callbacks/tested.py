"""What a test finds: scores that take all predictions at once, and tables of images and classes."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from project.approaches import ImageClassifier
from project.approaches.scores import (
    COUNTS,
    TOP,
    calibration_error,
    of_classes,
    of_ranking,
    places,
)
from project.callbacks.predictions import MAX_CLASSES, named, probability_columns
from project.console import print_table, show
from project.csv_text import table
from project.data.ranks import of_all_ranks

PER_CLASS = "per_class.csv"
TEST_PREDICTIONS = "test_predictions.csv"
WEAKEST = 3  # classes that are named
SHOWN = ("images", "precision", "recall", "f1")  # in the terminal
MOST_IN_SUMMARY = 100  # classes


class TestResults(L.Callback):
    """Logs further scores, and writes ``per_class.csv`` and ``test_predictions.csv``.

    Beyond :data:`MAX_CLASSES`, only the probability of the predicted class is kept, and there are
    no scores of single classes.

    Args:
        per_class: Whether to show the scores of each class, instead of naming the weakest.

    Attributes:
        classes: Scores of each class, by its name and theirs; empty for very many classes.
        found: What was predicted, in the order of the images: ``indices``, ``labels``,
            ``predictions``, ``confidences``, ``losses``, ``places`` of the labels, each ``[N]``,
            and ``logits`` ``[N, K]``, or ``[N, 0]`` for very many classes; empty before a test.
    """

    __test__ = False  # for pytest

    def __init__(self, per_class: bool = False) -> None:
        self.per_class = per_class
        self.classes: dict[str, dict[str, float]] = {}
        self._batches: list[dict[str, Tensor]] = []
        self.found: dict[str, Tensor] = {}

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
        labels, logits = outputs["labels"], outputs["logits"]
        probabilities = logits.softmax(dim=1)
        confidences, predictions = probabilities.max(dim=1)
        self._batches.append(
            {
                "indices": outputs["indices"],
                "labels": labels,
                "predictions": predictions,
                "confidences": confidences,
                "losses": functional.cross_entropy(logits, labels, reduction="none"),
                "places": places(logits, labels),
                "logits": logits if logits.shape[1] <= MAX_CLASSES else logits[:, :0],
            }
        )

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Collect the predictions of all ranks, in the order of the images, and log the scores."""
        assert isinstance(pl_module, ImageClassifier)
        mine = [{name: part.cpu() for name, part in batch.items()} for batch in self._batches]
        self._batches = []
        parts = of_all_ranks(mine, trainer.world_size)
        whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        order = whole["indices"].argsort()
        self.found = {name: column[order] for name, column in whole.items()}
        scores = self._scores(pl_module)
        known = pl_module.more_test_metrics  # of the config, which may have the same names
        pl_module.log_dict(
            {f"test/{name}": score for name, score in scores.items() if name not in known}
        )

    def _scores(self, model: ImageClassifier) -> dict[str, float]:
        found, scores = self.found, {}
        labels, logits = found["labels"], found["logits"]
        right = found["predictions"] == labels
        if model.num_classes > TOP:
            scores[f"top{TOP}_accuracy"] = (found["places"] < TOP).float().mean().item()
        if logits.shape[1]:
            classes = of_classes(logits.softmax(dim=1), labels)
            self.classes = {
                name: {
                    score: (int if score in COUNTS else float)(values[label])
                    for score, values in classes.items()
                }
                for label, name in enumerate(model.class_names)
            }
            ranking = of_ranking(classes)
            scores |= {name: score for name, score in ranking.items() if score == score}
        scores["calibration_error"] = calibration_error(found["confidences"], right)
        if model.temperature != 1:
            scores["temperature"] = model.temperature
            if logits.shape[1]:
                before = logits * model.temperature
                sure = before.softmax(dim=1).amax(dim=1)
                scores["uncalibrated_loss"] = functional.cross_entropy(before, labels).item()
                scores["uncalibrated_calibration_error"] = calibration_error(sure, right)
        return scores

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the tables, and name the classes that most is wrong in."""
        assert isinstance(pl_module, ImageClassifier)
        found = self.found
        if trainer.global_rank != 0 or not found:
            return
        folder, names = Path(trainer.default_root_dir), pl_module.class_names
        columns = probability_columns(names, TEST_PREDICTIONS)
        with table(folder / TEST_PREDICTIONS) as to:
            to.row(["image", "label", "prediction", "probability", *columns])
            rows = (found[name] for name in ("indices", "labels", "predictions", "confidences"))
            every = found["logits"].softmax(dim=1)
            for index, label, predicted, most, row in zip(*(x.tolist() for x in rows), every):
                image, texts = named(trainer, index), (names[label], names[predicted])
                to.row([image, *texts, *(round(one, 6) for one in (most, *row.tolist()))])
        if not self.classes:
            return
        with table(folder / PER_CLASS) as to:
            scores = list(next(iter(self.classes.values())))
            to.row(["class", *scores])
            for name, values in self.classes.items():
                to.row([name, *(None if one != one else round(one, 6) for one in values.values())])
        self._show_classes()

    def _show_classes(self) -> None:
        known = {name: values for name, values in self.classes.items() if values["images"]}
        by_f1 = sorted(known, key=lambda name: known[name]["f1"])
        if self.per_class:
            rows = Table("class", title="test, by F1")
            for score in SHOWN:
                rows.add_column(score, justify="right")
            for name in by_f1:
                count, *scores = (known[name][score] for score in SHOWN)
                texts = ("" if score != score else f"{score:.4f}" for score in scores)
                rows.add_row(name, f"{count:,}", *texts)
            print_table(rows)
        elif weakest := [name for name in by_f1[:WEAKEST] if known[name]["f1"] < 1]:
            text = ", ".join(f"{name} {known[name]['f1']:.4f}" for name in weakest)
            show(f"weakest classes, by F1: {text}; {PER_CLASS} has all, or --per_class true")
