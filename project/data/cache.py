"""A cache of large arrays on disk, of limited size, shared by all ranks and by later runs."""

import errno
import math
import os
import secrets
import shutil
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import DTypeLike, NDArray

from project.console import readable, show
from project.environment import available_cores
from project.errors import UserError

ABANDONED_SECONDS = 24 * 3600
SEAL = b"checksum"  # it begins the last bytes of an entry, its seal
SEAL_BYTES = len(SEAL) + 4
BLOCK = 2**24  # bytes that a thread checks at once
PIECE = 2**18  # bytes that it reads at once; they stay in the cache of its core

_used: set[Path] = set()  # entries of this process, in whichever folder
_whole: set[tuple[Path, int, int]] = (
    set()
)  # files, by inode and size, that this process has checked


class CacheDir:
    """A folder of files, each named by a key of its content; a file appears once it is complete.

    ::

        with cache.lock(key):  # one process writes the entry, the others wait
            if not cache.holds(key):
                temporary = cache.create(key, shape, np.uint8)
                ...  # fill it, from any process that knows the path
                cache.publish(temporary, key)

    Hidden files are locks and unfinished entries. An entry is an array, notes,
    and a checksum of both.

    Args:
        folder: Folder of the entries; it is created with the first of them.
        max_gb: Largest size of the folder in gigabytes; the least recently used entries are
            removed first.
    """

    def __init__(self, folder: Path, max_gb: float) -> None:
        self.folder = folder.absolute()
        self.max_bytes = int(max_gb * 1e9)

    def path(self, key: str, suffix: str = ".npy") -> Path:
        """Return the path of the entry of a key; the file exists only if the entry is complete.

        An existing file is marked as used now, and this process won't remove it.
        """
        path = self.folder / f"{key}{suffix}"
        if path.is_file():
            _used.add(path)
            with suppress(OSError):  # another user's file, or a read-only disk
                os.utime(path)
        return path

    def holds(self, key: str) -> bool:
        """Whether the entry of a key is there, and is what was written.

        A process reads the whole entry once, and compares its checksum.

        Raises:
            OSError: If it can't be read.
        """
        return self.is_whole(self.path(key))

    def is_whole(self, path: Path) -> bool:
        """Whether an entry is there, and is what was written, as :meth:`holds` says of a key."""
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        known = (path, status.st_ino, status.st_size)
        if known not in _whole and _is_whole(path):
            _whole.add(known)
        return known in _whole

    def entries(self, prefix: str) -> list[Path]:
        """Return the paths of entries whose keys begin so, the last used first.

        Raises:
            OSError: If the folder can't be read.
        """
        found = []
        for path in self.folder.glob(f"{prefix}*.npy"):
            with suppress(OSError):  # removed by another process, or of another user
                if path.is_file() and _is_sealed(path):
                    found.append((path.stat().st_mtime_ns, path))
        return [path for _, path in sorted(found, reverse=True)]

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Let one process at a time write the entry of this key.

        Files that a killed process left unfinished are removed. So is a damaged entry, with a line.

        Raises:
            OSError: If the folder can't be written to.
        """
        with self._lock(f".{key}.lock"):
            for file in self.folder.glob(f".{key}.*.tmp*"):
                file.unlink(missing_ok=True)
            path = self.path(key)
            if path.is_file() and not self.holds(key):
                path.unlink()
                show(f"{readable(path)} is damaged, as its checksum says, and is made again")
            yield

    def create(self, key: str, shape: tuple[int, ...], dtype: DTypeLike) -> Path:
        """Create a ``.npy`` file under a temporary name, and allocate all of its disk space.

        Args:
            key: Key of the entry that it will become.
            shape: Shape of the array.
            dtype: Type of its values.

        Returns:
            Path of the file, for ``numpy.load(path, mmap_mode="r+")`` in any process.

        Raises:
            OSError: If it doesn't fit, or the folder can't be written to.
        """
        path = self.folder / f".{key}.{secrets.token_hex(4)}.tmp.npy"
        with self._lock(".lock"):
            self._make_room(math.prod(shape) * np.dtype(dtype).itemsize + SEAL_BYTES)
            try:
                np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
                _allocate(path)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        return path

    def publish(self, temporary: Path, key: str, notes: bytes = b"") -> Path:
        """Rename a file of :meth:`create`, now filled, so that it becomes the entry of the key.

        Args:
            temporary: The file.
            key: The key.
            notes: What :func:`notes_of` returns of the entry.

        Returns:
            Path of the entry.

        Raises:
            OSError: If the disk fails.
        """
        with temporary.open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(notes)
            file.flush()
            file.write(_seal(temporary, file.tell()))
            file.flush()
            os.fsync(file.fileno())  # otherwise a power failure could leave a file of zeros
        path = self.folder / f"{key}{temporary.suffix}"
        temporary.replace(path)
        status = path.stat()
        _whole.add((path, status.st_ino, status.st_size))
        return self.path(key, temporary.suffix)

    def _make_room(self, num_bytes: int) -> None:
        """Remove the least recently used entries until so many bytes more fit.

        Temporary files that were abandoned are removed, too.

        Raises:
            OSError: ENOSPC if they can never fit; then no entry is removed.
        """
        entries, total = [], 0
        for file in self.folder.iterdir():
            with suppress(FileNotFoundError):  # published or removed by another process
                status = file.stat()
                hidden, unfinished = file.name[0] == ".", ".tmp" in file.suffixes
                if file.suffix != ".npy" or hidden != unfinished or not file.is_file():
                    continue
                if not unfinished and not _is_sealed(file):
                    continue  # it is another's: a config may name any folder
                if not unfinished:
                    entries.append((status.st_mtime_ns, status.st_size, file))
                elif status.st_mtime < time.time() - ABANDONED_SECONDS:
                    file.unlink()
                    continue
                total += status.st_size
        free = shutil.disk_usage(self.folder).free
        removable = sorted(entry for entry in entries if entry[2] not in _used)
        missing = num_bytes - min(self.max_bytes - total, free)
        if missing > sum(size for _, size, _ in removable):
            limit = f"{self.max_bytes / 1e9:g} GB allowed and {free / 1e9:.1f} GB free on the disk"
            raise OSError(errno.ENOSPC, f"{num_bytes / 1e9:.2g} GB don't fit, with {limit}")
        for _, size, file in removable:
            if missing <= 0:
                break
            file.unlink(missing_ok=True)
            missing -= size

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / name)
        try:
            lock.acquire(timeout=1)
        except Timeout:
            show(f"waiting for another run that writes to {readable(self.folder)}")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def notes_of(path: Path) -> bytes:
    """Return the notes of an entry.

    Raises:
        OSError: If it can't be read.
        ValueError: If it is no entry.
    """
    array = np.load(path, mmap_mode="r")
    with path.open("rb") as file:
        file.seek(array.offset + array.nbytes)
        return file.read()[:-SEAL_BYTES]


def check_length(array: NDArray[Any]) -> None:
    """Look whether the file of a mapped array is as long as it was, before it is read.

    To read beyond the end of a file that was cut would end the process with SIGBUS.

    Args:
        array: What ``numpy.load`` returns with a ``mmap_mode``.

    Raises:
        UserError: If the file was cut.
    """
    assert isinstance(array, np.memmap)
    mapped: Any = array.base
    if mapped.size() < array.offset + array.nbytes:
        raise UserError(
            f"{readable(str(array.filename))} was cut while it was in use; start again, and it is "
            "made again"
        )


def _is_sealed(path: Path) -> bool:
    """Whether a file ends as every entry does; what is before may be damaged."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - SEAL_BYTES, 0))
        return file.read(len(SEAL)) == SEAL


