"""``preview-data`` draws what ``fit`` trains on."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from project.cli import main
from project.data import Digits
from project.data.augment import HorizontalFlip, TrivialAugment
from project.data.base import augmentation_seed
from project.data.sheet import sheet
from tests.conftest import CONFIGS


def test_a_sheet_has_the_images_of_each_epoch() -> None:
    data = Digits(augment=[HorizontalFlip(), TrivialAugment()], mean=0.3, std=0.2)
    data.setup("fit")
    images, labels = sheet(data, count=7, epochs=3)
    assert images.shape == (7, 4, 1, 8, 8) and labels.shape == (7,)
    assert data.train_images is not None
    given = data.train_images[torch.arange(7) * len(data.train_images) // 7]
    torch.testing.assert_close(images[:, 0], given.images / 255, atol=1e-6, rtol=0)
    trained = data.transform(given.images, given.indices, augmentation_seed(2))
    torch.testing.assert_close(images[:, 3], trained * 0.2 + 0.3, atol=1e-6, rtol=0)
    assert not torch.equal(images[:, 1], images[:, 2])


def test_the_command_draws(pets: Path, capfd: pytest.CaptureFixture[str]) -> None:
    main(
        [
            *("preview-data", "--config", str(CONFIGS / "finetune_folder.yaml")),
            *(f"--data.root={pets}", "--data.image_size=32", "--data.decode_size=40"),
            *("--data.augment=[RandomResizedCrop]", "--images=3", "--epochs=2"),
            *("--output=sheet.png", "--model.mixup=1"),
        ]
    )
    out = capfd.readouterr().out
    assert out.splitlines()[-1] == "sheet: sheet.png" and "mixup" in out
    with Image.open("sheet.png") as picture:
        assert picture.width > 400 and picture.height > 400
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output=a.jpg"], "--output: a.jpg must be a .png file in a folder that exists"),
        (["--images=1000"], "--images: 1000 must be at most 100"),
        (["--data.augment=[Blur]"], "data.augment[0]: no class 'Blur'"),
    ],
)
def test_what_cannot_be_drawn(
    arguments: list[str], message: str, fails: Callable[..., str]
) -> None:
    assert fails("preview-data", *arguments).startswith(message)
