"""The data of the benchmarks: downloaded by this project, or generated."""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision import datasets

from benchmarks.measure import FOLDER_IMAGES
from project.data import CIFAR10, MNIST

SIZE, TEST_IMAGES = (200, 180), 60
COLOURS = {"cold": (90, 120, 165), "warm": (165, 120, 90)}


def smooth_noise(colour: tuple[int, int, int], generator: np.random.Generator) -> Image.Image:
    """Return a picture of soft blots around a colour."""
    blots = generator.normal(colour, 45, (6, 6, 3)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(blots).resize(SIZE, Image.Resampling.BICUBIC)


def make_folder(root: Path) -> None:
    """Write two classes of JPEG files, which differ in their mean colour, unless they are there."""
    done = root / ".complete"
    if done.exists():
        return
    generator = np.random.default_rng(0)
    for split, count in (("train", FOLDER_IMAGES), ("test", TEST_IMAGES)):
        for name, colour in COLOURS.items():
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count // 2):
                smooth_noise(colour, generator).save(folder / f"{number:04}.jpg", quality=90)
    done.touch()


def prepare(kind: str, root: Path) -> bool:
    """Make a data set be there; return whether it only has the format of the one it is named by."""
    if kind == "mnist":
        MNIST("FashionMNIST", root=str(root)).prepare_data()
    elif kind == "cifar":
        CIFAR10(root=str(root)).prepare_data()
        try:
            datasets.CIFAR10(root)  # compares checksums
        except RuntimeError:
            return True
    else:
        make_folder(root)
    return False


if __name__ == "__main__":
    print(json.dumps({"stand_in": prepare(sys.argv[1], Path(sys.argv[2]))}))
