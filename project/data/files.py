"""Image files, decoded for every batch or once into memory, and one split of them."""

import hashlib
import math
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from project.data.batches import Batch
from project.decoding.decode import DECODER, BrokenImageError, Decoder, size_of
from project.environment import Threads

IMAGES = "images-"  # what the key of decoded images begins with
CHECKED = "checked-"  # what that of a search for broken files begins with
MISSING = (-1, 0)  # size and time of a file that isn't there
COMPARED = 256  # files of a split whose content ranks compare
SUBMITTED = 4096  # files that are queued for the threads; queueing all would take memory


class Fault(NamedTuple):
    """Why a file is broken.

    Attributes:
        reason: The reason.
        since: When the file was last changed, in nanoseconds; None if the machine may be at fault.
    """

    reason: str
    since: int | None


Broken = dict[int, Fault]
"""Broken files, by their position."""


class ImageFiles:
    """Image files and their decoder.

    Args:
        paths: Paths of the files; as texts, because a million Paths would take a gigabyte.
        decoder: Reads the pixels of a file.
    """

    def __init__(self, paths: list[str], decoder: Decoder) -> None:
        self.paths = paths
        self.decoder = decoder

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape ``(N, C, H, W)`` of all decoded images."""
        return len(self), *self.decoder.shape

    @property
    def num_bytes(self) -> int:
        """Size of all decoded images in bytes."""
        count, channels, height, width = self.shape
        return count * channels * height * width

    def subset(self, places: Tensor) -> "ImageFiles":
        """Return the files at these places."""
        return ImageFiles([self.paths[place] for place in places.tolist()], self.decoder)

    @cached_property
    def _states(self) -> NDArray[np.int64]:
        """Size and modification time of each file, ``[N, 2]``: they change with the file."""
        states = array("q")  # a row of numpy takes longer to set than the file to look at
        for path in self.paths:
            try:
                status = os.stat(path)  # noqa: PTH116  # a Path takes several times as long
                states.extend((status.st_size, status.st_mtime_ns))
            except OSError:  # the decoder says why
                states.extend(MISSING)
        return np.frombuffer(states, np.int64).reshape(-1, 2)

    def sha256(self, places: Tensor | None = None, decoded: bool = True) -> str:
        """Return the SHA-256 of path, size and modification time of files.

        Args:
            places: Positions of the files, int64; None takes all of them.
            decoded: Whether the decoder is part of it.
        """
        digest = hashlib.sha256(self.described_decoder.encode() if decoded else b"")
        for described in self._described(places):
            digest.update(described)
        return digest.hexdigest()

    def digests(self) -> NDArray[np.bytes_]:
        """Return a hash of path, size and modification time of each file, ``S16`` of ``[N]``."""
        hashes = (hashlib.blake2b(one, digest_size=16).digest() for one in self._described())
        return np.frombuffer(b"".join(hashes), "S16")

    def _described(self, places: Tensor | None = None) -> Iterator[bytes]:
        """Yield path, size and modification time of files."""
        chosen = range(len(self)) if places is None else places.tolist()
        states = self._states if places is None else self._states[places.numpy()]
        here = os.fsencode(Path.cwd() / "_")[:-1]
        for place, (size, time) in zip(chosen, states.tolist()):
            path = os.fsencode(self.paths[place])
            path = path if path.startswith(b"/") else here + path
            yield b"%s\0%d\0%d\0" % (path, size, time)

    def content(self, places: Tensor) -> str:
        """Return a SHA-256 that is the same wherever the files lie, and whenever they were copied.

        It is of the name and size of each file, and of the content of up to :data:`COMPARED` of
        them, spread evenly. So it is quick, and differs if two classes are swapped.

        Args:
            places: Positions of the files, int64.
        """
        digest = hashlib.sha256()
        step = math.ceil(len(places) / COMPARED)
        for number, place in enumerate(places.tolist()):
            path = self.paths[place]
            name = os.fsencode(path.rpartition("/")[2])
            digest.update(b"%s\0%d\0" % (name, self._states[place, 0]))
            if number % step == 0:
                with suppress(OSError):  # the decoder says why
                    digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
        return digest.hexdigest()

    @property
    def described_decoder(self) -> str:
        """The decoder and its version."""
        return f"{DECODER} {self.decoder}"

    @cached_property
    def key(self) -> str:
        """Key of the decoded images in a :class:`CacheDir`."""
        return f"{IMAGES}{self.sha256()[:32]}"

    @cached_property
    def checked_key(self) -> str:
        """Key of what is known of broken files among these, whatever decodes them."""
        return f"{CHECKED}{DECODER}-{self.sha256(decoded=False)[:32]}"

    def aspects(self) -> NDArray[np.float32]:
        """Return width over height of each picture, ``[N]``; 1 where the header can't be read."""

        def read(path: str) -> float:
            try:
                width, height = size_of(path)
            except BrokenImageError:  # the decoder says why
                return 1.0
            return width / height

        found = np.empty(len(self), np.float32)
        with Threads() as pool:
            for start in range(0, len(self), SUBMITTED):
                end = start + SUBMITTED
                found[start:end] = list(pool.map(read, self.paths[start:end]))
        return found

    def decode(self, places: Tensor) -> Tensor:
        """Return the images at these places, uint8 ``[B, C, H, W]``."""
        images = [self.decoder(Path(self.paths[place])) for place in places.tolist()]
        return torch.from_numpy(np.stack(images))

    def decode_all(
        self,
        write: Callable[[int, NDArray[np.uint8]], None],
        progress: bool,
        places: Sequence[int] | None = None,
    ) -> Broken:
        """Decode files with several threads; Pillow releases the GIL while it decodes.

        Args:
            write: Receives the position of an image and its pixels, in any order and from any
                thread.
            progress: Show a progress bar.
            places: Positions of the files; None takes all of them.

        Returns:
            The broken files; nothing is written for them.
        """
        places = range(len(self)) if places is None else places
        broken: Broken = {}

        def decode(place: int) -> None:
            try:
                pixels = self.decoder(Path(self.paths[place]))
            except BrokenImageError as error:
                since = changed(self.paths[place]) if error.lasting else None
                broken[place] = Fault(error.reason, since)
            else:
                write(place, pixels)

        bar = tqdm(total=len(places), desc="decoding", unit=" images", disable=not progress)
        with bar, Threads() as pool:
            for start in range(0, len(places), SUBMITTED):
                for _ in pool.map(decode, places[start : start + SUBMITTED]):
                    bar.update()
        return dict(sorted(broken.items()))