def _is_whole(path: Path) -> bool:
    size = path.stat().st_size - SEAL_BYTES
    if size < 0:
        return False
    with path.open("rb") as file:
        file.seek(size)
        found = file.read()
    return found[: len(SEAL)] == SEAL and found == _seal(path, size)


def _seal(path: Path, size: int) -> bytes:
    """Return what an entry of this content ends with: a checksum of its first ``size`` bytes.

    Several threads read blocks of it, because one computes a CRC more slowly than memory is. They
    read the file instead of a map, whose pages would count as memory of this process.
    """

    def checksum(start: int) -> int:
        found, left, piece = 0, min(BLOCK, size - start), memoryview(bytearray(PIECE))
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            while left > 0 and (count := file.readinto(piece[:left])):
                found = zlib.crc32(piece[:count], found)
                left -= count
        return found

    with ThreadPoolExecutor(available_cores()) as pool:
        checksums = list(pool.map(checksum, range(0, size, BLOCK)))
    total = np.array([size, *checksums], "<u8").tobytes()
    return SEAL + zlib.crc32(total).to_bytes(4, "little")


def _allocate(path: Path) -> None:
    """Allocate the disk space of a file in advance.

    Writing through a memory map to a full disk would end the process with SIGBUS.

    Raises:
        OSError: If there isn't enough space.
    """
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
