"""Your own images: a folder with one subfolder per class."""

from collections import Counter
from pathlib import Path
from typing import Any

import torch

from project.console import class_name, readable
from project.data.file_data import FileDataModule, Found, Labelled
from project.data.layout import Layout, read_layout
from project.decoding.listing import Inside, Search, in_brackets, line_of, look
from project.errors import UserError


class ImageFolder(FileDataModule):
    r"""Images of any size and mode in one subfolder per class.

    ``root`` contains either ``train/`` and optionally ``val/`` and ``test/``, each with the class
    folders, or the class folders themselves, which are then split. Splits may have any usual
    spelling, such as ``Training``, ``valid`` or ``seg_test``, and a folder that holds nothing but
    one other is read as that one. The classes are those of ``train``; other splits are matched to
    them by name. Files and folders whose name begins with a dot or that the system makes, run
    directories and the cache are ignored; a line says what else is left out. Bytes of a name that
    aren't UTF-8, line breaks and the like become escapes in the name of the class, such as
    ``\xe9``. Transparent pixels become white, 16-bit greys keep their upper 8 bits, and the
    EXIF orientation is applied.

    Args:
        root: The folder.
        kwargs: Options of every data module whose images are files.
    """

    def __init__(self, root: str = "data/images", **kwargs: Any) -> None:
        super().__init__(root=root, **kwargs)

    def is_there(self) -> bool:
        """Whether ``root`` has folders of classes."""
        return bool(look(Path(self.root), self.cache_dir.folder).folders)

    def find_class_names(self) -> tuple[str, ...]:
        """Return the names of the class folders of the training split, sorted."""
        train = self._layout().train
        names = list(_by_class(train))
        folder = readable(train.path)
        if len(names) < 2:
            found = f"only {names[0]}" if names else "none"
            more = f", but {train.images:,} images; name" if train.images else "; or name"
            raise UserError(
                f"data.root: {folder} needs a subfolder for each of two or more classes, and has "
                f"{found}{more} the classes in a table: --data ImageTable"
            )
        return tuple(names)

    def find(self) -> Found:
        """Return the image files of each split, by class."""
        layout = self._layout()
        left_out: Counter[str] = Counter()
        notes = [*layout.notes]
        train, val, test = (
            split and self._find(split, split is layout.train, left_out, notes)
            for split in (layout.train, layout.val, layout.test)
        )
        assert train is not None
        self.tell([*notes, *line_of(layout.root, left_out)])
        return Found(train, val, test, layout.is_split)

    def _layout(self) -> Layout:
        if not Path(self.root).is_dir():
            raise UserError(f"data.root: {readable(Path(self.root))} is not a folder")
        return read_layout(Path(self.root), self.cache_dir.folder)

    def _find(
        self, split: Inside, every_class: bool, left_out: Counter[str], notes: list[str]
    ) -> Labelled:
        classes = {name: label for label, name in enumerate(self.class_names)}
        folders = _by_class(split)
        unknown = sorted(set(folders) - set(classes))
        if unknown:
            raise UserError(
                f"{readable(split.path)} has classes that the training images lack: "
                f"{', '.join(unknown)}; known are {', '.join(classes)}"
            )
        search = Search(split.path)
        paths: list[str] = []
        labels: list[int] = []
        for name, label in classes.items():
            class_folder = folders.get(name, split.path / name)
            found = search.images_below(class_folder)
            if every_class and not found:
                raise UserError(
                    f"{readable(class_folder)} holds no images; remove it or fill it"
                    + in_brackets(search.left_out)
                )
            paths += found
            labels += [label] * len(found)
        if not paths:
            raise UserError(
                f"{readable(split.path)} holds no images" + in_brackets(search.left_out)
            )
        left_out += search.left_out
        notes += search.notes
        return Labelled(paths, torch.tensor(labels))


def _by_class(split: Inside) -> dict[str, Path]:
    """Return the folders of the classes by the names of the classes, sorted.

    Raises:
        UserError: If two names are the same once they are readable.
    """
    folders: dict[str, Path] = {}
    for path in split.folders:
        name = class_name(path.name)
        if name in folders:
            raise UserError(
                f"two folders of {readable(split.path)} read as {name}; rename one", "data.root"
            )
        folders[name] = path
    return folders
