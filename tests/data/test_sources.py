"""Each source reads its real format, downloads once, and says what is missing."""

import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from project.data import CIFAR10, MNIST, Digits, ImageFolder
from project.data.decode import open_image
from project.errors import UserError
from tests.conftest import Run, digits_like, write_idx


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        if self.command == "GET":
            self.server.seen.append(self.path)  # type: ignore[attr-defined]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    """Serves tmp_path/served on loopback, and remembers what was asked for."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        server.seen = []  # type: ignore[attr-defined]
        server.url = f"http://127.0.0.1:{server.server_port}/"  # type: ignore[attr-defined]
        server.folder = folder  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def loaded(data: Any) -> Any:
    data.prepare_data()
    data.setup("fit")
    return data


def test_digits_are_the_real_ones() -> None:
    data = loaded(Digits(val_fraction=0))
    everything = torch.cat([data.train_images.labels, data.test_images.labels])
    assert everything.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert data.train_images.images.max() == 255


def test_mnist_reads_idx_files(mnist: Path) -> None:
    data = loaded(MNIST(root=str(mnist), val_fraction=0.1))
    assert [len(s) for s in (data.train_images, data.val_images, data.test_images)] == [
        180,
        20,
        100,
    ]
    images, labels = digits_like(100, 28, seed=100)
    assert torch.equal(data.test_images.images[:, 0], torch.from_numpy(images))
    assert data.test_images.labels.tolist() == labels.tolist()


def test_qmnist_reads_its_labels(tmp_path: Path) -> None:
    raw = tmp_path / "QMNIST" / "raw"
    for part in ("train", "test"):
        images, labels = digits_like(50, 28, seed=1)
        write_idx(raw / f"qmnist-{part}-images-idx3-ubyte", images)
        columns = np.stack([labels] + [np.full(50, 9)] * 7, 1).astype(np.int32)
        write_idx(raw / f"qmnist-{part}-labels-idx2-int", columns)
    data = loaded(MNIST(variant="QMNIST", root=str(tmp_path), val_fraction=0))
    assert data.train_images.labels.tolist() == [i % 10 for i in range(50)]


def test_emnist_letters_are_upright_and_count_from_zero(tmp_path: Path) -> None:
    raw = tmp_path / "EMNIST" / "raw"
    images, labels = digits_like(52, 28, seed=1)
    labels = np.arange(52) % 26 + 1
    for part in ("train", "test"):
        write_idx(raw / f"emnist-letters-{part}-images-idx3-ubyte.gz", images)
        write_idx(raw / f"emnist-letters-{part}-labels-idx1-ubyte.gz", labels.astype(np.uint8))
    data = loaded(MNIST(variant="EMNIST-letters", root=str(tmp_path), val_fraction=0))
    assert data.num_classes == 26 and data.class_names[0] == "a"
    assert set(data.train_images.labels.tolist()) == set(range(26))
    stored = torch.from_numpy(images).transpose(1, 2)
    assert torch.equal(data.train_images.images[:, 0], stored)


def test_cifar10_reads_pickles(cifar10: Path) -> None:
    data = loaded(CIFAR10(root=str(cifar10), val_fraction=0))
    assert (len(data.train_images), len(data.test_images)) == (200, 50)
    images, labels = digits_like(50, 32, 5, channels=3)
    assert torch.equal(data.test_images.images, torch.from_numpy(images))
    assert data.test_images.labels.tolist() == labels.tolist()


