"""Small data in the real formats, and a way to run the command line inside a test."""

import gzip
import json
import os
import pickle
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from project.cli import main
from tests.finetuning.schedules import SCHEDULE
from tests.ranks import Ranks

CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Each test works in its own folder, without a W&B account, and leaves no trace."""
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "PROJECT_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    environment = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(environment)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Let every n-th case of a table that is ``sampled(n)`` be quick, and the others slow."""
    cases: Counter[str] = Counter()
    for item in items:
        if (mark := item.get_closest_marker("sampled")) is not None:
            table = item.nodeid.partition("[")[0]
            if cases[table] % mark.args[0]:
                item.add_marker(pytest.mark.slow)
            cases[table] += 1


@pytest.fixture(autouse=True)
def quick_picture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Don't draw in each test: that takes a third of a small run. Those of ``drawing`` do."""
    if request.node.get_closest_marker("drawing") is None:
        monkeypatch.setattr(
            "project.callbacks.figures.render",
            lambda draw, path: Image.new("RGB", (8, 8)).save(path),
        )


@dataclass
class Run:
    """A finished run."""

    path: Path
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.path / "summary.json").read_text())

    @property
    def best(self) -> dict[str, Any]:
        return torch.load(self.path / "checkpoints" / "best.ckpt", weights_only=True)


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Run the command line and return the run."""
    numbers = iter(range(1000))

    def run_it(*args: Any, run_dir: Path | None = None) -> Run:
        path = run_dir or tmp_path / f"run{next(numbers)}"
        main([*map(str, args), "--run_dir", str(path)])
        return Run(path, *capfd.readouterr())

    return run_it


@pytest.fixture
def fails(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command line, which must exit with 2 and one message; return the message."""

    def run_it(*args: Any) -> str:
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(arg) for arg in args])
        err = capfd.readouterr().err
        assert exit_.value.code == 2, err
        assert "Traceback" not in err
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, err
        return errors[0].removeprefix("error: ")

    return run_it


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write big-endian idx, the format of MNIST."""
    kind = {"uint8": 8, "int32": 12}[str(array.dtype)]
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = header + array.astype(array.dtype.newbyteorder(">")).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def digits_like(count: int, size: int, seed: int, channels: int = 0) -> tuple[Any, Any]:
    """Images whose brightest row tells the class, and their labels."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 10
    shape = (count, channels, size, size) if channels else (count, size, size)
    images = generator.integers(0, 60, shape, dtype=np.uint8)
    for image, label in zip(images, labels):
        image[..., 2 * label : 2 * label + 3, :] = 220
    return images, labels


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """A root with MNIST and FashionMNIST of 200 training and 100 test images."""
    root = tmp_path / "mnist"
    for variant in ("MNIST", "FashionMNIST"):
        for part, count in (("train", 200), ("t10k", 100)):
            images, labels = digits_like(count, 28, seed=count)
            raw = root / variant / "raw"
            write_idx(raw / f"{part}-images-idx3-ubyte.gz", images)
            write_idx(raw / f"{part}-labels-idx1-ubyte.gz", labels.astype(np.uint8))
    return root


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    """A root with CIFAR-10 of 200 training and 50 test images, in its pickle format."""
    root = tmp_path / "cifar"
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for number in range(6):
        images, labels = digits_like(50 if number == 5 else 40, 32, number, channels=3)
        content = {"data": images.reshape(len(images), -1), "labels": labels.tolist()}
        name = "test_batch" if number == 5 else f"data_batch_{number + 1}"
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    return root


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A folder of images of several modes and formats, two classes in train/ and test/."""
    root = tmp_path / "pets"
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for label, name in enumerate(("cat", "dog")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                size = (40 + 7 * number, 60)
                base = generator.integers(0, 90, (*size, 3), dtype=np.uint8) + 120 * label
                image = Image.fromarray(base.astype(np.uint8))
                mode = ("RGB", "L", "P", "RGBA")[number % 4]
                suffix = "png" if mode in ("P", "RGBA") else "jpg"
                image.convert(mode).save(folder / f"{number}.{suffix}")
    return root


def folder_of(root: Path, classes: list[bytes], files: list[bytes]) -> Path:
    """A folder with an image of each name in each class."""
    for shade, name in enumerate(classes):
        folder = root / os.fsdecode(name)
        folder.mkdir(parents=True)
        for number, file in enumerate(files):
            path = folder / (os.fsdecode(file) + ".png")
            with path.open("wb") as opened:
                Image.new("L", (4, 4), 60 * shade + number).save(opened, "png")
    return root


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a complete training, with two stages that have batch norm."""
    path = tmp_path_factory.mktemp("backbone") / "run"
    main(
        [
            *("fit", "--model=FullTraining", "--model.network=CNN", "--run_dir", str(path)),
            *("--model.network.channels=[4,8]", "--model.network.batch_norm=true"),
            *("--model.network.hidden=[]", "--data=Digits", "--data.limit_per_class=10"),
            *("--trainer.max_epochs=1", "--trainer.logger=false", "--test_after_fit=false"),
        ]
    )
    return path


@pytest.fixture(scope="session")
def onnx(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of that checkpoint, which knows digits, grey images of 8×8."""
    folder = tmp_path_factory.mktemp("exports") / "onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("project.commands.export.check.SECONDS", 0.0)  # of each latency
        main(["export", str(backbone), f"--output={folder}", "--check=50"])
    return folder


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Two processes that train together, started once."""
    pair = Ranks()
    yield pair
    pair.close()


@pytest.fixture
def schedule(tmp_path: Path, backbone: Path) -> tuple[str, ...]:
    """Arguments of a run of three phases."""
    file = tmp_path / "schedule.yaml"
    file.write_text(SCHEDULE)
    return ("fit", "--config", str(file), f"--model.backbone={backbone}")
