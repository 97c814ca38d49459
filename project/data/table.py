"""Your own images, and a table that names their classes."""

import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from project.console import class_name, readable, some
from project.data.cells import read_cells, refuse_rows
from project.data.file_data import FileDataModule, Found, Labelled
from project.data.layout import Split, split_of
from project.decoding.formats import extension
from project.decoding.listing import images_in
from project.errors import UserError

KEY = "data.table"
PATHS = (  # names of columns, without what is between their words; the second ones are weaker
    {
        *("image", "images", "img", "path", "paths", "file", "files", "filename", "filenames"),
        *("filepath", "fname", "imagepath", "imagefile", "imagename", "imagefilename", "imgpath"),
        *("imgname", "imgfile", "photo", "picture"),
    },
    {"imageid", "imgid", "id", "name"},
)
LABELS = (
    {"label", "labels", "class", "classname", "category", "categoryname", "target", "labelname"},
)
SPLITS = ({"split", "subset", "set", "fold", "partition", "datasplit"},)
ESCAPE = re.compile(r"\\(?:x(?P<hex>[0-9a-f]{2})|u(?P<code>[0-9a-f]{4})|(?P<name>[ntr]))")


class _Rows(NamedTuple):
    """The rows of a table that aren't empty: their numbers, and their cells."""

    numbers: list[int]
    paths: list[str]
    labels: list[str]
    splits: list[Split] | None


