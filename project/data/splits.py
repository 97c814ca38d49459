"""Subsets of a split: with the same fraction of every class, or at equal distances."""

from collections.abc import Iterator

import torch
from torch import Tensor

from project.randomness import mix


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split indices so that the same fraction of each class is held out, but never all of it.

    Args:
        labels: int64 ``[N]``.
        fraction: Fraction of each class that goes into the second part; at least one image.
        seed: Seed of the random choice.

    Returns:
        The two parts as sorted int64 indices.
    """
    held_out = []
    for order in shuffled_classes(labels, seed):
        count = min(max(round(len(order) * fraction), 1), len(order) - 1)
        held_out.append(order[:count])
    second = torch.zeros(len(labels), dtype=torch.bool)
    second[torch.cat(held_out)] = True
    return (~second).nonzero().flatten(), second.nonzero().flatten()


def first_per_class(labels: Tensor, count: int, fraction: float, seed: int) -> Tensor:
    """Return sorted indices of a random subset of each class.

    Subsets with the same seed are nested: a smaller one is contained in a larger one.

    Args:
        labels: int64 ``[N]``.
        count: Largest number of images of a class.
        fraction: Largest fraction of the images of a class; at least one image.
        seed: Seed of the random choice.
    """
    chosen = [
        order[: min(count, max(round(len(order) * fraction), 1))]
        for order in shuffled_classes(labels, seed)
    ]
    return torch.cat(chosen).sort().values


def shuffled_classes(labels: Tensor, seed: int) -> Iterator[Tensor]:
    """Yield the indices of the images of each class that occurs, int64, in a random order.

    Args:
        labels: int64 ``[N]``.
        seed: Seed of the order.
    """
    generator = torch.Generator().manual_seed(mix(seed))
    counts = torch.unique(labels, return_counts=True)[1].tolist()
    for members in torch.split(labels.argsort(stable=True), counts):
        yield members[torch.randperm(len(members), generator=generator)]


def spread(length: int, count: int) -> Tensor:
    """Return ``count`` of ``length`` indices at equal distances, or all if there are fewer."""
    count = min(count, length)
    return torch.arange(count) * length // max(count, 1)
