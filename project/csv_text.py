"""Tables as CSV files that a spreadsheet shows as text and numbers, and never runs.

A spreadsheet takes a cell that begins with ``=``, ``+``, ``-`` or ``@`` for a formula, which can
send the table somewhere, and whoever names a file or a folder writes into a cell. What helps:
https://owasp.org/www-community/attacks/CSV_Injection
"""

import csv
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from project.saving import whole

Cell = str | float | int | None

_RUNS = tuple("=+-@\t\r\n＝＋－＠")  # the wide ones count in an East Asian locale
_MARK = "'"  # makes a text of what follows


def cell(text: str) -> str:
    """Return a text as a cell: with a quote in front, where it would be a formula or has one.

    Two texts never become the same cell, and :func:`text_of` returns the text again.
    """
    return _MARK + text if text.startswith((*_RUNS, _MARK)) else text


def text_of(cell: str) -> str:
    """Return the text of a cell that :func:`cell` made; cells of other programs stay as they are.

    These may begin with a quote, as in ``'s-Hertogenbosch``.
    """
    text = cell[1:]
    return text if cell[:1] == _MARK and text.startswith((*_RUNS, _MARK)) else cell


class Table:
    """Writes rows. All texts are in double quotes, so that none of them can end its cell.

    Args:
        file: A text file that was opened with ``newline=""``.
    """

    def __init__(self, file: TextIO) -> None:
        self._writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)

    def row(self, cells: Iterable[Cell]) -> None:
        """Write a row of texts and numbers; None is an empty cell."""
        self._writer.writerow([cell(value) if isinstance(value, str) else value for value in cells])


@contextmanager
def table(path: Path) -> Iterator[Table]:
    """Open a table, in UTF-8; the file is there once the table is complete.

    Raises:
        UserError: If it can't be written.
    """
    with whole(path) as file:
        text = io.TextIOWrapper(file, "utf-8", "backslashreplace", newline="")
        yield Table(text)
        text.flush()
        text.detach()


def read_table(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a table by the names of its columns.

    Raises:
        OSError: If the file can't be read.
        ValueError: If it is no table in UTF-8.
    """
    with path.open(newline="", encoding="utf-8") as file:
        try:
            for row in csv.DictReader(file):
                yield {text_of(name): text_of(value or "") for name, value in row.items() if name}
        except csv.Error as error:
            raise ValueError(str(error)) from error
