"""What every random operation is, and how a list of them becomes one augmentation."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from project.data.augment.interpolation import sampled
from project.errors import UserError
from project.randomness import mix

CACHED_VALUES = 2**20  # of the images that a CPU changes at once, so that they stay in its cache


class Operation(ABC):
    """A random change of a whole batch of images, of each image on its own.

    A subclass implements :meth:`__call__`. All of its random numbers come from
    ``uniform(keys, …, seed)``, so that the image and the epoch alone decide what becomes of it. It
    is a frozen dataclass; its fields are the options that a config gives.
    """

    @abstractmethod
    def __call__(self, images: Tensor, keys: Tensor, seed: int) -> Tensor:
        """Return the changed images.

        Args:
            images: uint8 or float32 ``[B, C, H, W]`` with values in 0 to 255; not to be written to.
            keys: int64 ``[B]``; the key of an image and the seed determine its random numbers.
            seed: Changes with every epoch, and is another for each operation of a list.

        Returns:
            Images of the same shape with values in 0 to 255, uint8 or float32.
        """

    def __repr__(self) -> str:
        """Return class and options, by which runs and caches know it."""
        options = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__qualname__}({options})"

    def check(self, option: str, valid: bool, right: str) -> None:
        """Refuse the value of an option.

        Raises:
            UserError: Unless it is valid.
        """
        if not valid:
            key = f"data.augment.{type(self).__name__}.{option}"
            raise UserError(f"{getattr(self, option)} must be {right}", key)

    def check_range(self, option: str, low: float, high: float) -> None:
        """Refuse a range that isn't one, or isn't within limits.

        Raises:
            UserError: If it is so.
        """
        first, last = getattr(self, option)
        right = f"two numbers from {low:g} to {high:g}, the smaller first"
        self.check(option, low <= first <= last <= high, right)


class Cropping(Operation):
    """An operation that takes a part of each image, and resizes it.

    As the first of a list it takes that part from the image as it was decoded, which may be larger
    than what the model gets.
    """

    def __call__(self, images: Tensor, keys: Tensor, seed: int) -> Tensor:
        """Return parts of the images, at their size."""
        height, width = images.shape[2:]
        aspects = torch.full(keys.shape, width / height, device=images.device)
        return sampled(images, self.boxes(aspects, keys, seed), (height, width))

    @abstractmethod
    def boxes(self, aspects: Tensor, keys: Tensor, seed: int) -> Tensor:
        """Return which part of each image is taken.

        Args:
            aspects: Width over height of each picture, float32 ``[B]``.
            keys: As for :meth:`__call__`.
            seed: Likewise.

        Returns:
            Left, top, width and height as fractions of the picture's, float32 ``[B, 4]``.
        """


@dataclass(frozen=True)
class Augmentation:
    """The operations of a list, one after the other.

    Args:
        operations: The operations.
    """

    operations: tuple[Operation, ...]

    @property
    def crops_first(self) -> bool:
        """Whether it begins with a crop, which may take it from a larger image."""
        return isinstance(self.operations[0], Cropping)

    def __call__(
        self,
        images: Tensor,
        keys: Tensor,
        seed: int,
        size: tuple[int, int] | None = None,
        aspects: Tensor | None = None,
    ) -> Tensor:
        """Return augmented images, uint8 or float32 ``[B, C, *size]`` with values in 0 to 255.

        A CPU takes a part of a large batch at a time: no image depends on another.

        Args:
            images: uint8 ``[B, C, H, W]``; another size than ``size`` only if the first operation
                crops.
            keys: int64 ``[B]``, one for each image.
            seed: Changes with every epoch.
            size: Height and width of the result; None is those of the images.
            aspects: Width over height of each picture before it was squashed into its image,
                float32 ``[B]``; None is that of the images.
        """
        size = size or (images.shape[2], images.shape[3])
        if aspects is None:
            ratio = images.shape[3] / images.shape[2]
            aspects = torch.full(keys.shape, ratio, device=images.device)
        if len(images) == 0:
            return images.new_empty(0, images.shape[1], *size)
        count = len(images)
        if images.device.type == "cpu":
            count = max(CACHED_VALUES // images[:1].numel(), 1)
        parts = zip(
            torch.split(images, count), torch.split(keys, count), torch.split(aspects, count)
        )
        return torch.cat([self._changed(*part, seed, size) for part in parts])

    def _changed(
        self, images: Tensor, keys: Tensor, aspects: Tensor, seed: int, size: tuple[int, int]
    ) -> Tensor:
        rest = list(enumerate(self.operations))
        if isinstance(crop := self.operations[0], Cropping):
            rest.pop(0)
            images = sampled(images, crop.boxes(aspects, keys, seed), size)
        for place, operation in rest:
            images = operation(images, keys, mix(seed, place) if place else seed)
        return images


def augmentation(given: Operation | list[Operation] | None) -> Augmentation | None:
    """Return what a config gives as one augmentation, None if it changes nothing."""
    operations = [given] if isinstance(given, Operation) else given
    return Augmentation(tuple(operations)) if operations else None


def replaced(
    images: Tensor, chosen: Tensor, change: Callable[..., Tensor], *parameters: Tensor
) -> Tensor:
    """Return images of which the chosen ones are changed.

    On a CPU, the others aren't computed. On other devices all of them are: to ask which are chosen
    would make the device wait.

    Args:
        images: float32 ``[B, C, H, W]``; it may be written to.
        chosen: bool ``[B]``.
        change: Takes images and the parameters of each, and returns changed images.
        parameters: Tensors ``[B, ...]``.
    """
    if images.device.type != "cpu":
        return torch.where(chosen.view(-1, 1, 1, 1), change(images, *parameters), images)
    places = chosen.nonzero().flatten()
    if len(places):
        images[places] = change(images[places], *(one[places] for one in parameters))
    return images


def floats(images: Tensor) -> Tensor:
    """Return a copy of images in float32."""
    return images.to(torch.float32, copy=True)


def between(low: float, high: float, random: Tensor) -> Tensor:
    """Return numbers between two bounds for random ones in [0, 1)."""
    return low + (high - low) * random
