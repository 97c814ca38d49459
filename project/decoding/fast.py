"""JPEGs in two thirds of the time, with the extra ``fast``: by simplejpeg, and resized by torch.

Both compute what Pillow does: libjpeg-turbo decodes in either case, and the filter that reduces an
image is the same.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Transpose

AVAILABLE = find_spec("simplejpeg") is not None
SPACES = {"L": "GRAY", "RGB": "RGB"}  # of libjpeg, by Pillow's name; others, as CMYK, stay Pillow's


def read_jpeg(path: Path, mode: str, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """Return the pixels of a JPEG, uint8 ``[H, W, C]``.

    Args:
        path: The file.
        mode: Grey (``L``) or RGB.
        size: Width and height, of the file or of 1/2, 1/4 or 1/8 of it.

    Returns:
        None if there is anything odd about it: then Pillow says what.
    """
    import simplejpeg

    width, height = size
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            path.read_bytes(), SPACES[mode], min_height=height, min_width=width
        )
    except (ValueError, MemoryError):
        return None
    return pixels if pixels.shape[:2] == (height, width) else None


def turned(pixels: NDArray[np.uint8], turn: Transpose | None) -> NDArray[np.uint8]:
    """Return an image ``[H, W, C]``, turned as Pillow does it."""
    if turn is None:
        return pixels
    if turn in (Transpose.TRANSPOSE, Transpose.TRANSVERSE):
        pixels = pixels.swapaxes(0, 1)
    if turn in (Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180, Transpose.TRANSVERSE):
        pixels = pixels[:, ::-1]
    if turn in (Transpose.FLIP_TOP_BOTTOM, Transpose.ROTATE_180, Transpose.TRANSVERSE):
        pixels = pixels[::-1]
    quarters = {Transpose.ROTATE_90: 1, Transpose.ROTATE_270: 3}.get(turn, 0)
    return np.ascontiguousarray(np.rot90(pixels, quarters))


def resized(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return an image of another size, uint8 ``[C, H, W]``.

    Args:
        pixels: uint8 ``[H, W, C]``.
        size: Width and height.
    """
    import torch
    from torch.nn import functional

    channels_first = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    found = functional.interpolate(channels_first, size[::-1], mode="bilinear", antialias=True)
    result: NDArray[np.uint8] = found[0].contiguous().numpy()
    return result
