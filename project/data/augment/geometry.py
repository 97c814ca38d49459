"""Mirror images, rotations and other affine maps."""

from dataclasses import dataclass

import torch
from torch import Tensor

from project.data.augment.interpolation import warped
from project.data.augment.operations import Operation, between
from project.randomness import uniform


@dataclass(frozen=True)
class HorizontalFlip(Operation):
    """The mirror image, left for right.

    Args:
        probability: Probability of it.
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        self.check("probability", 0 <= self.probability <= 1, "in [0, 1]")

    def __call__(self, images: Tensor, keys: Tensor, seed: int) -> Tensor:
        """Return the images, some of them mirrored, in their type."""
        return _flipped(images, uniform(keys, 1, seed) < self.probability, dim=3)


@dataclass(frozen=True)
class VerticalFlip(Operation):
    """The image upside down: for pictures that have no up, such as those from above.

    Args:
        probability: Probability of it.
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        self.check("probability", 0 <= self.probability <= 1, "in [0, 1]")

    def __call__(self, images: Tensor, keys: Tensor, seed: int) -> Tensor:
        """Return the images, some of them upside down, in their type."""
        return _flipped(images, uniform(keys, 1, seed) < self.probability, dim=2)


@dataclass(frozen=True)
class Rotation(Operation):
    """A rotation about the centre.

    Args:
        degrees: Largest angle, in both directions.
        fill: Value of the pixels that come from outside, 0 to 255.
    """

    degrees: float = 15.0
    fill: float = 0.0

    def __post_init__(self) -> None:
        self.check("degrees", 0 <= self.degrees <= 180, "in [0, 180]")
        self.check("fill", 0 <= self.fill <= 255, "in [0, 255]")

    def __call__(self, images: Tensor, keys: Tensor, seed: int) -> Tensor:
        """Return the rotated images, float32."""
        (random,) = uniform(keys, 1, seed).unbind(dim=1)
        angle = between(-self.degrees, self.degrees, random)
        return warped(images, rotations(angle), self.fill)


@dataclass(frozen=True)
class Affine(Operation):
    """Rotation, shift, scaling and shear, in one interpolation.

    Args:
        degrees: Largest angle of the rotation about the centre, in both directions.
        translate: Largest shift, in both directions, as a fraction of width and of height.
        scale: Smallest and largest factor of the size.
        shear: Largest angle in degrees of a shear along x, in both directions.
        fill: Value of the pixels that come from outside, 0 to 255.
    """

    degrees: float = 0.0
    translate: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    shear: float = 0.0
    fill: float = 0.0

    def __post_init__(self) -> None:
        self.check("degrees", 0 <= self.degrees <= 180, "in [0, 180]")
        self.check("translate", 0 <= self.translate <= 1, "in [0, 1]")
        self.check_range("scale", 0.01, 100)
        self.check("shear", 0 <= self.shear < 90, "in [0, 90)")
        self.check("fill", 0 <= self.fill <= 255, "in [0, 255]")

    def __call__(self, images: Tensor, keys: Tensor, seed: int) -> Tensor:
        """Return the images under affine maps, float32."""
        height, width = images.shape[2:]
        turn, x, y, size, slant = uniform(keys, 5, seed).unbind(dim=1)
        maps = affine(
            between(-self.degrees, self.degrees, turn),
            between(-self.translate, self.translate, x) * width,
            between(-self.translate, self.translate, y) * height,
            between(*self.scale, size),
            between(-self.shear, self.shear, slant),
        )
        return warped(images, maps, self.fill)


def rotations(degrees: Tensor) -> Tensor:
    """Return rotations about the centre, counter-clockwise, as :func:`warped` takes them.

    Args:
        degrees: The angles, ``[B]``.
    """
    zero = torch.zeros_like(degrees)
    return affine(-degrees, zero, zero, zero + 1, zero)


def affine(degrees: Tensor, x: Tensor, y: Tensor, scale: Tensor, shear: Tensor) -> Tensor:
    """Return maps that turn, shift, scale and slant images, as :func:`warped` takes them.

    They do what ``torchvision.transforms.v2.functional.affine`` does with these numbers.

    Args:
        degrees: Angles of the rotation about the centre, clockwise, ``[B]``.
        x: Shift to the right in pixels, ``[B]``.
        y: Shift downwards in pixels, ``[B]``.
        scale: Factor of the size, ``[B]``.
        shear: Angle in degrees of a shear along x, ``[B]``.
    """
    turn, slant = torch.deg2rad(degrees), torch.deg2rad(shear).tan()
    cos, sin = turn.cos() / scale, turn.sin() / scale
    a, b, c, d = cos + slant * -sin, sin + slant * cos, -sin, cos
    rows = [a, b, -(a * x + b * y), c, d, -(c * x + d * y)]
    return torch.stack(rows, dim=1).view(-1, 2, 3)


def _flipped(images: Tensor, chosen: Tensor, dim: int) -> Tensor:
    return torch.where(chosen.view(-1, 1, 1, 1), images.flip(dim), images)
