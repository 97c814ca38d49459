"""Which folders are classes, and which files below them are images."""

import os
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from project.checkpoints import CHECKPOINTS
from project.console import readable
from project.runs import is_run_dir

OF_THE_SYSTEM = (  # made by file managers, archivers, file systems, Python and W&B
    *("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"),
    *("__pycache__", "wandb"),
)
DEPTH_OF_RUNS = 4  # runs/compare/<name>/runs/<run>


def class_folders(folder: Path, cache: Path) -> list[Path]:
    """Return the subfolders that can be classes, sorted by name.

    Left out are hidden ones, those of the system, the cache, and those with run directories.

    Args:
        folder: The folder.
        cache: The folder of the cache.
    """
    if not folder.is_dir():
        return []
    own = CHECKPOINTS if is_run_dir(folder) else ""
    return sorted(
        (
            entry
            for entry in folder.iterdir()
            if _is_visible(entry.name)
            and entry.name != own
            and entry.is_dir()
            and not (cache.is_dir() and entry.samefile(cache))
            and not _holds_runs(entry, DEPTH_OF_RUNS)
        ),
        key=lambda entry: readable(entry.name),
    )


def _holds_runs(folder: Path, depth: int) -> bool:
    """Whether a folder is a run directory, or has one at most ``depth`` levels below.

    A folder with images isn't searched any further, so that a class costs next to nothing.
    """
    if is_run_dir(folder):
        return True
    subfolders = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if depth and entry.is_dir():
                    subfolders.append(Path(entry))
                elif _is_image(entry.name):
                    return False
    except OSError:  # it is named when its images are read
        return False
    return any(_holds_runs(subfolder, depth - 1) for subfolder in subfolders)


def images_below(folder: Path) -> list[Path]:
    """Return the paths of all images below a folder, sorted.

    Left out are hidden files and folders, those of the system, and run directories.

    Raises:
        OSError: If a folder can't be read.
    """
    found = []
    for parent, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        folders[:] = sorted(
            name for name in folders if _is_visible(name) and not is_run_dir(Path(parent, name))
        )
        found += [Path(parent, name) for name in sorted(names) if _is_image(name)]
    return found


def _is_visible(name: str) -> bool:
    return name[0] != "." and name not in OF_THE_SYSTEM


def _is_image(name: str) -> bool:
    return name[0] != "." and name.lower().endswith(IMG_EXTENSIONS)


def _refuse(error: OSError) -> None:
    """Raise the error of a folder that can't be read; ``os.walk`` would skip it silently."""
    if not isinstance(error, FileNotFoundError):
        raise error
