"""Random changes of training images, of a whole batch at once and of each image on its own.

::

    augmentation = Augmentation((RandomResizedCrop(), HorizontalFlip(), TrivialAugment()))
    augmentation(images, keys, seed)  # uint8 [B, C, H, W], int64 [B], one seed for each epoch

What becomes of an image is a function of its key and the seed alone: neither the rest of the batch
nor the device, the rank or a resume matters.
"""

from project.data.augment.colour import ColorJitter, Grayscale
from project.data.augment.crop import RandomResizedCrop
from project.data.augment.filters import GaussianBlur, RandomErasing
from project.data.augment.geometry import Affine, HorizontalFlip, Rotation, VerticalFlip
from project.data.augment.operations import Augmentation, Cropping, Operation, augmentation
from project.data.augment.policies import RandAugment, TrivialAugment
from project.data.augment.usual import Augment

__all__ = [
    "Affine",
    "Augment",
    "Augmentation",
    "ColorJitter",
    "Cropping",
    "GaussianBlur",
    "Grayscale",
    "HorizontalFlip",
    "Operation",
    "RandAugment",
    "RandomErasing",
    "RandomResizedCrop",
    "Rotation",
    "TrivialAugment",
    "VerticalFlip",
    "augmentation",
]
