"""A linear classifier on the features of a pretrained backbone, tested on images held out."""

import math
import sys
import time

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from project.approaches import ImageClassifier
from project.data import ImageDataModule
from project.data.batches import BatchLoader, Images, Source
from project.data.sampling import BatchSampler
from project.networks.freezing import norm_layers

PENALTY = 0.01  # weight decay of the probe, for one standardised feature and one image
MOST = 100.0  # largest squared distance of a channel; one near constant would outweigh all others


@torch.no_grad()
def features_of(
    model: ImageClassifier,
    data: ImageDataModule,
    images: Images,
    seconds: float = math.inf,
) -> tuple[Tensor, float | None]:
    """Return the features of the images, and their distance from the pretraining data.

    The batch norm layers of a backbone keep the mean and variance that their inputs had in the
    pretraining. For each channel, these define one normal distribution, and the images at hand
    another; the Wasserstein distance between the two is measured in standard deviations of the
    pretraining. The result is the root mean square over channels and layers. 0 means that the
    statistics are the same. (After Schneider et al., 2020, who predict from such a distance how
    much accuracy a shift of the data costs.)

    No more than a few batches of images are in memory at a time.

    Args:
        model: The model with the backbone.
        data: Transforms the images as the backbone expects them.
        images: The images.
        seconds: After these no further batch is begun; the last images are left out.

    Returns:
        Features, float32 ``[N, F]``, and the distance, None for a backbone without batch norm.
    """
    end = time.perf_counter() + seconds
    model.setup("predict")
    model.eval()
    layers = [
        layer
        for layer in norm_layers(model.network.backbone).values()
        if isinstance(layer, nn.BatchNorm2d) and layer.running_var is not None
    ]
    moments = [_Moments(layer) for layer in layers]
    depth, found = len(model.network.stages()), []
    sampler = BatchSampler(len(images), data.fitting_eval_batch_size)
    loader = BatchLoader(Source(images), sampler, data.num_workers_for(images))
    hidden = not sys.stderr.isatty()
    bar = tqdm(total=len(images), desc="features", unit=" images", leave=False, disable=hidden)
    with bar:
        for batch in loader:
            pixels = data.transform(batch.images.to(model.device), batch.indices, None)
            found.append(model.prefix(pixels, depth).flatten(1).float().cpu())
            bar.update(len(pixels))
            if time.perf_counter() > end:
                break
    squares = [moment.squared_distances() for moment in moments]
    distance = float(torch.cat(squares).clamp_max(MOST).mean().sqrt()) if squares else None
    return torch.cat(found), distance


class _Moments:
    """Mean and variance of each input channel of a batch norm layer, over all batches."""

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        assert layer.running_mean is not None
        self.layer = layer
        self.count = 0
        self.sum = torch.zeros_like(layer.running_mean)
        self.sum_of_squares = torch.zeros_like(layer.running_mean)
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


def folds(labels: Tensor, count: int) -> Tensor:
    """Return the fold of each image, int64 ``[N]``; each has the same share of every class.

    Args:
        labels: int64 ``[N]``.
        count: Number of folds.
    """
    generator = torch.Generator().manual_seed(0)
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    fold = torch.empty_like(labels)
    fold[by_class] = torch.arange(len(labels)) % count
    return fold


def probe(features: Tensor, labels: Tensor, classes: int, train: Tensor, asked: Tensor) -> Tensor:
    """Fit a linear classifier on features of some images, and return the logits of others.

    It is a multinomial logistic regression on standardised features, with a penalty on the squared
    weights, fitted by L-BFGS.

    Args:
        features: float32 ``[N, F]``.
        labels: int64 ``[N]``.
        classes: Number of classes.
        train: Indices of the images to fit, int64.
        asked: Indices of the others, int64 ``[M]``.

    Returns:
        Logits, float32 ``[M, K]``.
    """
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
        logits: Tensor = layer((features[asked] - center) / scale)
    return logits


def held_out_probabilities(features: Tensor, labels: Tensor, classes: int, count: int) -> Tensor:
    """Return what a probe says of each image that was fitted on the other folds.

    Args:
        features: float32 ``[N, F]``.
        labels: int64 ``[N]``.
        classes: Number of classes.
        count: Number of folds.

    Returns:
        Probabilities, float32 ``[N, K]``.
    """
    fold, found = folds(labels, count), torch.empty(len(labels), classes)
    for number in range(count):
        train, asked = (fold != number).nonzero().flatten(), (fold == number).nonzero().flatten()
        found[asked] = probe(features, labels, classes, train, asked).softmax(1)
    return found
