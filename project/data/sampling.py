"""Which images a step uses: the order of an epoch, and how often it visits those of each class."""

import math
from collections.abc import Callable, Iterator
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


class BatchSampler:
    """Yields the indices of each batch of an epoch, int64 ``[B]``.

    The order is a function of the seed and the epoch alone. Therefore neither a resume nor the
    number of workers or ranks changes which images a step uses: the images of a batch of 8 on one
    rank are those of two batches of 4 on two ranks. Only the last batch of an epoch may differ.

    In training, all ranks get the same number of batches of the same size, because DDP averages
    over ranks; this leaves out up to ``world_size - 1`` images in an epoch. If the last batch would
    have a single image on each rank, these are added to the batch before it: batch norm can't be
    trained on one image (https://github.com/pytorch/pytorch/issues/7716).

    In evaluation, the order is that of the split, no image is left out or repeated, and all ranks
    get the same number of batches, as DDP requires for networks with batch norm.

    Args:
        num_images: Number of images in the split.
        batch_size: Images in a batch of one rank.
        training: Whether the batches are for training; ``shuffle`` and ``steps`` imply it.
        shuffle: Draw a new order for each epoch.
        seed: Seed of the run.
        rank: Number of this process among those that train together.
        world_size: Number of those processes.
        steps: Batches per epoch of training; the images are repeated as often as necessary. With
            None, an epoch has as many images as the split.
        class_order: Chooses and orders the images of an epoch; None visits all equally often.
        position: Returns the number of batches of the epoch that a resumed run has trained on
            already.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        *,
        training: bool = False,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        steps: int | None = None,
        class_order: ClassOrder | None = None,
        position: Callable[[], int] = lambda: 0,
    ) -> None:
        self.num_images = num_images
        self.batch_size = batch_size
        self.training = training or shuffle or steps is not None
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.steps = steps
        self.class_order = class_order
        self.position = position
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the order; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        if not self.training:
            largest_share = math.ceil(self.num_images / self.world_size)
            return math.ceil(largest_share / self.batch_size)
        if self.steps is not None:
            return self.steps
        full, rest = divmod(self.num_images, self._per_step)
        fewest = 2 * self.world_size if full else self.world_size
        return full + (rest >= fewest)

    @property
    def _per_step(self) -> int:
        return self.batch_size * self.world_size

    def __iter__(self) -> Iterator[Tensor]:
        if not self.training:
            mine = torch.arange(self.num_images)[self.rank :: self.world_size]
            yield from torch.tensor_split(mine, len(self))
            return
        ends = [self._per_step * number for number in range(1, len(self))]
        batches = torch.tensor_split(self._order(), ends)[: len(self)]
        for batch in batches[self.position() :]:
            equal = len(batch) - len(batch) % self.world_size
            yield batch[self.rank : equal : self.world_size]

    def _order(self) -> Tensor:
        images = self.num_images if self.steps is None else self.steps * self._per_step
        if self.class_order is not None:
            return self.class_order.visits(self.epoch, images)
        if self.steps is None:
            return self._visit(0)
        visits = math.ceil(images / self.num_images)
        return torch.cat([self._visit(number) for number in range(visits)])[:images]

    def _visit(self, number: int) -> Tensor:
        offset = number * self.num_images
        if not self.shuffle:
            return torch.arange(self.num_images) + offset
        generator = torch.Generator().manual_seed(mix(self.seed, self.epoch, number))
        return torch.randperm(self.num_images, generator=generator) + offset
