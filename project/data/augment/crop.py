"""Random parts of the picture."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from project.data.augment.operations import Cropping, between
from project.randomness import uniform

TRIES = 10  # of a part that fits into the picture


@dataclass(frozen=True)
class RandomResizedCrop(Cropping):
    """A random part of the picture, resized to what the model gets (Szegedy et al., 2015).

    As the first of the list it takes its part from all of the picture, if ``data.decode_size``
    keeps that. Sizes and positions are distributed as in torchvision's ``RandomResizedCrop``.

    Args:
        scale: Smallest and largest fraction of the picture's area.
        ratio: Smallest and largest width over height of the part, evenly on a logarithmic scale.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        self.check_range("scale", 1e-6, 1)
        self.check_range("ratio", 1e-3, 1e3)

    def boxes(self, aspects: Tensor, keys: Tensor, seed: int) -> Tensor:
        """Return left, top, width and height of the parts, float32 ``[B, 4]``."""
        random = uniform(keys, 2 * TRIES + 2, seed)
        area = between(*self.scale, random[:, :TRIES])
        low, high = self.ratio
        ratio = between(math.log(low), math.log(high), random[:, TRIES : 2 * TRIES]).exp()
        aspects = aspects[:, None]
        width, height = (area * ratio / aspects).sqrt(), (area / ratio * aspects).sqrt()
        fits = (width <= 1) & (height <= 1)
        nearest = aspects.clamp(low, high)  # the largest part of an allowed ratio, where none fits
        width = torch.cat([width, nearest / aspects], dim=1).clamp(max=1)
        height = torch.cat([height, aspects / nearest], dim=1).clamp(max=1)
        fits = torch.cat([fits, torch.ones_like(fits[:, :1])], dim=1)
        first = fits.int().argmax(dim=1, keepdim=True)
        width, height = width.gather(1, first).squeeze(1), height.gather(1, first).squeeze(1)
        x, y = random[:, -2:].unbind(dim=1)
        left = torch.where(fits[:, :-1].any(dim=1), x, 0.5) * (1 - width)
        top = torch.where(fits[:, :-1].any(dim=1), y, 0.5) * (1 - height)
        return torch.stack([left, top, width, height], dim=1)
