"""The cache folder stays below its size, and holds whole entries alone."""

import errno
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from project.data import cache as module
from project.data.cache import CacheDir, check_length
from project.errors import UserError

KB = 1e-6  # of a gigabyte


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_used", set())
    monkeypatch.setattr(module, "_whole", set())


def add(cache: CacheDir, key: str, kilobytes: int, seconds_ago: int = 0) -> Path:
    with cache.lock(key):
        temporary = cache.create(key, (kilobytes, 1000), np.uint8)
        assert not cache.path(key).exists()
        np.load(temporary, mmap_mode="r+")[:] = 7
        path = cache.publish(temporary, key)
    os.utime(path, (time.time() - seconds_ago,) * 2)
    return path


def reserve(cache: CacheDir, num_bytes: int) -> None:
    """Make room for an entry of that size, and give it up."""
    cache.create("another", (num_bytes,), np.uint8).unlink()


def later(cache: CacheDir) -> CacheDir:
    """The same folder in another process."""
    module._used.clear()
    module._whole.clear()
    return cache


def test_entry_is_a_plain_npy_with_its_disk_space(tmp_path: Path) -> None:
    path = add(CacheDir(tmp_path, 1), "a", 100)
    assert path == tmp_path / "a.npy"
    assert np.array_equal(np.load(path), np.full((100, 1000), 7, np.uint8))
    cache = CacheDir(tmp_path, 1)
    with cache.lock("b"):
        status = cache.create("b", (100, 1000), np.float16).stat()
    assert status.st_blocks * 512 >= status.st_size > 200_000  # nothing was written yet


def test_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = CacheDir(tmp_path, 350 * KB)
    for key, age in (("old", 300), ("older", 400), ("new", 100)):
        add(cache, key, 100, age)
    later(cache).path("older")  # is used again
    add(later(cache), "next", 100)
    assert {path.stem for path in tmp_path.glob("[!.]*")} == {"older", "new", "next"}


def test_entries_of_this_process_stay(tmp_path: Path) -> None:
    cache = CacheDir(tmp_path, 250 * KB)
    add(cache, "mine", 100, 300)
    add(cache, "other", 100, 100)
    later(cache).path("mine")
    os.utime(tmp_path / "mine.npy", (0, 0))
    reserve(cache, 100_000)
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["mine.npy"]
    with pytest.raises(OSError, match="don't fit") as error:
        reserve(cache, 200_000)
    assert error.value.errno == errno.ENOSPC


def test_what_never_fits_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = CacheDir(tmp_path, 250 * KB)
    add(cache, "a", 100)
    with pytest.raises(OSError, match=r"0.0003 GB don't fit, with 0.00025 GB allowed"):
        reserve(later(cache), 300_000)
    free: Any = type("Usage", (), {"free": 50_000})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: free)
    with pytest.raises(OSError, match=r"0.0 GB free on the disk"):
        reserve(cache, 200_000)
    assert (tmp_path / "a.npy").is_file()
    reserve(cache, 100_000)  # fits, without the entry
    assert not (tmp_path / "a.npy").exists()


def test_full_disk_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        CacheDir(tmp_path, 1).create("a", (10, 10), np.uint8)
    assert not list(tmp_path.glob("*.npy"))


def test_files_of_others_stay(tmp_path: Path) -> None:
    """A config may name any folder as a cache."""
    (tmp_path / "folder.npy").mkdir()
    others = [tmp_path / name for name in ("photo.jpg", "notes", ".profile", ".old.npy", "x.npy")]
    for file in others:
        file.write_bytes(bytes(300_000))
        os.utime(file, (0, 0))
    cache = CacheDir(tmp_path, 250 * KB)
    add(cache, "a", 100)
    reserve(later(cache), 200_000)
    assert not (tmp_path / "a.npy").exists()
    assert all(file.exists() for file in others) and (tmp_path / "folder.npy").is_dir()


def test_abandoned_files_go(tmp_path: Path) -> None:
    cache = CacheDir(tmp_path, 1)
    killed, being_made = (cache.create(key, (10, 10), np.uint8) for key in ("a", "b"))
    os.utime(killed, (0, 0))
    reserve(cache, 1)
    assert not killed.exists() and being_made.exists()
    with cache.lock("b"):  # whoever made it doesn't hold the lock any more
        assert not being_made.exists()


def overwrite(path: Path, start: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start, os.SEEK_END if start < 0 else os.SEEK_SET)
        file.write(content)


DAMAGES = {
    "a byte in the middle": lambda path: overwrite(path, 50_000, b"\x08"),
    "a page of zeros": lambda path: overwrite(path, 8192, bytes(4096)),
    "random bytes": lambda path: overwrite(path, 90_000, os.urandom(3000)),
    "the header": lambda path: overwrite(path, 20, b"x"),
    "the checksum": lambda path: overwrite(path, -1, b"xx"),
    "cut at the end": lambda path: os.truncate(path, path.stat().st_size - 1),
    "cut in half": lambda path: os.truncate(path, 50_000),
    "cut to the header": lambda path: os.truncate(path, 10),
    "emptied": lambda path: os.truncate(path, 0),
    "longer": lambda path: os.truncate(path, path.stat().st_size + 4096),
    "without a checksum": lambda path: os.truncate(path, path.stat().st_size - module.SEAL_BYTES),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed_and_removed_with_a_line(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "BLOCK", 30_000)  # so that there are several
    cache = CacheDir(tmp_path, 1)
    path = add(cache, "a", 100)
    assert cache.holds("a") and later(cache).holds("a")
    DAMAGES[damage](path)
    assert not later(cache).holds("a")
    with cache.lock("a"):
        assert not path.exists()
    (line,) = capsys.readouterr().out.splitlines()
    assert line == f"{path} is damaged, as its checksum says, and is made again"
    add(cache, "a", 100)
    assert cache.holds("a") and later(cache).holds("a")
    with cache.lock("a"):
        assert path.exists()


def test_a_process_reads_an_entry_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = CacheDir(tmp_path, 1)
    add(cache, "a", 100)
    seals: list[Path] = []
    original = module._seal
    monkeypatch.setattr(module, "_seal", lambda p, size: seals.append(p) or original(p, size))
    assert cache.holds("a") and not seals  # it was written here
    assert all(later(cache).holds("a") for _ in "a") and len(seals) == 1
    assert cache.holds("a") and CacheDir(tmp_path, 1).holds("a") and len(seals) == 1


@pytest.mark.parametrize("mode", ["r", "c"])
@pytest.mark.parametrize("size", [0, 50_000])
def test_a_file_that_is_cut_while_it_is_mapped_is_named(
    mode: Any, size: int, tmp_path: Path
) -> None:
    path = add(CacheDir(tmp_path, 1), "a", 100)
    array = np.load(path, mmap_mode=mode)
    check_length(array)
    os.truncate(path, size)
    with pytest.raises(UserError, match="a.npy was cut while it was in use; start again, and it"):
        check_length(array)
    path.unlink()  # removed by another run, which takes nothing from who has it open
    other = np.load(add(CacheDir(tmp_path, 1), "a", 100), mmap_mode=mode)
    (tmp_path / "a.npy").unlink()
    check_length(other)
