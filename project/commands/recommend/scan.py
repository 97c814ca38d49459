"""Facts about the data: its size, its balance, broken files and duplicates."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from project.commands.duplicates import Look, count_duplicates, look_at
from project.data import ImageDataModule
from project.data.bad_images import ADVICE
from project.data.batches import Images
from project.data.splits import spread
from project.errors import UserError

MOST_FILES = 4000  # image files to open; of more, that many are taken at equal distances
SECONDS = 6.0  # for opening them; those at random places that were opened by then have to do
SHOWN = 5  # broken files that a message names


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
    broken = [reason for look in looks.values() for reason in look.broken.values()]
    _refuse_broken(broken, opened, total)
    sides = [side for look in looks.values() for side in look.sides]
    train, test = looks["train"].thumbnails, looks["test"].thumbnails
    return Scan(
        class_names=data.class_names,
        class_sizes=data.class_sizes().tolist(),
        val_images=len(there.get("val", ())),
        test_images=len(there.get("test", ())),
        sizes=(min(sides), max(sides)),
        opened=opened,
        duplicates=count_duplicates(train, test),
        compared=(len(test), len(train)),
    )


def _look(images: Images, total: int) -> Look:
    share = len(images) / total
    chosen = spread(len(images), max(round(min(MOST_FILES, total) * share), 1))
    shuffled = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))]
    return look_at(images, shuffled, SECONDS * share)


def _refuse_broken(broken: Sequence[str], opened: int, total: int) -> None:
    if broken:
        reasons = "; ".join(broken[:SHOWN]) + ("; …" if len(broken) > SHOWN else "")
        of = f"{opened:,} files" + (f" (of {total:,})" if opened < total else "")
        raise UserError(
            f"data: {len(broken)} of {of} can't be read, and fit would stop at them; {ADVICE}: "
            f"{reasons}"
        )