Pixels = Callable[[Tensor], Tensor]
"""Takes positions among the files, int64 ``[B]``, and returns images, uint8 ``[B, C, H, W]``."""


def in_memory(files: ImageFiles, progress: bool) -> tuple[Pixels, Broken]:
    """Decode all files into memory; the images of broken ones are undefined."""
    files.sha256()  # before decoding: a file that changes later must not be fingerprinted
    images = torch.empty(files.shape, dtype=torch.uint8)
    broken = files.decode_all(images.numpy().__setitem__, progress)
    return partial(torch.index_select, images, 0), broken


class FileImages:
    """One split: a subset of the files, and their labels.

    Args:
        files: The files of all splits.
        places: Positions of the images of this split among the files, int64 ``[N]``.
        labels: int64 ``[N]``.
        pixels: Returns the images at given positions; None decodes the files each time.
    """

    def __init__(
        self, files: ImageFiles, places: Tensor, labels: Tensor, pixels: Pixels | None = None
    ) -> None:
        self.files = files
        self.places = places
        self.labels = labels
        self.in_memory = pixels is not None
        self._pixels = pixels or files.decode

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> Batch:
        number = index % len(self)
        return Batch(self._pixels(self.places[number]), self.labels[number], index)

    def subset(self, index: Tensor) -> "FileImages":
        """Return the images of these indices, in that order, without copying or decoding them."""
        pixels = self._pixels if self.in_memory else None
        return FileImages(self.files, self.places[index], self.labels[index], pixels)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the state of the files, their decoder and the labels."""
        return self._with_labels(self.files.sha256(self.places))

    def content(self) -> str:
        """Return a SHA-256 of files and labels that doesn't depend on where the files lie."""
        return self._with_labels(self.files.content(self.places))

    def _with_labels(self, files: str) -> str:
        return hashlib.sha256(files.encode() + self.labels.numpy().tobytes()).hexdigest()

    def path(self, index: int) -> Path:
        """Return the file of the image with this index."""
        return Path(self.files.paths[int(self.places[index])])

    def decoded(self) -> "FileImages":
        """Return the same images, all of them decoded into memory.

        Raises:
            BrokenImageError: If a file is broken.
        """
        files = self.files.subset(self.places)
        pixels, broken = in_memory(files, progress=False)
        for place in broken:
            files.decode(torch.tensor([place]))  # raises
        return FileImages(files, torch.arange(len(files)), self.labels, pixels)


def changed(path: str) -> int:
    """Return when a file was last changed in any way, such as who may read it; 0 if it's gone."""
    try:
        return os.stat(path).st_ctime_ns  # noqa: PTH116
    except OSError:
        return 0
