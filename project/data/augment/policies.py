"""TrivialAugment and RandAugment: one or some operations of fourteen, at random strength."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from project.data.augment.colour import (
    autocontrasted,
    brighter,
    contrasted,
    equalized,
    posterized,
    saturated,
    solarized,
)
from project.data.augment.filters import sharpened
from project.data.augment.geometry import affine
from project.data.augment.interpolation import warped
from project.data.augment.operations import Operation, floats, replaced
from project.randomness import mix, uniform

MAPS = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
SIGNED = {
    "Brightness": brighter,
    "Color": saturated,
    "Contrast": contrasted,
    "Sharpness": sharpened,
}
PLAIN = {"AutoContrast": autocontrasted, "Equalize": equalized}
NAMES = (*MAPS, *SIGNED, "Posterize", "Solarize", *PLAIN, "Identity")
MOST_BINS = 10_000


class Policy(Operation):
    """Base of what applies randomly chosen operations of :data:`NAMES`.

    Each operation has a strength in [0, 1]; a policy says what the strongest is.

    Attributes:
        most: What a strength of 1 means: slope of a shear, angle in degrees, relative change of
            colours and sharpness, and how many bits ``Posterize`` takes away.
        fill: Value of the pixels that come from outside, 0 to 255.
    """

    most: ClassVar[dict[str, float]] = {}
    fill: float

    @abstractmethod
    def shift(self, side: int) -> float:
        """Return the largest shift in pixels along a side of so many pixels."""

    def apply(self, images: Tensor, kind: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
        """Return images, each after one operation.

        Args:
            images: float32 ``[B, C, H, W]`` with values in 0 to 255; they may be written to.
            kind: Position of the operation of each image in :data:`NAMES`, int64 ``[B]``.
            strength: In [0, 1], ``[B]``.
            sign: 1 or -1, ``[B]``.
        """

        def change(name: str, function: Callable[..., Tensor], *numbers: Tensor) -> None:
            nonlocal images
            images = replaced(images, kind == NAMES.index(name), function, *numbers)

        maps = self._maps(kind, strength * sign, images.shape[2], images.shape[3])
        images = replaced(images, kind < len(MAPS), self._warped, maps)
        for name, blend in SIGNED.items():
            change(name, blend, 1 + self.most["colour"] * strength * sign)
        change("Posterize", posterized, 8 - (self.most["bits"] * strength).round())
        change("Solarize", solarized, 255 * (1 - strength))
        for name, function in PLAIN.items():
            change(name, function)
        return images

    def _warped(self, images: Tensor, maps: Tensor) -> Tensor:
        return warped(images, maps, self.fill)

    def _maps(self, kind: Tensor, strength: Tensor, height: int, width: int) -> Tensor:
        """Return the affine map of each image; a shear keeps the upper left corner in place."""
        shear_x, shear_y, x, y, turn = (
            torch.where(kind == number, strength, 0) for number in range(len(MAPS))
        )
        maps = affine(
            -turn * self.most["degrees"],
            (x * self.shift(width)).trunc(), (y * self.shift(height)).trunc(),
            torch.ones_like(strength), torch.zeros_like(strength),
        )  # fmt: skip
        slope_x, slope_y = shear_x * self.most["slope"], shear_y * self.most["slope"]
        maps[:, 0, 1] += slope_x
        maps[:, 0, 2] += slope_x * height / 2
        maps[:, 1, 0] += slope_y
        maps[:, 1, 2] += slope_y * width / 2
        return maps


@dataclass(frozen=True)
class TrivialAugment(Policy):
    """One of fourteen operations for each image, at a random strength (Müller and Hutter, 2021).

    The "wide" space of the paper, as torchvision's ``TrivialAugmentWide`` has it: the identity,
    shears, shifts, rotation, brightness, colour, contrast, sharpness, posterize, solarize,
    autocontrast and equalize. Its shifts are of up to 32 pixels, whatever the size of the image.

    Args:
        num_bins: Number of strengths, evenly spaced from nothing to the strongest.
        fill: Value of the pixels that come from outside, 0 to 255.
    """

    num_bins: int = 31
    fill: float = 0.0

    most: ClassVar[dict[str, float]] = {"slope": 0.99, "degrees": 135, "colour": 0.99, "bits": 6}

    def __post_init__(self) -> None:
        self.check("num_bins", 2 <= self.num_bins <= MOST_BINS, f"in 2 to {MOST_BINS:,}")
        self.check("fill", 0 <= self.fill <= 255, "in [0, 255]")

    def shift(self, side: int) -> float:
        """Return 32 pixels."""
        return 32

    def __call__(self, images: Tensor, keys: Tensor, seed: int) -> Tensor:
        """Return each image after one operation, float32."""
        kind, strength, sign = uniform(keys, 3, seed).unbind(dim=1)
        strength = (strength * self.num_bins).floor() / (self.num_bins - 1)
        return self.apply(floats(images), _chosen(kind), strength, _sign(sign))


@dataclass(frozen=True)
class RandAugment(Policy):
    """Some operations for each image, one after the other, at one strength (Cubuk et al., 2020).

    The operations are those of :class:`TrivialAugment` in narrower ranges, as torchvision's
    ``RandAugment`` has them.

    Args:
        num_ops: Number of operations for each image.
        magnitude: Their strength: ``num_magnitude_bins - 1`` is the strongest.
        num_magnitude_bins: Number of strengths that there are.
        fill: Value of the pixels that come from outside, 0 to 255.
    """

    num_ops: int = 2
    magnitude: int = 9
    num_magnitude_bins: int = 31
    fill: float = 0.0

    most: ClassVar[dict[str, float]] = {"slope": 0.3, "degrees": 30, "colour": 0.9, "bits": 4}

    def __post_init__(self) -> None:
        self.check("num_ops", 1 <= self.num_ops <= 100, "in 1 to 100")
        bins = self.num_magnitude_bins
        self.check("num_magnitude_bins", 2 <= bins <= MOST_BINS, f"in 2 to {MOST_BINS:,}")
        self.check("magnitude", 0 <= self.magnitude < bins, f"in 0 to {bins - 1:,}")
        self.check("fill", 0 <= self.fill <= 255, "in [0, 255]")

    def shift(self, side: int) -> float:
        """Return the fraction of the side that the paper's 150 of 331 pixels are."""
        return 150 / 331 * side

    def __call__(self, images: Tensor, keys: Tensor, seed: int) -> Tensor:
        """Return each image after its operations, float32."""
        images = floats(images)
        strength = torch.full(
            keys.shape, self.magnitude / (self.num_magnitude_bins - 1), device=images.device
        )
        for number in range(self.num_ops):
            kind, sign = uniform(keys, 2, mix(seed, 1, number)).unbind(dim=1)
            images = self.apply(images, _chosen(kind), strength, _sign(sign))
        return images


def _chosen(random: Tensor) -> Tensor:
    return (random * len(NAMES)).long()


def _sign(random: Tensor) -> Tensor:
    return torch.where(random < 0.5, -1.0, 1.0)
