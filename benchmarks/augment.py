"""Measure how many images a second each augmentation makes, beside torchvision and kornia.

``python -m benchmarks.augment`` prints a table in Markdown. All of them get a batch of uint8 images
on the CPU, and must return a batch of changed ones:

- *ours*: the operation on the whole batch.
- *torchvision*: the operation of ``torchvision.transforms.v2`` on one uint8 image after the other,
  as in a data set, and ``torch.stack``; that is what gives each image random numbers of its own.
- *kornia*: its operation on the whole batch in [0, 1], with the conversion to float. It is left out
  where kornia isn't installed.

Each has one thread, and the time is that of its processor, so that what else runs on the machine
matters little. The largest rate of some calls counts.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from project.data import Augment
from project.data.augment import (
    Affine,
    Augmentation,
    ColorJitter,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    Operation,
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
    Rotation,
    TrivialAugment,
)
from project.environment import device_name

Run = Callable[[Tensor], Tensor]
SIZES, BATCHES = (32, 224), (32, 256)
SECONDS, CALLS = 0.3, 6  # of each figure, at most
WARM_UP = 8  # images
LARGER = 8 / 7  # decode_size, as a multiple of the image size
BILINEAR = InterpolationMode.BILINEAR

OURS: dict[str, Sequence[Operation]] = {
    "`RandomResizedCrop`": [RandomResizedCrop()],
    "`HorizontalFlip`": [HorizontalFlip()],
    "`Rotation`": [Rotation(15)],
    "`Affine`": [Affine(15, 0.1, (0.8, 1.2), 10)],
    "`ColorJitter`, no hue": [ColorJitter(0.4, 0.4, 0.4)],
    "`ColorJitter`, all": [ColorJitter(0.4, 0.4, 0.4, 0.1)],
    "`Grayscale`": [Grayscale(0.5)],
    "`GaussianBlur`": [GaussianBlur((0.1, 2.0), 1.0)],
    "`RandomErasing`": [RandomErasing(0.5)],
    "`TrivialAugment`": [TrivialAugment()],
    "`RandAugment`": [RandAugment()],
    "`{flip: 0.5, shift: 2}`": [Augment(flip=0.5, shift=2)],
    "`{flip: 0.5, min_scale: 0.5, brightness: 0.2, contrast: 0.2}`": [
        Augment(flip=0.5, min_scale=0.5, brightness=0.2, contrast=0.2)
    ],
    "`[RandomResizedCrop, HorizontalFlip, TrivialAugment]`": [
        *(RandomResizedCrop(), HorizontalFlip(), TrivialAugment())
    ],
}
CROPS = {name for name, given in OURS.items() if isinstance(given[0], RandomResizedCrop)}


def theirs(size: int) -> Mapping[str, Callable[[Tensor], Tensor]]:
    """Return torchvision's operations, for images of a size."""
    crop = v2.RandomResizedCrop(size, antialias=True)
    transforms = [
        crop,
        v2.RandomHorizontalFlip(),
        v2.RandomRotation(15, BILINEAR),
        v2.RandomAffine(15, (0.1, 0.1), (0.8, 1.2), 10, BILINEAR),
        v2.ColorJitter(0.4, 0.4, 0.4),
        v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
        v2.RandomGrayscale(0.5),
        v2.GaussianBlur(13, (0.1, 2.0)),
        v2.RandomErasing(0.5),
        v2.TrivialAugmentWide(interpolation=BILINEAR),
        v2.RandAugment(interpolation=BILINEAR),
        v2.Compose(
            [v2.RandomCrop(size, padding=2, padding_mode="reflect"), v2.RandomHorizontalFlip()]
        ),
        v2.Compose(
            [
                v2.RandomResizedCrop(size, (0.5, 1.0), antialias=True),
                *(v2.RandomHorizontalFlip(), v2.ColorJitter(0.2, 0.2)),
            ]
        ),
        v2.Compose(
            [crop, v2.RandomHorizontalFlip(), v2.TrivialAugmentWide(interpolation=BILINEAR)]
        ),
    ]
    return dict(zip(OURS, transforms, strict=True))