class ImageTable(FileDataModule):
    """Images of any size and mode, and a table with a row for each: its file and its class.

    The table is a CSV (in UTF-8, with commas, semicolons or tabs) or, where ``pyarrow`` is
    installed, a Parquet file. Its first row names the columns. Each image has one class; a cell
    such as ``cat|dog`` is the name of a class. A class is what stands in the table, without blanks
    around it, and classes are sorted: numbers by their value, if all of them are numbers. A file
    may be named without its extension, if there is only one of that name. The order of the rows
    doesn't matter.

    Args:
        table: The table: ``.csv``, ``.tsv`` or ``.parquet``.
        root: The folder that paths are relative to; None takes that of the table.
        path_column: The column with the paths; None takes one named ``image``, ``path``, ``file``,
            ``filename`` or the like.
        label_column: The column with the classes; None takes one named ``label``, ``class``,
            ``category``, ``target`` or the like, or the only one that is left.
        split_column: The column with the splits, in any usual spelling, such as ``Training``,
            ``valid`` or ``test``; an empty cell means training. None takes one named ``split``,
            ``subset``, ``set``, ``fold`` or the like, if its cells are names of splits; without
            one, the images are split as those of a folder without splits are.
        kwargs: Options of every data module whose images are files.
    """

    def __init__(
        self,
        table: str = "data/images.csv",
        root: str | None = None,
        path_column: str | None = None,
        label_column: str | None = None,
        split_column: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root=str(Path(table).parent) if root is None else root, **kwargs)
        self.table = Path(table)
        self.path_column = path_column
        self.label_column = label_column
        self.split_column = split_column

    def is_there(self) -> bool:
        """Whether there is a table."""
        return self.table.is_file()

    def find_class_names(self) -> tuple[str, ...]:
        """Return the classes of the rows of the training split, sorted."""
        rows, _ = self._read()
        splits = rows.splits or ["train"] * len(rows.labels)
        names = {label for label, split in zip(rows.labels, splits) if split == "train"}
        if len(names) < 2:
            found = f"only {min(names)}" if names else "none"
            of = " of the training split" if rows.splits else ""
            raise UserError(
                f"{readable(self.table)} must name two or more classes in the rows{of}, and has "
                f"{found}",
                KEY,
            )
        return tuple(_sorted(names))

    def find(self) -> Found:
        """Return the image files of each split, sorted by class and path."""
        rows, notes = self._read()
        classes = {name: label for label, name in enumerate(self.class_names)}
        splits = rows.splits or cast("list[Split]", ["train"] * len(rows.labels))
        self._check_classes(rows, splits, classes)
        labels = [classes[label] for label in rows.labels]
        paths = self._paths(rows)
        order = sorted(range(len(paths)), key=paths.__getitem__)
        repeated = self._repeated(rows, order, paths, splits)
        if repeated:
            notes.append(
                f"{readable(self.table)}: {len(repeated):,} rows repeat another, and are left out"
            )
        order = [place for place in order if place not in repeated]
        order.sort(key=labels.__getitem__)
        self.tell(notes)

        def part(split: Split) -> Labelled | None:
            chosen = [place for place in order if splits[place] == split]
            found = torch.tensor([labels[place] for place in chosen])
            return Labelled([paths[place] for place in chosen], found) if chosen else None

        train = part("train")
        assert train is not None
        return Found(train, part("val"), part("test"), is_split=rows.splits is not None)

    # Rows

    def _read(self) -> tuple[_Rows, list[str]]:
        """Return the rows, and lines that say how they were read."""
        chosen: list[str] = []
        candidates: list[str] = []

        def choose(names: list[str]) -> list[str]:
            path = self._column("path", names, PATHS)
            candidates.extend(self._split_columns(names))
            rest = [name for name in names if name and name not in (path, *candidates)]
            label = self._column("label", names, LABELS, rest)
            chosen.extend([path, label, *(name for name in candidates if name != label)])
            return chosen

        (paths, labels, *columns), first = read_cells(self.table, choose, KEY)
        named = {label: class_name(label.strip()) for label in set(labels)}
        labels = [named[label] for label in labels]
        used = [place for place in range(len(paths)) if paths[place].strip() or labels[place]]
        numbers = [place + first for place in used]
        splits, notes = self._splits(chosen[2:], columns, used, first)
        rows = _Rows(numbers, [paths[i] for i in used], [labels[i] for i in used], splits)
        self._refuse("rows have no path", rows, lambda i: not rows.paths[i].strip(), rows.labels)
        self._refuse("rows have no class", rows, lambda i: not rows.labels[i], rows.paths)
        return rows, notes

    def _column(
        self,
        what: str,
        names: list[str],
        known: Sequence[Collection[str]],
        rest: Sequence[str] = (),
    ) -> str:
        """Return the column with the paths or with the labels.

        Raises:
            UserError: If it isn't there, or can't be told.
        """
        option = f"{what}_column"
        given: str | None = getattr(self, option)
        where = f"{readable(self.table)}, whose columns are {some(names)}"
        if given is not None:
            if given not in names:
                raise UserError(f"{readable(given)} is no column of {where}", f"data.{option}")
            return given
        for some_names in known:
            found = [name for name in names if _plain(name) in some_names]
            if len(found) > 1:
                raise UserError(
                    f"{some(found)} may each be it, in {where}; choose one", f"data.{option}"
                )
            if found:
                return found[0]
        if len(rest) == 1:
            return rest[0]
        raise UserError(
            f"none is named as such a column is, in {where}, as its first row says; choose one",
            f"data.{option}",
        )

    def _split_columns(self, names: list[str]) -> list[str]:
        if self.split_column is None:
            return [name for name in names if _plain(name) in SPLITS[0]]
        return [self._column("split", names, ())]

    def _splits(
        self, names: Sequence[str], columns: Sequence[list[str]], used: Sequence[int], first: int
    ) -> tuple[list[Split] | None, list[str]]:
        """Return the split of each row, and lines about columns that aren't splits."""
        notes: list[str] = []
        found: dict[str, list[str]] = {}
        for name, column in zip(names, columns):
            cells = [column[place].strip() for place in used]
            written = {cell for cell in cells if cell}
            if any(map(split_of, written)) or (self.split_column is not None and written):
                found[name] = cells
            elif written:
                notes.append(
                    f"{readable(self.table)}: column {readable(name)} is left out: it has no names "
                    f"of splits, but {some(_sorted(written), 3)}"
                )
        if len(found) > 1:
            raise UserError(
                f"{some(found)} of {readable(self.table)} may each be it; choose one",
                "data.split_column",
            )
        for cells in found.values():
            known = {cell: split_of(cell) for cell in {*cells, "train"}} | {"": "train"}
            wrong = [(n + first, cell) for n, cell in zip(used, cells) if not known[cell]]
            refuse_rows(
                self.table,
                "rows have a split that is none of train, val and test",
                wrong,
                "data.split_column",
            )
            return [known[cell] or "train" for cell in cells], notes
        return None, notes

    def _refuse(
        self, what: str, rows: _Rows, wrong: Callable[[int], bool], texts: Sequence[str]
    ) -> None:
        """Raise an error if there are rows that are wrong."""
        found = [i for i in range(len(rows.numbers)) if wrong(i)]
        refuse_rows(self.table, what, [(rows.numbers[i], texts[i]) for i in found], KEY)

    def _check_classes(
        self, rows: _Rows, splits: Sequence[Split], classes: Collection[str]
    ) -> None:
        known = f"known are {some(classes)}"
        trained = {label for label, split in zip(rows.labels, splits) if split == "train"}
        self._refuse(
            f"rows have a class that the training images lack ({known})",
            rows,
            lambda i: rows.labels[i] not in classes or rows.labels[i] not in trained,
            rows.labels,
        )
        if missing := [name for name in classes if name not in trained]:
            raise UserError(
                f"{some(missing)} has no training images in {readable(self.table)}", "data.classes"
            )

    # Files

    def _paths(self, rows: _Rows) -> list[str]:
        """Return the file of each row."""
        files = _Files(self.root)
        found = [files.find(name) for name in rows.paths]
        self._refuse(
            f"files are not there, relative to {readable(self.root)} (data.root)",
            rows,
            lambda i: found[i] == [],
            rows.paths,
        )
        self._refuse(
            "rows may each mean several files, without an extension",
            rows,
            lambda i: len(found[i]) > 1,
            rows.paths,
        )
        return [path for one in found for path in one]

    def _repeated(
        self, rows: _Rows, order: Sequence[int], paths: Sequence[str], splits: Sequence[Split]
    ) -> set[int]:
        """Return the rows that repeat an image.

        Raises:
            UserError: If another row of it has another class or another split.
        """
        repeated: set[int] = set()
        for what, values in (("classes", rows.labels), ("splits", splits)):
            pairs = []
            for one, other in pairwise(order):
                if paths[one] == paths[other]:
                    repeated.add(other)
                    if values[one] != values[other]:
                        both = f"{values[one]} and {values[other]}, as in row {rows.numbers[one]:,}"
                        pairs.append((rows.numbers[other], f"{rows.paths[other]}: {both}"))
            only = "; an image has one class" if what == "classes" else ""
            refuse_rows(self.table, f"rows name an image of two {what}{only}", sorted(pairs), KEY)
        return repeated


