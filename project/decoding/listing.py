"""Which folders and images below a folder count."""

import os
import re
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from functools import cache
from glob import glob, has_magic
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from project.console import class_name, readable, show
from project.decoding.formats import begins_as_image, extension, image_extensions
from project.errors import UserError
from project.run_files import CHECKPOINTS, PICTURES, is_run_dir

OF_THE_SYSTEM = {  # folders and files, in lower case; hidden ones need no mention
    *("__macosx", "icon\r", "network trash folder", "temporary items"),  # macOS
    *("thevolumesettingsfolder", "lost+found", "#recycle", "#snapshot", "@eadir"),  # NAS systems
    *("@recycle", "@recently-snapshot", "@sharebin", "@tmp"),
    *("$recycle.bin", "recycler", "recycled", "system volume information"),  # Windows
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "folder.htt"),
    *("picasa.ini", "zbthumbnail.info", "pspbrwse.jbf"),  # programs for photos
    *("cvs", "_svn", "_darcs", "__pycache__", "wandb"),  # version control, Python, W&B
}
OF_EDITORS = re.compile(r"~\$.*|#.*#|.*~")  # files: locks, automatic saves, earlier versions
PSEUDO = {  # file systems that show the state of the machine, without end; proc(5) and others
    *("proc", "sysfs", "cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "configfs"),
    *("devpts", "bpf", "pstore", "fusectl", "mqueue", "nsfs", "binfmt_misc", "efivarfs"),
}
DEPTH_OF_RUNS = 4  # runs/compare/<name>/runs/<run>
MOST_EMPTY = 50_000  # folders in which no image was found, before the search is given up
MOST_LOOKED_AT = 1000  # folders, before one is taken to hold no images
MOST_ENDINGS = 10  # that a line names
NEWS_SECONDS = 10.0

FolderId = tuple[int, int]  # device and inode: the same however a link leads there


class Search:
    """A search for images below some folders, which ends whatever links and file systems hold.

    Hidden files and folders, those of the system, run directories, and all that is neither a folder
    nor a regular file are left out. Each folder is read once: a link to one above it would repeat
    all images without end, and under wrong labels.

    Attributes:
        left_out: How many files that aren't images were found, by the end of their names.
        notes: What else was left out, and why: one line each.

    Args:
        root: Folder that errors name.
        key: Key of the config that names it.
    """

    def __init__(self, root: Path, key: str = "data.root") -> None:
        self.root = root
        self.key = key
        self.left_out: Counter[str] = Counter()
        self.notes: list[str] = []
        self._above: dict[Path, set[FolderId]] = {}  # what is above the folders in this one
        self._read: dict[FolderId, tuple[Path, Path]] = {}  # how it was found, and for which class
        self._files = 0
        self._empty = 0
        self._news = time.monotonic() + NEWS_SECONDS

    def images_below(self, folder: Path, of: Path | None = None) -> list[str]:
        """Return the paths of all images below a folder, sorted: first those in it.

        Args:
            folder: The folder.
            of: What tells one class from another; None takes the folder.

        Raises:
            OSError: If a folder can't be read.
            UserError: If a link leads to a folder whose images are those of another class, or the
                search finds folders without end.
        """
        found: list[str] = []
        holder = folder.absolute().parent
        if holder not in self._above:
            self._above[holder] = _ids_above(holder / "_")
        above = self._above[holder]
        if folder.is_symlink():
            above = above | _ids_above(folder)
        pending = [folder]
        while pending:
            parent = pending.pop()
            if not self._is_new(parent, of or folder, above):
                continue
            content = _content(parent)
            self.left_out += content.others
            self.notes += content.notes
            prefix = str(parent / "_")[:-1]  # a million Paths would take seconds and a gigabyte
            found += [prefix + name for name in content.images]
            inside = (parent / name for name in reversed(content.folders))
            pending += [one for one in inside if not is_run_dir(one)]
            self._count(len(content.images))
        return found

    def _is_new(self, folder: Path, of: Path, above: set[FolderId]) -> bool:
        """Whether a folder still has to be read; a link to one that was read becomes a note."""
        try:
            status = folder.stat()
        except FileNotFoundError:
            return False
        if status.st_dev in _pseudo_devices():
            return False
        key = (status.st_dev, status.st_ino)
        if key in above:
            self.notes.append(f"{readable(folder)} is left out: it leads to a folder above it")
            return False
        if key in self._read:
            first, other = self._read[key]
            if other != of:
                raise UserError(
                    f"{readable(folder)} and {readable(first)} are one folder, in two classes",
                    self.key,
                )
            self.notes.append(f"{readable(folder)} is left out: it leads to {readable(first)}")
            return False
        self._read[key] = folder, of
        return True

    def _count(self, images: int) -> None:
        self._files += images
        self._empty += not images
        if self._empty > max(MOST_EMPTY, self._files):
            raise UserError(
                f"{readable(self.root)} doesn't look like folders of images: {self._empty:,} of "
                "the folders in it have none",
                self.key,
            )
        if time.monotonic() > self._news:
            self._news = time.monotonic() + NEWS_SECONDS
            folders = f"{len(self._read):,} folders"
            show(f"looking for images in {readable(self.root)}: {self._files:,} in {folders}")


@cache
def tell(line: str) -> None:
    """Show a line once: commands search more often."""
    show(line)


def line_of(root: Path, left_out: Counter[str]) -> list[str]:
    """Return the line that says which files below a folder are no images; none if all are.

    Args:
        root: The folder.
        left_out: How many, by their extensions.
    """
    return [f"{readable(root)}: left out: {_counted(left_out)}"] if left_out else []


def in_brackets(left_out: Counter[str]) -> str:
    """Return what an error says of the files that are no images, in brackets; empty if all are."""
    return f" (left out: {_counted(left_out)})" if left_out else ""


def _counted(left_out: Counter[str]) -> str:
    most = sorted(left_out.items(), key=lambda item: (item[0] == "", -item[1], item[0]))
    words = [f"{count:,} {readable(end) or 'without extension'}" for end, count in most]
    if len(words) > MOST_ENDINGS:
        words[MOST_ENDINGS:] = [f"{sum(count for _, count in most[MOST_ENDINGS:]):,} others"]
    return ", ".join(words)


@cache
def _pseudo_devices() -> frozenset[int]:
    """Return the devices of file systems that are no place for images, where Linux tells them."""
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return frozenset()
    found = set()
    for line in lines:
        before, _, after = line.partition(" - ")
        if after.partition(" ")[0] in PSEUDO:
            major, minor = before.split()[2].split(":")
            found.add(os.makedev(int(major), int(minor)))
    return frozenset(found)


def _ids_above(folder: Path) -> set[FolderId]:
    """Return the folders that a folder is in, as it is named and as links lead there."""
    ways = {*folder.absolute().parents, *folder.resolve().parents}
    return {_id_of(way) for way in ways if way.exists()}


def _id_of(folder: Path) -> FolderId:
    status = folder.stat()
    return status.st_dev, status.st_ino


class _Content(NamedTuple):
    """Names of the folders and of the images in a folder, sorted, and what else is there."""

    folders: list[str]
    images: list[str]
    others: Counter[str]
    notes: list[str]


def _content(folder: Path) -> _Content:
    """Return what counts in a folder.

    A link that leads nowhere counts as what its name says, and is an error when it is read.

    Raises:
        OSError: If the folder can't be read.
    """
    known = image_extensions()
    found = _Content([], [], Counter(), [])
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if not _is_visible(name):
                    continue
                image = name.rpartition(".")[2].lower() in known and "." in name
                if image and entry.is_file(follow_symlinks=False):  # without a system call
                    found.images.append(name)
                elif _is(entry, stat.S_ISDIR):
                    found.folders.append(name)
                elif image and (_is(entry, stat.S_ISREG) or not Path(entry).exists()):
                    found.images.append(name)
                elif image:  # to open a pipe would wait for ever
                    found.notes.append(
                        f"{readable(entry.path)} is left out: it is not a regular file"
                    )
                elif not OF_EDITORS.fullmatch(name):
                    end = extension(name)
                    if not end and _is(entry, stat.S_ISREG) and begins_as_image(entry.path):
                        found.images.append(name)
                    else:
                        found.others[end] += 1
    except (
        FileNotFoundError
    ):  # a class that this split lacks, or a folder that was removed just now
        pass
    found.folders.sort()
    found.images.sort()
    return found


def _is(entry: "os.DirEntry[str]", kind: Callable[[int], bool]) -> bool:
    """Whether an entry, or what it links to, is of a kind."""
    try:
        return kind(entry.stat().st_mode)
    except OSError:  # it leads nowhere, or to itself
        return False


class Inside(NamedTuple):
    """What lies directly in a folder.

    Attributes:
        path: The folder.
        folders: Subfolders that can be classes, sorted by the names of these.
        images: Number of images.
        notes: What else was left out, and why: one line each.
    """

    path: Path
    folders: list[Path]
    images: int
    notes: list[str]


def look(folder: Path, cache: Path) -> Inside:
    """Return what lies directly in a folder.

    Subfolders are left out that are hidden, of the system, the cache, those with run directories,
    and links to a folder above.

    Args:
        folder: The folder.
        cache: The folder of the cache.

    Raises:
        UserError: If it is of a file system that shows the state of the machine, such as ``/proc``.
    """
    if not folder.is_dir():
        return Inside(folder, [], 0, [])
    if folder.stat().st_dev in _pseudo_devices():
        raise UserError(f"{readable(folder)} is of the system, and holds no images", "data.root")
    others = {_id_of(cache)} if cache.is_dir() else set()
    own = (CHECKPOINTS, PICTURES) if is_run_dir(folder) else ()
    above = _ids_above(folder / "class")
    content = _content(folder)
    found = Inside(folder, [], len(content.images), content.notes)
    for name in sorted(content.folders, key=class_name):
        entry = folder / name
        key = _id_of(entry)
        if key[0] in _pseudo_devices():
            continue
        if key in above:
            found.notes.append(f"{readable(entry)} is left out: it leads to a folder above it")
        elif name not in own and key not in others and not _holds_runs(entry, DEPTH_OF_RUNS):
            found.folders.append(entry)
    return found


def images_in(folder: Path) -> list[str]:
    """Return the names of the images in a folder, sorted; none if it can't be read."""
    try:
        return _content(folder).images
    except OSError:
        return []


def holding_images(folders: Iterable[Path], most: int | None = None) -> list[Path]:
    """Return the folders with images in or below them, the first few of them."""
    return list(islice(filter(_holds_images, folders), most))


def _holds_images(folder: Path) -> bool:
    pending = [folder]
    for _ in range(MOST_LOOKED_AT):  # links may lead in a circle
        if not pending:
            break
        parent = pending.pop()
        content = _content(parent)
        if content.images:
            return True
        pending += [parent / name for name in content.folders]
    return False


def _holds_runs(folder: Path, depth: int) -> bool:
    """Whether a folder is a run directory, or has one at most ``depth`` levels below.

    A folder with images isn't searched any further, so that a class costs next to nothing. Links
    aren't followed.
    """
    if is_run_dir(folder):
        return True
    subfolders = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if depth and entry.is_dir(follow_symlinks=False):
                    subfolders.append(Path(entry))
                elif _is_image(entry.name):
                    return False
    except OSError:  # it is named when its images are read
        return False
    return any(_holds_runs(subfolder, depth - 1) for subfolder in subfolders)


def _is_visible(name: str) -> bool:
    return name[0] != "." and name.lower() not in OF_THE_SYSTEM


def _is_image(name: str) -> bool:
    return name[0] != "." and extension(name)[1:] in image_extensions()


def images_at(place: str, key: str) -> tuple[list[str], list[str]]:
    """Return the images that a path or a pattern names, sorted.

    Args:
        place: A folder, a file, or a pattern as a shell has it, such as ``photos/*.jpg``; ``**``
            means any number of folders. What exists under a name is that, and no pattern.
        key: Key of the config that has it.

    Returns:
        The paths, and lines that say what is left out.

    Raises:
        UserError: If there are none.
    """
    if not place:
        raise UserError("an empty path; give one", key)
    path = Path(place)
    search = Search(path, key)
    if path.is_dir():
        found = search.images_below(path)
    elif path.exists():
        found = [place]
    elif has_magic(place):
        found = _matching(place, search)
    else:
        raise UserError(f"there is no file and no folder {readable(place)}", key)
    if not found:
        holds = "holds" if path.exists() else "names"
        raise UserError(f"{readable(place)} {holds} no images{in_brackets(search.left_out)}", key)
    return found, [*search.notes, *line_of(path, search.left_out)]


def _matching(pattern: str, search: Search) -> list[str]:
    before, stars, after = pattern.partition("**")
    if stars and (not before or before.endswith("/")) and after[:1] in ("", "/"):
        parts = ("**", *Path(after.strip("/")).parts)
        found = []
        for start in sorted(glob(before)) if before else [""]:  # noqa: PTH207  # see below
            if Path(start).is_dir():
                within = len(str(Path(start) / "_")) - 1
                below = search.images_below(Path(start), of=search.root)
                found += [path for path in below if _fits(Path(path[within:]).parts, parts)]
        return found
    found = []
    for path in sorted(glob(pattern)):  # noqa: PTH207  # Path.glob takes hidden files, too
        name = Path(path).name
        if Path(path).is_dir():
            if _is_visible(name):
                found += search.images_below(Path(path), of=search.root)
        elif _is_image(name) or (
            not extension(name) and Path(path).is_file() and begins_as_image(path)
        ):
            found.append(path)
        elif _is_visible(name) and not OF_EDITORS.fullmatch(name):
            search.left_out[extension(name)] += 1
    return found


def _fits(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether a path fits a pattern, both by their parts; ``**`` is any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        rest = pattern[1:] or ("*",)
        return any(_fits(parts[start:], rest) for start in range(len(parts)))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])
