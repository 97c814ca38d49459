"""A folder is decoded once, whoever asks for it, and always to the same pixels."""

import errno
import multiprocessing
import os
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from project.cli import main
from project.data import Digits, ImageFolder, cache, files
from project.data.batches import TensorImages
from project.data.cache import CacheDir
from project.data.decoded import MappedPixels
from project.decoding import decode
from project.decoding.decode import Decoder, open_image
from project.errors import UserError


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Paths of the files that were decoded since it was cleared."""
    paths: list[Path] = []

    def counted(self: Decoder, path: Path) -> Any:
        paths.append(path)
        return original(self, path)

    original = Decoder.__call__
    monkeypatch.setattr(Decoder, "__call__", counted)
    return paths


def folder(root: Path, **options: Any) -> Any:
    data = ImageFolder(root=str(root), image_size=16, **options)
    data.setup("fit")
    return data


def pixels(images: Any) -> Tensor:
    found: Tensor = images[torch.arange(len(images))].images
    return found


def entries() -> list[str]:
    return sorted(path.name for path in Path("cache").glob("*.npy"))


def test_second_run_decodes_nothing(
    pets: Path, decoded: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first = folder(pets)
    assert len(decoded) == len(set(decoded)) == 24 + 8
    (name,) = entries()
    assert capsys.readouterr().out == f"decoding 32 images into {Path('cache', name).absolute()}\n"
    decoded.clear()
    second = folder(pets)
    assert torch.equal(pixels(first.train_images), pixels(second.train_images))
    assert decoded == [] and capsys.readouterr().out == ""
    assert second.train_images.in_memory  # so workers would only cost


@pytest.mark.parametrize("resize", ["crop", "squash"])
@pytest.mark.parametrize("grayscale", [False, True])
def test_pixels_are_the_same_however_they_are_kept(
    resize: Any, grayscale: bool, pets: Path
) -> None:
    off, *others = (
        folder(pets, cache=cache, memory_gb=gb, resize=resize, grayscale=grayscale)
        for cache, gb in (("off", 4), ("memory", 4), ("disk", 4), ("auto", 4), ("auto", 0))
    )
    assert not off.train_images.in_memory
    index = torch.tensor([3, 0, 20, 3, 45])  # beyond the end: a later visit
    for other in others:
        for split in ("train_images", "val_images", "test_images"):
            expected, found = getattr(off, split)[index], getattr(other, split)[index]
            assert found.images.shape == (5, 1 if grayscale else 3, 16, 16)
            for name in ("images", "labels", "indices"):
                assert torch.equal(getattr(expected, name), getattr(found, name)), split
            assert getattr(off, split).fingerprint() == getattr(other, split).fingerprint()
    assert len(entries()) == 1


def test_only_what_has_changed_is_decoded_anew(pets: Path, decoded: list[Path]) -> None:
    def count(**options: Any) -> int:
        decoded.clear()
        folder(pets, **options)
        return len(decoded)

    file = pets / "train" / "cat" / "0.jpg"
    assert [count(), count()] == [32, 0]
    os.utime(file, (1, 1))
    assert [count(), count()] == [1, 0]
    file.unlink()
    assert [count(), count()] == [0, 0]
    assert [count(resize="squash"), count(grayscale=True), count()] == [31, 31, 0]
    assert len(entries()) == 5


def test_new_version_of_the_decoder_decodes_anew(
    pets: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(pets)
    monkeypatch.setattr(files, "DECODER", files.DECODER + 1)
    folder(pets)
    assert len(decoded) == 64


def test_splits_of_a_folder_share_one_file(pets: Path, decoded: list[Path]) -> None:
    data = folder(pets / "train", test_fraction=0.25)
    assert len(decoded) == 24 and len(entries()) == 1
    splits = (data.train_images, data.val_images, data.test_images)
    assert {id(split._pixels) for split in splits} == {id(data.train_images._pixels)}
    folder(pets / "train", test_fraction=0.5, split_seed=3)
    assert len(decoded) == 24


def test_limit_decodes_only_what_is_used(pets: Path, decoded: list[Path]) -> None:
    limited = folder(pets, limit_per_class=2)
    used = 4 + len(limited.val_images) + 8
    assert len(decoded) == used < 32
    plain = folder(pets, limit_per_class=2, cache="off")
    assert torch.equal(pixels(limited.train_images), pixels(plain.train_images))
    assert limited.test_images.path(5) == plain.test_images.path(5)
    (part,) = entries()
    folder(pets)
    Path("cache", part).unlink()
    decoded.clear()
    again = folder(pets, limit_per_class=2)  # finds them in the file of the whole folder
    assert decoded == []
    assert torch.equal(pixels(again.train_images), pixels(plain.train_images))
    assert again.train_images.fingerprint() == limited.train_images.fingerprint()


def test_fingerprint_is_of_pixels_labels_and_order(pets: Path) -> None:
    def prints(**options: Any) -> list[str]:
        data = folder(pets, cache="off", **options)
        return [data.train_images.fingerprint(), data.test_images.fingerprint()]

    first = prints()
    assert prints() == first and len(set(first)) == 2
    assert prints(split_seed=1)[0] != first[0]
    assert prints(split_seed=1)[1] == first[1]
    assert prints(resize="squash")[1] != first[1]
    assert prints(classes=("dog", "cat"))[1] != first[1]
    test = folder(pets, cache="off").test_images
    assert test.subset(torch.arange(8).flip(0)).fingerprint() != first[1]
    assert test.subset(torch.arange(8)).fingerprint() == first[1]
    (pets / "test" / "dog" / "0.jpg").write_bytes(b"other")
    assert prints()[0] == first[0] and prints()[1] != first[1]


def test_fingerprint_of_tensors() -> None:
    images = torch.randint(256, (4, 1, 8, 8), dtype=torch.uint8)
    plain = TensorImages(images, torch.arange(4))
    assert plain.fingerprint() == plain.subset(torch.arange(4)).fingerprint()
    others = [
        plain.subset(torch.tensor([1, 0, 2, 3])),
        TensorImages(images, torch.zeros(4, dtype=torch.long)),
        TensorImages(images.view(4, 1, 4, 16), torch.arange(4)),
    ]
    assert len({plain.fingerprint(), *(other.fingerprint() for other in others)}) == 4


def full_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("memory_gb", [4, 0])
@pytest.mark.parametrize("trouble", ["small", "folder", "full before", "full amid"])
def test_without_room_for_the_file(
    trouble: str,
    memory_gb: float,
    pets: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options: dict[str, Any] = {"cache_gb": 1e-6} if trouble == "small" else {}
    reason = "No space left on device"
    if trouble == "small":
        reason = "2.5e-05 GB don't fit, with 1e-06 GB allowed"
    elif trouble == "folder":
        Path("cache").touch()
        reason = "File exists"
    else:
        name = "posix_fallocate" if trouble == "full before" else "pwrite"
        monkeypatch.setattr(os, name, full_disk)
    data = folder(pets, memory_gb=memory_gb, **options)
    *_, line = capsys.readouterr().out.splitlines()
    where = "into memory at each start" if memory_gb else "for every batch"
    assert line.startswith(f"data.cache_dir: {Path('cache').absolute()}: {reason}")
    assert line.endswith(f"; images are decoded {where}")
    assert data.train_images.in_memory == bool(memory_gb)
    assert entries() == []
    with pytest.raises(UserError, match=f"{reason}.*; choose another, or data.cache auto"):
        folder(pets, cache="disk", **options)


def test_broken_image_is_named(pets: Path) -> None:
    (pets / "train" / "dog" / "7.jpg").write_text("<html>")
    for keep in ("auto", "disk", "memory"):
        with pytest.raises(UserError, match="dog/7.jpg: broken image: not an image"):
            folder(pets, cache=keep)
    (pets / "train" / "dog" / "7.jpg").unlink()
    (pets / "train" / "dog" / "7.jpg").symlink_to("nowhere")
    with pytest.raises(UserError, match="dog/7.jpg: broken image: No such file"):
        folder(pets)


@pytest.mark.parametrize("damage", [b"", b"zeros", b"cut"])
def test_a_damaged_file_is_decoded_anew(
    damage: bytes, pets: Path, decoded: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the last image, which no sample would look at."""
    expected = pixels(folder(pets).test_images)
    path = Path("cache", entries()[0]).absolute()
    if damage == b"cut":
        os.truncate(path, path.stat().st_size // 2)
    else:
        with path.open("r+b") as file:
            file.seek(path.stat().st_size - 500)
            file.write(bytes(400) if damage else os.urandom(100))
    cache._whole.clear()  # as another process
    decoded.clear()
    capsys.readouterr()
    assert torch.equal(pixels(folder(pets).test_images), expected)
    assert len(decoded) == 32
    first, _ = capsys.readouterr().out.splitlines()
    assert first == f"{path} is damaged, as its checksum says, and is made again"


def test_a_damaged_file_that_cannot_be_replaced_is_not_used(
    pets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    expected = pixels(folder(pets).train_images)
    os.truncate(Path("cache", entries()[0]), 4000)
    monkeypatch.setattr(Path, "unlink", refuse)
    assert torch.equal(pixels(folder(pets).train_images), expected)
    assert "Permission denied; images are decoded into memory" in capsys.readouterr().out


def test_a_file_cut_in_use_is_an_error(pets: Path) -> None:
    images = folder(pets).train_images
    os.truncate(Path("cache", entries()[0]), 4096)
    with pytest.raises(UserError, match=r"images-.*npy was cut while it was in use; start again"):
        pixels(images)


def set_up_slowly(root: Path, name: str, seconds: float) -> None:
    """In a process of its own: write down how many files it decoded, and the images."""
    torch.set_num_threads(1)
    count, original = [], Decoder.__call__

    def slow(self: Decoder, path: Path) -> Any:
        count.append(path)
        time.sleep(seconds)
        return original(self, path)

    Decoder.__call__ = slow  # type: ignore[method-assign]
    torch.save((pixels(folder(root).train_images), len(count)), name)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_one_process_decodes_the_others_wait_and_a_killed_one_leaves_nothing(pets: Path) -> None:
    fork = multiprocessing.get_context("fork")  # to import torch again takes seconds
    killed, *others = (
        fork.Process(target=set_up_slowly, args=(pets, name, seconds))
        for name, seconds in (("killed", 60), ("second", 0.02), ("third", 0.02))
    )
    killed.start()
    while not entries():
        time.sleep(0.01)
    half = entries()
    for process in others:
        process.start()
    time.sleep(0.5)
    assert entries() == half and half[0][0] == "."  # nobody takes it for finished
    assert not Path("second").exists() and not Path("third").exists()
    killed.kill()
    for process in (killed, *others):
        process.join()
    (images, second), (same, third) = (
        torch.load(name, weights_only=True) for name in ("second", "third")
    )
    assert sorted((second, third)) == [0, 32]
    assert torch.equal(images, same)
    assert torch.equal(images, pixels(folder(pets, cache="off").train_images))
    (whole,) = entries()
    assert whole[0] != "."


def test_mapped_images_go_to_a_worker_as_a_path(pets: Path) -> None:
    images = folder(pets, cache="disk").train_images
    content = pickle.dumps(images)
    assert len(content) < pixels(images).nbytes / 2
    assert torch.equal(pixels(pickle.loads(content)), pixels(images))


def resident_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    (size,) = (line.split()[1] for line in lines if line.startswith("RssFile"))
    return int(size) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_disk_keeps_resident_memory_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("project.data.decoded.RESIDENT_BYTES", 2**22)
    store = CacheDir(tmp_path, 1)
    path = store.publish(store.create("a", (1024, 1, 256, 256), np.uint8), "a")
    growth = {}
    for resident in (False, True):
        mapped, before, peak = MappedPixels(path, resident), resident_mb(), 0.0
        for places in torch.randperm(1024).split(32):
            assert mapped(places).shape == (32, 1, 256, 256)
            peak = max(peak, resident_mb() - before)
        growth[resident] = peak
    assert growth[True] > 55 and growth[False] < 25


def photo(size: tuple[int, int]) -> Image.Image:
    """Smooth noise of all scales with some grain, much like a photo."""
    generator = np.random.default_rng(0)
    total = generator.normal(128, 5, (size[1], size[0], 3))
    for cells in (2, 8, 32, 128):
        coarse = generator.normal(0, 60 / cells**0.5, (cells, cells, 3)).astype(np.float32)
        planes = [Image.fromarray(plane).resize(size) for plane in coarse.transpose(2, 0, 1)]
        total += np.stack(planes, axis=-1)
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("size", "target", "scale"),
    [
        ((640, 480), 128, 1),  # half of it would be less than twice the target
        ((640, 480), 96, 2),
        ((1280, 960), 64, 4),
        ((1280, 960), 32, 8),
        ((1282, 961), 64, 1),  # a reduced pixel would hang over the edge
    ],
)
def test_jpeg_at_reduced_scale_is_exact_enough(
    size: tuple[int, int], target: int, scale: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(size).save("a.jpg", quality=90)
    reduced = open_image("a.jpg", at_least=2 * target)
    assert reduced.size == (size[0] // scale, size[1] // scale)
    found = Decoder("RGB", (target, target), "crop")(Path("a.jpg")).astype(int)
    whole = open_image("a.jpg")
    monkeypatch.setattr(decode, "open_image", lambda *_, **__: whole)
    expected = Decoder("RGB", (target, target), "crop")(Path("a.jpg")).astype(int)
    difference = abs(found - expected)
    assert difference.max() <= (2 if scale > 1 else 0) and difference.mean() <= 0.3


def test_other_formats_are_read_whole() -> None:
    photo((640, 480)).save("a.png")
    assert open_image("a.png", at_least=64).size == (640, 480)


def test_cache_option(
    fails: Callable[..., str], pets: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    args = ("fit", "--data=ImageFolder", f"--data.root={pets}")
    assert "data.cache_gb: -1.0 must be at least 0" in fails(*args, "--data.cache_gb=-1")
    assert "data.cache: expected one of 'auto', " in fails(*args, "--data.cache=disc")
    Path("off.yaml").write_text("data: {class_path: ImageFolder, init_args: {cache: off}}")
    with pytest.raises(SystemExit):
        main(["fit", "--config=off.yaml", f"--data.root={pets}", "--print_config"])
    assert "cache: false" in capfd.readouterr().out
    assert not folder(pets, cache=False).train_images.in_memory
    assert not Path("cache").exists()


def test_setup_lazily_decodes_when_asked(pets: Path, decoded: list[Path]) -> None:
    data = ImageFolder(root=str(pets), image_size=16)
    data.setup_lazily()
    assert data.train_images is not None and data.path(5) == pets / "test" / "dog" / "1.jpg"
    assert decoded == [] and not data.train_images.in_memory
    some = data.train_images.subset(torch.tensor([3, 1]))
    kept = some.decoded()
    assert len(decoded) == 2 and kept.in_memory
    assert torch.equal(pixels(kept), pixels(some)) and torch.equal(kept.labels, some.labels)
    assert kept.path(0) == some.path(0)


def test_a_folder_that_is_gone_is_no_empty_one() -> None:
    """A checkpoint knows the classes, so that nothing else asks the folder for them."""
    with pytest.raises(UserError, match="data.root: gone is not a folder"):
        ImageFolder("gone", classes=("cat", "dog")).setup_lazily()


def test_images_without_files() -> None:
    data = Digits()
    data.setup_lazily()
    assert data.path(0) is None
    assert data.test_images is not None and data.test_images.decoded() is data.test_images
