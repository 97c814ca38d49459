"""Learning curves on a sample: a probe on pretrained features, and a network from scratch."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from project.approaches import ImageClassifier
from project.commands.learning_curve import error_of, power_law
from project.commands.probing import folds, probe
from project.data import ImageDataModule
from project.data.batches import Images, TensorImages
from project.data.splits import first_per_class, shuffled_classes
from project.errors import UserError
from project.parsing import build

FOLDS = 3
LEAST = 4  # training images of a class: half of those outside a fold is then at least one
EACH = 8  # training images of a class, where there are too many classes to sample all

Learner = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Curve:
    """Accuracy on images that were held out, by cross-validation on a sample.

    Attributes:
        sizes: The two numbers of training images, the smaller about half of the larger.
        accuracies: Accuracy with each number.
        correct: Whether each image was classified correctly after training on the larger number,
            ``[N]``.
    """

    sizes: tuple[float, float]
    accuracies: tuple[float, float]
    correct: NDArray[np.bool_]

    def at(self, images: float) -> float:
        """Return the accuracy to be expected with a number of training images."""
        errors = [error_of(accuracy, len(self.correct)) for accuracy in self.accuracies]
        law = power_law(self.sizes, errors)
        # the larger size is nearer to what is asked for, so the curve continues from there
        return replace(law, images=self.sizes[1], error=errors[1]).accuracy(images)


def gap(one: Curve, other: Curve) -> tuple[float, float]:
    """Return the mean difference of accuracy on the same images, and its standard error."""
    pairs = one.correct.astype(float) - other.correct.astype(float)
    return float(pairs.mean()), float(pairs.std(ddof=1) / math.sqrt(len(pairs)))


def cross_validate(learn: Learner, labels: Tensor) -> Curve:
    """Train on all folds but one, and on half of their images; test on the fold left out.

    Args:
        learn: Trains on the images of the first indices and returns the predicted classes of the
            second ones, int64.
        labels: int64 ``[N]``.

    Raises:
        UserError: If a class has too few images.
    """
    if torch.bincount(labels)[labels].min() < LEAST:
        raise UserError(f"a class has fewer than {LEAST} training images to learn and test with")
    fold = folds(labels, FOLDS)
    predictions = torch.empty(2, len(labels), dtype=torch.int64)
    counts = []
    for number in range(FOLDS):
        train, held_out = (fold != number).nonzero().flatten(), (fold == number).nonzero().flatten()
        half = train[first_per_class(labels[train], len(train), fraction=0.5, seed=0)]
        for row, chosen in enumerate((half, train)):
            predictions[row, held_out] = learn(chosen, held_out)
        counts.append((len(half), len(train)))
    correct = predictions == labels
    low, high = (mean(count) for count in zip(*counts))
    few, all_ = correct.float().mean(1).tolist()
    return Curve((low, high), (few, all_), correct[1].numpy())


def sample(data: ImageDataModule, count: int) -> Tensor:
    """Choose about ``count`` training images, equally many of each class where possible.

    Of more classes than have room, each with :data:`EACH` images, some are drawn at random. Each
    beginning of the sample is a sample, too.

    Returns:
        Positions, int64 ``[n]``.
    """
    assert data.train_images is not None
    classes = [*shuffled_classes(data.train_images.labels, data.split_seed)]
    generator = torch.Generator().manual_seed(data.split_seed)
    drawn = torch.randperm(len(classes), generator=generator)[: max(count // EACH, 2)].sort().values
    members = [classes[one] for one in drawn.tolist()]
    turn = torch.cat([torch.arange(len(one)) for one in members])
    in_turn = torch.cat(members)[turn.argsort(stable=True)]
    return in_turn[: max(count, LEAST * len(members))]


def decoded(data: ImageDataModule, chosen: Tensor) -> TensorImages:
    """Return training images in memory, as this data module decodes them."""
    assert data.train_images is not None
    batch = data.train_images[chosen]
    return TensorImages(batch.images, batch.labels)


def on_features(features: Tensor, labels: Tensor, classes: int) -> Learner:
    """Return a learner that fits a linear classifier on features.

    Args:
        features: float32 ``[N, F]``.
        labels: int64 ``[N]``.
        classes: Number of classes.
    """

    def learn(train: Tensor, held_out: Tensor) -> Tensor:
        return probe(features, labels, classes, train, held_out).argmax(1)

    return learn


def from_scratch(config: Mapping[str, Any], images: TensorImages) -> Learner:
    """Return a learner that trains a config of ``fit``.

    Args:
        config: The config.
        images: The sample.
    """

    def learn(train: Tensor, held_out: Tensor) -> Tensor:
        L.seed_everything(0, verbose=False)
        model, data = build(config)
        data.train_images, data.val_images = images.subset(train), None
        trainer = L.Trainer(
            max_epochs=config["trainer"]["max_epochs"],
            accelerator="auto",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(model, datamodule=data)
        return predict(model.cpu(), data, images.subset(held_out))

    return learn


@torch.no_grad()
def predict(model: ImageClassifier, data: ImageDataModule, images: Images) -> Tensor:
    """Return the predicted classes, int64 ``[N]``."""
    model.eval()
    found = []
    for index in torch.split(torch.arange(len(images)), data.fitting_eval_batch_size):
        logits = model(data.transform(images[index].images, index, None))
        found.append(model.class_logits(logits).argmax(1))
    return torch.cat(found)