def test_cifar10_pickle_runs_no_code(cifar10: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (Path("ran"),)

    batch = cifar10 / "cifar-10-batches-py" / "test_batch"
    batch.write_bytes(pickle.dumps({"data": Evil(), "labels": []}))
    with pytest.raises(UserError, match="test_batch is not a batch of CIFAR10: .*not allowed"):
        loaded(CIFAR10(root=str(cifar10)))
    assert not Path("ran").exists()


def test_mnist_downloads_once(server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    resources = []
    for part, count in (("train", 60), ("t10k", 20)):
        images, labels = digits_like(count, 28, seed=count)
        for name, array in (("images-idx3", images), ("labels-idx1", labels.astype(np.uint8))):
            file = server.folder / f"{part}-{name}-ubyte.gz"
            write_idx(file, array)
            resources.append((file.name, hashlib.md5(file.read_bytes()).hexdigest()))
    monkeypatch.setattr(datasets.MNIST, "mirrors", [server.url])
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    root = tmp_path / "root"
    assert len(loaded(MNIST(root=str(root), val_fraction=0)).train_images) == 60
    assert len(set(server.seen)) == 4
    server.seen.clear()
    loaded(MNIST(root=str(root)))
    assert not server.seen
    assert {path.name for path in root.iterdir()} == {".lock", "MNIST"}


def test_damaged_download_leaves_nothing(
    server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, _ in datasets.MNIST.resources:
        (server.folder / name).write_bytes(b"damaged")
    monkeypatch.setattr(datasets.MNIST, "mirrors", [server.url])
    root = tmp_path / "root"
    with pytest.raises(UserError, match=r"put train-images-idx3-ubyte.gz, .* into .*MNIST/raw"):
        MNIST(root=str(root)).prepare_data()
    assert {path.name for path in root.iterdir()} == {".lock"}


def test_cut_file_is_named(mnist: Path) -> None:
    data = MNIST(root=str(mnist))
    data.prepare_data()
    file = mnist / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="test files of MNIST .* are broken"):
        data.setup("fit")


def archive(pets: Path, path: Path, kind: str) -> str:
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as zipped:
            for file in pets.rglob("*.*"):
                zipped.write(file, Path("pets") / file.relative_to(pets))
    else:
        with tarfile.open(path, "w:gz") as tar:
            tar.add(pets, "pets")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_folder_is_fetched_once(kind: str, server: Any, pets: Path, tmp_path: Path) -> None:
    sha256 = archive(pets, server.folder / f"pets.{kind}", kind)
    args = {"root": str(tmp_path / "new"), "url": f"{server.url}pets.{kind}", "sha256": sha256}
    assert ImageFolder(**args).class_names == ("cat", "dog")
    assert len(loaded(ImageFolder(image_size=16, **args)).train_images) == 22
    assert len(server.seen) == 1


def test_wrong_archive_is_not_unpacked(server: Any, pets: Path, tmp_path: Path) -> None:
    archive(pets, server.folder / "pets.zip", "zip")
    data = ImageFolder(root=str(tmp_path / "new"), url=f"{server.url}pets.zip", sha256="0" * 64)
    with pytest.raises(UserError, match="data.sha256: .* nothing was unpacked"):
        data.prepare_data()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archive_can_not_write_outside(kind: str, server: Any, tmp_path: Path) -> None:
    path = server.folder / "evil"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as zipped:
            zipped.writestr("../../escaped.png", b"x")
    else:
        with tarfile.open(path, "w") as tar:
            member = tarfile.TarInfo("../../escaped.png")
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    data = ImageFolder(root=str(tmp_path / "a" / "b"), url=f"{server.url}evil", sha256=sha256)
    with pytest.raises(UserError, match="can't be unpacked"):
        data.prepare_data()
    assert not list(tmp_path.rglob("escaped.png"))


def test_folder_matches_other_splits_by_name(pets: Path) -> None:
    (pets / "val" / "dog").mkdir(parents=True)
    (pets / "train" / "dog" / "0.jpg").rename(pets / "val" / "dog" / "0.jpg")
    data = loaded(ImageFolder(root=str(pets), image_size=16))
    assert data.val_images.labels.tolist() == [1]


def test_folder_without_splits_is_split(pets: Path) -> None:
    data = loaded(ImageFolder(root=str(pets / "train"), image_size=16, test_fraction=0.25))
    sizes = [len(s) for s in (data.train_images, data.val_images, data.test_images)]
    assert sizes == [16, 2, 6]
    splits = (data.train_images, data.val_images, data.test_images)
    assert len({split.path(index) for split in splits for index in range(len(split))}) == 24


def test_one_image_per_class_is_enough_to_train(pets: Path, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "few" / name).mkdir(parents=True)
        (pets / "train" / name / "0.jpg").rename(tmp_path / "few" / name / "0.jpg")
    data = loaded(ImageFolder(root=str(tmp_path / "few"), image_size=16))
    assert len(data.train_images) == 2 and data.val_images is None and data.test_images is None


def test_hidden_files_are_ignored(pets: Path) -> None:
    (pets / "train" / ".ipynb_checkpoints").mkdir()
    (pets / "train" / "cat" / "._0.jpg").write_bytes(b"x")
    (pets / "train" / "cat" / "notes.txt").write_text("x")
    data = loaded(ImageFolder(root=str(pets), image_size=16, val_fraction=0))
    assert data.class_names == ("cat", "dog") and len(data.train_images) == 24


@pytest.mark.parametrize("workers", [0, 2])
def test_folder_trains_decoded_for_every_batch(
    workers: int, run: Callable[..., Run], pets: Path
) -> None:
    finished = run(
        *("fit", "--data=ImageFolder", f"--data.root={pets}", "--data.image_size=16"),
        *("--data.cache=off", f"--data.num_workers={workers}", "--trainer.max_epochs=2"),
        "--trainer.logger=false",
    )
    assert finished.summary["test/accuracy"] > 0.9


def test_modes_are_composited_and_converted(tmp_path: Path) -> None:
    def saved(image: Image.Image, name: str, **options: Any) -> Image.Image:
        image.save(tmp_path / name, **options)
        return open_image(tmp_path / name)

    half_red = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    assert saved(half_red, "rgba.png").getpixel((0, 0)) == (255, 127, 127)
    clear = Image.new("P", (4, 4), 1)
    clear.putpalette([0, 0, 0, 9, 9, 9])
    assert saved(clear, "palette.png", transparency=1).getpixel((0, 0)) == (255, 255, 255)
    values = np.array([[0, 256 * 10], [256 * 100, 65535]], dtype=np.uint16)
    deep = saved(Image.fromarray(values), "deep.png")
    assert [deep.getpixel((x, y))[0] for y in (0, 1) for x in (0, 1)] == [0, 10, 100, 255]
    assert saved(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "cmyk.jpg").mode == "RGB"
    assert saved(Image.new("1", (2, 2), 1), "bit.png").getpixel((0, 0)) == (255, 255, 255)
    wide = Image.new("RGB", (6, 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert saved(wide, "turned.jpg", exif=exif).size == (2, 6)
    assert open_image(tmp_path / "turned.jpg", "L").mode == "L"


def test_predict_dir(run: Callable[..., Run], pets: Path, tmp_path: Path) -> None:
    args = ("--data=ImageFolder", f"--data.root={pets}", "--data.image_size=16")
    fitted = run("fit", *args, "--trainer.max_epochs=2", "--trainer.logger=false")
    predicted = run("predict", "--ckpt_path", fitted.path, f"--data.predict_dir={pets / 'test'}")
    (pets / "train").rename(pets / "elsewhere")  # the checkpoint knows the classes
    again = run("predict", "--ckpt_path", fitted.path, f"--data.predict_dir={pets / 'test'}")
    text = (predicted.path / "predictions.csv").read_text()
    assert (again.path / "predictions.csv").read_text() == text
    lines = text.splitlines()[1:]
    found = {line.split(",")[0]: line.split(",")[1] for line in lines}
    assert len(found) == 8
    assert all(Path(path).parent.name == name for path, name in found.items())


def test_summary_of_a_run_is_json(run: Callable[..., Run]) -> None:
    finished = run("fit", "--trainer.max_epochs=1", "--trainer.logger=false")
    assert json.loads((finished.path / "summary.json").read_text())
