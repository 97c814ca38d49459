"""Run directories: what is in them, and claiming one."""

import fcntl
import json
import os
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path

from jsonargparse import Namespace

from project.checkpoints import CHECKPOINTS, local
from project.console import is_utf8, readable
from project.errors import UserError
from project.saving import write

RUNS = Path("runs")
CONFIG = "config.yaml"
SUMMARY = "summary.json"
IDENTITY = "run.json"
LOCK = ".lock"
AT_THE_START = {LOCK, CONFIG, IDENTITY, "wandb"}  # what every run directory begins with


def experiment_name(config: Namespace) -> str:
    """The name of the last config file, or of the approach where there is none."""
    files = config.get("config") or []
    name: str = Path(str(files[-1])).stem if files else config.model.class_path.rpartition(".")[2]
    return name


def is_run_dir(folder: Path) -> bool:
    """Whether a folder is a run directory; other folders may hold a ``config.yaml``, too."""
    others = (LOCK, CHECKPOINTS)
    return (folder / CONFIG).is_file() and any((folder / name).exists() for name in others)


def this_job() -> str | None:
    """Return the SLURM job that this process is part of, None outside of SLURM."""
    job, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return f"{job}_{task}" if job and task else os.environ.get("SLURM_JOB_ID")


def job_of(run: Path) -> str | None:
    """Return the SLURM job that a run directory is of, None if it is of none."""
    return _identity(run).get("slurm_job")


def _identity(run: Path) -> dict[str, str | None]:
    try:
        found = json.loads((run / IDENTITY).read_text())
    except (OSError, ValueError):  # of an older version, or not of this program
        return {}
    return found if isinstance(found, dict) else {}


class RunDir:
    """The directory of one run.

    Every rank chooses one, and the first of them makes it and writes to it. From :meth:`claim` on,
    no other process can write to it, until this one ends or calls :meth:`release`.

    Args:
        config: Config of the command.

    Attributes:
        path: Its path.
        wandb_id: Id of the run in W&B, which stays when it is resumed here.

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
        self.wandb_id = str(_identity(self.path).get("wandb_id") or secrets.token_hex(4))
        self._lock: int | None = None  # a number: copies of the model hold this, too
        self._made: list[Path] = []
        self._found: set[str] | None = None  # what was in the directory; None before it is claimed

    def holds(self, file: str | None) -> bool:
        """Return whether a file is in the directory."""
        return file is not None and self.path.resolve() in Path(file).resolve().parents

    def claim(self, config: str, goes_on: bool = False) -> None:
        """Make the directory, and write the config into it.

        Args:
            config: The complete config as YAML.
            goes_on: Whether the run in the directory is resumed. Its ``metrics.csv`` goes on, too;
                its summary, and its config if it is another one, get another name.

        Raises:
            UserError: If it can't be made, holds another run, or is that of a running process.
        """
        try:
            self._make()
            if goes_on:
                self._set_aside(config)
            elif (self.path / CONFIG).exists():
                raise self._error(
                    ": holds another run; choose another, delete it, or go on with --resume"
                )
            write(self.path / CONFIG, config)
            identity = {"wandb_id": self.wandb_id, "slurm_job": this_job()}
            write(self.path / IDENTITY, json.dumps(identity) + "\n")
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

    def _set_aside(self, config: str) -> None:
        own = self.path / CONFIG
        changed = [own] if own.exists() and own.read_text(encoding="utf-8") != config else []
        for old in filter(Path.exists, [*changed, self.path / SUMMARY]):
            old.rename(old.with_stem(f"{old.stem}-until-{time.strftime('%Y%m%d-%H%M%S')}"))

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