@cache
def kornias(size: int) -> Mapping[str, Any]:
    """Return kornia's operations, for images of a size; nothing where it isn't installed."""
    if find_spec("kornia") is None:
        return {}
    k, auto = import_module("kornia.augmentation"), import_module("kornia.augmentation.auto")
    crop, flip = k.RandomResizedCrop((size, size), p=1.0), k.RandomHorizontalFlip()
    transforms = [
        *(crop, flip, k.RandomRotation(15.0, p=1.0)),
        k.RandomAffine(15.0, (0.1, 0.1), (0.8, 1.2), (-10.0, 10.0), p=1.0),
        k.ColorJiggle(0.4, 0.4, 0.4, 0.0, p=1.0),
        k.ColorJiggle(0.4, 0.4, 0.4, 0.1, p=1.0),
        *(k.RandomGrayscale(p=0.5), k.RandomGaussianBlur((13, 13), (0.1, 2.0), p=1.0)),
        *(k.RandomErasing(p=0.5), auto.TrivialAugment(), auto.RandAugment(n=2, m=9)),
        torch.nn.Sequential(k.RandomCrop((size, size), padding=2, padding_mode="reflect"), flip),
        torch.nn.Sequential(
            k.RandomResizedCrop((size, size), (0.5, 1.0), p=1.0),
            *(flip, k.ColorJiggle(0.2, 0.2, 0.0, 0.0, p=1.0)),
        ),
        torch.nn.Sequential(crop, flip, auto.TrivialAugment()),
    ]
    return dict(zip(OURS, transforms, strict=True))


def contenders(name: str, size: int) -> dict[str, Run]:
    """Return what changes a whole batch in each of the ways."""
    augment = Augmentation(tuple(OURS[name]))
    transform, kornia = theirs(size)[name], kornias(size).get(name)

    def ours(images: Tensor) -> Tensor:
        return augment(images, torch.arange(len(images)), 7, (size, size))

    def torchvision(images: Tensor) -> Tensor:
        return torch.stack([transform(image) for image in images])

    def by_kornia(images: Tensor) -> Tensor:
        found: Tensor = kornia(images.float() / 255)
        return found

    runs = {"ours": ours, "torchvision": torchvision}
    return runs | {"kornia": by_kornia} if kornia is not None else runs


def rate(run: Run, images: Tensor) -> float:
    """Return how many images a second are made."""
    run(images[:WARM_UP])
    best, spent = float("inf"), 0.0
    for _ in range(CALLS):
        start = time.process_time()
        run(images)
        seconds = time.process_time() - start
        best, spent = min(best, seconds), spent + seconds
        if spent > SECONDS:
            break
    return len(images) / best


@torch.no_grad()
def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.augment", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="pixels of a side")
    parser.add_argument("--batches", type=int, nargs="*", default=BATCHES, help="images")
    options = parser.parse_args()
    torch.set_num_threads(1)
    places = [(size, batch) for size in options.sizes for batch in options.batches]
    print("| images a second | " + " | ".join(f"{s} px, batch {b}" for s, b in places) + " |")
    print("|---|" + "---|" * len(places))
    generator = torch.Generator().manual_seed(0)
    for name in OURS:
        cells = []
        for size, batch in places:
            side = round(size * LARGER) if name in CROPS else size
            noise = torch.rand(batch, 3, side // 8 + 1, side // 8 + 1, generator=generator) * 255
            smooth = torch.nn.functional.interpolate(noise, (side, side), mode="bilinear")
            images = smooth.to(torch.uint8)
            rates = [rate(run, images) for run in contenders(name, size).values()]
            cells.append(" / ".join(f"{one:,.{0 if one >= 10 else 1}f}" for one in rates))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    names = [f"torch {torch.__version__}", f"torchvision {version('torchvision')}"]
    names += [f"kornia {version('kornia')}"] if find_spec("kornia") else []
    others = " / ".join(contenders(name, SIZES[0]))
    print(
        f"\n{others}; {device_name(torch.device('cpu'))}, {torch.get_num_threads()} threads; ",
        end="",
    )
    print(", ".join(names))


if __name__ == "__main__":
    main()
