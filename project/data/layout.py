"""How a folder of images is laid out: which of its folders are splits, and which are classes."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from project.console import class_name, readable, some
from project.decoding.listing import Inside, holding_images, look
from project.errors import UserError

Split = Literal["train", "val", "test"]

SPELLINGS: dict[Split, str] = {  # in lower case, with _ between words
    "train": "train|training|trn|train_?val|train_?valid",
    "val": "val|valid|validation|validate|validating|dev",
    "test": "test|tests|testing|tst",
}
FILLERS = (  # what people add to the name of a split, or call a folder around it
    "sets?|splits?|data|datasets?|images?|imgs?|pics?|pictures?|photos?|files?|folders?|dir|"
    r"samples?|jpe?gs?|pngs?|full|all|\d+"
)
UNLABELLED = re.compile(f"(?:{FILLERS}|unknown|unlabell?ed|_)+")
NAMES = [
    (split, re.compile(rf"(?:(?P<prefix>.+?)_)?(?:{words})(?:_?(?:{FILLERS}))*"))
    for split, words in SPELLINGS.items()
]
BEGINS = re.compile("train|val|test|dev")
WORDS: dict[Split, str] = {"train": "training", "val": "validation", "test": "test"}
MOST_NAMED = 5


@dataclass(frozen=True)
class Layout:
    """What a folder is read as.

    Attributes:
        root: The folder that is read, which may be inside the one that was given.
        train: The folder with the classes of the training split, or with all that there are.
        val: That of the validation split, if there is one with classes.
        test: That of the test split, likewise.
        is_split: Whether there are splits.
        notes: What was decided or left out: one line each.
    """

    root: Path
    train: Inside
    val: Inside | None
    test: Inside | None
    is_split: bool
    notes: Sequence[str]


def split_of(name: str) -> Split | None:
    """Return the split that a name means, such as ``Training``, ``val_set`` or ``01-test``."""
    found = _reading(name)
    return found[0] if found and not found[1] else None


def _reading(name: str) -> tuple[Split, str] | None:
    """Return the split that a name means, and what stands before it: ``seg`` in ``seg_train``."""
    plain = _plain(name)
    for split, pattern in NAMES:
        if found := pattern.fullmatch(plain):
            prefix = found["prefix"] or ""
            return split, "" if prefix.isdigit() else prefix
    return None


def _plain(name: str) -> str:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", unicodedata.normalize("NFKC", name))  # TrainSet
    return re.sub(r"[\W_]+", "_", words.casefold()).strip("_")


def read_layout(root: Path, cache: Path) -> Layout:
    """Find out what the folders in a folder are.

    Folders are splits if they are named so and hold folders of classes; then one of them must be
    the training split. A folder that holds nothing but one other is read as that one.

    Args:
        root: The folder.
        cache: The folder of the cache, which is no class.

    Raises:
        UserError: If folders are splits, but it isn't clear which, or none is for training.
    """
    found = _Reader(cache).read(root)
    if found.root == root:
        return found
    note = f"{readable(found.root)} is read: no other folder of {readable(root)} holds images"
    return replace(found, notes=(note, *found.notes))


class _Reader:
    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.looks: dict[Path, Inside] = {}

    def look(self, folder: Path) -> Inside:
        if folder not in self.looks:
            self.looks[folder] = look(folder, self.cache)
        return self.looks[folder]

    def read(self, root: Path) -> Layout:
        here = self.look(root)
        notes = [*here.notes, *_loose(here)]
        if (layout := self.as_splits(here, notes)) is not None:
            return layout
        holding = here.folders if len(here.folders) == 1 else holding_images(here.folders, 2)
        if len(holding) == 1:
            within = self.read(holding[0])
            if within.is_split or len(within.train.folders) > 1:
                return replace(within, notes=(*notes, *within.notes))
        self.refuse_splits_of_classes(here)
        return Layout(root, here, None, None, is_split=False, notes=notes)

    def as_splits(self, here: Inside, notes: list[str]) -> Layout | None:
        """Return the splits of a folder, None if its folders are classes.

        Args:
            here: The folder.
            notes: Gets lines that say what was decided.

        Raises:
            UserError: If it can't be told.
        """
        found, rest = self.named_as_splits(here.folders)
        deep = {folder: split for folder, split in found.items() if self.look(folder).folders}
        for split, word in WORDS.items():
            if len(several := [folder for folder in deep if deep[folder] == split]) > 1:
                raise UserError(
                    f"{_named(several)} are both the {word} split; merge them, or rename one",
                    "data.root",
                )
        if "train" not in deep.values():
            if found:
                self.refuse_without_training(here, found, deep, rest)
            notes += [
                f"{readable(folder)} is a class: {readable(here.path)} holds other classes, and no "
                "training split"
                for folder in found
            ]
            return None
        self.tell_others(here, rest, notes, is_alone=len(deep) == 1)
        splits: dict[Split, Inside] = {}
        for split in WORDS:
            for folder in (folder for folder in found if found[folder] == split):
                if folder in deep or split not in deep.values():
                    known = [_class(one) for one in splits["train"].folders] if splits else ()
                    inside = self.unwrapped(self.look(folder), known, notes)
                    notes += [*inside.notes, *_loose(inside)]
                    splits |= {split: inside} if inside.folders else {}
                    notes += [] if inside.folders else [_unlabelled(inside, split)]
                else:
                    notes.append(f"left out: {readable(folder)}, which holds no folders of classes")
        val, test = splits.get("val"), splits.get("test")
        return Layout(here.path, splits["train"], val, test, is_split=True, notes=notes)

    def named_as_splits(self, folders: Sequence[Path]) -> tuple[dict[Path, Split], list[Path]]:
        """Return the folders whose names are those of splits, and the others.

        A name with something before it, such as ``seg_train``, counts if a second split has the
        same before its name, or nothing else is there: ``steam_train`` may be a class.
        """
        readings = {folder: read for folder in folders if (read := _reading(folder.name))}
        splits = defaultdict(set)
        for split, prefix in readings.values():
            splits[prefix].add(split)
        alone = len(readings) == len(folders)
        found = {
            folder: split
            for folder, (split, prefix) in readings.items()
            if not prefix or len(splits[prefix]) > 1 or (alone and self.look(folder).folders)
        }
        return found, [folder for folder in folders if folder not in found]

    def refuse_without_training(
        self,
        here: Inside,
        found: dict[Path, Split],
        deep: Collection[Path],
        rest: Sequence[Path],
    ) -> None:
        """Raise an error if folders are splits, not classes, and none is the training split."""
        others = holding_images(rest, 2)
        if not others:
            for folder in (folder for folder in found if found[folder] == "train"):
                raise UserError(
                    f"{readable(folder)} holds {self.look(folder).images:,} images, and no folders "
                    "of classes; sort them into one for each class, or name their classes in a "
                    "table: --data ImageTable",
                    "data.root",
                )
            if holding_images(found, 1):
                raise UserError(
                    f"{readable(here.path)} has {_named([*found])}, and no training split; it "
                    f"must be named {readable(here.path / 'train')}",
                    "data.root",
                )
        if len(others) == 1 and (folders := self.look(others[0]).folders):
            raise UserError(
                f"{readable(here.path)} has {_named([*found])}, and no training split; if "
                f"{readable(others[0])} with {len(folders):,} folders is it, rename it to train",
                "data.root",
            )
        names = {_class(folder) for folder in rest}
        for split in deep:
            if same := [name for name in map(_class, self.look(split).folders) if name in names]:
                raise UserError(
                    f"{readable(split)} has folders that lie beside it, too: {some(same, 5)}; if "
                    f"these are for training, move them into {readable(here.path / 'train')}",
                    "data.root",
                )

    def tell_others(
        self, here: Inside, rest: Sequence[Path], notes: list[str], is_alone: bool
    ) -> None:
        """Say which folders with images lie beside the splits.

        Raises:
            UserError: If they look like classes, and the training split like one of them.
        """
        others = holding_images(rest)
        if is_alone and len(others) > 1 and not any(self.look(other).folders for other in others):
            raise UserError(
                f"{readable(here.path)} holds a training split with folders of classes, and "
                f"beside it {_named(others)}, which look like classes; move what isn't to be read",
                "data.root",
            )
        if others:
            notes.append(
                f"left out: {_named(others)}, beside the splits, which are named train, val and "
                "test"
            )

    def refuse_splits_of_classes(self, here: Inside) -> None:
        """Raise an error if each class has splits, which would be merged."""
        splits = [split_of(folder.name) for folder in here.folders]
        begin = [BEGINS.match(_plain(folder.name)) for folder in here.folders]
        if all(begin) and len({one[0] for one in begin if one}) > 1 and not all(splits):
            raise UserError(
                f"{_named(here.folders)} begin as splits do, and would be read as classes; name "
                "the splits train, val and test, with folders of classes in them",
                "data.root",
            )
        if len(here.folders) > 1 and all(map(self.has_splits, here.folders)):
            raise UserError(
                f"{_named(here.folders)} have splits in them; the splits must be outside, the "
                "classes inside, such as train/cat",
                "data.root",
            )

    def has_splits(self, folder: Path) -> bool:
        inside = self.look(folder)
        splits = [split_of(one.name) for one in inside.folders]
        return not inside.images and "train" in splits and None not in splits

    def unwrapped(self, split: Inside, classes: Collection[str], notes: list[str]) -> Inside:
        """Return the folder with the classes of a split, which may be inside of it.

        Args:
            split: The folder of the split.
            classes: Names of the classes, as far as they are known.
            notes: Gets the line that says so.
        """
        found = split
        while len(found.folders) == 1 and _class(found.folders[0]) not in classes:
            inside = self.look(found.folders[0])
            unlabelled = classes and not inside.folders
            if unlabelled and not _is_around_images(inside.path.name):
                break
            if not unlabelled and not inside.folders:
                break
            notes += _loose(found)
            found = inside
        if found is not split and found.folders:
            notes.append(f"{readable(found.path)} is read: {readable(split.path)} holds no other")
        return found


def _class(folder: Path) -> str:
    return class_name(folder.name)


def _is_around_images(name: str) -> bool:
    return _reading(name) is not None or UNLABELLED.fullmatch(_plain(name)) is not None


def _unlabelled(inside: Inside, split: Split) -> str:
    folder = readable(inside.path)
    if not inside.images:
        return f"{folder} holds no images, so there is no {WORDS[split]} split"
    return (
        f"{folder} holds {inside.images:,} images and no folders of classes, so it is no "
        f"{WORDS[split]} split; predict --data.predict_dir {folder} predicts them"
    )


def _loose(inside: Inside) -> list[str]:
    """Return the line that counts images beside the folders of a folder; none if it has none."""
    if not inside.images or not inside.folders:
        return []
    return [
        f"left out: {inside.images:,} images in {readable(inside.path)} itself, which are of no "
        "class"
    ]


def _named(folders: Sequence[Path]) -> str:
    if len(folders) == 2:
        return " and ".join(map(readable, folders))
    return some(map(str, folders), MOST_NAMED)
