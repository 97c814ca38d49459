"""Pairs of images that are mixed, and their targets with them."""

import torch
from torch import Tensor
from torchvision.transforms import v2

from project.data import Batch
from project.errors import UserError

MOST_ALPHA = 1000.0


class Mixing:
    """Mixup and cutmix, of torchvision: each image of a batch with the one before it.

    Their random numbers are torch's, which are seeded for each batch.

    Args:
        mixup: Parameter of the Beta distribution of the weights with which pairs of images are
            blended; 0 blends none.
        cutmix: Parameter of the Beta distribution of the sizes of rectangles that are pasted from
            one image into another; 0 pastes none. With both, one is chosen for each batch.
        num_classes: Number of classes.

    Raises:
        UserError: If a parameter is out of range.
    """

    def __init__(self, mixup: float, cutmix: float, num_classes: int) -> None:
        for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
            if not 0 <= alpha <= MOST_ALPHA:
                raise UserError(f"{alpha} must be in [0, {MOST_ALPHA:g}]", f"model.{name}")
        self._mixers: list[v2.MixUp | v2.CutMix] = []
        if mixup:
            self._mixers.append(v2.MixUp(alpha=mixup, num_classes=num_classes))
        if cutmix:
            self._mixers.append(v2.CutMix(alpha=cutmix, num_classes=num_classes))

    def __bool__(self) -> bool:
        """Whether anything is mixed."""
        return bool(self._mixers)

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return mixed images ``[B, C, H, W]`` and class probabilities, float ``[B, K]``."""
        mixer = self._mixers[int(torch.randint(len(self._mixers), ()))]
        images, targets = mixer(batch.images, batch.labels)
        return images, targets
