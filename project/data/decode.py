"""Image files to pixels: decoded for every batch, once into memory, or once into a file."""

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
DECODER = 1  # version; raise it with every change after which a file gives other pixels
RESIDENT_BYTES = 2**26  # bytes read from a memory map before its pages are released
SUBMITTED = 4096  # files that are queued for the threads; queueing all would take memory


@dataclass(frozen=True)
class Decoder:
    """Reads image files of any size as pixels of one size.

    Args:
        mode: Grey (``L``) or RGB.
        size: Width and height in pixels.
        resize: ``crop`` scales the shorter side and crops the centre; ``squash`` ignores the aspect
            ratio.
    """

    mode: Literal["L", "RGB"]
    size: tuple[int, int]
    resize: Literal["crop", "squash"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of the result."""
        width, height = self.size
        return 1 if self.mode == "L" else 3, height, width

    def __call__(self, path: Path) -> NDArray[np.uint8]:
        """Return the pixels, uint8 ``[C, H, W]``.

        Raises:
            UserError: If the file can't be read completely; the message names it.
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
    """Read an image of any mode as 8-bit grey or RGB.

    The EXIF orientation is applied, and transparent pixels become white.

    Args:
        path: The file.
        mode: Grey (``L``) or RGB.
        at_least: Lets a JPEG be read at 1/2, 1/4 or 1/8 of its size, which takes a fraction of the
            time, if both sides are divisible by that and keep at least this many pixels. After
            resizing to half of ``at_least`` or less, pixel values of images with the contrast of
            photos differ by at most 2 of 255. None reads the full size.

    Raises:
        UserError: If the file can't be read completely; the message names it.
    """
    try:
        with Image.open(path) as file:
            for scale in (8, 4, 2) if at_least is not None else ():
                (width, rest), (height, more) = (divmod(side, scale) for side in file.size)
                if rest == more == 0 and min(width, height) >= (at_least or 0):
                    file.draft(None, (width, height))  # has an effect on JPEG only
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
    """Return an 8-bit image: the upper 8 of 16 bits; floats are in [0, 1] or in [0, 255]."""
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
    """Image files and their decoder.

    Args:
        paths: Paths of the files.
        decoder: Reads the pixels of a file.
    """

    def __init__(self, paths: list[Path], decoder: Decoder) -> None:
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
    def _identities(self) -> list[bytes]:
        """Absolute path, size and modification time of each file: they change with the file."""
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
        """Return the SHA-256 of path, size and modification time of files.

        Args:
            places: Positions of the files, int64; None takes all of them.
            decoded: Whether the decoder is part of it.

        Raises:
            UserError: If a file doesn't exist.
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
        """Decode all files with several threads; Pillow releases the GIL while it decodes.

        Args:
            write: Receives the position of an image and its pixels, in any order and from any
                thread.
            progress: Show a progress bar.

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
"""Takes positions among the files, int64 ``[B]``, and returns images, uint8 ``[B, C, H, W]``."""


def in_memory(files: ImageFiles, progress: bool) -> Pixels:
    """Decode all files into memory.

    Raises:
        UserError: If a file is broken.
    """
    files.sha256()  # before decoding: a file that changes later must not be fingerprinted
    images = torch.empty(files.shape, dtype=torch.uint8)
    array = images.numpy()
    files.decode_all(array.__setitem__, progress)
    return partial(torch.index_select, images, 0)


def on_disk(files: ImageFiles, cache: CacheDir, resident: bool) -> Pixels:
    """Decode all files into one file of the cache, unless it exists, and map it into memory.

    If several processes call this at once, one of them decodes and the others wait.

    Args:
        files: The files.
        cache: The cache.
        resident: As for :class:`MappedPixels`.

    Raises:
        OSError: If the cache can't be written to or is too small.
        UserError: If a file is broken; then nothing is added to the cache.
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
        """Return the images at these places, uint8 ``[B, C, H, W]``."""
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


class FolderImages:
    """One split of a folder of images: a subset of the files, and their labels.

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

    def subset(self, index: Tensor) -> "FolderImages":
        """Return the images of these indices, in that order, without copying or decoding them."""
        pixels = self._pixels if self.in_memory else None
        return FolderImages(self.files, self.places[index], self.labels[index], pixels)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the state of the files, their decoder and the labels."""
        return self._digest(decoded=True)

    def identity(self) -> str:
        """Return the SHA-256 of the state of the files and the labels."""
        return self._digest(decoded=False)

    def _digest(self, decoded: bool) -> str:
        files = self.files.sha256(self.places, decoded)
        return hashlib.sha256(files.encode() + self.labels.numpy().tobytes()).hexdigest()

    def path(self, index: int) -> Path:
        """Return the path of the image with this index."""
        return self.files.paths[int(self.places[index])]
