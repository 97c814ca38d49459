"""Decoded images in the cache, and what it knows of broken files."""

import errno
import json
import math
import mmap
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from project.console import readable, show
from project.data.cache import CacheDir, check_length, notes_of
from project.data.files import CHECKED, IMAGES, Broken, Fault, ImageFiles, Pixels, changed
from project.decoding.decode import DECODER

ASPECTS = "aspects-"  # what the key of the shapes of pictures begins with
RESIDENT_BYTES = 2**26  # bytes read from a memory map before its pages are released


def on_disk(files: ImageFiles, cache: CacheDir, resident: bool) -> tuple[Pixels, Broken]:
    """Decode all files into one file of the cache, unless it exists, and map it into memory.

    If several processes call this at once, one of them decodes and the others wait. A file that is
    damaged is made again. Images that the cache has in another file, which is of other images, too,
    are copied.

    Args:
        files: The files.
        cache: The cache.
        resident: As for :class:`MappedPixels`.

    Returns:
        The images, which are black where a file is broken, and the broken files.

    Raises:
        OSError: If the cache can't be written to or is too small.
    """
    broken = _noted(files, cache, files.key, lambda: _decode_into(cache, files))
    return MappedPixels(cache.path(files.key), resident), broken


def broken_files(files: ImageFiles, cache: CacheDir, progress: bool) -> Broken:
    """Decode all files to find the broken ones, unless the cache knows them from another time.

    Args:
        files: The files.
        cache: The cache, which keeps what was found, if it can be written to.
        progress: Show a progress bar.
    """
    with suppress(OSError):
        known = known_broken(files, cache)
        if known is None:
            known = _noted(
                files, cache, files.checked_key, lambda: _check_into(cache, files, progress)
            )
        return known
    return files.decode_all(lambda place, pixels: None, progress)


def aspects(files: ImageFiles, cache: CacheDir) -> Tensor:
    """Return width over height of each picture, float32 ``[N]``; 1 where it can't be read.

    Args:
        files: The files, of which the headers are read.
        cache: The cache, which keeps the result, if it can be written to.
    """
    key = f"{ASPECTS}{DECODER}-{files.sha256(decoded=False)[:32]}"
    with suppress(OSError):
        if not cache.holds(key):
            with cache.lock(key):
                if not cache.holds(key):
                    found = files.aspects()
                    temporary = cache.create(key, found.shape, found.dtype)
                    try:
                        np.save(temporary, found)
                        cache.publish(temporary, key)
                    finally:
                        temporary.unlink(missing_ok=True)
        return torch.from_numpy(np.load(cache.path(key)))
    return torch.from_numpy(files.aspects())


def known_broken(files: ImageFiles, cache: CacheDir) -> Broken | None:
    """Return the broken files if the cache knows all of them, from whatever was decoded, else None.

    Raises:
        OSError: If the cache can't be read.
    """
    found = _noted_in(cache, files.checked_key, files)
    return _noted_in(cache, files.key, files) if found is None else found


def _noted(files: ImageFiles, cache: CacheDir, key: str, make: Callable[[], Broken]) -> Broken:
    """Return what an entry says of broken files; it is made unless it is there."""
    broken = _noted_in(cache, key, files)
    if broken is None:
        with cache.lock(key):
            broken = _noted_in(cache, key, files)
            if broken is None:
                broken = make()
    return broken


def _noted_in(cache: CacheDir, key: str, files: ImageFiles) -> Broken | None:
    """Return what an entry says of broken files, None if there is none or one has changed since."""
    if not cache.holds(key):
        return None
    try:
        broken = _Notes.of(cache.path(key)).broken
    except ValueError:  # it is another's
        return None
    still = all(fault.since == changed(files.paths[place]) for place, fault in broken.items())
    return broken if still else None


