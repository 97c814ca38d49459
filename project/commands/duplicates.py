"""Thumbnails of all images, and which of them show the same picture."""

import math
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torchvision.transforms.v2 import functional
from tqdm import tqdm

from project.data.base import to_channels
from project.data.batches import Images
from project.decoding.decode import open_image
from project.environment import Threads
from project.errors import UserError

THUMBNAIL = 32  # height and width in pixels
COARSE = 2  # pixels of a thumbnail in each direction that are one in the first comparison
DUPLICATE = 0.995  # from this correlation of thumbnails on, two images count as the same
FLAT = 1.0  # standard deviation of pixel values below which a thumbnail is of one colour
CHUNK = 256
FILES = 32  # that are opened before the next look at the clock


@dataclass(frozen=True)
class Look:
    """Some images of a split.

    Attributes:
        chosen: Positions in the split of those that can be read, int64 ``[n]``.
        thumbnails: uint8 ``[n, 3, 32, 32]``.
        broken: Why the others can't be read, by their positions.
    """

    chosen: Tensor
    thumbnails: Tensor
    broken: Mapping[int, str]

    def __len__(self) -> int:
        return len(self.chosen) + len(self.broken)


def look_at(images: Images, chosen: Tensor, seconds: float = math.inf) -> Look:
    """Make thumbnails of images; a file is opened, but its pixels aren't kept.

    Args:
        images: A split.
        chosen: Positions of the images, int64; at least one.
        seconds: After these no further file is opened; the last ones of ``chosen`` are left out.
    """
    end = time.perf_counter() + seconds
    paths = [images.path(place) for place in chosen.tolist()]
    if None in paths:  # the images are in memory already
        parts = torch.split(chosen, CHUNK)
        small = torch.cat([_thumbnails(images[index].images) for index in parts])
        return Look(chosen, small, {})
    hidden = not sys.stderr.isatty()
    bar = tqdm(total=len(paths), desc="reading", unit=" images", leave=False, disable=hidden)
    found: list[Tensor | str] = []
    with bar, Threads() as pool:
        for start in range(0, len(paths), FILES):
            some = paths[start : start + FILES]
            found += pool.map(_look_at_file, filter(None, some))
            bar.update(len(some))
            if time.perf_counter() > end:
                break
    chosen = chosen[: len(found)]
    good = [look for look in found if not isinstance(look, str)]
    read = torch.tensor([not isinstance(look, str) for look in found])
    empty = torch.empty(0, 3, THUMBNAIL, THUMBNAIL, dtype=torch.uint8)
    return Look(
        chosen[read],
        torch.stack(good) if good else empty,
        {place: look for place, look in zip(chosen.tolist(), found) if isinstance(look, str)},
    )


def _look_at_file(path: Path) -> Tensor | str:
    """Return the thumbnail of an image, or why its file can't be read."""
    try:
        pixels = functional.pil_to_tensor(open_image(path, at_least=2 * THUMBNAIL))
    except (UserError, OSError) as error:
        return str(error)
    return _thumbnails(pixels[None])[0]


def _thumbnails(images: Tensor) -> Tensor:
    """Return thumbnails, uint8 ``[N, 3, 32, 32]``, of images, uint8 ``[N, C, H, W]``."""
    size = [THUMBNAIL, THUMBNAIL]
    small: Tensor = functional.resize(to_channels(images, 3), size, antialias=True)
    return small


def originals(thumbnails: Tensor) -> Tensor:
    """Return for each image the first one that shows the same picture, int64 ``[N]``.

    Images that show it earlier, and are themselves the same as another, don't count: whatever
    differs from its original is the same picture as that one, and not only by way of others. An
    image that is like none before it is its own original.

    Two images show the same picture if the correlation of their thumbnails is at least
    :data:`DUPLICATE`, first in grey and small, then in colour. So a copy is found at another size,
    compression, brightness or contrast; but not if it is cropped or flipped. Images of one colour
    are never the same.

    Args:
        thumbnails: uint8 ``[N, 3, 32, 32]``, those that may be an original first.
    """
    coarse, original = _coarse(thumbnails), torch.arange(len(thumbnails))
    kept = original[:0]
    for part in torch.split(torch.arange(len(thumbnails)), CHUNK):
        for place, other in _pairs(thumbnails, coarse, part, torch.cat([kept, part])):
            if other < place and original[place] == place and original[other] == other:
                original[place] = other
        kept = torch.cat([kept, part[original[part] == part]])
    return original


def count_duplicates(train: Tensor, test: Tensor) -> int:
    """Return how many test images show the picture of a training image.

    Args:
        train: Thumbnails of the training images, uint8 ``[N, 3, 32, 32]``.
        test: Thumbnails of the test images, uint8 ``[M, 3, 32, 32]``.
    """
    both = torch.cat([train, test])
    coarse, known = _coarse(both), torch.arange(len(train))
    asked = torch.arange(len(train), len(both))
    pairs = (
        pair for part in torch.split(asked, CHUNK) for pair in _pairs(both, coarse, part, known)
    )
    return len({place for place, _ in pairs})


def _pairs(
    thumbnails: Tensor, coarse: Tensor, some: Tensor, others: Tensor
) -> Iterator[tuple[int, int]]:
    """Yield the pairs of some images with others that are the same, in their order."""
    like = (coarse[some] @ coarse[others].T >= DUPLICATE).nonzero()
    for part in torch.split(like, CHUNK):
        places = some[part[:, 0]], others[part[:, 1]]
        one, other = (_standardized(thumbnails[place]) for place in places)
        same = (one * other).sum(1) >= DUPLICATE
        yield from zip(*(place[same].tolist() for place in places))


def _coarse(thumbnails: Tensor) -> Tensor:
    parts = torch.split(thumbnails, CHUNK)
    grey = [avg_pool2d(functional.rgb_to_grayscale(part).float(), COARSE) for part in parts]
    return torch.cat([_standardized(part) for part in grey])


def _standardized(images: Tensor) -> Tensor:
    """Return images as vectors of length 1 and mean 0, whose products are correlations."""
    flat = images.flatten(1).float()
    flat = flat - flat.mean(1, keepdim=True)
    lengths = flat.norm(dim=1, keepdim=True)
    return torch.where(lengths > FLAT * flat.shape[1] ** 0.5, flat / lengths, 0.0)
