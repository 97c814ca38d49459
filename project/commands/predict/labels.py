"""The true classes of pictures that are predicted."""

import os
from collections.abc import Sequence
from pathlib import Path

from project.console import class_name, readable, some
from project.csv_text import read_table
from project.errors import UserError

IMAGE = ("image", "file", "path")
LABEL = ("label", "class")


def of_folders(_: str, paths: Sequence[str], class_names: Sequence[str]) -> dict[str, str]:
    """Return the class of each picture, which is the name of its folder.

    Raises:
        UserError: If none of them lies in the folder of a class.
    """
    names = {path: class_name(Path(path).absolute().parent.name) for path in paths}
    return _known(names, class_names, "folders")


def of_table(file: str, paths: Sequence[str], class_names: Sequence[str]) -> dict[str, str]:
    """Return the class of each picture that a table has.

    Paths in it are relative to the working directory, or to its own folder.

    Raises:
        UserError: If it can't be read, lacks a column, or has none of the pictures.
    """
    try:
        rows = list(read_table(Path(file)))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{readable(file)} can't be read: {reason}", "--labels") from error
    columns = rows[0].keys() if rows else ()
    image = next((name for name in IMAGE if name in columns), None)
    label = next((name for name in LABEL if name in columns), None)
    if image is None or label is None:
        raise UserError(
            f"{readable(file)} must have a column {', '.join(IMAGE[:-1])} or {IMAGE[-1]}, and one "
            f"{' or '.join(LABEL)}",
            "--labels",
        )
    given: dict[str, str] = {}
    for row in rows:
        for folder in (Path(file).parent, Path()):
            given[os.path.abspath(folder / row[image])] = row[label]  # noqa: PTH100
    names = {
        path: class_name(given[whole])
        for path in paths
        if (whole := os.path.abspath(path)) in given  # noqa: PTH100
    }
    return _known(names, class_names, readable(file))


def _known(names: dict[str, str], class_names: Sequence[str], source: str) -> dict[str, str]:
    classes = {class_name(name): name for name in class_names}
    known = {path: classes[name] for path, name in names.items() if name in classes}
    if not known:
        found = f"they have {some(sorted(set(names.values())))}" if names else "none of them"
        raise UserError(
            f"{source}: no picture has one of the classes {some(class_names)}; {found}", "--labels"
        )
    return known
