"""Whole batches: their content and their loader."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from project.data.sampling import BatchSampler
from project.errors import UserError
from project.signals import own_group

COPIED_BYTES = 2**28  # of images that are read at once to be copied to a GPU


class Batch(NamedTuple):
    """A batch, as the loader yields it and, after the transforms, as the model receives it.

    Attributes:
        images: ``[B, C, H, W]``, uint8 from the loader, normalised float32 for the model; or cached
            features of the images.
        labels: int64 ``[B]``.
        indices: int64 ``[B]``, the position of each image in its split. If an epoch visits the
            images several times, the number of images is added to the index at each repetition.
        depth: Number of stages of the network that ``images`` have passed: 0, unless they are
            cached features.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    depth: int = 0


class Images(Protocol):
    """One split: any object with a length that returns a batch for a tensor of indices.

    Attributes:
        labels: int64 ``[N]``.
        in_memory: Whether the images are decoded already; then worker processes gain nothing.
    """

    labels: Tensor
    in_memory: bool

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor) -> Batch: ...

    def subset(self, index: Tensor) -> "Images":
        """Return the images of these indices, in that order."""
        ...

    def fingerprint(self) -> str:
        """Return a SHA-256, in hexadecimal, that changes with the pixels, labels or order."""
        ...

    def content(self) -> str:
        """Return a SHA-256, in hexadecimal, of images and labels, the same wherever they lie.

        It doesn't depend on the decoded size.
        """
        ...

    def path(self, index: int) -> Path | None:
        """Return the file of the image with this index, None if it has no file of its own."""
        ...

    def decoded(self) -> "Images":
        """Return the same images, all of them decoded into memory."""
        ...


class TensorImages:
    """A split whose images are in memory.

    Args:
        images: uint8 ``[N, C, H, W]``.
        labels: int64 ``[N]``.

    Raises:
        UserError: If they are of another type or shape.
    """

    in_memory = True

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        right = images.dtype == torch.uint8 and images.ndim == 4 and labels.dtype == torch.int64
        if not right or labels.shape != images.shape[:1]:
            given = (
                f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for t in (images, labels)
            )
            raise UserError(
                "TensorImages: needs images, uint8 [N, C, H, W] with values from 0 to 255, and "
                f"labels, int64 [N]; got {' and '.join(given)}"
            )
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

    def content(self) -> str:
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
        features: ``[views * N, ...]``, first of the first view of all images, then of the second
            view, and so on. A view is an augmented version of an image.
        labels: int64 ``[N]``.
        depth: Number of stages of the network that computed the features.
        check: Is called before features are read, and raises if they can't be any more.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        depth: int,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._check = check
        self.features = features
        self.labels = labels
        self.depth = depth

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "CachedFeatures":
        """Return them on a device."""
        self._check()
        features, labels = self.features.to(device), self.labels.to(device)
        return CachedFeatures(features, labels, self.depth)

    def batch(self, index: Tensor, epoch: int) -> Batch:
        """Return a batch of features; the epochs take turns among the views.

        Args:
            index: int64 ``[B]``.
            epoch: The epoch.
        """
        self._check()
        place = index % len(self)
        views = len(self.features) // len(self)
        view = (index // len(self) + epoch) % views
        features = self.features.index_select(0, view * len(self) + place)
        return Batch(features, self.labels[place], index, self.depth)


class Source:
    """What the batches of a split are read from: its images, or cached features of them.

    On a GPU, a copy of them in its memory spares that of each batch.

    Args:
        images: The split.

    Attributes:
        features: Features of the split, to be read in place of the images; None reads the images.
        device: Where the batches are wanted.
        device_gb: Largest size of a copy on that device, in gigabytes; it also takes at most a
            quarter of what is free there.
    """

    device = torch.device("cpu")
    device_gb = 0.0

    def __init__(self, images: Images) -> None:
        self.images = images
        self.features: CachedFeatures | None = None
        self._copied: object = None  # what the copy is of
        self._copy: Images | CachedFeatures | None = None

    def batch(self, index: Tensor, epoch: int) -> Batch:
        """Return the batch of these indices, int64 ``[B]``, in an epoch."""
        source: Images | CachedFeatures = self.features or self.images
        if self._copied is not source:
            self._copied, self._copy = source, None  # so that the old copy is let go of first
            self._copy = self._copy_of(source)
        if self._copy is not None:
            source, index = self._copy, index.to(self.device, non_blocking=True)
        return source.batch(index, epoch) if isinstance(source, CachedFeatures) else source[index]

    def _copy_of(self, source: Images | CachedFeatures) -> Images | CachedFeatures | None:
        """Return a copy on the device, None if there is none to be made."""
        if self.device.type != "cuda" or not (self.features or self.images.in_memory):
            return None
        most = min(self.device_gb * 1e9, torch.cuda.mem_get_info(self.device)[0] / 4)
        if isinstance(source, CachedFeatures):
            return source.to(self.device) if source.features.nbytes <= most else None
        each = source[torch.zeros(1, dtype=torch.int64)].images.nbytes
        if each * len(source) > most:
            return None
        step = max(COPIED_BYTES // each, 1)
        parts = torch.tensor_split(torch.arange(len(source)), [*range(step, len(source), step)])
        images = torch.cat([source[part].images.to(self.device) for part in parts])
        return TensorImages(images, source.labels.to(self.device))


class _WithErrors:
    """A split that returns a mistake in the data instead of raising it.

    A worker process sends the returned error to the main process as it is. torch would turn a
    raised one into text with a stack trace.

    Args:
        images: The split.
    """

    def __init__(self, images: Images) -> None:
        self.images = images

    def __getitem__(self, index: Tensor) -> Batch | UserError:
        try:
            return self.images[index]
        except UserError as error:
            return error


class BatchLoader:
    """Yields whole batches of a split, without a Python step for each image.

    Lightning accepts any iterable with a length, and sets the epoch of its ``sampler``. Images that
    have to be decoded are loaded by the worker processes of a torch DataLoader.

    Args:
        source: What the batches are read from. Cached features are read in this process.
        sampler: Yields the indices of each batch.
        num_workers: Number of worker processes; 0 loads in this process.
    """

    batch_sampler = None  # Lightning reads it from every loader that has a sampler

    def __init__(self, source: Source, sampler: BatchSampler, num_workers: int = 0) -> None:
        self.source = source
        self.sampler = sampler
        self._workers: DataLoader[Any] | None = None
        if num_workers:
            self._workers = DataLoader(
                _WithErrors(source.images),  # type: ignore[arg-type]  # takes a tensor of indices
                sampler=sampler,
                batch_size=None,
                num_workers=num_workers,
                persistent_workers=True,
                worker_init_fn=own_group,
                pin_memory=torch.cuda.is_available(),
            )

    @property
    def _iterator(self) -> Any:
        """The processes of the DataLoader, which Lightning ends by this name when a loop ends.

        Else they wait for the garbage collector, which closes their queues first, and for 5 s more.
        """
        return None if self._workers is None else self._workers._iterator

    @_iterator.setter
    def _iterator(self, iterator: None) -> None:
        if self._workers is not None:
            self._workers._iterator = iterator

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        if self._workers is not None and self.source.features is None:
            for batch in self._workers:
                if isinstance(batch, UserError):
                    raise batch
                yield batch
        else:
            for index in self.sampler:
                yield self.source.batch(index, self.sampler.epoch)
