"""The decoder: one image file to pixels of a given size and mode."""

import errno
import logging
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from project.console import readable
from project.decoding.fast import AVAILABLE, SPACES, read_jpeg, resized, turned
from project.decoding.memory import Memory
from project.errors import UserError

BACKGROUND = (255, 255, 255)
DECODER = 3  # version; raise it with every change after which a file gives other pixels

MOST_PIXELS = 2**30  # of an image
MOST_BYTES = 2**32  # of memory for one image, while it is decoded
SHARED_BYTES = 2**30  # of memory for the images that are decoded at once, unless one is larger
LARGE = 2**22  # pixels from which an image is reduced before it is resized
HUGE = 2**26  # pixels from which a JPEG is read at a fraction of its size that isn't exact
BAND = 2**20  # pixels that are converted at once
MOST_OF_UNIT_RANGE = 2.0  # the highest value of an image of floats that are meant to be in [0, 1]
BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}  # a pixel; else 4
DECODED_APART = {"WEBP": 16, "AVIF": 12, "JPEG2000": 20}  # bytes a pixel, with those of a library
TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = [TURNED[orientation] for orientation in (5, 6, 7, 8)]  # they swap the sides
OF_THE_MACHINE = (  # errors that say nothing about the file: another time, it may be read
    *(errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT),
    *(errno.EINTR, errno.EAGAIN, errno.EBUSY, errno.ENOTCONN),
)
LONGEST_REASON = 200
Resize = Literal["crop", "squash", "pad"]
IGNORED = ("ignore", None, Warning, re.compile(r"PIL\."), 0)  # a filter of warnings

_memory = Memory(SHARED_BYTES)
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else it writes to stderr
Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2  # Pillow refuses what is more than twice as large


class BrokenImageError(UserError):
    """A file that can't be read as an image.

    Args:
        message: Names the file and the reason.
        key: As for every such error.
        reason: The reason alone.
        lasting: Whether the file itself is the reason, and not the state of the machine.
    """

    def __init__(self, message: str, key: str = "", reason: str = "", lasting: bool = True) -> None:
        super().__init__(message, key)
        self.reason = reason
        self.lasting = lasting


