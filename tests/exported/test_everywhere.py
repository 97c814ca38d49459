"""A picture has the same probabilities wherever it is classified."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from project import Classifier
from project.cli import main
from project.csv_text import read_table
from project.decoding.decode import Decoder
from tests.conftest import CONFIGS
from tests.exported.pictures import files

SERVE = CONFIGS.parent / "examples" / "serve"
SIZE = 48
EQUAL = 1e-4  # of a probability
AT_ONCE = 32  # of a request
Found = NDArray[np.float32]


def pillow_alone(patch: pytest.MonkeyPatch) -> None:
    """The extra ``fast`` rounds otherwise in a few pixels, and exports have Pillow alone."""
    patch.setattr(Decoder.__init__, "__defaults__", (False,))


@pytest.fixture(scope="module", params=["crop", "squash", "pad"])
def linear(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose probabilities depend on each value of each pixel, with its export."""
    folder = tmp_path_factory.mktemp(request.param)
    generator = np.random.default_rng(0)
    for number in range(12):
        path = folder / "data" / ("train", "test")[number % 2] / "abc"[number % 3]
        path.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(path / f"{number}.png")
    arguments = [
        *("fit", "--data=ImageFolder", f"--data.root={folder / 'data'}", "--data.mean=0.4"),
        *(f"--data.image_size={SIZE}", f"--data.resize={request.param}", "--data.std=0.3"),
        *("--data.cache=off", "--model.network=MLP", "--model.network.hidden=[]"),
        *("--trainer.max_epochs=1", "--trainer.logger=false", "--test_after_fit=false"),
    ]
    run = folder / "run"
    main([*arguments, "--run_dir", str(run)])
    best = run / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(best, weights_only=True)
    weight = checkpoint["state_dict"]["network.head.weight"]
    weight.normal_(std=0.03, generator=torch.Generator().manual_seed(0))
    torch.save(checkpoint, best)
    with pytest.MonkeyPatch.context() as patch:
        pillow_alone(patch)
        patch.setattr("project.commands.export.check.SECONDS", 0.0)
        main(["export", str(run)])
    return run


def by_lightning(run: Path, paths: list[Path]) -> Found:
    """By the data module and the loop of ``fit``."""
    options = ("--run_dir=predicted", "--trainer.logger=false")
    main(["predict", f"--ckpt_path={run}", f"--data.predict_dir={paths[0].parent}", *options])
    return in_table(Path("predicted/predictions.csv"), paths)


def by_classifier(run: Path, paths: list[Path]) -> Found:
    return Classifier.load(run)(paths).probabilities.numpy()


def by_classifier_of_pictures(run: Path, paths: list[Path]) -> Found:
    def opened() -> Iterator[Image.Image]:
        for path in paths:
            with Image.open(path) as picture:
                yield picture

    return Classifier.load(run)(opened(), batch_size=1).probabilities.numpy()


def by_predict(run: Path, paths: list[Path]) -> Found:
    Path("list.txt").write_text("\n".join(map(str, paths)))
    main(["predict", str(run / "export" / "onnx"), "--list=list.txt", "--output=found.csv"])
    return in_table(Path("found.csv"), paths)


def in_table(table: Path, paths: list[Path]) -> Found:
    rows = {row["image"]: row for row in read_table(table)}
    return np.array(
        [[float(rows[str(path)][f"probability_{name}"]) for name in "abc"] for path in paths],
        np.float32,
    )


def by_server(run: Path, paths: list[Path]) -> Found:
    onnx = run / "export" / "onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODEL", str(onnx / "model.onnx"))
        patch.setattr(sys, "path", [str(SERVE), *sys.path])
        patch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
        app = importlib.import_module("app")
    app.MOST_BYTES = 2**25  # some are larger than it lets strangers send
    client = TestClient(app.app)
    for name in ("app", "classify"):
        del sys.modules[name]
    found: list[Any] = []
    for start in range(0, len(paths), AT_ONCE):
        contents = [path.read_bytes() for path in paths[start : start + AT_ONCE]]
        answer = client.post("/predict", files=[("pictures", ("a", one)) for one in contents])
        assert answer.status_code == 200, answer.text
        found += [list(one["probabilities"].values()) for one in answer.json()]
    return np.array(found, np.float32)


WAYS: tuple[Callable[[Path, list[Path]], Found], ...] = (
    *(by_classifier, by_classifier_of_pictures, by_predict, by_server),
)

# `Image.open` reads a large JPEG whole, which is then reduced by means of squares instead.
READ_WHOLE = 0.02
LARGE = ("CMYK-2", "CMYK-5", "YCbCr-2", "YCbCr-5", "large")
OF_FAST = 0.005  # what a few pixels make that differ by 1 of 255


def check_everywhere(run: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with_fast = by_classifier(run, paths)
    pillow_alone(monkeypatch)
    expected = by_lightning(run, paths)
    assert expected.std(axis=0).min() > 0.05  # or equal numbers would say nothing
    assert np.abs(with_fast - expected).max() < OF_FAST
    for way in WAYS:
        found = way(run, paths)
        is_whole = way is by_classifier_of_pictures
        differences = zip(paths, np.abs(found - expected).max(axis=1))
        wrong = {
            path.name: float(difference)
            for path, difference in differences
            if not difference <= (READ_WHOLE if is_whole and path.stem in LARGE else EQUAL)
        }
        assert not wrong, (way.__name__, wrong)


@pytest.mark.sampled(3)
def test_some_pictures_everywhere(
    linear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = list(files(tmp_path / "pictures"))
    for path in [path for number, path in enumerate(paths) if number % 9]:
        path.unlink()
    check_everywhere(linear, [path for path in paths if path.exists()], monkeypatch)


@pytest.mark.slow
def test_all_pictures_everywhere(
    linear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = list(files(tmp_path / "pictures"))
    assert len(paths) >= 200
    check_everywhere(linear, paths, monkeypatch)
