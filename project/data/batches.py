"""Whole batches: their content, their order, and the loader."""

import hashlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from project.errors import UserError
from project.randomness import mix

_RAISED = f"{UserError.__module__}.{UserError.__qualname__}: "  # begins a traceback's last line


class Batch(NamedTuple):
    """A batch, as the loader yields it and, after the transforms, as the model gets it.

    Attributes:
        images: ``[B, C, H, W]``, uint8 out of the loader, normalised float32 for the model.
        labels: int64 ``[B]``.
        indices: int64 ``[B]``, the place of each image in its split. Where an epoch visits an image
            several times, the later visits count on from the number of images.
        depth: Number of the network's stages that the images have gone through already: 0, unless
            they are cached features.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    depth: int = 0


class Images(Protocol):
    """One split: anything that has a length and returns the batch of some indices.

    Attributes:
        labels: int64 ``[N]``.
        in_memory: Whether the images are decoded already, so that workers would only be slower.
    """

    labels: Tensor
    in_memory: bool

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor) -> Batch: ...

    def subset(self, index: Tensor) -> "Images":
        """Return the images of these indices, in that order."""
        ...

    def fingerprint(self) -> str:
        """Return a SHA-256, in hexadecimal, of what pixels, labels and order come from."""
        ...

    def identity(self) -> str:
        """Return a SHA-256 of which images and labels these are, whatever size they get."""
        ...

    def path(self, index: int) -> Path | None:
        """Return the file of the image with this index, None if it has no file of its own."""
        ...

    def decoded(self) -> "Images":
        """Return the same images, all of them decoded into memory."""
        ...


class TensorImages:
    """Images that are in memory already.

    Args:
        images: uint8 ``[N, C, H, W]``.
        labels: int64 ``[N]``.
    """

    in_memory = True

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> Batch:
        place = index % len(self)
        # With one index for whole images, torch copies them several times faster than by [place].
        return Batch(self.images.index_select(0, place), self.labels[place], index)

    def subset(self, index: Tensor) -> "TensorImages":
        """Return the images of these indices, in that order."""
        return TensorImages(self.images[index], self.labels[index])

    def fingerprint(self) -> str:
        """Return the SHA-256 of images and labels."""
        digest = hashlib.sha256(str(self.images.shape).encode())
        for tensor in (self.images, self.labels):
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()

    def identity(self) -> str:
        """Return the SHA-256 of images and labels."""
        return self.fingerprint()

    def path(self, index: int) -> None:
        """Return None: these images have no files of their own."""

    def decoded(self) -> "TensorImages":
        """Return these images, which are in memory already."""
        return self


class CachedFeatures:
    """The features of one split.

    Args:
        features: ``[views * N, ...]``, all images in their first view, then in their second.
        labels: int64 ``[N]``.
        depth: Number of stages that made them.
        epoch: Chooses which view of each image comes next.
    """

    def __init__(self, features: Tensor, labels: Tensor, depth: int, epoch: int) -> None:
        self.features = features
        self.labels = labels
        self.depth = depth
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> Batch:
        place = index % len(self)
        views = len(self.features) // len(self)
        view = (index // len(self) + self.epoch) % views
        features = self.features.index_select(0, view * len(self) + place)
        return Batch(features, self.labels[place], index, self.depth)


class BatchSampler:
    """Yields the indices of each batch of an epoch, int64 ``[B]``.

    The order is a function of the seed and the epoch alone, so neither a resume nor the number of
    workers or ranks changes which images a step sees: a batch of 8 on one rank is a batch of 4 on
    each of two.

    Args:
        num_images: Images in the split.
        batch_size: Images in a batch of one rank.
        shuffle: Draw a new order each epoch. All ranks then get equally many batches of equal
            size, so up to ``world_size - 1`` images sit an epoch out. Otherwise the order is the
            split's own, no image is left out or repeated, and all ranks get equally many batches,
            which DDP needs for networks with batch norm.
        seed: Seed of the run.
        rank: This process among those that train together.
        world_size: Number of those processes.
        steps: Batches per epoch, going through the images as often as that takes; None goes
            through them once.
        position: Returns how many batches of the epoch are over already, when a resumed run enters
            it in the middle.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        steps: int | None = None,
        position: Callable[[], int] = lambda: 0,
    ) -> None:
        self.num_images = num_images
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.steps = steps
        self.position = position
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.steps is not None:
            return self.steps
        if self.shuffle:
            full, rest = divmod(self.num_images, self.batch_size * self.world_size)
            return full + (rest >= self.world_size)
        largest_share = math.ceil(self.num_images / self.world_size)
        return math.ceil(largest_share / self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        if not self.shuffle and self.steps is None:
            mine = torch.arange(self.num_images)[self.rank :: self.world_size]
            yield from torch.tensor_split(mine, len(self))
            return
        per_step = self.batch_size * self.world_size
        batches = torch.split(self._order(per_step), per_step)[: len(self)]
        for batch in batches[self.position() :]:
            equal = len(batch) - len(batch) % self.world_size  # or DDP's mean would be another
            yield batch[self.rank : equal : self.world_size]

    def _order(self, per_step: int) -> Tensor:
        visits = math.ceil(self.steps * per_step / self.num_images) if self.steps else 1
        return torch.cat([self._visit(number) for number in range(visits)])

    def _visit(self, number: int) -> Tensor:
        offset = number * self.num_images
        if not self.shuffle:
            return torch.arange(self.num_images) + offset
        generator = torch.Generator().manual_seed(mix(self.seed, self.epoch, number))
        return torch.randperm(self.num_images, generator=generator) + offset


class BatchLoader:
    """Yields whole batches of a split, without a per-image step in Python.

    Lightning takes any iterable with a length, and sets the epoch of its ``sampler``. Worker
    processes are used for images that have to be decoded, through torch's DataLoader.

    Args:
        images: The split.
        sampler: Yields the indices of each batch.
        num_workers: Worker processes; 0 loads in this process.
        features: Returns the cached features of the split to yield instead, from the next batch on,
            where there are some.
    """

    batch_sampler = None  # Lightning looks for it wherever there is a sampler

    def __init__(
        self,
        images: Images,
        sampler: BatchSampler,
        num_workers: int = 0,
        features: Callable[[], CachedFeatures | None] = lambda: None,
    ) -> None:
        self.images = images
        self.sampler = sampler
        self.features = features
        self._workers: DataLoader[Any] | None = None
        if num_workers:
            self._workers = DataLoader(
                images,  # type: ignore[arg-type]  # takes a tensor of indices, not one index
                sampler=sampler,
                batch_size=None,
                num_workers=num_workers,
                persistent_workers=True,
                pin_memory=torch.cuda.is_available(),
            )

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        if self._workers is not None and self.features() is None:
            try:
                yield from self._workers
            except UserError as error:  # of a worker: torch has put its traceback in the message
                message = str(error).strip().splitlines()[-1]
                raise UserError(message.removeprefix(_RAISED)) from error
        else:
            for index in self.sampler:
                yield (self.features() or self.images)[index]
