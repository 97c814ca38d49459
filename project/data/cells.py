"""Tables as people have them, read as columns of texts: CSV, TSV and Parquet."""

import codecs
import csv
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from project.console import readable, some
from project.csv_text import text_of
from project.errors import UserError

PARQUET = (".parquet", ".pq")
SEPARATORS = ",;\t"
MOST_SHOWN = 5  # rows that an error names
MOST_CHARACTERS = 200  # of a cell, which has many lines where a quote isn't closed


class Cells(NamedTuple):
    """Columns of a table.

    Attributes:
        columns: The texts of each column that was asked for, one for each row; empty cells are
            empty texts.
        first_row: Number of the first of these rows, as a spreadsheet counts.
    """

    columns: list[list[str]]
    first_row: int


Choose = Callable[[list[str]], Sequence[str]]
"""Takes the names of all columns, and returns those to read."""


def is_table(path: Path) -> bool:
    """Whether a file is a table, as its name says."""
    return path.suffix.lower() in (".csv", ".tsv", ".tab", *PARQUET)


def read_cells(path: Path, choose: Choose, key: str) -> Cells:
    """Read some columns of a table.

    A CSV has a first row with the names of the columns, is in UTF-8 or has a byte order mark, and
    has commas, semicolons or tabs between its cells. What :mod:`project.csv_text` puts in front of
    a text is removed again.

    Args:
        path: The file.
        choose: Chooses the columns by their names.
        key: Key of the config that names the file.

    Raises:
        UserError: If it can't be read.
    """
    if not path.is_file():
        raise UserError(f"there is no file {readable(path)}", key)
    try:
        return _parquet(path, choose) if path.suffix.lower() in PARQUET else _csv(path, choose)
    except UserError as error:
        error.key = error.key or key
        raise
    except UnicodeError as error:
        raise UserError(
            f"{readable(path)} is no CSV in UTF-8: {error}; save it as that", key
        ) from error
    except OSError as error:
        raise UserError(
            f"{readable(path)} can't be read: {error.strerror or error}", key
        ) from error


def refuse_rows(path: Path, what: str, rows: Sequence[tuple[int, str]], key: str) -> None:
    """Name rows of a table with which something is wrong.

    Args:
        path: The table.
        what: What is wrong with them, after their number, such as ``rows have no label``.
        rows: Number and content of each.
        key: Key of the config that names the table.

    Raises:
        UserError: If there are any.
    """
    if rows:
        named = [
            f"row {number:,}" + (f" ({text[:MOST_CHARACTERS]})" if text else "")
            for number, text in rows
        ]
        raise UserError(f"{readable(path)}: {len(rows):,} {what}: {some(named, MOST_SHOWN)}", key)


def _csv(path: Path, choose: Choose) -> Cells:
    with path.open("rb") as binary:
        start = binary.read(2)
    is_utf16 = start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # as Excel's "Unicode text"
    with path.open(newline="", encoding="utf-16" if is_utf16 else "utf-8-sig") as file:
        separator = _separator(file.readline(), path.suffix.lower())
        file.seek(0)
        reader = csv.reader(file, delimiter=separator)
        try:
            names = [text_of(name).strip() for name in next(reader, [])]
            if not any(names):
                raise UserError(f"{readable(path)} has no first row with the names of its columns")
            places = _places(names, choose(names))
            columns: list[list[str]] = [[] for _ in places]
            long = []
            for number, row in enumerate(reader, start=2):
                for column, place in zip(columns, places):
                    column.append(text_of(row[place]) if place < len(row) else "")
                if len(row) > len(names) and any(row[len(names) :]):
                    long.append((number, separator.join(row)[:80]))
        except csv.Error as error:
            raise UserError(f"{readable(path)}, line {reader.line_num:,}: {error}") from error
    refuse_rows(path, f"rows have more cells than the {len(names)} columns", long, "")
    return Cells(columns, first_row=2)


def _separator(line: str, suffix: str) -> str:
    """Return what separates the cells of the first line: what makes the most of them."""
    first = "\t" if suffix in (".tsv", ".tab") else ","
    return max(first + SEPARATORS, key=lambda one: len(next(csv.reader([line], delimiter=one), [])))


def _places(names: Sequence[str], chosen: Sequence[str]) -> list[int]:
    for name in chosen:
        if names.count(name) > 1:
            raise UserError(f"two columns are named {readable(name)}; rename one")
    return [names.index(name) for name in chosen]


def _parquet(path: Path, choose: Choose) -> Cells:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError(
            f"{readable(path)} needs pyarrow to be read: pip install pyarrow; or save it as CSV"
        ) from error
    try:
        names = [str(name) for name in parquet.read_schema(path).names]
        places = _places(names, choose(names))
        chosen = [names[place] for place in places]
        table = parquet.read_table(path, columns=chosen)
        return Cells([_texts(table.column(name).to_pylist(), name) for name in chosen], first_row=1)
    except UserError:
        raise
    except Exception as error:  # pyarrow has a dozen of its own
        raise UserError(f"{readable(path)} can't be read: {error}") from error


def _texts(values: Sequence[Any], name: str) -> list[str]:
    for value in values:
        if isinstance(value, bytes | dict | list):
            raise UserError(
                f"column {readable(name)} holds {type(value).__name__}, and no paths or names"
            )
    return ["" if value is None else str(value) for value in values]
