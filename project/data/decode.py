"""The decoder: one image file to pixels of a given size and mode."""

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from project.console import readable
from project.errors import UserError

BACKGROUND = (255, 255, 255)
DECODER = 1  # version; raise it with every change after which a file gives other pixels


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
        if not stat.S_ISREG(Path(path).stat().st_mode):  # to open a pipe would wait for ever
            raise OSError("not a regular file")
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
        raise broken_image(path, error) from error


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Return an 8-bit image: the upper 8 of 16 bits; floats are in [0, 1] or in [0, 255]."""
    values = np.asarray(image)
    if image.mode == "F":
        values = values * (255 if values.max(initial=0) <= 1 else 1)
    elif image.mode.startswith("I;16") or values.max(initial=0) > 255:
        values = values.astype(np.int64) >> 8
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def broken_image(path: str | Path, error: BaseException) -> UserError:
    """Return the error that names a file which can't be read, and the reason."""
    reason = (
        "not an image"
        if isinstance(error, UnidentifiedImageError)
        else getattr(error, "strerror", None) or str(error)
    )
    return UserError(f"{readable(path)}: broken image: {reason}")
