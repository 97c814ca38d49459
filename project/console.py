"""What a person sees in the terminal, and names in a form that can be seen."""

import io
import os
import re
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.segment import Segment, Segments
from rich.table import Table
from tqdm import tqdm

_BYTES = range(0xDC80, 0xDD00)  # how Python reads the bytes of a name that isn't UTF-8
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def readable(name: str | Path) -> str:
    r"""Return a name as every terminal, file and logger takes it: on one line, in UTF-8.

    The names of files may hold bytes that aren't UTF-8, line breaks and what controls a terminal.
    Here these become escapes, such as ``\xe9`` and ``\n``; all other names stay as they are.
    """
    return _UNSEEN.sub(_escape, _as_utf8(str(name)))


def class_name(name: str) -> str:
    """Return the name of a class in the one form in which names are compared.

    It is readable, and in Unicode's composed form: macOS and some archives write ``é`` as two
    characters, other systems as one (https://unicode.org/reports/tr15).
    """
    return unicodedata.normalize("NFC", readable(name))


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if code in _BYTES else ascii(found[0])[1:-1]


def _as_utf8(name: str) -> str:
    """Read the bytes of a name as UTF-8, also where the system has another encoding."""
    try:
        return os.fsencode(name).decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # it is not the name of a file
        return name


def some(names: Iterable[str], most: int = 20) -> str:
    """Return names for a message: not more than a few, in a form that can be seen."""
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(readable, names[:most])) + rest


def is_utf8(text: str) -> bool:
    """Whether a text has no bytes that aren't UTF-8, which Python reads as surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def accept_all_characters() -> None:
    """Let what a terminal can't show appear as an escape, instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def lines(text: str) -> str:
    """Return text in which escapes replace all that controls a terminal but the line breaks."""
    return "\n".join(readable(line) for line in text.split("\n"))


def show(text: str) -> None:
    """Print text above the progress bar, if there is one."""
    tqdm.write(lines(text))


def print_table(table: Table) -> None:
    """Print a table; where the output is no terminal, it is up to 140 characters wide.

    In a narrow terminal, text takes several lines; numbers stay whole.
    """
    for column in table.columns:
        column.overflow, column.no_wrap = "fold", column.justify == "right"
    width = None if sys.stdout.isatty() else 140
    console = Console(width=width, markup=False, emoji=False)  # names may look like markup
    shown = [Segment(lines(one.text), one.style) for one in console.render(table)]
    console.print(Segments(shown), end="")
