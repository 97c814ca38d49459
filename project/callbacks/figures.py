"""The pictures of a run: PNG files in its directory, and the same in its loggers."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from project.approaches import ImageClassifier
from project.callbacks.cam import class_activation_maps, overlaid
from project.callbacks.picture_logs import (
    log_confusion,
    log_picture,
    log_table,
    wandb_loggers,
)
from project.callbacks.plots import (
    RIGHT,
    WRONG,
    Row,
    allowed_to_fail,
    draw_class_accuracy,
    draw_confusion_matrix,
    draw_precision_recall,
    draw_reliability,
    draw_rows,
    short,
)
from project.callbacks.predictions import named
from project.callbacks.schedule_plot import draw_schedule
from project.callbacks.tested import TestResults
from project.console import show
from project.data import ImageDataModule, data_of
from project.data.batches import Images
from project.data.sheet import sheet
from project.data.splits import spread
from project.finetuning import FineTuningSchedule
from project.run_files import PICTURES
from project.upstream.lightning import callbacks_of

MOST_CLASSES = 100  # more can't be read
COLUMNS = 8  # images in a row
SEEN_EPOCHS = 4  # whose augmentation is drawn
TABLE_ROWS = 100
MOST_CURVES_OF = 10**7  # probabilities, from which precision against recall is drawn
TABLE = ("image", "label", "prediction", "probability", "loss", "right", "path")


class Figures(L.Callback):
    """Draws training images, predictions of validation and test, and the scores of the test.

    A picture that can't be drawn is one line: what was trained must not be lost for it. None draws
    from torch's random state, and the network isn't asked again, so that a training is the same
    with and without them.

    Args:
        results: Where the predictions of the test come from.
        every: Epochs between pictures of validation predictions, which the last one has, too; 0
            draws nothing at all.
    """

    def __init__(self, results: TestResults, every: int = 5) -> None:
        self.results = results
        self.every = every
        self._validated: list[dict[str, Tensor]] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw training images as the network sees them, and a schedule, once in a run."""
        if self._draws(trainer) and trainer.global_step == trainer.current_epoch == 0:
            for schedule in callbacks_of(trainer, FineTuningSchedule):
                if schedule.previews:
                    groups = list(schedule.resolved.groups.layer_group)
                    draw = partial(draw_schedule, schedule.previews, groups)
                    _draw(trainer, "train/schedule", draw)
            with allowed_to_fail("train_images.png"):
                rows, title = training_images(data_of(trainer))
                _draw(trainer, "train/images", partial(draw_rows, rows, title))

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what was predicted, without waiting for the device."""
        if not self._draws_validation(trainer) or not isinstance(outputs, dict):
            return
        confidences, predictions = outputs["logits"].softmax(dim=1).max(dim=1)
        found = {"predictions": predictions, "confidences": confidences}
        self._validated.append({name: outputs[name] for name in ("indices", "labels")} | found)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw predictions of the first rank's validation images."""
        batches, self._validated = self._validated, []
        images = data_of(trainer).val_images if batches else None
        if images is None:
            return
        assert isinstance(pl_module, ImageClassifier)
        epoch = trainer.current_epoch + 1
        with allowed_to_fail("val_predictions.png"):
            found = {name: torch.cat([one[name].cpu() for one in batches]) for name in batches[0]}
            rows = predicted_images(data_of(trainer), images, found, pl_module.class_names)
            title = f"Validation images after epoch {epoch}"
            file = f"{PICTURES}/val_predictions_{epoch:04}.png"
            _draw(trainer, "val/predictions", partial(draw_rows, rows, title), file)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw what the test has found."""
        assert isinstance(pl_module, ImageClassifier)
        found, names = self.results.found, pl_module.class_names
        if not self._draws(trainer):
            return
        self._draw_counts(trainer, pl_module)
        if not found:
            return
        right = found["predictions"] == found["labels"]
        draw = partial(draw_reliability, found["confidences"], right)
        _draw(trainer, "test/reliability", draw)
        if 0 < found["logits"].numel() <= MOST_CURVES_OF:
            probabilities = found["logits"].softmax(dim=1)
            draw = partial(draw_precision_recall, probabilities, found["labels"], names)
            _draw(trainer, "test/precision_recall", draw)
        images = data_of(trainer).test_images
        assert images is not None
        if not right.all():
            with allowed_to_fail("test_mistakes.png"):
                rows = mistakes(data_of(trainer), images, found, names)
                title = f"{int((~right).sum()):,} of {len(right):,} test images are predicted wrong"
                _draw(trainer, "test/mistakes", partial(draw_rows, rows, title))
            with allowed_to_fail("test_class_activation.png"):
                if rows := looked_at(data_of(trainer), images, pl_module, found):
                    title = "Where the network sees the class that it predicts wrong (Grad-CAM)"
                    _draw(trainer, "test/class_activation", partial(draw_rows, rows, title))
        with allowed_to_fail("the table of test predictions"):
            if wandb_loggers(trainer):
                log_table(trainer, "wandb/predictions", TABLE, self._table(trainer, images, names))
                if len(names) <= MOST_CLASSES:
                    labels, predictions = (found[x].tolist() for x in ("labels", "predictions"))
                    log_confusion(trainer, "wandb/confusion", labels, predictions, names)

    def _draw_counts(self, trainer: L.Trainer, model: ImageClassifier) -> None:
        confusion, path = model.test_metrics.total_confusion, "confusion_matrix.png"
        if confusion is None or model.num_classes > MOST_CLASSES:
            classes = f"{model.num_classes:,} classes"
            show(f"{path}: not drawn, as {classes} are more than {MOST_CLASSES}")
        else:
            draw = partial(draw_confusion_matrix, confusion.cpu(), model.class_names)
            _draw(trainer, "test/confusion_matrix", draw, path)
        if confusion is not None and model.num_classes > 1:
            draw = partial(draw_class_accuracy, confusion.cpu(), model.class_names)
            _draw(trainer, "test/class_accuracy", draw)

    def _table(
        self, trainer: L.Trainer, images: Images, names: Sequence[str]
    ) -> list[tuple[Any, ...]]:
        """Return rows of the table: mistakes first, each part by its loss."""
        found = self.results.found
        right = found["predictions"] == found["labels"]
        worst = (found["losses"] - right * (found["losses"].max() + 1)).argsort(descending=True)
        chosen = worst[:TABLE_ROWS]
        indices = found["indices"][chosen]
        pixels = _pixels(data_of(trainer), images, indices).permute(0, 2, 3, 1)
        shown = (pixels * 255).round().byte().numpy()
        columns = ("labels", "predictions", "confidences", "losses", "indices")
        rows = zip(
            shown, right[chosen].tolist(), *(found[name][chosen].tolist() for name in columns)
        )
        return [
            (
                image[..., 0] if image.shape[2] == 1 else image,
                *(names[label], names[predicted], round(sure, 6), round(loss, 6), is_right),
                str(named(trainer, index)),
            )
            for image, is_right, label, predicted, sure, loss, index in rows
        ]

    def _draws(self, trainer: L.Trainer) -> bool:
        return self.every > 0 and trainer.global_rank == 0

    def _draws_validation(self, trainer: L.Trainer) -> bool:
        if not self._draws(trainer) or trainer.sanity_checking:
            return False
        epoch = trainer.current_epoch + 1
        return trainer.state.fn != "fit" or epoch % self.every == 0 or epoch == trainer.max_epochs


def training_images(
    data: ImageDataModule, images: int | None = None, epochs: int = SEEN_EPOCHS
) -> tuple[list[Row], str]:
    """Return rows of training images as the network sees them, and their title.

    With augmentation, each row is of one image in several epochs.

    Args:
        data: The data, after its ``setup``.
        images: Number of images; None takes 6, or 24 where one in several epochs is the same.
        epochs: Number of epochs, from the first on.
    """
    title = "Training images as the network sees them"
    if data.augment is None:
        seen, labels = sheet(data, images or 3 * COLUMNS, 0)
        names = [short(data.class_names[label], 16) for label in labels.tolist()]
        parts = range(0, len(names), COLUMNS)
        return [Row(seen[x : x + COLUMNS, 0], names[x : x + COLUMNS]) for x in parts], title
    seen, labels = sheet(data, images or 6, epochs)
    numbered = [f"epoch {epoch}" for epoch in range(1, epochs + 1)]
    rows = [
        Row(row, [f"{short(data.class_names[label], 16)}\nnot augmented", *numbered])
        for row, label in zip(seen, labels.tolist())
    ]
    return rows, f"{title}, augmented anew in each epoch"


def predicted_images(
    data: ImageDataModule, images: Images, found: dict[str, Tensor], names: Sequence[str]
) -> list[Row]:
    """Return a row of images that are predicted right, one of mistakes, and the surest of these.

    Args:
        data: The data.
        images: The split.
        found: ``indices``, ``labels``, ``predictions`` and ``confidences``, each ``[N]``.
        names: Name of each class.
    """
    right = found["predictions"] == found["labels"]
    well, badly = right.nonzero()[:, 0], (~right).nonzero()[:, 0]
    sure = badly[found["confidences"][badly].argsort(descending=True)]
    some = badly[spread(len(badly), COLUMNS)] if len(badly) > COLUMNS else badly[:0]
    parts = (
        (f"right: {len(well):,} images, some of them", well[spread(len(well), COLUMNS)], RIGHT),
        (f"wrong: {len(badly):,} images, some of them", some, WRONG),
        (f"of {len(badly):,} mistakes those that the model is surest of", sure[:COLUMNS], WRONG),
    )
    return [_row(data, images, found, names, *part) for part in parts if len(part[1])]


def mistakes(
    data: ImageDataModule, images: Images, found: dict[str, Tensor], names: Sequence[str]
) -> list[Row]:
    """Return rows of the mistakes that the model is surest of; arguments as before."""
    badly = (found["predictions"] != found["labels"]).nonzero()[:, 0]
    sure = badly[found["confidences"][badly].argsort(descending=True)][: 3 * COLUMNS]
    parts = torch.split(sure, COLUMNS)
    headings = ["those that the model is surest of come first", *[""] * len(parts)]
    return [
        _row(data, images, found, names, heading, part, WRONG)
        for heading, part in zip(headings, parts)
    ]


def looked_at(
    data: ImageDataModule, images: Images, model: ImageClassifier, found: dict[str, Tensor]
) -> list[Row]:
    """Return the surest mistakes and their class activation maps; nothing without convolutions."""
    badly = (found["predictions"] != found["labels"]).nonzero()[:, 0]
    sure = badly[found["confidences"][badly].argsort(descending=True)][:COLUMNS]
    indices = found["indices"][sure]
    seen = data.transform(images[indices].images.to(model.device), indices, None)
    maps = class_activation_maps(model, seen, found["predictions"][sure].to(model.device))
    if maps is None:
        return []
    row = _row(
        data,
        images,
        found,
        model.class_names,
        "the mistakes that the model is surest of",
        sure,
        WRONG,
    )
    over = overlaid(row.images, maps.cpu())
    return [
        row,
        Row(over, [""] * len(over), "red speaks for the prediction; grey where nothing does"),
    ]


def _row(
    data: ImageDataModule,
    images: Images,
    found: dict[str, Tensor],
    names: Sequence[str],
    heading: str,
    places: Tensor,
    color: str,
) -> Row:
    columns = ("labels", "predictions", "confidences")
    captions = [
        f"label: {short(names[label], 16)}\nmodel: {short(names[predicted], 14)} ({sure:.0%})"
        if label != predicted
        else f"{short(names[label], 16)}\n({sure:.0%})"
        for label, predicted, sure in zip(*(found[name][places].tolist() for name in columns))
    ]
    return Row(_pixels(data, images, found["indices"][places]), captions, heading, color)


def _pixels(data: ImageDataModule, images: Images, indices: Tensor) -> Tensor:
    """Return images of a split as a test sees them, ``[B, C, H, W]`` with values in [0, 1]."""
    return (data.resized(images[indices].images.cpu()).float() / 255).clamp(0, 1)


def _draw(
    trainer: L.Trainer, key: str, draw: Callable[[Path], None], file: str | None = None
) -> None:
    """Draw a picture into the run directory, and give it to the loggers."""
    path = Path(trainer.default_root_dir, file or f"{PICTURES}/{key.replace('/', '_')}.png")
    with allowed_to_fail(path.name):
        path.parent.mkdir(exist_ok=True)
        render(draw, path.resolve())
        log_picture(trainer, key, path.resolve())


def render(draw: Callable[[Path], None], path: Path) -> None:
    """Draw into a file; tests replace it, as drawing takes longer than their runs."""
    draw(path)
