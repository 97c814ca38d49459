"""Downloads: a file appears only once it is complete, and is unpacked inside its folder only."""

import hashlib
import shutil
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from project.errors import UserError

TIMEOUT_SECONDS = 30


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Let one process at a time, of this or another run, write to the folder.

    Raises:
        UserError: If the folder can't be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        waiting = FileLock(folder / ".lock")
        waiting.acquire()
    except OSError as error:
        raise UserError(f"data.root: {folder} can't be written to: {error.strerror}") from error
    try:
        yield
    finally:
        waiting.release()


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A temporary folder on the same file system as ``folder``, so that a rename is atomic."""
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as temporary:
        yield Path(temporary)


def move_into(files: list[Path], folder: Path) -> None:
    """Move finished files into a folder on the same file system."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        file.replace(folder / file.name)


def fetch_archive(url: str, sha256: str, folder: Path) -> None:
    """Download an archive, check its SHA-256, and unpack it; the folder appears complete.

    If all files are in one folder inside the archive, the content of that folder is used.

    Args:
        url: Address of a ``.zip`` or ``.tar`` (also ``.tar.gz``, ``.tgz``, ``.tar.xz``) file.
        sha256: Its SHA-256, in hexadecimal.
        folder: The folder to create; it must be empty or not exist.

    Raises:
        UserError: If the download fails, has another SHA-256, or would write outside the folder.
    """
    with scratch(folder.parent) as temporary:
        archive = temporary / "archive"
        try:
            with (
                urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer,
                archive.open("wb") as file,
            ):
                shutil.copyfileobj(answer, file)
        except (OSError, ValueError) as error:
            raise UserError(
                f"data.url: {url} could not be downloaded ({error}); unpack it by hand "
                f"into {folder}"
            ) from error
        with archive.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256.lower():
            raise UserError(f"data.sha256: {url} has {found}, not {sha256}; nothing was unpacked")
        unpacked = temporary / "content"
        unpacked.mkdir()
        try:
            _unpack(archive, unpacked)
        except (tarfile.TarError, zipfile.BadZipFile, OSError) as error:
            raise UserError(f"data.url: {url} can't be unpacked: {error}") from error
        content = [path for path in unpacked.iterdir() if path.name[0] not in "._"]
        if len(content) == 1 and content[0].is_dir():
            unpacked = content[0]
        unpacked.replace(folder)


def _unpack(archive: Path, folder: Path) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for name in zipped.namelist():
                if not (folder / name).resolve().is_relative_to(folder.resolve()):
                    raise tarfile.OutsideDestinationError(tarfile.TarInfo(name), name)
            zipped.extractall(folder)
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
