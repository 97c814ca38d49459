"""Image files, decoded for every batch, once into memory, or once into a file of the cache."""

import errno
import hashlib
import math
import mmap
import os
import sys
from array import array
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from project.console import readable, show
from project.data.cache import CacheDir, check_length
from project.data.decode import DECODER, Decoder, broken_image
from project.environment import Threads

RESIDENT_BYTES = 2**26  # bytes read from a memory map before its pages are released
COMPARED = 256  # files of a split whose content ranks compare
SUBMITTED = 4096  # files that are queued for the threads; queueing all would take memory


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
            except OSError as error:
                raise broken_image(path, error) from error
            states.extend((status.st_size, status.st_mtime_ns))
        return np.frombuffer(states, np.int64).reshape(-1, 2)

    def sha256(self, places: Tensor | None = None, decoded: bool = True) -> str:
        """Return the SHA-256 of path, size and modification time of files.

        Args:
            places: Positions of the files, int64; None takes all of them.
            decoded: Whether the decoder is part of it.

        Raises:
            UserError: If a file doesn't exist.
        """
        digest = hashlib.sha256(f"{DECODER} {self.decoder}".encode() if decoded else b"")
        chosen = range(len(self)) if places is None else places.tolist()
        states = self._states if places is None else self._states[places.numpy()]
        here = os.fsencode(Path.cwd() / "_")[:-1]
        for place, (size, time) in zip(chosen, states.tolist()):
            path = os.fsencode(self.paths[place])
            path = path if path.startswith(b"/") else here + path
            digest.update(b"%s\0%d\0%d\0" % (path, size, time))
        return digest.hexdigest()

    def content(self, places: Tensor) -> str:
        """Return a SHA-256 that is the same wherever the files lie, and whenever they were copied.

        It is of the name and size of each file, and of the content of up to :data:`COMPARED` of
        them, spread evenly. So it is quick, and differs if two classes are swapped.

        Args:
            places: Positions of the files, int64.

        Raises:
            UserError: If a file can't be read.
        """
        digest = hashlib.sha256()
        step = math.ceil(len(places) / COMPARED)
        for number, place in enumerate(places.tolist()):
            path = Path(self.paths[place])
            digest.update(b"%s\0%d\0" % (os.fsencode(path.name), self._states[place, 0]))
            if number % step == 0:
                try:
                    digest.update(hashlib.sha256(path.read_bytes()).digest())
                except OSError as error:
                    raise broken_image(path, error) from error
        return digest.hexdigest()

    @cached_property
    def key(self) -> str:
        """Key of the decoded images in a :class:`CacheDir`."""
        return f"images-{self.sha256()[:32]}"

    def decode(self, places: Tensor) -> Tensor:
        """Return the images at these places, uint8 ``[B, C, H, W]``."""
        images = [self.decoder(Path(self.paths[place])) for place in places.tolist()]
        return torch.from_numpy(np.stack(images))

    def decode_all(self, write: Callable[[int, NDArray[np.uint8]], None], progress: bool) -> None:
        """Decode all files with several threads; Pillow releases the GIL while it decodes.

        Args:
            write: Receives the position of an image and its pixels, in any order and from any
                thread.
            progress: Show a progress bar.

        Raises:
            UserError: If a file is broken; the message names it.
        """

        def decode(place: int) -> None:
            write(place, self.decoder(Path(self.paths[place])))

        bar = tqdm(total=len(self), desc="decoding", unit=" images", disable=not progress)
        with bar, Threads() as pool:
            for start in range(0, len(self), SUBMITTED):
                for _ in pool.map(decode, range(len(self))[start : start + SUBMITTED]):
                    bar.update()


Pixels = Callable[[Tensor], Tensor]
"""Takes positions among the files, int64 ``[B]``, and returns images, uint8 ``[B, C, H, W]``."""


def in_memory(files: ImageFiles, progress: bool) -> Pixels:
    """Decode all files into memory.

    Raises:
        UserError: If a file is broken.
    """
    files.sha256()  # before decoding: a file that changes later must not be fingerprinted
    images = torch.empty(files.shape, dtype=torch.uint8)
    files.decode_all(images.numpy().__setitem__, progress)
    return partial(torch.index_select, images, 0)


def on_disk(files: ImageFiles, cache: CacheDir, resident: bool) -> Pixels:
    """Decode all files into one file of the cache, unless it exists, and map it into memory.

    If several processes call this at once, one of them decodes and the others wait. A file that is
    damaged is made again.

    Args:
        files: The files.
        cache: The cache.
        resident: As for :class:`MappedPixels`.

    Raises:
        OSError: If the cache can't be written to or is too small.
        UserError: If a file is broken; then nothing is added to the cache.
    """
    if not cache.holds(files.key):
        with cache.lock(files.key):
            if not cache.holds(files.key):
                _decode_into(cache, files)
    return MappedPixels(cache.path(files.key), resident)


def _decode_into(cache: CacheDir, files: ImageFiles) -> None:
    temporary = cache.create(files.key, files.shape, np.uint8)
    progress = sys.stderr.isatty()
    try:
        if not progress:
            show(f"decoding {len(files):,} images into {readable(cache.path(files.key))}")
        with temporary.open("r+b", buffering=0) as file:
            header = temporary.stat().st_size - files.num_bytes

            # The pages of a memory map would count as memory of this process.
            def write(place: int, pixels: NDArray[np.uint8]) -> None:
                start = header + place * pixels.nbytes
                if os.pwrite(file.fileno(), pixels.data, start) < pixels.nbytes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            files.decode_all(write, progress)
        cache.publish(temporary, files.key)
    finally:
        temporary.unlink(missing_ok=True)


class MappedPixels:
    """Images in a file that is mapped into memory, where all processes share its pages.

    Args:
        path: A ``.npy``, uint8 ``[N, C, H, W]``.
        resident: Whether pages that were read may stay in the memory of this process. If not, they
            are released every 64 MB; the operating system may still keep them in its file cache.
    """

    def __init__(self, path: Path, resident: bool) -> None:
        self._path = path
        self._resident = resident
        self._allowance = RESIDENT_BYTES
        self._array = np.load(path, mmap_mode="r")

    def __call__(self, places: Tensor) -> Tensor:
        """Return the images at these places, uint8 ``[B, C, H, W]``.

        Raises:
            UserError: If the file was cut.
        """
        check_length(self._array)
        images = torch.from_numpy(np.asarray(self._array)[places.numpy()])
        self._allowance -= images.nbytes
        if self._allowance <= 0:
            self._allowance = RESIDENT_BYTES
            if not self._resident and hasattr(mmap, "MADV_DONTNEED"):
                self._array.base.madvise(mmap.MADV_DONTNEED)
        return images

    def __reduce__(self) -> tuple[type["MappedPixels"], tuple[Path, bool]]:
        """Let a worker process map the file itself, because pickling would copy the array."""
        return MappedPixels, (self._path, self._resident)