@dataclass(frozen=True)
class Decoder:
    """Reads image files of any size as pixels of one size.

    Args:
        mode: Grey (``L``) or RGB.
        size: Width and height in pixels.
        resize: ``crop`` scales the shorter side and crops the centre; ``squash`` ignores the aspect
            ratio; ``pad`` scales the longer side and fills the rest with :data:`BACKGROUND`.
        fast: Whether the extra ``fast`` reads JPEGs.
    """

    mode: Literal["L", "RGB"]
    size: tuple[int, int]
    resize: Resize
    fast: bool = AVAILABLE

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of the result."""
        width, height = self.size
        return 1 if self.mode == "L" else 3, height, width

    def __call__(self, path: Path) -> NDArray[np.uint8]:
        """Return the pixels, uint8 ``[C, H, W]``.

        Raises:
            BrokenImageError: If the file can't be read completely; the message names it.
        """
        if self.fast and (pixels := self._jpeg(path)) is not None:
            return pixels
        image = open_image(path, self.mode, at_least=2 * max(self.size))
        with _reading(path):
            return self._fitted(image)

    def of_picture(self, picture: Image.Image) -> NDArray[np.uint8]:
        """Return the pixels of a picture that is open, uint8 ``[C, H, W]``.

        A large JPEG is read whole here and then reduced, and at a fraction of its size from its
        file; in photos, pixels then differ by up to 2 of 255.

        Raises:
            BrokenImageError: If it can't be read completely, as where its file is damaged.
        """
        at_least = 2 * max(self.size)
        with _reading(getattr(picture, "filename", "") or "a picture"):
            reduced = picture
            if picture.format == "JPEG" and (scale := _scale(picture, at_least)) > 1:
                reduced = picture.reduce(scale)
            image = _converted(reduced, self.mode, _factor(reduced, at_least))
            turn = _turn(picture)
            return self._fitted(image if turn is None else image.transpose(turn))

    def whole(self, path: Path) -> NDArray[np.uint8]:
        """Return a picture in this mode before it is resized, uint8 ``[H, W, C]``.

        A large one is reduced, as it is on the way to the size of the model.

        Raises:
            BrokenImageError: If the file can't be read completely; the message names it.
        """
        image = open_image(path, self.mode, at_least=2 * max(self.size))
        return np.array(image).reshape(image.height, image.width, -1)

    def _fitted(self, image: Image.Image) -> NDArray[np.uint8]:
        size = self._size_within(image.size)
        if self.resize == "crop":
            image = image.crop(centred(image.size, size))
        image = image.resize(size, Image.Resampling.BILINEAR)
        channels_first = np.asarray(image).reshape(*size[::-1], -1).transpose(2, 0, 1)
        return self._padded(np.require(channels_first, requirements=["C", "W"]))

    def _size_within(self, image: tuple[int, int]) -> tuple[int, int]:
        """Return width and height at which an image of a size is seen."""
        if self.resize != "pad":
            return self.size
        scale = min(self.size[0] / image[0], self.size[1] / image[1])
        return max(round(image[0] * scale), 1), max(round(image[1] * scale), 1)

    def _padded(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return an image ``[C, h, w]`` in the centre of the ground, unless it fills it."""
        if pixels.shape == self.shape:
            return pixels
        ground = np.full(self.shape, BACKGROUND[0], np.uint8)
        rows, columns = pixels.shape[1:]
        top, left = (self.shape[1] - rows) // 2, (self.shape[2] - columns) // 2
        ground[:, top : top + rows, left : left + columns] = pixels
        return ground

    def _jpeg(self, path: Path) -> NDArray[np.uint8] | None:
        """Return the pixels of a usual JPEG, None of any other file."""
        with _opened(path) as file:
            if file.format != "JPEG" or file.mode not in SPACES:
                return None
            pixels, turn, at_least = file.width * file.height, _turn(file), 2 * max(self.size)
            _draft(file, at_least)
            if _factor(file, at_least) > 1:  # then the parts of a crop are not pixels of the file
                return None
            with _memory.hold(_num_bytes(file, pixels)):
                whole = read_jpeg(path, self.mode, file.size)
        if whole is None:
            return None
        image = turned(whole, turn)
        size = self._size_within((image.shape[1], image.shape[0]))
        if self.resize == "crop":
            left, top, right, bottom = centred((image.shape[1], image.shape[0]), size)
            image = image[top:bottom, left:right]
        return self._padded(resized(image, size))


