"""Pictures for the tests of augmentations: smooth, colourful and different."""

import torch
from torch import Tensor
from torch.nn import functional


def pictures(count: int, size: tuple[int, int] = (32, 32), seed: int = 0) -> Tensor:
    """Return smooth pictures that fill the range, uint8 ``[count, 3, *size]``."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    smooth = functional.interpolate(coarse, size, mode="bilinear", align_corners=True)
    low, high = smooth.amin(dim=(2, 3), keepdim=True), smooth.amax(dim=(2, 3), keepdim=True)
    return (20 + 220 * (smooth - low) / (high - low)).to(torch.uint8)
