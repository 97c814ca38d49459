"""The LightningDataModules: one file per source of images."""

from project.data.augment import Augment, Operation
from project.data.base import ImageDataModule, data_of
from project.data.batches import Batch
from project.data.cifar10 import CIFAR10
from project.data.digits import Digits
from project.data.folder import ImageFolder
from project.data.mnist import MNIST
from project.data.table import ImageTable

__all__ = [
    "CIFAR10",
    "MNIST",
    "Augment",
    "Batch",
    "Digits",
    "ImageDataModule",
    "ImageFolder",
    "ImageTable",
    "Operation",
    "data_of",
]
