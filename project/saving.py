"""Files that are whole or absent, whatever happens while they are written."""

import errno
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from project.errors import UserError

PARTIAL = ".partial"  # what the name of a file that is being written ends in
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _File(io.FileIO):
    """Remembers why a file can't be written: torch says something else then."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write bytes."""
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


@contextmanager
def whole(path: Path, size: int = 0) -> Iterator[BinaryIO]:
    """Open a file that replaces the one at ``path`` when everything is written, and never before.

    It lies in the same directory, so that replacing it is one step for the file system, and it is
    on the disk before that. A process that is killed meanwhile leaves it behind, under a name that
    the next one uses again.

    Args:
        path: Where the file belongs; its directory must exist.
        size: Bytes that it will have at least, for the message.

    Yields:
        The file, open for writing bytes.

    Raises:
        UserError: If it can't be written; what was at ``path`` is still there.
    """
    partial = _partial(path)
    raw = None
    try:
        raw = _File(partial, "w")
        with io.BufferedWriter(raw) as file:
            yield file
            file.flush()
            os.fsync(raw.fileno())
        partial.replace(path)
        _sync(path.parent)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        cause = (raw and raw.error) or error
        if isinstance(cause, OSError):
            raise cant_write(path, cause, size) from error
        raise


def _partial(path: Path) -> Path:
    if path.exists() and not path.is_file():  # it would replace a device, such as /dev/null
        raise UserError("can't be written: it is no regular file", str(path))
    return path.with_name(f".{path.name}{PARTIAL}")


def check_place(path: Path) -> None:
    """Check that a file can be written, before the work whose result it will hold.

    Raises:
        UserError: If it can't.
    """
    partial = _partial(path)
    try:
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise cant_write(path, error) from error


def _sync(folder: Path) -> None:
    """Let the new name of a file survive a loss of power, where the file system can do that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write(path: Path, text: str, errors: str = "strict") -> None:
    """Write a text in UTF-8, whole or not at all.

    Args:
        path: Where to.
        text: What the file holds.
        errors: What becomes of characters that UTF-8 lacks, as :meth:`str.encode` has it.

    Raises:
        UserError: If it can't be written.
    """
    content = text.encode("utf-8", errors)
    with whole(path, len(content)) as file:
        file.write(content)


def copy(source: Path, path: Path) -> None:
    """Copy a file, whole or not at all.

    Raises:
        UserError: If it can't be written.
    """
    with source.open("rb") as content, whole(path, source.stat().st_size) as file:
        shutil.copyfileobj(content, file)


def cant_write(path: Path, error: OSError, size: int = 0) -> UserError:
    """Return the error that says which file can't be written, and why.

    Args:
        path: The file.
        error: Why.
        size: Bytes that are needed at least, where that is known.
    """
    room = ""
    if error.errno in NO_ROOM:
        with suppress(OSError):
            room = f"; {shutil.disk_usage(path.parent).free / 1e6:,.1f} MB are free there"
        if size:
            room = f"; it needs {size / 1e6:,.1f} MB{room.replace(';', ', and')}"
    return UserError(f"can't be written: {error.strerror or error}{room}", str(path))
