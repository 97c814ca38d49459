"""The cache folder stays below its size, and holds whole entries alone."""

import errno
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from project.data import cache as module
from project.data.cache import CacheDir

KB = 1e-6  # of a gigabyte


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_used", set())


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
    others = [tmp_path / name for name in ("photo.jpg", "notes", ".profile", ".old.npy")]
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
