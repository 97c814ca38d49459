"""From image files to pixels: decoded for every batch, into memory, or once into a file."""

import errno
import hashlib
import mmap
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from project.data.batches import Batch
from project.data.cache import CacheDir
from project.errors import UserError

BACKGROUND = (255, 255, 255)
DECODER = 1  # to be raised with every change after which a file gives other pixels
RESIDENT_BYTES = 2**26  # read from a map before its pages are given back
SUBMITTED = 4096  # files that wait for a thread; all at once would take memory


@dataclass(frozen=True)
class Decoder:
    """Makes an image of one size from a file of any.

    Args:
        mode: Grey or RGB.
        size: Width and height in pixels.
        resize: ``crop`` scales the shorter side and cuts out the middle, ``squash`` ignores the
            proportions.
    """

    mode: Literal["L", "RGB"]
    size: tuple[int, int]
    resize: Literal["crop", "squash"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of what it makes."""
        width, height = self.size
        return 1 if self.mode == "L" else 3, height, width

    def __call__(self, path: Path) -> NDArray[np.uint8]:
        """Return the pixels, uint8 ``[C, H, W]``.

        Raises:
            UserError: If the file can't be read whole; the message names it.
        """
        image = open_image(path, self.mode, at_least=2 * max(self.size))
        if self.resize == "crop":
            image = ImageOps.fit(image, self.size, Image.Resampling.BILINEAR)
        else:
            image = image.resize(self.size, Image.Resampling.BILINEAR)
        channels_last = np.asarray(image).reshape(*self.size[::-1], -1)
        return np.ascontiguousarray(channels_last.transpose(2, 0, 1))


def open_image(
    path: str | Path, mode: Literal["L", "RGB"] = "RGB", at_least: int | None = None
) -> Image.Image:
    """Read an image of any mode as 8-bit grey or RGB, upright, on white.

    Args:
        path: The file.
        mode: Grey or RGB.
        at_least: A JPEG may be read at 1/2, 1/4 or 1/8 of its size as long as both sides keep so
            many pixels and none is cut off; its inverse DCT can do that in a fraction of the time.
            Resized to half of ``at_least`` or less, the values differ by 2 of 255 at most, on
            images of the contrast of photos.

    Raises:
        UserError: If the file can't be read whole; the message names it.
    """
    try:
        with Image.open(path) as file:
            for scale in (8, 4, 2) if at_least is not None else ():
                (width, rest), (height, more) = (divmod(side, scale) for side in file.size)
                if rest == more == 0 and min(width, height) >= (at_least or 0):
                    file.draft(None, (width, height))  # nothing happens but for JPEG
                    break
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I") or image.mode == "F":
                image = _to_8_bit(image)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                ground = Image.new("RGBA", image.size, (*BACKGROUND, 255))
                image = Image.alpha_composite(ground, image)
            return image.convert(mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _broken(path, error) from error


def _to_8_bit(image: Image.Image) -> Image.Image:
    """16-bit greys lose their lower 8 bits; floats are taken to be in [0, 1] or [0, 255]."""
    values = np.asarray(image)
    if image.mode == "F":
        values = values * (255 if values.max(initial=0) <= 1 else 1)
    elif image.mode.startswith("I;16") or values.max(initial=0) > 255:
        values = values.astype(np.int64) >> 8
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def _broken(path: str | Path, error: BaseException) -> UserError:
    reason = (
        "not an image"
        if isinstance(error, UnidentifiedImageError)
        else getattr(error, "strerror", None) or str(error)
    )
    return UserError(f"{path}: broken image: {reason}")


class ImageFiles:
    """Files, and how they are decoded.

    Args:
        paths: Their paths.
        decoder: What makes pixels of each.
    """

    def __init__(self, paths: list[Path], decoder: Decoder) -> None:
        self.paths = paths
        self.decoder = decoder

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape ``(N, C, H, W)`` of all of them, decoded."""
        return len(self), *self.decoder.shape

    @property
    def num_bytes(self) -> int:
        """Bytes that they take decoded."""
        count, channels, height, width = self.shape
        return count * channels * height * width

    def subset(self, places: Tensor) -> "ImageFiles":
        """Return the files at these places."""
        return ImageFiles([self.paths[place] for place in places.tolist()], self.decoder)

    @cached_property
    def _identities(self) -> list[bytes]:
        """Absolute path, size and modification time of each file, by which a change is noticed."""
        here = Path.cwd()
        identities = []
        for path in self.paths:
            try:
                status = path.stat()
            except OSError as error:
                raise _broken(path, error) from error
            name = os.fsencode(here / path)
            identities.append(b"%s\0%d\0%d\0" % (name, status.st_size, status.st_mtime_ns))
        return identities

    def sha256(self, places: Tensor | None = None, decoded: bool = True) -> str:
        """Return what identifies files and, unless ``decoded`` is False, how they are decoded.

        Args:
            places: Places of the files; None takes all of them.
            decoded: Whether the decoder counts, too.

        Raises:
            UserError: If a file isn't there.
        """
        digest = hashlib.sha256(f"{DECODER} {self.decoder}".encode() if decoded else b"")
        chosen = range(len(self)) if places is None else places.tolist()
        for place in chosen:
            digest.update(self._identities[place])
        return digest.hexdigest()

    @cached_property
    def key(self) -> str:
        """Key of the decoded images in a :class:`CacheDir`."""
        return f"images-{self.sha256()[:32]}"

    def decode(self, places: Tensor) -> Tensor:
        """Return the images at these places, uint8 ``[B, C, H, W]``."""
        images = [self.decoder(self.paths[place]) for place in places.tolist()]
        return torch.from_numpy(np.stack(images))

    def decode_all(self, write: Callable[[int, NDArray[np.uint8]], None], progress: bool) -> None:
        """Decode all files in threads: Pillow releases the GIL.

        Args:
            write: Takes the place of an image and its pixels, in any order and from any thread.
            progress: Whether to show a progress bar.

        Raises:
            UserError: If a file is broken; the message names it.
        """

        def decode(place: int) -> None:
            write(place, self.decoder(self.paths[place]))

        bar = tqdm(total=len(self), desc="decoding", unit=" images", disable=not progress)
        with bar, ThreadPoolExecutor() as pool:
            for start in range(0, len(self), SUBMITTED):
                for _ in pool.map(decode, range(len(self))[start : start + SUBMITTED]):
                    bar.update()


Pixels = Callable[[Tensor], Tensor]
"""Takes places among the files, int64 ``[B]``, and returns images, uint8 ``[B, C, H, W]``."""


def in_memory(files: ImageFiles, progress: bool) -> Pixels:
    """Decode all files into memory.

    Raises:
        UserError: If a file is broken.
    """
    files.sha256()  # a fingerprint must not be of a file that was changed after it was decoded
    images = torch.empty(files.shape, dtype=torch.uint8)
    array = images.numpy()
    files.decode_all(array.__setitem__, progress)
    return partial(torch.index_select, images, 0)


def on_disk(files: ImageFiles, cache: CacheDir, resident: bool) -> Pixels:
    """Decode all files into one of the cache, unless it is there, and map that.

    Of the processes that ask for it at once, one decodes and the others wait.

    Args:
        files: The files.
        cache: Where it is kept.
        resident: As for :class:`MappedPixels`.

    Raises:
        OSError: If the cache can't be written to or is too small.
        UserError: If a file is broken; then nothing is left in the cache.
    """
    path = cache.path(files.key)
    if not path.is_file():
        with cache.lock(files.key):
            if not cache.path(files.key).is_file():
                _decode_into(cache, files)
    return MappedPixels(path, resident)


def _decode_into(cache: CacheDir, files: ImageFiles) -> None:
    temporary = cache.create(files.key, files.shape, np.uint8)
    progress = sys.stderr.isatty()
    try:
        if not progress:
            tqdm.write(f"decoding {len(files):,} images into {cache.path(files.key)}")
        with temporary.open("r+b", buffering=0) as file:
            header = temporary.stat().st_size - files.num_bytes

            # Not through a map, whose pages would count as memory of this process.
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
        resident: Whether what was read may stay in the memory of this process. If not, it is
            given back every 64 MB; the system may still keep it as cached file.
    """

    def __init__(self, path: Path, resident: bool) -> None:
        self._path = path
        self._resident = resident
        self._allowance = RESIDENT_BYTES
        self._array = np.load(path, mmap_mode="r")

    def __call__(self, places: Tensor) -> Tensor:
        """Return the images at these places, uint8 ``[B, C, H, W]``."""
        images = torch.from_numpy(np.asarray(self._array)[places.numpy()])
        self._allowance -= images.nbytes
        if self._allowance <= 0:
            self._allowance = RESIDENT_BYTES
            if not self._resident and hasattr(mmap, "MADV_DONTNEED"):
                self._array.base.madvise(mmap.MADV_DONTNEED)
        return images

    def __reduce__(self) -> tuple[type["MappedPixels"], tuple[Path, bool]]:
        """Let a worker process map the file anew; the array itself would be copied."""
        return MappedPixels, (self._path, self._resident)


class FolderImages:
    """One split of a folder of images: which of the files it has, and their labels.

    Args:
        files: The files of all splits.
        places: Where its images are among them, int64 ``[N]``.
        labels: int64 ``[N]``.
        pixels: Returns the images at given places; None decodes them each time.
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

    def subset(self, index: Tensor) -> "FolderImages":
        """Return the images of these indices, in that order; nothing is copied or decoded."""
        pixels = self._pixels if self.in_memory else None
        return FolderImages(self.files, self.places[index], self.labels[index], pixels)

    def fingerprint(self) -> str:
        """Return the SHA-256 of what identifies the files, how they are decoded, and the labels."""
        return self._digest(decoded=True)

    def identity(self) -> str:
        """Return the SHA-256 of what identifies the files, and the labels."""
        return self._digest(decoded=False)

    def _digest(self, decoded: bool) -> str:
        files = self.files.sha256(self.places, decoded)
        return hashlib.sha256(files.encode() + self.labels.numpy().tobytes()).hexdigest()

    def path(self, index: int) -> Path:
        """Return the file of the image with this index."""
        return self.files.paths[int(self.places[index])]

    def decoded(self) -> "FolderImages":
        """Return the same images, all of them decoded into memory.

        Raises:
            UserError: If a file is broken.
        """
        files = self.files.subset(self.places)
        pixels = in_memory(files, progress=False)
        return FolderImages(files, torch.arange(len(files)), self.labels, pixels)
