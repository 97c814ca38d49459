"""The check of an export finds every kind of wrong one, and lets none of the right ones fail."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from project.classifier import Classifier, load_run
from project.cli import main
from project.commands.export import command
from project.commands.export.check import (
    Check,
    _compared,
    check,
    images_to_check,
    refuse_difference,
)
from project.commands.export.formats import write_safetensors
from project.commands.export.graph import Pipeline, Resize
from project.decoding.decode import Decoder
from project.errors import UserError
from project.exported.description import Description
from tests.test_classifier import FOLDER

SIDE = 16  # of FOLDER


@pytest.fixture(autouse=True)
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies aren't tested."""
    monkeypatch.setattr("project.commands.export.check.SECONDS", 0.0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on smooth pictures of several sizes in two classes, with batch norm and dropout."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for number in range(24):
        path = folder / "data" / ("train", "test")[number % 2] / ("cat", "dog")[number // 2 % 2]
        path.mkdir(parents=True, exist_ok=True)
        coarse = generator.integers(0, 256, (9, 9, 3), np.uint8)
        size = (70 + 3 * number, 60)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path / f"{number}.png")
    network = ("--model.network.batch_norm=true", "--model.network.dropout=0.5")
    own = (f"--data.root={folder / 'data'}", "--data.mean=0.4", "--data.std=0.2", *network)
    main([*FOLDER, *own, "--run_dir", str(folder / "run")])
    return folder / "run"


def test_a_wrong_export_is_refused_and_nothing_is_left(
    photos: Path, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_wrong(model: Any, *args: Any) -> None:
        wrong = deepcopy(model)
        perturb(wrong)
        write_safetensors(wrong, *args)

    monkeypatch.setattr(command, "write_safetensors", write_wrong)
    message = fails("export", photos, "--format=safetensors")
    assert "something else than" in message and "nothing is left of it" in message
    assert not (photos / "export").exists()


class Eager:
    """A pipeline in place of an exported file, for the time that exporting would take."""

    def __init__(self, pipeline: Pipeline, description: Description) -> None:
        self.pipeline = pipeline
        self.description = description

    def __call__(self, images: Any) -> Any:
        with torch.inference_mode():
            return tuple(one.numpy() for one in self.pipeline(torch.from_numpy(images)))


class Filtered(nn.Module):
    """Crops the centre and resizes it by torch."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, images: Tensor) -> Tensor:
        side = min(images.shape[1:3])
        if side == SIDE:
            return images.permute(0, 3, 1, 2).float()
        top, left = ((one - side) // 2 for one in images.shape[1:3])
        part = images.permute(0, 3, 1, 2)[:, :, top : top + side, left : left + side]
        return nn.functional.interpolate(part.float(), SIDE, **self.options)


Change = Callable[[Pipeline], object]


def perturb(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data *= 1.01


def swap(pipeline: Pipeline) -> None:
    """Take the mean of the photos, 0.4, for their std, 0.2, and the other way round."""
    pipeline.shift.fill_(-0.2 / 0.4)
    pipeline.scale.fill_(1 / (255 * 0.4))


def before(change: Callable[[Tensor], Tensor]) -> Change:
    """Change the images that the network gets."""
    return lambda one: one.network.register_forward_pre_hook(lambda _, given: (change(given[0]),))


def after(change: Callable[[Tensor], Tensor]) -> Change:
    """Change the logits."""
    return lambda one: one.network.register_forward_hook(lambda _, given, logits: change(logits))


def resizing(module: nn.Module) -> Change:
    return lambda one: setattr(one, "resize", module)


WRONG: dict[str, tuple[str, Change]] = {
    "BGR": ("computes", before(lambda images: images.flip(1))),
    "the other order of classes": ("computes", after(lambda logits: logits.flip(1))),
    "values up to 255": ("computes", before(lambda images: images * 255)),
    "mean and std swapped": ("computes", swap),
    "the mean left out": ("computes", lambda one: one.shift.zero_()),
    "rows for columns": ("computes", before(lambda images: images.mT)),
    "mirrored": ("computes", before(lambda images: images.flip(3))),
    "weights a little off": ("computes", perturb),
    "dropout": ("computes", lambda one: one.train()),
    "no number": ("computes", after(lambda logits: logits * torch.nan)),
    "nearest": ("resizes", resizing(Filtered(mode="nearest"))),
    "no antialiasing": ("resizes", resizing(Filtered(mode="bilinear"))),
    "bicubic": ("resizes", resizing(Filtered(mode="bicubic", antialias=True))),
    "squashed": ("resizes", resizing(Resize(Decoder("RGB", (SIDE, SIDE), "squash")))),
    "padded": ("resizes", resizing(Resize(Decoder("RGB", (SIDE, SIDE), "pad")))),
}


def test_every_kind_of_wrong_export_is_found(photos: Path) -> None:
    loaded = load_run(photos)
    classifier = Classifier(loaded.model, loaded.data)
    chosen, description = images_to_check(classifier, None), command.describe(loaded, "fp32")

    def found(change: Change | None) -> None:
        constants = description.normalization
        pipeline = Pipeline(deepcopy(classifier.model), description.decoder(), constants).eval()
        if change is not None:
            change(pipeline)
        best = photos / "checkpoints" / "best.ckpt"
        refuse_difference(check(Eager(pipeline, description), classifier, best, chosen))

    found(None)
    for name, (said, change) in WRONG.items():
        with pytest.raises(UserError, match=f"the exported file {said}"):
            found(change)
            pytest.fail(f"{name} is let through")


def test_a_single_logit_of_a_single_image_is_no_reason_to_refuse() -> None:
    same, whole = (
        _compared([(torch.tensor([[0.3]]), torch.tensor([[given]]))], torch.tensor([0]))
        for given in (0.3, 0.31)
    )
    refuse_difference(Check("test", same, whole, size_mb=1.0))
