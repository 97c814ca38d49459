"""The images of all splits in one row, and those of them that can't be read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from project.commands.duplicates import look_at
from project.console import readable
from project.data import ImageDataModule
from project.data.base import to_channels
from project.data.batches import Images
from project.data.splits import first_per_class
from project.decoding.decode import open_image
from project.errors import UserError

SPLITS = ("train", "val", "test")
PICTURE = 128  # largest height and width of a picture in the report, in pixels


@dataclass(frozen=True)
class Found:
    """The images that can be read, of all splits one after the other.

    Attributes:
        splits: The images of each split, by its name.
        split: Position of each image's split in :data:`SPLITS`, int64 ``[N]``.
        index: Position of each image in its split, int64 ``[N]``.
        labels: int64 ``[N]``.
        class_names: Name of each class.
        thumbnails: uint8 ``[N, 3, 32, 32]``.
        broken: Split, name and fault of each image that can't be read.
        total: Number of images that there are, of which some may not have been looked at.
    """

    splits: Mapping[str, Images]
    split: Tensor
    index: Tensor
    labels: Tensor
    class_names: Sequence[str]
    thumbnails: Tensor
    broken: Sequence[tuple[str, str, str]]
    total: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def has_files(self) -> bool:
        """Whether each image is a file of its own."""
        return all(images.path(0) is not None for images in self.splits.values())

    def split_name(self, image: int) -> str:
        """Return the name of the split of an image."""
        return SPLITS[int(self.split[image])]

    def class_name(self, image: int) -> str:
        """Return the name of the label of an image."""
        return self.class_names[int(self.labels[image])]

    def name(self, image: int) -> str:
        """Return the path of an image, or its position in its split if it has no file."""
        return _name(self.splits[self.split_name(image)], int(self.index[image]))

    def picture(self, image: int) -> Image.Image:
        """Return an image as the report shows it."""
        images, index = self.splits[self.split_name(image)], int(self.index[image])
        path = images.path(index)
        if path is None:
            pixels = images[torch.tensor([index])].images
            picture: Image.Image = to_pil_image(to_channels(pixels, 3)[0])
        else:
            picture = open_image(path, at_least=2 * PICTURE)
        picture.thumbnail((PICTURE, PICTURE))
        return picture

    def of(self, *names: str) -> Tensor:
        """Return the images of these splits, int64."""
        places = torch.tensor([SPLITS.index(name) for name in names])
        return torch.isin(self.split, places).nonzero().flatten()


def find(data: ImageDataModule, most: int) -> Found:
    """Look at the images of all splits.

    Args:
        data: A data module that is set up, lazily if it can.
        most: Number of images to look at; of more, the same fraction of each class in each split.

    Raises:
        UserError: If none can be read.
    """
    given = (data.train_images, data.val_images, data.test_images)
    splits = {name: images for name, images in zip(SPLITS, given) if images}
    total = sum(map(len, splits.values()))
    split, index, labels, thumbnails, broken = [], [], [], [], []
    for name, images in splits.items():
        chosen = torch.arange(len(images))
        if total > most:
            chosen = first_per_class(images.labels, total, most / total, data.split_seed)
        look = look_at(images, chosen)
        split.append(torch.full_like(look.chosen, SPLITS.index(name)))
        index.append(look.chosen)
        labels.append(images.labels[look.chosen])
        thumbnails.append(look.thumbnails)
        broken += [(name, _name(images, place), why) for place, why in look.broken.items()]
    if not sum(map(len, labels)):
        raise UserError(f"data: none of {total:,} images can be read: {broken[0][2]}; …")
    return Found(
        splits,
        torch.cat(split),
        torch.cat(index),
        torch.cat(labels),
        data.class_names,
        torch.cat(thumbnails),
        broken,
        total,
    )


def _name(images: Images, index: int) -> str:
    path = images.path(index)
    return str(index) if path is None else readable(path)
