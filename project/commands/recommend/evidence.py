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
from torch import Tensor, nn
from torch.nn import functional

from project.approaches import ImageClassifier
from project.commands.learning_curve import error_of, power_law
from project.commands.recommend.candidates import build
from project.data import ImageDataModule
from project.data.batches import Images, TensorImages
from project.data.splits import first_per_class
from project.errors import UserError
from project.networks.freezing import norm_layers

FOLDS = 3
LEAST = 4  # training images of a class: half of those outside a fold is then at least one
PENALTY = 0.01  # weight decay of the probe, for one standardised feature and one image
MOST = 100.0  # largest squared distance of a channel; one near constant would outweigh all others

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
    fold = folds(labels)
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


def folds(labels: Tensor) -> Tensor:
    """Return the fold of each image, int64 ``[N]``; each has the same share of every class."""
    generator = torch.Generator().manual_seed(0)
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    fold = torch.empty_like(labels)
    fold[by_class] = torch.arange(len(labels)) % FOLDS
    return fold


def sample(data: ImageDataModule, count: int) -> TensorImages:
    """Return about ``count`` decoded training images, equally many of each class where possible."""
    assert data.train_images is not None
    each = max(-(-count // data.num_classes), LEAST)
    chosen = first_per_class(data.train_images.labels, each, fraction=1.0, seed=data.split_seed)
    batch = data.train_images[chosen]
    return TensorImages(batch.images, batch.labels)


@torch.no_grad()
def features_of(
    model: ImageClassifier, data: ImageDataModule, images: TensorImages
) -> tuple[Tensor, float | None]:
    """Return the features of the images, and their distance from the pretraining data.

    The batch norm layers of a backbone keep the mean and variance that their inputs had in the
    pretraining. For each channel, these define one normal distribution, and the images at hand
    another; the Wasserstein distance between the two is measured in standard deviations of the
    pretraining. The result is the root mean square over channels and layers. 0 means that the
    statistics are the same. (After Schneider et al., 2020, who predict from such a distance how
    much accuracy a shift of the data costs.)

    Args:
        model: The model with the backbone.
        data: Transforms the images as the backbone expects them.
        images: The images.

    Returns:
        Features, float32 ``[N, F]``, and the distance, None for a backbone without batch norm.
    """
    model.setup("predict")
    model.eval()
    layers = [
        layer
        for layer in norm_layers(model.network.backbone).values()
        if isinstance(layer, nn.BatchNorm2d) and layer.running_var is not None
    ]
    moments = [_Moments(layer) for layer in layers]
    depth, found = len(model.network.stages()), []
    for index in torch.split(torch.arange(len(images)), data.fitting_eval_batch_size):
        batch = data.transform(images[index].images, index, None)
        found.append(model.prefix(batch, depth).flatten(1).float())
    squares = [moment.squared_distances() for moment in moments]
    distance = float(torch.cat(squares).clamp_max(MOST).mean().sqrt()) if squares else None
    return torch.cat(found), distance


class _Moments:
    """Mean and variance of each input channel of a batch norm layer, over all batches."""

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        self.layer = layer
        self.count = 0
        self.sum = torch.zeros(layer.num_features)
        self.sum_of_squares = torch.zeros(layer.num_features)
        self._hook = layer.register_forward_pre_hook(self._add)

    def _add(self, layer: nn.Module, inputs: tuple[Tensor]) -> None:
        values = inputs[0].float().transpose(0, 1).flatten(1)
        self.count += values.shape[1]
        self.sum += values.sum(1)
        self.sum_of_squares += values.square().sum(1)

    def squared_distances(self) -> Tensor:
        """Return the squared distance of each channel to the layer's own statistics."""
        self._hook.remove()
        assert self.layer.running_mean is not None and self.layer.running_var is not None
        mean = self.sum / self.count
        deviation = (self.sum_of_squares / self.count - mean.square()).clamp_min(0).sqrt()
        scale = self.layer.running_var.clamp_min(self.layer.eps).sqrt()
        shift = (mean - self.layer.running_mean).square() + (deviation - scale).square()
        return shift / scale.square()


def probe(features: Tensor, labels: Tensor, classes: int) -> Learner:
    """Return a learner that fits a linear classifier on features, by logistic regression.

    Args:
        features: float32 ``[N, F]``.
        labels: int64 ``[N]``.
        classes: Number of classes.
    """

    def learn(train: Tensor, held_out: Tensor) -> Tensor:
        center, scale = features[train].mean(0), features[train].std(0) + 1e-6
        inputs, targets = (features[train] - center) / scale, labels[train]
        layer = nn.Linear(features.shape[1], classes)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        optimizer = torch.optim.LBFGS(
            layer.parameters(), max_iter=100, history_size=10, line_search_fn="strong_wolfe"
        )
        penalty = PENALTY / 2 * features.shape[1] / len(train)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = functional.cross_entropy(layer(inputs), targets)
            loss = loss + penalty * layer.weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            logits: Tensor = layer((features[held_out] - center) / scale)
        return logits.argmax(1)

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
