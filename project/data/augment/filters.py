"""Blur, sharpness, and parts that are erased."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from project.data.augment.operations import Operation, between, floats, replaced
from project.randomness import uniform

LARGEST_SIGMA = 100.0  # pixels


@dataclass(frozen=True)
class GaussianBlur(Operation):
    """A blur of random width.

    Args:
        sigma: Smallest and largest standard deviation of the kernel in pixels; the kernel reaches
            to three times the largest.
        probability: Probability of it.
    """

    sigma: tuple[float, float] = (0.1, 2.0)
    probability: float = 0.5

    def __post_init__(self) -> None:
        self.check_range("sigma", 0.01, LARGEST_SIGMA)
        self.check("probability", 0 <= self.probability <= 1, "in [0, 1]")

    def __call__(self, images: Tensor, keys: Tensor, seed: int) -> Tensor:
        """Return the images, some of them blurred, float32."""
        random, width = uniform(keys, 2, seed).unbind(dim=1)
        sigma = between(*self.sigma, width)
        reach = min(math.ceil(3 * self.sigma[1]), *(side - 1 for side in images.shape[2:]))

        def blur(images: Tensor, sigma: Tensor) -> Tensor:
            return blurred(images, sigma, reach)

        return replaced(floats(images), random < self.probability, blur, sigma)


@dataclass(frozen=True)
class RandomErasing(Operation):
    """A random rectangle, filled with the image's mean colour (Zhong et al., 2020).

    Args:
        probability: Probability of it.
        scale: Smallest and largest fraction of the area.
        ratio: Smallest and largest width over height, evenly on a logarithmic scale. A rectangle
            that is longer than the image ends at its border.
    """

    probability: float = 0.25
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)

    def __post_init__(self) -> None:
        self.check("probability", 0 <= self.probability <= 1, "in [0, 1]")
        self.check_range("scale", 0, 1)
        self.check_range("ratio", 1e-3, 1e3)

    def __call__(self, images: Tensor, keys: Tensor, seed: int) -> Tensor:
        """Return the images, a part of some of them erased, in their type."""
        rows, columns = images.shape[2:]
        random, size, shape, x, y = uniform(keys, 5, seed).unbind(dim=1)
        area = between(*self.scale, size) * rows * columns
        low, high = self.ratio
        ratio = between(math.log(low), math.log(high), shape).exp()
        width, height = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        inside = _span(rows, height, y)[:, :, None] & _span(columns, width, x)[:, None, :]
        hidden = inside & (random < self.probability)[:, None, None]
        mean = images.float().mean(dim=(2, 3), keepdim=True).to(images.dtype)
        return torch.where(hidden[:, None], mean, images)


def blurred(images: Tensor, sigma: Tensor, reach: int) -> Tensor:
    """Return images under a Gaussian kernel, mirrored at the border.

    Args:
        images: float32 ``[B, C, H, W]``.
        sigma: Standard deviation for each image in pixels, ``[B]``.
        reach: The kernel has ``2 * reach + 1`` pixels; the sides of the images have more.
    """
    if reach < 1:
        return images
    count, channels, rows, columns = images.shape
    offsets = torch.arange(-reach, reach + 1, device=images.device)
    weights = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    weights = weights / weights.sum(dim=1, keepdim=True)
    kernels = weights.repeat_interleave(channels, dim=0)[
        :, None
    ]  # each plane is a group of its own
    planes = functional.pad(images, [reach] * 4, mode="reflect")
    planes = planes.view(1, -1, rows + 2 * reach, columns + 2 * reach)
    planes = functional.conv2d(planes, kernels[..., None], groups=count * channels)
    planes = functional.conv2d(planes, kernels[:, :, None], groups=count * channels)
    return planes.view(images.shape)


def sharpened(images: Tensor, factor: Tensor) -> Tensor:
    """Return images of another sharpness, as torchvision's ``adjust_sharpness`` does.

    Args:
        images: float32 ``[B, C, H, W]`` with values in 0 to 255.
        factor: For each image, ``[B]``; 1 changes nothing, 0 smooths.
    """
    if min(images.shape[2:]) < 3:
        return images
    inner = images[:, :, 1:-1, 1:-1]
    smooth = images.clone()  # its border stays
    smooth[:, :, 1:-1, 1:-1] = (9 * functional.avg_pool2d(images, 3, stride=1) + 4 * inner) / 13
    return torch.lerp(smooth, images, factor.view(-1, 1, 1, 1)).clamp_(0, 255)


def _span(length: int, size: Tensor, random: Tensor) -> Tensor:
    """Return which positions of a line lie in a random part of it, bool ``[B, length]``."""
    size = size.clamp(max=length)
    start = (random * (length - size + 1)).floor()[:, None]
    position = torch.arange(length, device=random.device)
    return (position >= start) & (position < start + size[:, None])
