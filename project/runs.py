"""Run directories: claiming a new one, and finding the config of an old one."""

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from project import config_text
from project.checkpoints import TRUSTED_PACKAGES, find_checkpoint, local
from project.console import is_utf8, readable
from project.errors import UserError

RUNS = Path("runs")
CONFIG = "config.yaml"
LOCK = ".lock"
REPLACED = (CONFIG, "metrics.csv", "summary.json")  # by a run that resumes in its directory
CHECKPOINTS = "checkpoints"
AT_THE_START = {LOCK, CONFIG, "wandb"}  # what every run directory begins with


def with_config_of_run(args: list[str]) -> list[str]:
    """Insert ``--config`` of the run that ``--ckpt_path`` belongs to, unless one is given."""
    if any(arg in ("-c", "--config") or arg.startswith("--config=") for arg in args):
        return args
    joined = [arg.partition("=")[2] for arg in args if arg.startswith("--ckpt_path=")]
    separate = [after for arg, after in pairwise(args) if arg == "--ckpt_path"]
    for path in joined + separate:
        config = find_checkpoint(path).parent.parent / CONFIG
        if not config.is_file():
            raise UserError(f"--ckpt_path {path}: no {config} beside it; give --config")
        _refuse_foreign_classes(config)
        return [args[0], f"--config={config}", *args[1:]]
    return args


def _refuse_foreign_classes(config: Path) -> None:
    """Don't import what a config names that nobody asked for by ``--config``.

    Raises:
        UserError: If it names a class outside of the trusted packages.
    """

    def class_paths(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(path := value.get("class_path"), str):
                yield path
            value = list(value.values())
        for item in value if isinstance(value, list) else []:
            yield from class_paths(item)

    for path in class_paths(config_text.mapping(config)):
        if path.split(".")[0] not in TRUSTED_PACKAGES:
            raise UserError(f"{config} names {path}; if you trust it, give --config {config}")


def experiment_name(config: Namespace) -> str:
    """The name of the last config file, or of the approach where there is none."""
    files = config.get("config") or []
    name: str = Path(str(files[-1])).stem if files else config.model.class_path.rpartition(".")[2]
    return name


def is_run_dir(folder: Path) -> bool:
    """Whether a folder is a run directory; other folders may hold a ``config.yaml``, too."""
    others = (LOCK, CHECKPOINTS)
    return (folder / CONFIG).is_file() and any((folder / name).exists() for name in others)


class RunDir:
    """The directory of one run.

    Every rank chooses one, and the first of them makes it and writes to it. From :meth:`claim` on,
    no other process can write to it, until this one ends or calls :meth:`release`.

    Args:
        config: Config of the command.

    Attributes:
        path: Its path.

    Raises:
        UserError: If it is not a folder on this machine.
    """

    def __init__(self, config: Namespace) -> None:
        self._key = "experiment" if config.run_dir is None else "run_dir"
        stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        given = config.run_dir or f"{RUNS}/{config.experiment}/{stamp}"
        if config.run_dir is None and ".." in Path(config.experiment).parts:
            raise UserError(f"{config.experiment} must be a folder in {RUNS}/", self._key)
        if "://" in given:
            raise UserError(f"{given} must be a folder on this machine", self._key)
        self.path = local(Path(given), self._key)
        if not is_utf8(str(self.path.absolute())):
            raise self._error(": is not in UTF-8, as W&B needs it; choose another name")
        self._lock: int | None = None  # a number: copies of the model hold this, too
        self._made: list[Path] = []
        self._found: set[str] | None = None  # what was in the directory; None before it is claimed

    def claim(self, config: str, ckpt_path: str | None = None) -> None:
        """Make the directory, and write the config into it.

        Files that a resumed run has there get another name, before a logger replaces them.

        Args:
            config: The complete config as YAML.
            ckpt_path: The checkpoint that a training resumes, which may be in the directory.

        Raises:
            UserError: If it can't be made, holds another run, or is that of a running process.
        """
        try:
            self._make()
            self._write(config, ckpt_path)
        except (OSError, ValueError, RuntimeError) as error:  # also for a NUL, a circle of links
            reason = getattr(error, "strerror", None) or error
            raise self._error(f" can't be made: {reason}") from error

    def _make(self) -> None:
        self._made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        found = self._names()
        lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise self._error(": another process is running in it") from None
        except OSError:  # this file system has no locks; then the config alone is exclusive
            os.close(lock)
        else:
            self._lock = lock
        self._found = found

    def _write(self, config: str, ckpt_path: str | None) -> None:
        if ckpt_path and self.path.resolve() in Path(ckpt_path).resolve().parents:
            for old in filter(Path.exists, (self.path / name for name in REPLACED)):
                old.rename(old.with_stem(f"{old.stem}-until-{time.strftime('%Y%m%d-%H%M%S')}"))
        try:
            with (self.path / CONFIG).open("x", encoding="utf-8") as file:
                file.write(config)
        except FileExistsError:
            raise self._error(": holds another run; choose another or delete it") from None

    def _error(self, reason: str) -> UserError:
        return UserError(readable(self.path) + reason, self._key)

    def release(self, unused: bool = False) -> None:
        """Let other processes use the directory.

        Args:
            unused: Whether nothing came of the run. Then what was made for it is removed, unless
                there is more of it than every run begins with.
        """
        if unused and self._found is not None:
            with suppress(OSError):
                self._remove(self._names() - self._found)
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)  # processes of a data loader share the file
            os.close(self._lock)
            self._lock = None

    def _names(self) -> set[str]:
        return {path.name for path in self.path.iterdir()}

    def _remove(self, names: set[str]) -> None:
        if not names <= AT_THE_START:
            return
        for path in (self.path / name for name in names):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for folder in self._made:
            folder.rmdir()
