"""Brightness, contrast, saturation and hue, and what else changes colours alone.

The functions take float32 images ``[B, C, H, W]`` with values in 0 to 255 and one number for each
image, ``[B]``, and return images of the same kind. They do what the functions of
``torchvision.transforms.v2.functional`` do with these numbers, but don't round.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from project.data.augment.operations import Operation, between, floats, replaced
from project.randomness import uniform

LUMA = (0.2989, 0.587, 0.114)  # of red, green and blue in grey (ITU-R BT.601)


@dataclass(frozen=True)
class ColorJitter(Operation):
    """Random brightness, contrast, saturation and hue, in this order.

    Args:
        brightness: Largest relative change of brightness.
        contrast: Largest relative change of contrast.
        saturation: Largest relative change of saturation; grey images have none.
        hue: Largest change of hue, as a fraction of the colour circle, up to 0.5.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for option in ("brightness", "contrast", "saturation"):
            self.check(option, 0 <= getattr(self, option) <= 1, "in [0, 1]")
        self.check("hue", 0 <= self.hue <= 0.5, "in [0, 0.5]")

    def __call__(self, images: Tensor, keys: Tensor, seed: int) -> Tensor:
        """Return the images in other colours, float32."""
        bright, strong, colourful, turn = uniform(keys, 4, seed).unbind(dim=1)
        images = images.float()
        for change, most, random in (
            (brighter, self.brightness, bright),
            (contrasted, self.contrast, strong),
            (saturated, self.saturation, colourful),
        ):
            if most:
                images = change(images, between(1 - most, 1 + most, random))
        return turned(images, between(-self.hue, self.hue, turn)) if self.hue else images


@dataclass(frozen=True)
class Grayscale(Operation):
    """Grey in place of colours; the number of channels stays.

    Args:
        probability: Probability of it.
    """

    probability: float = 0.1

    def __post_init__(self) -> None:
        self.check("probability", 0 <= self.probability <= 1, "in [0, 1]")

    def __call__(self, images: Tensor, keys: Tensor, seed: int) -> Tensor:
        """Return the images, some of them grey, float32."""
        (random,) = uniform(keys, 1, seed).unbind(dim=1)
        return replaced(floats(images), random < self.probability, _grey_channels)


def brighter(images: Tensor, factor: Tensor) -> Tensor:
    """Return images of another brightness; 1 changes nothing."""
    return (images * _each(factor)).clamp_(0, 255)


def contrasted(images: Tensor, factor: Tensor) -> Tensor:
    """Return images of another contrast; 1 changes nothing, 0 leaves the mean grey."""
    return _blended(images, grey(images).mean(dim=(2, 3), keepdim=True), factor)


def saturated(images: Tensor, factor: Tensor) -> Tensor:
    """Return images of another saturation; 1 changes nothing, 0 leaves grey."""
    return _blended(images, grey(images), factor)


def turned(images: Tensor, shift: Tensor) -> Tensor:
    """Return images of another hue, shifted by a fraction of the colour circle.

    Through hue, saturation and value, in the closed form of the way back (Smith, 1978).
    """
    if images.shape[1] == 1:
        return images
    value, chroma, hue = _hue(images)
    hue = hue + 6 * _each(shift).squeeze(1)
    places = [(number + hue) % 6 for number in (5, 3, 1)]
    channels = [value - chroma * torch.minimum(at, 4 - at).clamp(0, 1) for at in places]
    return torch.stack(channels, dim=1)


def posterized(images: Tensor, bits: Tensor) -> Tensor:
    """Return images that keep the upper bits of each value."""
    step = _each(2.0 ** (8 - bits))
    return (images.round() / step).floor() * step


def solarized(images: Tensor, threshold: Tensor) -> Tensor:
    """Return images whose values from a threshold on are inverted."""
    return torch.where(images >= _each(threshold), 255 - images, images)


def autocontrasted(images: Tensor) -> Tensor:
    """Return images of which each channel is stretched to 0 to 255, unless it has one value."""
    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    stretched = (images - low) * (255 / (high - low))
    return torch.where(high > low, stretched, images)


def equalized(images: Tensor) -> Tensor:
    """Return images of which each channel has its 256 values about equally often."""
    values = images.round().long().flatten(2)
    counts = torch.zeros(*values.shape[:2], 256, dtype=torch.long, device=images.device)
    counts = counts.scatter_add(2, values, torch.ones_like(values))
    total, highest = values.shape[2], values.amax(dim=2, keepdim=True)
    step = (total - counts.gather(2, highest)) // 255  # as Pillow counts
    below = counts.cumsum(dim=2) - counts
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    found = table.gather(2, values).view_as(images).to(images.dtype)
    return torch.where(step[..., None] > 0, found, images)


def grey(images: Tensor) -> Tensor:
    """Return the brightness of each pixel as the eye sees it, ``[B, 1, H, W]``."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(dim=1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[:, None]


def _grey_channels(images: Tensor) -> Tensor:
    return grey(images).expand_as(images)


def _blended(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(other.expand_as(images), images, _each(factor)).clamp_(0, 255)


def _hue(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return value, chroma, and hue in sixths of the circle, each ``[B, H, W]``."""
    red, green, blue = images.unbind(dim=1)
    value, low = images.amax(dim=1), images.amin(dim=1)
    chroma = value - low
    divisor = torch.where(chroma > 0, chroma, 1)
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    return value, chroma, hue


def _each(numbers: Tensor) -> Tensor:
    return numbers.view(-1, 1, 1, 1)
