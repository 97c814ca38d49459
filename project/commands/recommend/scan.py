"""Facts about the data: its size, its balance, broken files and duplicates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from project.commands.duplicates import Look, count_duplicates, look_at
from project.commands.recommend.decoding import samplable, sizes_of
from project.data import ImageDataModule
from project.data.bad_images import ADVICE
from project.data.batches import Images
from project.data.splits import spread
from project.errors import UserError

MOST_HEADERS = 20_000  # to read for the sizes; of more files, that many are taken
HEADER_SECONDS = 1.5  # for reading them; those at random places that were read by then have to do
MOST_FILES = 4000  # image files to open; of more, that many are taken
SECONDS = 6.0  # for opening them; the same holds for these
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
        pixels: Mean number of pixels of an image, in its file.
        opened: Number of images that were looked at, in all splits.
        duplicates: Number of test images that are also among the training images.
        compared: Numbers of test and of training images that were compared for this.
    """

    class_names: Sequence[str]
    class_sizes: Sequence[int]
    val_images: int
    test_images: int
    sizes: tuple[int, int]
    pixels: float
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
    seen = {name: _see(split, len(split) / total) for name, split in there.items()}
    looks = {name: look for name, (look, _) in seen.items()}
    opened = sum(map(len, looks.values()))
    broken = [reason for look in looks.values() for reason in look.broken.values()]
    _refuse_broken(broken, opened, total)
    sizes = torch.cat([found[found.all(1)] for _, found in seen.values()])
    train, test = looks["train"].thumbnails, looks["test"].thumbnails
    return Scan(
        class_names=data.class_names,
        class_sizes=data.class_sizes().tolist(),
        val_images=len(there.get("val", ())),
        test_images=len(there.get("test", ())),
        sizes=(int(sizes.min()), int(sizes.max())),
        pixels=sizes.prod(1).double().mean().item(),
        opened=opened,
        duplicates=count_duplicates(train, test),
        compared=(len(test), len(train)),
    )


def _see(images: Images, share: float) -> tuple[Look, Tensor]:
    """Look at images of a split, as long as its share of the time allows, and at more headers."""
    chosen = spread(len(images), math.ceil(MOST_HEADERS * share))
    shuffled = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))]
    sizes = sizes_of(images, shuffled, HEADER_SECONDS * share)
    small = shuffled[: len(sizes)][samplable(sizes.prod(1))]
    few = small[spread(len(small), math.ceil(MOST_FILES * share))]
    return look_at(images, few, SECONDS * share), sizes


def _refuse_broken(broken: Sequence[str], opened: int, total: int) -> None:
    if broken:
        reasons = "; ".join(broken[:SHOWN]) + ("; …" if len(broken) > SHOWN else "")
        of = f"{opened:,} files" + (f" (of {total:,})" if opened < total else "")
        raise UserError(
            f"data: {len(broken)} of {of} can't be read, and fit would stop at them; {ADVICE}: "
            f"{reasons}"
        )
