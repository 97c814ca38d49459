# part: compare recommend
"""Small data sets of several kinds, each a folder of images, made of those at hand.

They differ in what decides between approaches: how many images there are, how many classes, how far
they are from photographs, and how small they are. Every image is written as a PNG of at most 64
pixels, so that four approaches are measured on all sets in about an hour.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from project.data import MNIST, Digits, ImageDataModule, ImageFolder
from project.data.batches import Images
from project.data.splits import first_per_class

SIZE = 64  # pixels
MOST_TEST_IMAGES = 150  # of a class
ALL = 10_000  # more images than a class has
REST = "rest"  # the class of all others


@dataclass(frozen=True)
class ImageSet:
    """A data set.

    Attributes:
        name: Name of its folder.
        what: Description in words.
        source: ``clipart``, ``stamps``, ``fashion`` or ``digits``.
        each: Largest number of training images of a class.
        classes: Classes to take; the others are left out, or are one class :data:`REST` if that
            is the last one. Empty takes all.
        size: Largest height and width in pixels.
        grey: Whether colours are taken away.
        sets_rules: Whether the thresholds of the rules were set on it; the others test them.
    """

    name: str
    what: str
    source: str
    each: int = ALL
    classes: tuple[str, ...] = ()
    size: int = SIZE
    grey: bool = False
    sets_rules: bool = False


SETS = (
    ImageSet("clipart_20", "clip-art, 20 a class", "clipart", 20, sets_rules=True),
    ImageSet("clipart_60", "clip-art, 60 a class", "clipart", 60),
    ImageSet("clipart_200", "clip-art, 200 a class", "clipart", 200, sets_rules=True),
    ImageSet("grey", "clip-art, 60 a class, grey", "clipart", 60, grey=True),
    ImageSet("small", "clip-art, 60 a class, 32 px", "clipart", 60, size=32),
    ImageSet(
        *("food_tools", "food or tools", "clipart", 60, ("food", "tools")),
        sets_rules=True,
    ),
    ImageSet("animals_people", "animals or people", "clipart", ALL, ("animals", "people")),
    ImageSet(
        *("shapes_signs", "shapes or signs", "clipart", 200, ("shapes", "signs_and_symbols")),
        sets_rules=True,
    ),
    ImageSet("animals_rest", "animals or the rest", "clipart", 300, ("animals", REST)),
    ImageSet("stamps", "stamps", "stamps", sets_rules=True),
    ImageSet("stamps_10", "stamps, 10 a class", "stamps", 10),
    ImageSet("fashion_20", "Fashion-MNIST, 20 a class", "fashion", 20, size=28),
    ImageSet("fashion_100", "Fashion-MNIST, 100", "fashion", 100, size=28, sets_rules=True),
    ImageSet("fashion_250", "Fashion-MNIST, 250", "fashion", 250, size=28),
    ImageSet("digits_20", "digits, 20 a class", "digits", 20, size=8, sets_rules=True),
    ImageSet("digits_100", "digits, 100 a class", "digits", 100, size=8),
)


def source_of(one: ImageSet, roots: Mapping[str, Path]) -> ImageDataModule:
    """Return the data that a set is made of, set up.

    Args:
        one: The set.
        roots: Folder of each source.
    """
    root = str(roots.get(one.source, ""))
    data: ImageDataModule
    if one.source == "digits":
        data = Digits(val_fraction=0.0)
    elif one.source == "fashion":
        data = MNIST("FashionMNIST", root=root, val_fraction=0.0)
    else:
        data = ImageFolder(root=root, image_size=one.size, val_fraction=0.0)
    data.setup_lazily()
    return data


def make(one: ImageSet, data: ImageDataModule, folder: Path) -> None:
    """Write the images of a set into ``train/`` and ``test/``, unless they are there.

    Args:
        one: The set.
        data: What it is made of, set up.
        folder: Its folder.
    """
    if (folder / "test").is_dir():  # which is the last to get its name
        return
    for split, each in (("train", one.each), ("test", MOST_TEST_IMAGES)):
        images: Images | None = getattr(data, f"{split}_images")
        assert images is not None
        names, labels = _regrouped(one.classes or data.class_names, data.class_names, images.labels)
        known = (labels >= 0).nonzero().flatten()
        chosen = known[first_per_class(labels[known], each, fraction=1.0, seed=0)]
        unfinished = folder / f".{split}"
        for name in names:
            (unfinished / name).mkdir(parents=True, exist_ok=True)
        for place in chosen.tolist():
            picture = to_pil_image(images[torch.tensor([place])].images[0])
            if one.grey:
                picture = picture.convert("L")
            picture.save(unfinished / names[labels[place]] / f"{place:05}.png")
        unfinished.rename(folder / split)


def _regrouped(
    wanted: tuple[str, ...], known: tuple[str, ...], labels: Tensor
) -> tuple[tuple[str, ...], Tensor]:
    """Return the names of the classes and new labels, -1 for images that are left out."""
    rest = wanted.index(REST) if REST in wanted else -1
    new = [wanted.index(name) if name in wanted else rest for name in known]
    return wanted, torch.tensor(new)[labels]


# end
