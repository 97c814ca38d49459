"""Downloads: a file appears only once it is complete, and is unpacked inside its folder only."""

import hashlib
import lzma
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from filelock import FileLock

from project.console import readable
from project.errors import UserError

TIMEOUT_SECONDS = 30
PIECE = 2**20  # bytes of a download that are written at once
CHECKSUMS = "checksums.sha256"  # of what was downloaded, as sha256sum writes and reads it
BROKEN = (  # what the standard library raises for an archive or a packed file
    *(OSError, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError),
    *(tarfile.TarError, zipfile.BadZipFile),
)


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
    """Move finished files into a folder on the same file system, and note their checksums there."""
    folder.mkdir(parents=True, exist_ok=True)
    note_checksums(files, folder)
    for file in files:
        file.replace(folder / file.name)


def note_checksums(files: list[Path], folder: Path) -> None:
    """Write the checksums of files into the folder that they are in, or will be."""
    noted = _noted(folder) | {file.name: sha256_of(file) for file in files}
    lines = [f"{checksum}  {name}\n" for name, checksum in sorted(noted.items())]
    unfinished = folder / f".{CHECKSUMS}"
    unfinished.write_text("".join(lines), "utf-8")
    unfinished.replace(folder / CHECKSUMS)


def check_files(files: list[Path]) -> None:
    """Compare files of one folder with the checksums that were noted as they came there.

    Those that a person put there have none.

    Raises:
        UserError: If a file has changed.
    """
    noted = _noted(files[0].parent)
    for file in files:
        if file.name in noted and file.is_file() and sha256_of(file) != noted[file.name]:
            raise UserError(
                f"{readable(file)} is damaged: it isn't what was downloaded or unpacked; delete it "
                f"to have it made again, or {CHECKSUMS} beside it to use it as it is"
            )


def _noted(folder: Path) -> dict[str, str]:
    """Return the checksums that were noted in a folder, by the names of the files."""
    try:
        lines = (folder / CHECKSUMS).read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.split(maxsplit=1) for line in lines if len(line.split(maxsplit=1)) == 2)
    return {name: checksum for checksum, name in pairs}


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass
class Allowance:
    """How much an archive may unpack to: a small one can hold more than a disk does.

    Args:
        num_bytes: Largest size of all files.
        num_files: Largest number of files and folders.
    """

    num_bytes: int
    num_files: int

    def check(self, num_bytes: int, num_files: int) -> None:
        """Raise a UserError if that is more."""
        if num_bytes > self.num_bytes:
            gigabytes = f"{self.num_bytes / 1e9:g} GB"
            raise UserError(f"the archive unpacks to more than {gigabytes}", "data.unpacked_gb")
        if num_files > self.num_files:
            files = f"{self.num_files:,} files"
            raise UserError(f"the archive has more than {files}", "data.unpacked_files")


def fetch_archive(url: str, sha256: str, folder: Path, allowance: Allowance) -> None:
    """Download an archive, check its SHA-256, and unpack it; the folder appears complete.

    If all files are in one folder inside the archive, the content of that folder is used.

    Args:
        url: Address of a ``.zip`` or ``.tar`` (also ``.tar.gz``, ``.tgz``, ``.tar.xz``) file.
        sha256: Its SHA-256, in hexadecimal.
        folder: The folder to create; it must be empty or not exist.
        allowance: How much it may unpack to. The archive itself may not be larger, either.

    Raises:
        UserError: If the download fails, is too large, has another SHA-256, or would write outside
            the folder.
    """
    with scratch(folder.parent) as temporary:
        archive = temporary / "archive"
        try:
            with (
                urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer,
                archive.open("wb") as file,
            ):
                while piece := answer.read(PIECE):
                    allowance.check(file.tell() + len(piece), 0)
                    file.write(piece)
        except (OSError, ValueError, HTTPException) as error:
            raise UserError(
                f"data.url: {url} could not be downloaded ({error}); unpack it by hand "
                f"into {folder}"
            ) from error
        found = sha256_of(archive)
        if found != sha256.lower():
            raise UserError(f"data.sha256: {url} has {found}, not {sha256}; nothing was unpacked")
        unpacked = temporary / "content"
        unpacked.mkdir()
        try:
            _unpack(archive, unpacked, allowance)
        except BROKEN as error:
            raise UserError(f"data.url: {url} can't be unpacked: {error}") from error
        content = [path for path in unpacked.iterdir() if path.name[0] not in "._"]
        if len(content) == 1 and content[0].is_dir():
            unpacked = content[0]
        unpacked.replace(folder)


def _unpack(archive: Path, folder: Path, allowance: Allowance) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            members = zipped.infolist()
            allowance.check(sum(member.file_size for member in members), len(members))
            for name in zipped.namelist():
                if not (folder / name).resolve().is_relative_to(folder.resolve()):
                    raise tarfile.OutsideDestinationError(tarfile.TarInfo(name), name)
            zipped.extractall(folder)  # a member that is larger than it says is an error
        return
    num_bytes = num_files = 0

    def counted(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        """Is asked before each member is unpacked: to list them first would decompress twice."""
        nonlocal num_bytes, num_files
        num_bytes, num_files = num_bytes + member.size, num_files + 1
        allowance.check(num_bytes, num_files)
        return tarfile.data_filter(member, path)

    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter=counted)