class _Files:
    """Finds the files that a table names."""

    def __init__(self, root: str) -> None:
        self.prefix = str(Path(root) / "_")[:-1]
        self._by_stem: dict[str, dict[str, list[str]]] = {}

    def find(self, name: str) -> list[str]:
        """Return the file of a name; several where it may mean each of them; none."""
        for form in _forms(name):
            path = form if form.startswith("/") else self.prefix + form
            if os.path.isfile(path):  # noqa: PTH113  # a Path takes several times as long
                odd = "//" in form or "./" in form
                return [os.path.realpath(path) if odd else path]
            folder, _, stem = path.rpartition("/")
            if stem and (found := self._stems(folder).get(stem)):
                return [f"{folder}/{file}" for file in found]
        return []

    def _stems(self, folder: str) -> dict[str, list[str]]:
        """Return the names of the images in a folder by what is before their extensions."""
        if folder not in self._by_stem:
            found: dict[str, list[str]] = {}
            for name in images_in(Path(folder or "/")):
                if end := extension(name):
                    found.setdefault(name[: -len(end)], []).append(name)
            self._by_stem[folder] = found
        return self._by_stem[folder]


def _forms(name: str) -> Iterator[str]:
    """Yield what the name of a file may mean."""
    yield name
    if name != name.strip():
        yield name.strip()
    if "\\" in name:
        yield ESCAPE.sub(_unescaped, name)  # as this program writes a name into a table
        yield name.strip().replace("\\", "/")  # as Windows does


def _unescaped(found: re.Match[str]) -> str:
    if found["name"]:
        return {"n": "\n", "t": "\t", "r": "\r"}[found["name"]]
    code = int(found["hex"] or found["code"], 16)
    is_byte = found["hex"] is not None and code >= 0x80  # one that isn't UTF-8
    return chr(0xDC00 + code if is_byte else code)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _sorted(names: Collection[str]) -> list[str]:
    """Return names sorted; numbers by their value, if all are numbers."""
    values = {}
    for name in names:
        try:
            values[name] = float(name)
        except ValueError:
            return sorted(names)
    if not all(map(math.isfinite, values.values())):
        return sorted(names)
    return sorted(names, key=lambda name: (values[name], name))
