"""How often an epoch of training visits the images of each class, and in which order."""

from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from project.randomness import mix

Sampling = Literal["natural", "sqrt", "balanced"]
SAMPLINGS: tuple[Sampling, ...] = get_args(Sampling)

_ONE = 1 << 12  # weights of classes are integers, which add up to the same sum on every machine
_GOLDEN = (5**0.5 - 1) / 2  # the multiples of this fraction are spread evenly


def class_shares(sizes: Tensor, sampling: Sampling) -> Tensor:
    """Return the share of each class in the images of an epoch, float64 ``[K]``.

    Args:
        sizes: Number of images of each class, int64 ``[K]``; without images, a class has no share.
        sampling: ``natural`` is in proportion to the sizes, ``sqrt`` to their square roots
            (Mahajan et al., 2018), and ``balanced`` gives all classes the same share. Kang et al.
            (2020) compare the three.
    """
    weights = _weights(sizes, sampling).double()
    return weights / weights.sum()


def _weights(sizes: Tensor, sampling: Sampling) -> Tensor:
    if sampling == "natural":
        return sizes
    if sampling == "sqrt":
        return (sizes.double().sqrt() * _ONE).round().long()
    return (sizes > 0) * _ONE


class ClassOrder:
    """The order of the images of an epoch in which each class has a share of its own.

    The images of each class stand in a random order, and are visited in it, again and again, over
    the whole training: an epoch goes on where the one before it has stopped. So at any time, all
    images of a class have been visited equally often, or once more. Then the images of the epoch
    are shuffled.

    The number of images of a class is the same in each epoch, but for a rest: its share is rounded
    up or down, in turns. All of this is a function of the seed and the epoch alone.

    Args:
        labels: int64 ``[N]``.
        sampling: What the shares are.
        seed: Seed of the run.
    """

    def __init__(self, labels: Tensor, sampling: Sampling, seed: int) -> None:
        self._seed = seed
        shuffled = self._shuffled(len(labels), -1)  # which no epoch has
        self._members = shuffled[labels[shuffled].argsort(stable=True)]
        self._sizes = labels.bincount()
        ends = _weights(self._sizes, sampling).cumsum(0)
        self._ends = torch.cat([torch.zeros(1, dtype=torch.int64), ends])

    def _shuffled(self, count: int, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(mix(self._seed, epoch))
        return torch.randperm(count, generator=generator)

    def counts(self, epoch: int, images: int) -> Tensor:
        """Return how many images of each class an epoch has, int64 ``[K]``.

        It is a systematic sample (Madow and Madow, 1944): the classes lie on a line, each as long
        as its share, and a mark at each unit counts for the class that it falls on. The marks move
        from epoch to epoch, so that each class gets the mean of its share.

        Args:
            epoch: The epoch.
            images: Number of images of the epoch.
        """
        total = int(self._ends[-1])
        offset = epoch * int(total * _GOLDEN) % total
        return ((self._ends * images + offset) // total).diff()

    def visits(self, epoch: int, images: int) -> Tensor:
        """Return the index of each image of an epoch, in order, int64 ``[images]``.

        If the epoch visits an image several times, N is added to its index at each repetition.

        Args:
            epoch: The epoch.
            images: Number of images of each epoch.
        """
        counts = self.counts(epoch, images)
        before = torch.zeros_like(counts)
        for earlier in range(epoch):
            before += self.counts(earlier, images)
        # index_select: with one index for all, it is several times as fast as [label]
        of_each = partial(torch.index_select, dim=0, index=torch.repeat_interleave(counts))
        size = of_each(self._sizes)
        number = torch.arange(images) - of_each(counts.cumsum(0) - counts)  # of the visit
        place = (number + of_each(before % self._sizes.clamp(min=1))) % size
        place += of_each(self._sizes.cumsum(0) - self._sizes)
        index = self._members.index_select(0, place) + number // size * len(self._members)
        return index.index_select(0, self._shuffled(images, epoch))
