"""Your own images: a folder with one subfolder per class."""

from pathlib import Path
from typing import Any

import torch

from project.console import readable
from project.data.file_data import FileDataModule, Found, Labelled
from project.data.listing import Search, class_folders
from project.errors import UserError


class ImageFolder(FileDataModule):
    r"""Images of any size and mode in one subfolder per class.

    ``root`` contains either ``train/`` and optionally ``val/`` and ``test/``, each with the class
    folders, or the class folders themselves, which are then split. The classes are those of
    ``train``; other splits are matched to them by name. Files and folders whose name begins with a
    dot, folders of the system, run directories and the cache are ignored. Bytes of a name that
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
        return bool(self._class_folders(Path(self.root)))

    def find_class_names(self) -> tuple[str, ...]:
        """Return the names of the class folders of the training split, sorted."""
        folder = self._split("train") or Path(self.root)
        names = list(self._class_folders(folder))
        if not folder.is_dir():
            raise UserError(f"data.root: {readable(folder)} is not a folder")
        if len(names) < 2:
            found = f"only {names[0]}" if names else "none"
            raise UserError(
                f"data.root: {readable(folder)} needs a subfolder for each of two or "
                f"more classes, and has {found}"
            )
        return tuple(names)

    def find(self) -> Found:
        """Return the image files of each split, by class."""
        train_folder, val_folder, test_folder = map(self._split, ("train", "val", "test"))
        return Found(
            self._find(train_folder or Path(self.root), every_class=True),
            self._find(val_folder) if val_folder else None,
            self._find(test_folder) if test_folder else None,
            is_split=train_folder is not None,
        )

    def _class_folders(self, folder: Path) -> dict[str, Path]:
        """Return the folders of the classes by the names of the classes, sorted.

        Raises:
            UserError: If two names are the same once they are readable.
        """
        folders: dict[str, Path] = {}
        for path in class_folders(folder, self.cache_dir.folder):
            name = readable(path.name)
            if name in folders:
                raise UserError(
                    f"two folders of {readable(folder)} read as {name}; rename one", "data.root"
                )
            folders[name] = path
        return folders

    def _split(self, name: str) -> Path | None:
        folder = Path(self.root, name)
        return folder if folder.is_dir() and Path(self.root, "train").is_dir() else None

    def _find(self, folder: Path, every_class: bool = False) -> Labelled:
        classes = {name: label for label, name in enumerate(self.class_names)}
        folders = self._class_folders(folder)
        unknown = sorted(set(folders) - set(classes))
        if unknown:
            raise UserError(
                f"{readable(folder)} has classes that the training images lack: "
                f"{', '.join(unknown)}; known are {', '.join(classes)}"
            )
        search = Search(folder)
        paths: list[str] = []
        labels: list[int] = []
        for name, label in classes.items():
            class_folder = folders.get(name, folder / name)
            found = search.images_below(class_folder)
            if every_class and not found:
                raise UserError(f"{readable(class_folder)} holds no images; remove it or fill it")
            paths += found
            labels += [label] * len(found)
        if not paths:
            raise UserError(f"{readable(folder)} holds no images")
        return Labelled(paths, torch.tensor(labels))
