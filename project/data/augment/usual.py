"""The usual small changes, as numbers."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from project.data.augment.operations import Operation
from project.errors import UserError
from project.randomness import uniform

MOST_PIXELS = 100_000  # of a shift or a square


@dataclass(frozen=True)
class Augment(Operation):
    """The usual small changes of training images, as numbers; by default all of them are off.

    Args:
        flip: Probability of a horizontal flip.
        shift: Largest shift in pixels, in each direction; the border is mirrored.
        min_scale: Smallest fraction of the area that a random crop keeps; the crop is resized to
            the full size. 1 crops nothing.
        brightness: Largest relative change of brightness.
        contrast: Largest relative change of contrast.
        cutout: Side length in pixels of a square that is filled with the image's mean colour
            (DeVries and Taylor, 2017).
    """

    flip: float = 0.0
    shift: int = 0
    min_scale: float = 1.0
    brightness: float = 0.0
    contrast: float = 0.0
    cutout: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (("flip", 0, 1), ("brightness", 0, 1), ("contrast", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{getattr(self, name)} is not in [0, 1]", f"data.augment.{name}")
        if not 0 < self.min_scale <= 1:
            raise UserError(f"{self.min_scale} is not in (0, 1]", "data.augment.min_scale")
        for name in ("shift", "cutout"):
            if not 0 <= getattr(self, name) <= MOST_PIXELS:
                pixels = f"{getattr(self, name)} must be in 0 to {MOST_PIXELS:,} pixels"
                raise UserError(pixels, f"data.augment.{name}")

    def __call__(self, images: Tensor, keys: Tensor, seed: int) -> Tensor:
        """Return the augmented images.

        Args:
            images: uint8 ``[B, C, H, W]``.
            keys: int64 ``[B]``; the key of an image and the seed determine its random changes.
            seed: Changes with every epoch.

        Returns:
            ``[B, C, H, W]`` with values in 0 to 255: float32 if pixel values were interpolated or
            recoloured, otherwise uint8.
        """
        random = uniform(keys, 11, seed).unbind(dim=1)
        if self.min_scale < 1:
            images = self._crop(images, *random[:4])
        if self.flip or self.shift:
            images = self._move(images, *random[4:7])
        if self.brightness or self.contrast:
            images = self._recolour(images, random[7], random[8])
        if self.cutout:
            images = self._cut(images, random[9], random[10])
        return images

    def _crop(self, images: Tensor, area: Tensor, ratio: Tensor, x: Tensor, y: Tensor) -> Tensor:
        area = self.min_scale + (1 - self.min_scale) * area
        stretch = (4 / 3) ** (ratio - 0.5)  # width over height between 3/4 and 4/3
        width = (area.sqrt() * stretch).clamp(max=1)
        height = (area.sqrt() / stretch).clamp(max=1)
        zero = torch.zeros_like(width)
        theta = torch.stack(
            [width, zero, (1 - width) * (2 * x - 1), zero, height, (1 - height) * (2 * y - 1)], 1
        )
        grid = functional.affine_grid(
            theta.view(-1, 2, 3), list(images.shape), align_corners=False
        ).float()
        return functional.grid_sample(
            images.float(), grid, padding_mode="reflection", align_corners=False
        )

    def _move(self, images: Tensor, flip: Tensor, x: Tensor, y: Tensor) -> Tensor:
        batch, channels, height, width = images.shape
        rows = self._shifted(height, y).expand(batch, height)
        columns = self._shifted(width, x)
        columns = torch.where((flip < self.flip)[:, None], columns.flip(1), columns)
        pixels = (rows[:, :, None] * width + columns[:, None, :]).view(batch, 1, -1)
        return (
            images.reshape(batch, channels, -1)
            .gather(2, pixels.expand(-1, channels, -1))
            .view_as(images)
        )

    def _shifted(self, length: int, random: Tensor) -> Tensor:
        """Return for each image the source position of each pixel of a line, mirrored at the ends.

        int64 ``[B, length]``.
        """
        offset = (random * (2 * self.shift + 1)).long() - self.shift
        position = (torch.arange(length, device=random.device) + offset[:, None]).abs()
        return (length - 1 - (length - 1 - position).abs()).clamp(min=0)

    def _recolour(self, images: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
        images = images.float()
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        brighter = 1 + self.brightness * (2 * brightness - 1)
        stronger = 1 + self.contrast * (2 * contrast - 1)
        images = (images - mean) * stronger.view(-1, 1, 1, 1) + mean
        return (images * brighter.view(-1, 1, 1, 1)).clamp_(0, 255)

    def _cut(self, images: Tensor, x: Tensor, y: Tensor) -> Tensor:
        mean = images.float().mean(dim=(2, 3), keepdim=True).to(images.dtype)
        rows = self._covered(images.shape[2], y)
        columns = self._covered(images.shape[3], x)
        hidden = rows[:, None, :, None] & columns[:, None, None, :]
        return torch.where(hidden, mean, images)

    def _covered(self, length: int, random: Tensor) -> Tensor:
        start = (random * length).long()[:, None] - self.cutout // 2
        position = torch.arange(length, device=random.device)
        return (position >= start) & (position < start + self.cutout)
