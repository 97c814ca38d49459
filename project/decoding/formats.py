"""Which files are images: by the extensions that Pillow knows, else by their first bytes."""

import re
from functools import cache
from typing import Any

from PIL import Image, ImageFile

NOT_PICTURES = {"EPS", "MPEG"}  # Pillow starts another program to read one, and reads no video
ALSO_OPENED = {"MPO"}  # by the reader of JPEG
UNMISTAKABLE = {"AVIF", "GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP"}  # by their first bytes
FIRST_BYTES = 16  # which Pillow's tests take, too


def extension(name: str) -> str:
    """Return the extension of a file's name, in lower case with its dot.

    Empty for what only looks like one: what follows the dot in ``IMG 1.5 m``, ``0.123``, ``2024.``.
    """
    stem, _, end = name.rpartition(".")
    return f".{end.lower()}" if stem and _EXTENSION.fullmatch(end) else ""


_EXTENSION = re.compile(r"(?=.*[^\W\d])[^\s.]{1,12}")  # with a letter in it


@cache
def image_extensions() -> frozenset[str]:
    """Return the extensions, without the dot, of the formats that Pillow opens."""
    Image.init()
    formats = {*_openers(), *ALSO_OPENED}
    known = Image.registered_extensions().items()
    return frozenset(end[1:] for end, name in known if name in formats)


@cache
def _openers() -> dict[str, Any]:
    """Return what Pillow has to open pictures, by format: a reader, and a test of first bytes."""
    Image.init()
    return {
        name: opener
        for name, opener in Image.OPEN.items()
        if name not in NOT_PICTURES
        # a stub knows a format, and has no reader for it
        and not (isinstance(opener[0], type) and issubclass(opener[0], ImageFile.StubImageFile))
    }


def begins_as_image(path: str) -> bool:
    """Whether the first bytes of a regular file are those of an image.

    A text may begin as some formats do, such as ``BM`` and ``P1``. There, Pillow reads the header.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # a Path takes several times as long
            first = file.read(FIRST_BYTES)
    except OSError:
        return False
    if len(first) < FIRST_BYTES:
        return False
    tests = ((name, accept) for name, (_, accept) in _openers().items() if accept)
    format_ = next((name for name, accept in tests if accept(first) is True), None)
    if format_ is None or format_ in UNMISTAKABLE:
        return format_ is not None
    try:
        with Image.open(path, formats=[format_]):
            return True
    except Image.DecompressionBombError:  # it is one, and is named when it is read
        return True
    except Exception:  # whatever Pillow raises for what isn't an image
        return False
