"""Training images may be kept larger than the model gets them, from all of the picture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from project.data import ImageFolder
from project.data.augment import HorizontalFlip, RandomResizedCrop
from project.errors import UserError
from project.randomness import mix
from tests.conftest import Run

CROP = RandomResizedCrop(scale=(0.1, 1.0))


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """Pictures of 3:1, with a red and a blue end that a square in their middle doesn't show."""
    for name, count in (("train/cat", 9), ("train/dog", 9), ("test/cat", 3), ("test/dog", 3)):
        (tmp_path / "wide" / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.full((40, 120, 3), 128, np.uint8)
            pixels[:, :20], pixels[:, -20:] = (255, number, 0), (0, 0, 255)
            pixels[:, 55:65] = 0
            Image.fromarray(pixels).save(tmp_path / "wide" / name / f"{number}.png")
    return tmp_path / "wide"


def folder(root: Path, **options: Any) -> ImageFolder:
    given = {"image_size": 24, "augment": [CROP], "mean": 0.0, "std": 1.0} | options
    data = ImageFolder(root=str(root), **given)  # type: ignore[arg-type]
    data.setup("fit")
    return data


def augmented(data: ImageFolder, epoch: int = 0) -> Tensor:
    """Return all training images as an epoch has them, with values in 0 to 1."""
    assert data.train_images is not None
    index = torch.arange(len(data.train_images))
    return data.transform(data.train_images[index].images, index, mix(0, epoch))


def ends(images: Tensor) -> tuple[bool, bool]:
    """Return whether a red and a blue end can be seen."""
    red, _, blue = images.unbind(dim=1)
    return bool((red - blue > 0.9).any()), bool((blue - red > 0.9).any())


def test_crops_are_of_the_whole_picture(wide: Path) -> None:
    small, large = folder(wide), folder(wide, decode_size=48)
    for data, seen in ((small, (False, False)), (large, (True, True))):
        crops = torch.cat([augmented(data, epoch) for epoch in range(5)])
        assert crops.shape[1:] == (3, 24, 24) and ends(crops) == seen
        assert crops.min() >= 0 and crops.max() <= 1 + 1e-5


def test_shapes_are_not_distorted(wide: Path) -> None:
    """What is 10 pixels of 40 × 120 wide is as wide in a crop of all of its height."""
    data = folder(wide, decode_size=48, augment=[RandomResizedCrop((1 / 3, 1 / 3), (1, 1))])
    images = torch.cat([augmented(data, epoch) for epoch in range(8)])
    black = images.amax(dim=(1, 2)) < 0.25
    widths = black[black[:, 4:-4].any(dim=1)].sum(dim=1)
    assert len(widths) > 10 and (widths - 6).abs().max() <= 1


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
def test_only_training_images_are_larger(resize: Any, wide: Path) -> None:
    small, large = (folder(wide, decode_size=size, resize=resize) for size in (None, 40))
    for name, size in (("train", 40), ("val", 24), ("test", 24)):
        one, other = (getattr(data, f"{name}_images") for data in (small, large))
        index = torch.arange(len(one))
        assert other[index].images.shape[2:] == (size, size)
        assert torch.equal(one.labels, other.labels)
        if name != "train":
            assert torch.equal(one[index].images, other[index].images)
    plain, larger = (data.sample() for data in (small, large))  # not augmented
    assert larger.shape == plain.shape
    assert (larger - plain).abs().mean() < 0.06


@pytest.mark.parametrize("more", [{}, {"limit_per_class": 4}])
def test_pixels_are_the_same_however_they_are_kept(more: dict[str, Any], wide: Path) -> None:
    off, *others = (
        folder(wide, decode_size=40, cache=cache, memory_gb=gb, **more)
        for cache, gb in (("off", 4), ("memory", 4), ("disk", 4), ("auto", 4), ("auto", 0))
    )
    for data in others:
        assert torch.equal(augmented(data), augmented(off))
    Path("cache").rename("full")
    Path("cache").write_text("no folder")
    assert torch.equal(augmented(folder(wide, decode_size=40, **more)), augmented(off))


def test_broken_images_are_skipped(wide: Path) -> None:
    whole = augmented(folder(wide, decode_size=40, val_fraction=0))
    (wide / "train" / "cat" / "0.png").write_bytes(b"no image")
    (wide / "test" / "dog" / "2.png").write_bytes(b"no image")
    for cache in ("off", "auto"):
        data = folder(
            wide, decode_size=40, cache=cache, on_bad_image="skip", max_bad_fraction=0.1,
            val_fraction=0,
        )  # fmt: skip
        assert [Path(path).name for path, _ in data.skipped] == ["0.png", "2.png"]
        assert data.train_images and len(data.train_images) == 17
        assert data.test_images and len(data.test_images) == 5
        found = augmented(data)
        assert len(found) == len(whole) - 1
        assert ends(found) == (True, True)


def test_what_cannot_be_is_refused(wide: Path) -> None:
    with pytest.raises(UserError, match=r"^data\.decode_size: the first of data\.augment must be "):
        ImageFolder(root=str(wide), decode_size=40, augment=[HorizontalFlip(), CROP])
    with pytest.raises(UserError, match=r"^data\.decode_size: 20 must be at least .* size, 24"):
        folder(wide, decode_size=20)
    unused = folder(wide, decode_size=40, augment=None)
    assert unused.train_images is not None
    assert unused.train_images[torch.arange(2)].images.shape[2:] == (24, 24)


def test_a_run_on_crops_of_whole_pictures(wide: Path, run: Callable[..., Run]) -> None:
    """With worker processes, and as its config says again."""
    args = (
        *("fit", "--data=ImageFolder", "--data.root", wide, "--data.image_size=24"),
        *("--data.decode_size=40", "--data.augment=[RandomResizedCrop, HorizontalFlip]"),
        *("--trainer.max_epochs=2", "--trainer.logger=false", "--data.batch_size=6"),
    )
    cached = run(*args)
    again = run("fit", "--config", cached.path / "config.yaml", "--data.cache=off")
    for key, value in cached.best["state_dict"].items():
        assert torch.equal(value, again.best["state_dict"][key]), key
