"""Pictures for the tests of augmentations, and an example of each operation."""

import torch
from torch import Tensor
from torch.nn import functional

from project.data import Augment
from project.data.augment import (
    Affine,
    ColorJitter,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    Operation,
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
    Rotation,
    TrivialAugment,
    VerticalFlip,
)

OPERATIONS: tuple[Operation, ...] = (
    Augment(flip=0.5, shift=2, min_scale=0.5, brightness=0.3, contrast=0.3, cutout=3),
    Affine(degrees=20, translate=0.1, scale=(0.8, 1.2), shear=10, fill=128),
    ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
    GaussianBlur(),
    Grayscale(probability=0.5),
    HorizontalFlip(),
    RandAugment(),
    RandomErasing(probability=0.5),
    RandomResizedCrop(),
    Rotation(),
    TrivialAugment(),
    VerticalFlip(),
)


def pictures(count: int, size: tuple[int, int] = (32, 32), seed: int = 0) -> Tensor:
    """Return smooth pictures that fill the range, uint8 ``[count, 3, *size]``."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    smooth = functional.interpolate(coarse, size, mode="bilinear", align_corners=True)
    low, high = smooth.amin(dim=(2, 3), keepdim=True), smooth.amax(dim=(2, 3), keepdim=True)
    return (20 + 220 * (smooth - low) / (high - low)).to(torch.uint8)
