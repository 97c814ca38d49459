"""Each source reads its real format, downloads once, and says what is missing."""

import hashlib
import io
import json
import multiprocessing
import os
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from project.csv_text import read_table
from project.data import CIFAR10, MNIST, Digits, ImageFolder
from project.data.download import CHECKSUMS
from project.decoding.decode import open_image
from project.errors import UserError
from tests.conftest import Run, digits_like, write_idx

CIFAR = datasets.CIFAR10


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
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
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


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_mnist_damaged_after_it_was_unpacked(mnist: Path) -> None:
    """One bit of one pixel, which the format itself doesn't notice."""
    data, file = MNIST(root=str(mnist)), mnist / "MNIST" / "raw" / "train-images-idx3-ubyte"
    data.prepare_data()
    damage(file)
    with pytest.raises(UserError, match="train-images-idx3-ubyte is damaged: .*; delete it to"):
        data.setup("fit")
    file.unlink()
    assert len(loaded(MNIST(root=str(mnist))).train_images) == 180
    damage(file)
    (file.parent / CHECKSUMS).unlink()
    loaded(MNIST(root=str(mnist)))  # as one's own


def test_cifar10_damaged_after_its_download(
    cifar10: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(root: Path, download: bool) -> None:
        shutil.copytree(cifar10 / CIFAR.base_folder, root / CIFAR.base_folder)

    data = CIFAR10(root=str(tmp_path / "root"))
    monkeypatch.setattr(data, "_dataset", Mock(side_effect=download, wraps=CIFAR))
    for name in ("base_folder", "train_list", "test_list"):
        setattr(data._dataset, name, getattr(CIFAR, name))
    data.prepare_data()
    file = tmp_path / "root" / CIFAR.base_folder / "data_batch_3"
    damage(file)
    with pytest.raises(UserError, match="data_batch_3 is damaged: .*; delete it to have it"):
        data.setup("fit")
    file.unlink()
    data.prepare_data()
    data.setup("fit")
    assert len(data.train_images) == 180


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\0\x0e\x03" + b"\xff" * 40, bytes(range(99))],
    ids=["empty", "large", "else"],
)
def test_a_file_of_another_kind_is_named(content: bytes, mnist: Path, cifar10: Path) -> None:
    raw = mnist / "MNIST" / "raw"
    for file in (raw / "train-images-idx3-ubyte", cifar10 / CIFAR.base_folder / "data_batch_1"):
        file.write_bytes(content)
    with pytest.raises(UserError, match="training files of MNIST .* are broken"):
        loaded(MNIST(root=str(mnist)))
    with pytest.raises(UserError, match="data_batch_1 is not a batch of CIFAR10"):
        loaded(CIFAR10(root=str(cifar10)))


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
    (file.parent / CHECKSUMS).unlink()  # as one that a person put there
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


def packed(kind: str, members: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, inside in members.items():
                zipped.writestr(name, inside)
    else:
        with tarfile.open(fileobj=content, mode=f"w:{kind}") as tar:  # type: ignore[call-overload]
            for name, inside in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(inside)
                tar.addfile(member, io.BytesIO(inside))
    return content.getvalue()


def fetched(server: Any, content: bytes, **options: Any) -> Any:
    (server.folder / "archive").write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    data = ImageFolder(root="new/root", url=f"{server.url}archive", sha256=sha256, **options)
    data.prepare_data()


@pytest.mark.parametrize("kind", ["zip", "gz", "xz", "bz2"])
def test_an_archive_that_unpacks_to_too_much_is_refused(kind: str, server: Any) -> None:
    zeros = packed(kind, {f"a/{number}": bytes(400_000) for number in range(5)})
    assert len(zeros) < 10_000
    many = packed(kind, {f"a/{number}": b"" for number in range(5)})
    with pytest.raises(UserError, match=r"^data.unpacked_gb: .* unpacks to more than 0.001 GB"):
        fetched(server, zeros, unpacked_gb=0.001)
    with pytest.raises(UserError, match=r"^data.unpacked_files: the archive has more than 4 files"):
        fetched(server, many, unpacked_files=4)
    with pytest.raises(UserError, match=r"^data.unpacked_gb: .* more than 1e-07 GB"):
        fetched(server, os.urandom(1000), unpacked_gb=1e-7)
    assert {path.name for path in Path("new").iterdir()} == {".lock"}
    fetched(server, zeros, unpacked_gb=0.0021)
    assert len(list(Path("new/root").iterdir())) == 5


@pytest.mark.parametrize("kind", ["zip", "gz", "xz", "bz2", ""])
def test_a_cut_archive_is_one_line(kind: str, server: Any) -> None:
    """One that was cut before it was published, with the SHA-256 of the rest."""
    whole = packed(kind, {f"a/{number}": os.urandom(3000) for number in range(3)})
    for size in (0, 10, 600, 2000, 6000):
        with pytest.raises(UserError, match=r"data.url: http.* can't be unpacked: ."):
            fetched(server, whole[:size])
    assert {path.name for path in Path("new").iterdir()} == {".lock"}


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
    assert not multiprocessing.active_children()  # else they end when garbage is collected, slowly


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
    found = {row["image"]: row["class"] for row in read_table(predicted.path / "predictions.csv")}
    assert len(found) == 8
    assert all(Path(path).parent.name == name for path, name in found.items())


def test_summary_of_a_run_is_json(run: Callable[..., Run]) -> None:
    finished = run("fit", "--trainer.max_epochs=1", "--trainer.logger=false")
    assert json.loads((finished.path / "summary.json").read_text())
