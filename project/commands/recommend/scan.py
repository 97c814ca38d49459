"""Facts about the data: its size, its balance, broken files and duplicates."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from project.data import ImageDataModule
from project.data.bad_images import ADVICE
from project.data.base import to_channels
from project.data.batches import Images
from project.data.decode import open_image
from project.environment import Threads
from project.errors import UserError

MOST_FILES = 4000  # image files to open; of more, that many are taken at equal distances
THUMBNAIL = 16  # height and width in pixels
DUPLICATE = 0.995  # from this correlation of thumbnails on, two images count as the same
SHOWN = 5  # broken files that a message names
CHUNK = 256
NOTHING = torch.zeros(0, 1, THUMBNAIL, THUMBNAIL)


@dataclass(frozen=True)
class Scan:
    """The facts about the data.

    Attributes:
        class_names: Name of each class.
        class_sizes: Training images of each class.
        val_images: Number of validation images.
        test_images: Number of test images.
        sizes: Shortest and longest side of the images, in pixels.
        opened: Number of images that were looked at, in all splits.
        duplicates: Number of test images that are also among the training images.
        compared: Numbers of test and of training images that were compared for this.
    """

    class_names: Sequence[str]
    class_sizes: Sequence[int]
    val_images: int
    test_images: int
    sizes: tuple[int, int]
    opened: int
    duplicates: int
    compared: tuple[int, int]

    @property
    def images(self) -> int:
        """Number of training images."""
        return sum(self.class_sizes)

    @property
    def smallest(self) -> int:
        """Training images of the smallest class."""
        return min(self.class_sizes)

    @property
    def largest(self) -> int:
        """Training images of the largest class."""
        return max(self.class_sizes)


def scan(data: ImageDataModule) -> Scan:
    """Collect the facts.

    Args:
        data: A data module that is set up, lazily if it can.

    Raises:
        UserError: If files are broken; the message names them.
    """
    assert data.train_images is not None
    splits = {"train": data.train_images, "val": data.val_images, "test": data.test_images}
    there = {name: split for name, split in splits.items() if split is not None and len(split)}
    total = sum(map(len, there.values()))
    looks = {name: _look(split, total) for name, split in there.items()}
    opened = sum(map(len, looks.values()))
    _refuse_broken([reason for look in looks.values() for reason in look.broken], opened, total)
    sides = [side for look in looks.values() for side in look.sides]
    test = looks["test"].thumbnails if "test" in looks else NOTHING
    return Scan(
        class_names=data.class_names,
        class_sizes=data.class_sizes().tolist(),
        val_images=len(there.get("val", ())),
        test_images=len(there.get("test", ())),
        sizes=(min(sides), max(sides)),
        opened=opened,
        duplicates=count_duplicates(looks["train"].thumbnails, test),
        compared=(len(test), len(looks["train"].thumbnails)),
    )


@dataclass(frozen=True)
class _Look:
    """Some images of a split: thumbnails, float32 ``[n, 1, 16, 16]``, sides, broken files."""

    thumbnails: Tensor
    sides: Sequence[int]
    broken: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.thumbnails) + len(self.broken)


def _look(images: Images, total: int) -> _Look:
    count = max(min(len(images), MOST_FILES * len(images) // max(total, 1)), 1)
    chosen = spread(len(images), count).tolist()
    paths = [path for place in chosen if (path := images.path(place)) is not None]
    if not paths:  # the images are in memory already
        parts = torch.split(torch.arange(len(images)), CHUNK)
        small = torch.cat([_thumbnails(images[index].images) for index in parts])
        return _Look(small, images[parts[0][:1]].images.shape[2:])
    with Threads() as pool:
        found = list(pool.map(_look_at_file, paths))
    good = [look for look in found if not isinstance(look, str)]
    return _Look(
        torch.stack([small for small, _ in good]) if good else NOTHING,
        [side for _, size in good for side in size],
        [look for look in found if isinstance(look, str)],
    )


def _look_at_file(path: Path) -> tuple[Tensor, tuple[int, int]] | str:
    """Return thumbnail and size of an image, or why its file can't be read."""
    try:
        pixels = functional.pil_to_tensor(open_image(path, "L", at_least=2 * THUMBNAIL))
        with Image.open(path) as file:
            size = file.size
    except (UserError, OSError) as error:
        return str(error)
    return _thumbnails(pixels[None])[0], size


def _thumbnails(images: Tensor) -> Tensor:
    """Return grey thumbnails, float32 ``[N, 1, 16, 16]``, of images, uint8 ``[N, C, H, W]``."""
    size = [THUMBNAIL, THUMBNAIL]
    small: Tensor = functional.resize(to_channels(images, 1).float(), size, antialias=True)
    return small


def spread(length: int, count: int) -> Tensor:
    """Return ``count`` indices at equal distances, or all if there are fewer, int64."""
    count = min(count, length)
    return torch.arange(count) * length // max(count, 1)


def count_duplicates(train: Tensor, test: Tensor) -> int:
    """Return how many test images look like a training image.

    They do if the correlation of their thumbnails is at least :data:`DUPLICATE`. So a duplicate is
    found at another size, compression, brightness or contrast. Images of one colour don't count.

    Args:
        train: Thumbnails of the training images, float ``[N, 1, 16, 16]``.
        test: Thumbnails of the test images, float ``[M, 1, 16, 16]``.
    """
    known, asked = _centred(train), _centred(test)
    highest = [(part @ known.T).amax(1) for part in torch.split(asked, CHUNK)]
    return int((torch.cat(highest) >= DUPLICATE).sum())


def _centred(thumbnails: Tensor) -> Tensor:
    flat = thumbnails.flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    lengths = flat.norm(dim=1, keepdim=True)
    return torch.where(lengths > THUMBNAIL, flat / lengths, 0.0)


def _refuse_broken(broken: Sequence[str], opened: int, total: int) -> None:
    if broken:
        reasons = "; ".join(broken[:SHOWN]) + ("; …" if len(broken) > SHOWN else "")
        of = f"{opened:,} files" + (f" (of {total:,})" if opened < total else "")
        raise UserError(
            f"data: {len(broken)} of {of} can't be read, and fit would stop at them; {ADVICE}: "
            f"{reasons}"
        )
