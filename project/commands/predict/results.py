"""What was predicted, as a table, as JSON lines and as a contact sheet."""

import io
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from project.commands.pages import data_url, templates
from project.console import readable
from project.csv_text import Table
from project.decoding.decode import open_image
from project.errors import UserError
from project.saving import whole, write

MOST_CLASSES = 1000  # whose probabilities are columns
MOST_ON_A_SHEET = 500  # pictures
SIDE = 128  # pixels of one on the sheet


@dataclass(frozen=True)
class Result:
    """What a model says of one picture.

    Attributes:
        path: The picture.
        label: Its true class; empty if it isn't known.
        name: The most probable class; empty if the picture can't be read.
        probabilities: float32 ``[K]``.
        error: Why it can't be read; empty if it can.
    """

    path: str
    label: str = ""
    name: str = ""
    probabilities: NDArray[np.float32] | None = None
    error: str = ""

    @property
    def probability(self) -> float:
        """That of the most probable class."""
        return 0.0 if self.probabilities is None else float(self.probabilities.max())

    @property
    def is_wrong(self) -> bool:
        """Whether the true class is known, and another one."""
        return bool(self.label and self.name and self.label != self.name)


def write_results(
    results: Sequence[Result], class_names: Sequence[str], output: Path | None, as_json: bool
) -> None:
    """Write a table, or a line of JSON for each picture.

    Args:
        results: The results.
        class_names: Name of each class.
        output: File; None is standard output.
        as_json: Whether to write JSON.

    Raises:
        UserError: If it can't be written.
    """
    text = io.StringIO(newline="")
    if as_json:
        for result in results:
            text.write(json.dumps(_as_dict(result, class_names), ensure_ascii=False) + "\n")
    else:
        _write_table(results, class_names, text)
    if output is not None:
        write(output, text.getvalue(), errors="backslashreplace")
    else:
        sys.stdout.write(text.getvalue().replace("\r\n", "\n"))
        sys.stdout.flush()


def _as_dict(result: Result, class_names: Sequence[str]) -> dict[str, object]:
    about: dict[str, object] = {"image": readable(result.path)}
    if result.label:
        about["label"] = result.label
    if result.probabilities is None:
        return about | {"error": result.error}
    rounded = [round(float(one), 6) for one in result.probabilities]
    about |= {"class": result.name, "probability": max(rounded)}
    if len(class_names) <= MOST_CLASSES:
        about["probabilities"] = dict(zip(class_names, rounded))
    return about


def _write_table(results: Sequence[Result], class_names: Sequence[str], text: io.StringIO) -> None:
    table, labelled = Table(text), any(result.label for result in results)
    names = class_names if len(class_names) <= MOST_CLASSES else ()
    columns = [f"probability_{name}" for name in names]
    table.row(["image", *(["label"] if labelled else []), "class", "probability", *columns])
    for result in results:
        cells = [readable(result.path), *([result.label] if labelled else [])]
        if result.probabilities is None:
            table.row([*cells, *[None] * (2 + len(columns))])
            continue
        each = [round(float(one), 6) for one in result.probabilities]
        table.row([*cells, result.name, max(each), *(each if names else [])])


def mistakes(results: Sequence[Result], most: int) -> Iterator[str]:
    """Yield lines that tell the accuracy, and which pictures are wrong, the surest first.

    Args:
        results: The results.
        most: Largest number of pictures to name.
    """
    known = [result for result in results if result.label and result.name]
    wrong = sorted((one for one in known if one.is_wrong), key=lambda one: -one.probability)
    right = len(known) - len(wrong)
    yield f"accuracy {right / max(len(known), 1):.4f}: {right:,} of {len(known):,} are right"
    pairs = Counter((one.label, one.name) for one in wrong)
    for (label, name), count in pairs.most_common(3):
        yield f"{label} taken for {name}: {count:,}"
    for one in wrong[:most]:
        said = f"{one.label} taken for {one.name}, {one.probability:.2f}"
        yield f"wrong: {readable(one.path)}: {said}"


def write_sheet(
    results: Sequence[Result], class_names: Sequence[str], path: Path, title: str
) -> None:
    """Write a contact sheet: one HTML file with small pictures, by their class.

    Args:
        results: The results.
        class_names: Name of each class.
        path: The file.
        title: What it is of.

    Raises:
        UserError: If it can't be written.
    """
    read = [result for result in results if result.name]
    shown = read[:MOST_ON_A_SHEET]
    folder = os.path.commonpath([Path(one.path).absolute().parent for one in shown])
    groups = []
    for name in class_names:
        mine = sorted((one for one in shown if one.name == name), key=lambda one: -one.probability)
        if mine:
            groups.append((name, [(one, _thumbnail(one.path)) for one in mine]))
    page = templates(__name__.rpartition(".")[0], html=True).get_template("sheet.html.jinja")
    known = [one for one in results if one.label and one.name]
    text = page.render(
        title=title,
        groups=groups,
        left_out=len(read) - len(shown),
        broken=len(results) - len(read),
        folder=readable(folder),
        within=lambda path: readable(str(Path(path).absolute().relative_to(folder))),
        count=len(read),
        right=sum(not one.is_wrong for one in known) if known else None,
        known=len(known),
    )
    with whole(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def _thumbnail(path: str) -> str:
    try:
        picture = open_image(path, at_least=SIDE)
    except UserError:  # it is gone since
        picture = Image.new("RGB", (SIDE, SIDE))
    picture.thumbnail((SIDE, SIDE))
    return data_url(picture)
