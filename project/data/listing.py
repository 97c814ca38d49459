"""Which folders are classes, and which files below them are images."""

import os
import stat
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from project.checkpoints import CHECKPOINTS
from project.console import readable, show
from project.errors import UserError
from project.runs import is_run_dir

OF_THE_SYSTEM = (  # made by file managers, archivers, file systems, Python and W&B
    *("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"),
    *("__pycache__", "wandb"),
)
PSEUDO = {  # file systems that show the state of the machine, without end; proc(5) and others
    *("proc", "sysfs", "cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "configfs"),
    *("devpts", "bpf", "pstore", "fusectl", "mqueue", "nsfs", "binfmt_misc", "efivarfs"),
}
DEPTH_OF_RUNS = 4  # runs/compare/<name>/runs/<run>
MOST_EMPTY = 50_000  # folders in which no image was found, before the search is given up
NEWS_SECONDS = 10.0

FolderId = tuple[int, int]  # device and inode: the same however a link leads there


class Search:
    """A search for images below some folders, which ends whatever links and file systems hold.

    Hidden files and folders, those of the system, run directories, and all that is neither a folder
    nor a regular file are left out. Each folder is read once: a link to one above it would repeat
    all images without end, and under wrong labels.

    Args:
        root: Folder that errors name.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._above: dict[Path, set[FolderId]] = {}  # what is above the folders in this one
        self._read: dict[FolderId, tuple[Path, Path]] = {}  # how it was found, and for which class
        self._files = 0
        self._empty = 0
        self._news = time.monotonic() + NEWS_SECONDS

    def images_below(self, folder: Path) -> list[str]:
        """Return the paths of all images below a folder, sorted: first those in it.

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
            if not self._is_new(parent, folder, above):
                continue
            folders, names = _content(parent)
            prefix = str(parent / "_")[:-1]  # a million Paths would take seconds and a gigabyte
            found += [prefix + name for name in names]
            inside = (parent / name for name in reversed(folders))
            pending += [one for one in inside if not is_run_dir(one)]
            self._count(len(names))
        return found

    def _is_new(self, folder: Path, of: Path, above: set[FolderId]) -> bool:
        """Whether a folder isn't read yet; a link to one that is is told in a line."""
        try:
            status = folder.stat()
        except FileNotFoundError:
            return False
        if status.st_dev in _pseudo_devices():
            return False
        key = (status.st_dev, status.st_ino)
        if key in above:
            _tell(f"{readable(folder)} is left out: it leads to a folder above it")
            return False
        if key in self._read:
            first, other = self._read[key]
            if other != of:
                raise UserError(
                    f"{readable(folder)} and {readable(first)} are one folder, in two classes",
                    "data.root",
                )
            _tell(f"{readable(folder)} is left out: it leads to {readable(first)}")
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
                "data.root",
            )
        if time.monotonic() > self._news:
            self._news = time.monotonic() + NEWS_SECONDS
            folders = f"{len(self._read):,} folders"
            show(f"looking for images in {readable(self.root)}: {self._files:,} in {folders}")


@cache
def _tell(line: str) -> None:
    """Show a line once: commands search more often."""
    show(line)


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


def _content(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of the folders and of the images in a folder, sorted.

    A link that leads nowhere counts as what its name says, and is an error when it is read.

    Raises:
        OSError: If the folder can't be read.
    """
    folders, images = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not _is_visible(entry.name):
                    continue
                image = _is_image(entry.name)
                if image and entry.is_file(follow_symlinks=False):  # without a system call
                    images.append(entry.name)
                elif _is(entry, stat.S_ISDIR):
                    folders.append(entry.name)
                elif image and (_is(entry, stat.S_ISREG) or not Path(entry).exists()):
                    images.append(entry.name)
                elif image:  # to open a pipe would wait for ever
                    _tell(f"{readable(entry.path)} is left out: it is not a regular file")
    except (
        FileNotFoundError
    ):  # a class that this split lacks, or a folder that was removed just now
        pass
    return sorted(folders), sorted(images)


def _is(entry: "os.DirEntry[str]", kind: Callable[[int], bool]) -> bool:
    """Whether an entry, or what it links to, is of a kind."""
    try:
        return kind(entry.stat().st_mode)
    except OSError:  # it leads nowhere, or to itself
        return False


def class_folders(folder: Path, cache: Path) -> list[Path]:
    """Return the subfolders that can be classes, sorted by name.

    Left out are hidden ones, those of the system, the cache, those with run directories, and links
    to a folder above.

    Args:
        folder: The folder.
        cache: The folder of the cache.

    Raises:
        UserError: If it is of a file system that shows the state of the machine, such as ``/proc``.
    """
    if not folder.is_dir():
        return []
    if folder.stat().st_dev in _pseudo_devices():
        raise UserError(f"{readable(folder)} is of the system, and holds no images", "data.root")
    others = {_id_of(cache)} if cache.is_dir() else set()
    own = CHECKPOINTS if is_run_dir(folder) else ""
    above = _ids_above(folder / "class")
    found = []
    for name in sorted(_content(folder)[0], key=readable):
        entry = folder / name
        key = _id_of(entry)
        if key[0] in _pseudo_devices():
            continue
        if key in above:
            _tell(f"{readable(entry)} is left out: it leads to a folder above it")
        elif name != own and key not in others and not _holds_runs(entry, DEPTH_OF_RUNS):
            found.append(entry)
    return found


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
    return name[0] != "." and name not in OF_THE_SYSTEM


def _is_image(name: str) -> bool:
    return name[0] != "." and name.lower().endswith(IMG_EXTENSIONS)
