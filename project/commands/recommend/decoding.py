"""How long pictures take to decode, where a few large ones may take as long as all others."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from project.data.batches import Images, TensorImages
from project.data.splits import spread
from project.decoding.decode import BrokenImageError, sides_of
from project.environment import Threads, available_cores

LARGE = 2**25  # pixels; a picture with more takes a second to decode
TOGETHER = 4 * available_cores()  # pictures that threads decode before a look at the clock
CONTRAST = 4  # times as large are the largest ones, so that the two times can be told apart
HEADERS = 256  # that are read before a look at the clock


class Timed(NamedTuple):
    """Pictures that were decoded together.

    Attributes:
        images: Their number.
        pixels: Pixels of all of them, in their files.
        seconds: The time that it took.
    """

    images: int
    pixels: int
    seconds: float


def sizes_of(images: Images, chosen: Tensor, seconds: float = math.inf) -> Tensor:
    """Return both sides of images in pixels, int64 ``[n, 2]``; 0 where a header can't be read.

    Args:
        images: A split.
        chosen: Positions of the images, int64; at least one.
        seconds: After these no further header is read; the last ones of ``chosen`` are left out.
    """
    end = time.perf_counter() + seconds
    paths = [path for place in chosen.tolist() if (path := images.path(place)) is not None]
    if len(paths) < len(chosen):  # the images are in memory already
        return torch.tensor(images[chosen[:1]].images.shape[2:]).expand(len(chosen), 2)
    found: list[tuple[int, int]] = []
    with Threads() as pool:
        for start in range(0, len(paths), HEADERS):
            found += pool.map(_sides, paths[start : start + HEADERS])
            if time.perf_counter() > end:
                break
    return torch.tensor(found)


def _sides(path: Path) -> tuple[int, int]:
    try:
        return sides_of(path)
    except BrokenImageError:  # the decoder says why
        return 0, 0


def samplable(pixels: Tensor) -> Tensor:
    """Return which pictures a sample may have, so that none takes most of its time, bool ``[N]``.

    These are all up to :data:`LARGE`; where most are larger, those up to the median.

    Args:
        pixels: Number of pixels of each picture, int64 ``[N]``.
    """
    return pixels <= max(LARGE, int(pixels.median()))


def decode_some(images: Images, most: int, seconds: float) -> tuple[TensorImages, list[Timed]]:
    """Decode images at about equal distances that are :func:`samplable`, and take the time.

    Args:
        images: A split whose images aren't in memory.
        most: Largest number of images.
        seconds: After these no further ones are decoded.
    """
    end = time.perf_counter() + seconds
    chosen = spread(len(images), most)
    pixels = sizes_of(images, chosen).prod(1)
    small = samplable(pixels).nonzero().flatten()
    by_size = torch.split(small[pixels[small].argsort(stable=True)], TOGETHER)
    order = torch.randperm(len(by_size), generator=torch.Generator().manual_seed(0))
    batches, timed = [], []
    for group in (by_size[number] for number in order.tolist()):
        start = time.perf_counter()
        part = images.subset(chosen[group]).decoded()
        taken = time.perf_counter() - start
        timed.append(Timed(len(group), int(pixels[group].sum()), taken))
        batches.append(part[torch.arange(len(group))])
        if time.perf_counter() > end:
            break
    pixels_and_labels = zip(*((batch.images, batch.labels) for batch in batches))
    return TensorImages(*map(torch.cat, map(list, pixels_and_labels))), timed


def seconds_to_decode(timed: Sequence[Timed], images: int, pixels: float) -> float:
    """Return how long images take to decode: a time for each, and one for each of its pixels.

    Both are fitted to the times of a sample by least squares, neither below zero. Where its
    pictures are of about one size, all of the time counts as that of pixels.

    Args:
        timed: The sample; without one nothing is decoded.
        images: Number of images.
        pixels: Mean number of pixels of an image, in its file.
    """
    from scipy.optimize import nnls  # slow to import

    if not timed:
        return 0.0
    counts, sums, seconds = (np.array(column, float) for column in zip(*timed))
    unit = sums.sum() / counts.sum() or 1.0
    means = sums / counts
    if means.max() < CONTRAST * means.min():
        return images * float(seconds.sum() / counts.sum() * pixels / unit)
    (each, per_unit), _ = nnls(np.stack([counts, sums / unit], 1), seconds)
    return images * float(each + per_unit * pixels / unit)
