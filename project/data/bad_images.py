"""Images that a source has and a run doesn't use: broken ones, and those that a list excludes."""

import csv
import io
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from project.console import readable
from project.csv_text import table, text_of
from project.data.ranks import is_first
from project.errors import UserError

SHOWN = 20  # bad images that a message names
LIST = "bad_images.csv"  # in the folder of the cache: what a message doesn't name
SKIPPED = "skipped_images.csv"  # in a run directory
COLUMNS = ("image", "file", "path")  # that may hold the paths of a list, the first that is there
ADVICE = "remove or replace them, or leave them out with --data.on_bad_image skip"

Bad = Sequence[tuple[str, str]]
"""Path of each bad image, and the reason."""


def refusal(bad: Bad, total: int, folder: Path, advice: str = ADVICE) -> UserError:
    """Return the error that names bad images, and write all of them into a list if they are many.

    Args:
        bad: The images.
        total: Number of images that were read.
        folder: Where the list goes, if it can be written there.
        advice: What to do.
    """
    named = [f"{readable(path)}: broken image: {readable(reason)}" for path, reason in bad[:SHOWN]]
    if len(bad) == 1:
        return UserError(f"{named[0]}; {advice}")
    where = ""
    with suppress(OSError, UserError):
        if is_first():
            folder.mkdir(parents=True, exist_ok=True)
            write_bad(folder / LIST, bad)
        where = f"; {readable(folder / LIST)} has all of them"
    more = f"; and {len(bad) - SHOWN:,} more" if len(bad) > SHOWN else ""
    what = f"{len(bad):,} of {total:,} images can't be read{where}; {advice}"
    return UserError(f"{what}: {'; '.join(named)}{more}", "data")


def write_bad(path: Path, bad: Bad) -> None:
    """Write bad images and their reasons as a table that ``data.exclude`` reads.

    Raises:
        UserError: If it can't be written.
    """
    with table(path) as rows:
        rows.row(("image", "reason"))
        for image, reason in bad:
            rows.row((readable(os.path.abspath(image)), readable(reason)))  # noqa: PTH100


def excluded(file: Path, paths: Sequence[str], root: Path) -> tuple[list[int], int]:
    """Find the images that a list names.

    Args:
        file: A text file with a path on each line, or a ``.csv`` with a column ``image``, ``file``
            or ``path``. Paths are absolute, or relative to ``root`` or to the working directory.
        paths: Paths of all images.
        root: Folder of the images.

    Returns:
        Positions of the images, and the number of lines that name none.

    Raises:
        UserError: If the list can't be read, or names none of the images.
    """
    lines = _lines(file)
    named: dict[str, set[int]] = {}  # path: numbers of the lines that may mean it
    for number, ways in enumerate(lines):
        for way in ways:
            for path in (root / way, Path(way)):
                named.setdefault(_name(path), set()).add(number)
    found, matched = [], set()
    for place, image in enumerate(paths):
        if (numbers := named.get(_name(image))) is not None:
            found.append(place)
            matched |= numbers
    if not found:
        what = (
            f"none of its {len(lines):,} lines names an" if lines else "it is empty, and names no"
        )
        raise UserError(f"{readable(file)}: {what} image of {readable(root)}", "data.exclude")
    return found, len(lines) - len(matched)


def _name(path: str | Path) -> str:
    """Return the name by which paths are compared: tables hold them in readable form."""
    return readable(os.path.abspath(path))  # noqa: PTH100  # links stay as they are


def _lines(file: Path) -> list[tuple[str, ...]]:
    """Return what each line may mean; only this project's tables mark what would be a formula."""
    try:
        text = file.read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise UserError(f"{readable(file)}: {error.strerror}", "data.exclude") from error
    if "\0" in text:
        raise UserError(f"{readable(file)} is no text", "data.exclude")
    if file.suffix.lower() != ".csv":
        return [(line,) for line in text.splitlines() if line.strip()]
    try:
        rows = csv.DictReader(io.StringIO(text, newline=""))
        names = {text_of(name).strip().lower(): name for name in rows.fieldnames or ()}
        column = next((names[name] for name in COLUMNS if name in names), None)
        if column is None:
            raise UserError(
                f"{readable(file)} needs a column {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}, and "
                f"has {', '.join(map(readable, names)) or 'none'}",
                "data.exclude",
            )
        cells = [row[column] for row in rows]
    except csv.Error as error:
        raise UserError(f"{readable(file)}: {error}", "data.exclude") from error
    return [tuple({cell, text_of(cell)}) for cell in cells if cell]