@dataclass
class _Notes:
    """The notes of an entry: which files it is of, and which of them are broken.

    Args:
        decoder: What has read them.
        broken: The broken files, by their position.
        digests: Those of all files.
    """

    decoder: str
    broken: Broken
    digests: NDArray[np.bytes_]

    def to_bytes(self) -> bytes:
        """Return them as an entry holds them."""
        about = {"decoder": self.decoder, "files": len(self.digests), "broken": self.broken}
        return json.dumps(about).encode() + b"\n" + self.digests.tobytes()

    @classmethod
    def of(cls, path: Path) -> "_Notes":
        """Read those of an entry.

        Raises:
            OSError: If it can't be read.
            ValueError: If it has none.
        """
        about, _, digests = notes_of(path).partition(b"\n")
        read = json.loads(about)
        broken = {int(place): Fault(*fault) for place, fault in read["broken"].items()}
        return cls(read["decoder"], broken, np.frombuffer(digests, "S16"))

    def places_of(self, digests: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """Return the positions here of whole files with these digests, -1 for others, ``[N]``."""
        whole = np.delete(np.arange(len(self.digests)), list(self.broken))
        if not len(whole):
            return np.full(len(digests), -1)
        whole = whole[self.digests[whole].argsort()]
        found = whole[self.digests[whole].searchsorted(digests).clip(max=len(whole) - 1)]
        return np.where(self.digests[found] == digests, found, -1)


def _most_similar(
    cache: CacheDir, prefixes: Sequence[str], digests: NDArray[np.bytes_], decoder: str | None
) -> tuple[Path | None, NDArray[np.int64]]:
    """Return the entry that has most of some files, and the positions there, -1 for others.

    Args:
        cache: The cache.
        prefixes: What the keys of the entries begin with.
        digests: Digests of the files.
        decoder: The decoder of the entry; None takes any.
    """
    best, most = None, np.full(len(digests), -1)
    for path in (path for prefix in prefixes for path in cache.entries(prefix)):
        with suppress(OSError, ValueError):  # removed by another process, or no entry
            notes = _Notes.of(path)
            if decoder in (None, notes.decoder):
                places = notes.places_of(digests)
                if (places >= 0).sum() > (most >= 0).sum() and cache.is_whole(path):
                    best, most = path, places
    return best, most


def _decode_into(cache: CacheDir, files: ImageFiles) -> Broken:
    digests = files.digests()
    similar, places = _most_similar(cache, [IMAGES], digests, files.described_decoder)
    with _opened(similar) as source:  # before it may be removed, to make room
        temporary = cache.create(files.key, files.shape, np.uint8)
        progress = sys.stderr.isatty()
        missing = np.flatnonzero(places < 0).tolist()
        try:
            if not progress:
                new = f"{len(missing):,} of " if len(missing) < len(files) else ""
                path = readable(cache.path(files.key))
                also = "; the others were decoded before" if new else ""
                show(f"decoding {new}{len(files):,} images into {path}{also}")
            with temporary.open("r+b", buffering=0) as file:
                header = temporary.stat().st_size - files.num_bytes

                # The pages of a memory map would count as memory of this process.
                def write(place: int, pixels: NDArray[np.uint8]) -> None:
                    start = header + place * pixels.nbytes
                    if os.pwrite(file.fileno(), pixels.data, start) < pixels.nbytes:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

                for place in np.flatnonzero(places >= 0).tolist():
                    assert source is not None
                    write(place, source(int(places[place])))
                broken = files.decode_all(write, progress, missing)
            notes = _Notes(files.described_decoder, broken, digests)
            cache.publish(temporary, files.key, notes.to_bytes())
        finally:
            temporary.unlink(missing_ok=True)
    return broken


@contextmanager
def _opened(path: Path | None) -> Iterator[Callable[[int], NDArray[np.uint8]] | None]:
    """Open an entry of images, and yield what reads the image at a position."""
    if path is None:
        yield None
        return
    shape, header = (array := np.load(path, mmap_mode="r")).shape, array.offset
    size = math.prod(shape[1:])
    with path.open("rb", buffering=0) as file:
        yield lambda place: np.frombuffer(
            os.pread(file.fileno(), size, header + place * size), np.uint8
        )


def _check_into(cache: CacheDir, files: ImageFiles, progress: bool) -> Broken:
    digests = files.digests()
    _, places = _most_similar(cache, [CHECKED, IMAGES], digests, None)
    missing = np.flatnonzero(places < 0).tolist()
    if missing and not progress:
        show(f"looking for images that can't be read among {len(missing):,}")
    temporary = cache.create(files.checked_key, (1,), np.uint8)
    try:
        broken = files.decode_all(lambda place, pixels: None, progress, missing)
        notes = _Notes("", broken, digests)
        cache.publish(temporary, files.checked_key, notes.to_bytes())
    finally:
        temporary.unlink(missing_ok=True)
    return broken


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
