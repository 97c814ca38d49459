"""Images as the network sees them, to be looked at."""

import torch
from torch import Tensor

from project.data.base import ImageDataModule, augmentation_seed
from project.data.splits import spread


def sheet(data: ImageDataModule, count: int, epochs: int) -> tuple[Tensor, Tensor]:
    """Return training images without augmentation and in the first epochs, and their labels.

    Nothing is drawn from torch's random state.

    Args:
        data: The data, after its ``setup``.
        count: Number of images; they are spread evenly over the training images.
        epochs: Number of epochs.

    Returns:
        Images, not normalised, ``[count, 1 + epochs, C, H, W]`` with values in [0, 1], and int64
        ``[count]``.
    """
    assert data.train_images is not None
    index = spread(len(data.train_images), count)
    images, labels, *_ = data.train_images[index]
    seeds = [None, *(augmentation_seed(epoch) for epoch in range(epochs))]
    seen = [data.transform(images.cpu(), index, seed) for seed in seeds]
    return torch.stack([without_normalization(data, one) for one in seen], dim=1), labels


def without_normalization(data: ImageDataModule, images: Tensor) -> Tensor:
    """Return normalised images ``[B, C, H, W]`` with values in [0, 1], float32 on the CPU."""
    mean, std = (torch.tensor(data.normalization[name]) for name in ("mean", "std"))
    return (images.float().cpu() * std.view(-1, 1, 1) + mean.view(-1, 1, 1)).clamp(0, 1)