def centred(image: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the largest part in the centre of an image that has the aspect ratio of a size.

    It is of whole pixels, so that whatever resizes it sees the same ones.

    Args:
        image: Width and height of the image.
        size: Width and height.

    Returns:
        Left, top, right and bottom.
    """
    scale = min(image[0] / size[0], image[1] / size[1])
    width, height = (max(round(side * scale), 1) for side in size)
    left, top = (image[0] - width) // 2, (image[1] - height) // 2
    return left, top, left + width, top + height


def sides_of(path: str | Path) -> tuple[int, int]:
    """Return both sides of an image in pixels; nothing but its header is read.

    Raises:
        BrokenImageError: If the header can't be read; the message names the file.
    """
    with _opened(path) as file:
        return file.size


def size_of(path: str | Path) -> tuple[int, int]:
    """Return width and height of an image in pixels, as its header and EXIF orientation tell.

    The EXIF data of a PNG may be behind its pixels, which are therefore read, too.

    Raises:
        BrokenImageError: If the header can't be read; the message names the file.
    """
    with _opened(path) as file:
        sideways = _turn(file) in SIDEWAYS
        return (file.height, file.width) if sideways else file.size


def open_image(
    path: str | Path, mode: Literal["L", "RGB"] = "RGB", at_least: int | None = None
) -> Image.Image:
    """Read an image of any mode as 8-bit grey or RGB.

    The EXIF orientation is applied, and transparent pixels become white.

    An image of up to :data:`MOST_PIXELS` is read, if that takes up to :data:`MOST_BYTES`. While it
    is decoded, Pillow holds all of its pixels; everything else happens in bands. Threads that
    decode at once wait for each other, so that their images take :data:`SHARED_BYTES` together, or
    a single one takes more.

    Args:
        path: The file.
        mode: Grey (``L``) or RGB.
        at_least: Lets the image be reduced so that both sides keep at least this many pixels. A
            JPEG is read at 1/2, 1/4 or 1/8 of its size, which takes a fraction of the time, if both
            sides are divisible by that; other images of :data:`LARGE` pixels or more become means
            of squares. After resizing to half of ``at_least`` or less, pixel values of images with
            the contrast of photos differ by at most 2 of 255. None reads the full size.

    Raises:
        BrokenImageError: If the file can't be read completely; the message names it.
    """
    with _opened(path) as file:
        pixels = file.width * file.height
        _draft(file, at_least)
        num_bytes = _num_bytes(file, pixels)
        if num_bytes > MOST_BYTES:
            raise OSError(
                f"{pixels:,} pixels take {num_bytes / 1e9:.1f} GB to decode, and the limit is "
                f"{MOST_BYTES / 1e9:.1f} GB"
            )
        with _memory.hold(num_bytes + 16 * min(file.width * file.height, BAND)):
            file.load()
            image = _converted(file, mode, _factor(file, at_least))
        turn = _turn(file)
        return image if turn is None else image.transpose(turn)


@contextmanager
def _opened(path: str | Path) -> Iterator[ImageFile.ImageFile]:
    """Open an image, of which nothing but the header is read.

    Raises:
        BrokenImageError: In place of whatever is raised while it is open.
    """
    with _reading(path):
        if not stat.S_ISREG(Path(path).stat().st_mode):  # to open a pipe would wait for ever
            raise OSError("not a regular file")
        with Image.open(path) as file:
            if file.format == "EPS":  # Pillow would let Ghostscript run it
                raise OSError("PostScript is a program, and is not run")
            yield file


def _draft(file: ImageFile.ImageFile, at_least: int | None) -> None:
    """Let a JPEG be read at a fraction of its size, if its sides keep that many pixels."""
    scale = _scale(file, at_least)
    file.draft(None, (file.width // scale, file.height // scale))  # has an effect on JPEG only


def _scale(image: Image.Image, at_least: int | None) -> int:
    """Return 8, 4 or 2 if a JPEG is read at 1/8, 1/4 or 1/2 of its size, else 1."""
    for scale in (8, 4, 2) if at_least is not None else ():
        exact = image.width % scale == image.height % scale == 0
        if min(image.size) // scale >= (at_least or 0) and (
            exact or image.width * image.height > HUGE
        ):
            return scale
    return 1


def _num_bytes(file: ImageFile.ImageFile, pixels: int) -> int:
    """Return how much memory an image takes while it is decoded, as far as its header tells.

    Args:
        file: The image, at the size at which it is read.
        pixels: Number of its pixels at full size.
    """
    each = DECODED_APART.get(file.format or "", BYTES.get(file.mode, 4))
    coefficients = 6 * pixels if "progressive" in file.info else 0  # of the whole JPEG
    return file.width * file.height * each + coefficients


def _factor(image: Image.Image, at_least: int | None) -> int:
    """Return the side of the squares of which an image becomes the means."""
    if at_least is None or image.width * image.height < LARGE:
        return 1
    return max(min(image.size) // at_least, 1)


def _converted(image: Image.Image, mode: Literal["L", "RGB"], factor: int) -> Image.Image:
    """Return an 8-bit image, without transparency, and reduced; it is converted in bands."""
    highest = _highest(image) if image.mode.startswith("I") or image.mode == "F" else 0.0
    width, height = image.size
    rows = max(BAND // (width * factor), 1) * factor
    if rows >= height and factor == 1:
        return _band(image, mode, highest)
    whole = Image.new(mode, (-(-width // factor), -(-height // factor)))
    for top in range(0, height, rows):
        band = _band(image.crop((0, top, width, min(top + rows, height))), mode, highest)
        whole.paste(band.reduce(factor) if factor > 1 else band, (0, top // factor))
    if width % factor == height % factor == 0:
        return whole
    box = (0, 0, width / factor, height / factor)  # the last pixels are of less than a square
    return whole.resize((width // factor, height // factor), Image.Resampling.BILINEAR, box)


def _band(image: Image.Image, mode: Literal["L", "RGB"], highest: float) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_8_bit(image, highest)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        image = Image.alpha_composite(ground, image)
    return image.convert(mode)


def _highest(image: Image.Image) -> float:
    """Return the highest finite value of an image, 0 if there is none."""
    highest = 0.0
    rows = max(BAND // max(image.width, 1), 1)
    for row in range(0, image.height, rows):
        band = np.asarray(image.crop((0, row, image.width, min(row + rows, image.height))))
        highest = max(highest, float(np.max(band, initial=0, where=np.isfinite(band))))
    return highest


def _to_8_bit(image: Image.Image, highest: float) -> Image.Image:
    """Return an 8-bit image: the upper 8 of 16 bits; floats are in [0, 1] or in [0, 255].

    They are taken to be in [0, 1] if none is above :data:`MOST_OF_UNIT_RANGE`: filters overshoot a
    little, and an image in [0, 255] with such values would be black. What is no number is black.
    """
    values = np.asarray(image)
    if image.mode == "F":
        scale = 255 if highest <= MOST_OF_UNIT_RANGE else 1
        values = np.fmin(np.fmax(values, 0), 255 / scale) * scale
    elif image.mode.startswith("I;16") or highest > 255:
        values = values.astype(np.int64) >> 8
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def _turn(file: Image.Image) -> Image.Transpose | None:
    """Return what brings an image into the orientation that the camera noted.

    Nothing else of its EXIF is read: ``ImageOps.exif_transpose`` writes all of it anew, and fails
    at one odd value of it (https://github.com/python-pillow/Pillow/issues/8965).
    """
    with suppress(Exception):  # an image with broken EXIF is shown as it is
        return TURNED.get(file.getexif().get(ExifTags.Base.Orientation, 1))
    return None


@contextmanager
def _reading(path: str | Path) -> Iterator[None]:
    """Turn whatever is raised around Pillow into an error that names the file.

    A damaged file makes its plugins fail in every way: with AttributeError, struct.error, KeyError,
    NotImplementedError, RuntimeError and others.

    Raises:
        BrokenImageError: In place of it.
    """
    _let_pillow_be_quiet()
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise broken_image(path, error) from error


def _let_pillow_be_quiet() -> None:
    """Ignore the warnings of Pillow, which name no file: of EXIF, of sizes, of transparency.

    The filter counts for all threads, which ``warnings.catch_warnings`` would take from each other.
    It is set again where something has set others since, as a test does.
    """
    if not warnings.filters or warnings.filters[0] != IGNORED:
        warnings.filterwarnings("ignore", module=IGNORED[3].pattern)


def broken_image(path: str | Path, error: BaseException) -> BrokenImageError:
    """Return the error that names a file which can't be read, and the reason."""
    if isinstance(error, UnidentifiedImageError):
        reason = "not an image"
    elif isinstance(error, MemoryError):
        reason = "not enough memory"
    else:
        reason = readable(getattr(error, "strerror", None) or str(error))[:LONGEST_REASON]
        if not isinstance(error, OSError | SyntaxError | ValueError | Image.DecompressionBombError):
            reason = f"{type(error).__name__}: {reason}"
    lasting = getattr(error, "errno", None) not in OF_THE_MACHINE
    return BrokenImageError(f"{readable(path)}: broken image: {reason}", "", reason, lasting)
