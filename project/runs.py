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

from project.checkpoints import local
from project.class_paths import short_name
from project.console import is_utf8, readable
from project.errors import UserError
from project.run_files import CONFIG, IDENTITY, LOCK, SUMMARY, is_run_dir, read_json
from project.saving import copy, write

RUNS = Path("runs")
AT_THE_START = {LOCK, CONFIG, IDENTITY, "wandb"}  # what every run directory begins with


def experiment_name(config: Namespace) -> str:
    """Return the experiment: by default the first config file, or the approach.

    Further config files are for what goes on top of it, such as another logger.

    Raises:
        UserError: If it isn't the name of a folder in ``runs/``.
    """
    if config.experiment:
        path = Path(config.experiment)
        if config.run_dir is None and (path.is_absolute() or ".." in path.parts):
            raise UserError(f"{path} must be a folder in {RUNS}/", "experiment")
        return str(config.experiment)
    files = config.get("config") or []
    return Path(str(files[0])).stem if files else short_name(config.model)


def this_job() -> str | None:
    """Return the SLURM job that this process is part of, None outside of SLURM."""
    job, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return f"{job}_{task}" if job and task else os.environ.get("SLURM_JOB_ID")


def asked_config(run: Path) -> str | None:
    """Return the config that a run was asked for, None if it is the one that it has.

    A learning rate or a batch size may have been searched for.
    """
    return identity(run).get("config")


def job_of(run: Path) -> str | None:
    """Return the SLURM job that a run directory is of, None if it is of none."""
    return identity(run).get("slurm_job")


def identity(run: Path) -> dict[str, str | None]:
    """Return what a run directory says of the run: its id in W&B, its job, and the asked config."""
    return read_json(run / IDENTITY)


def run_of(checkpoint: str | Path) -> Path | None:
    """Return the run directory that holds a checkpoint, if it may be added to.

    That of a training which goes on isn't: W&B takes a run from one process at a time.
    """
    run = Path(checkpoint).parent.parent
    if not (is_run_dir(run) and identity(run) and os.access(run, os.W_OK)):
        return None
    try:
        with (run / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError:  # there are no locks here
        pass
    return run


class RunDir:
    """The directory of one run.

    Every rank chooses one, and the first of them makes it and writes to it. From :meth:`claim` on,
    no other process can write to it, until this one ends or calls :meth:`release`.

    Args:
        config: Config of the command.
        of: The run directory of the training that the command is about, None without one.

    Attributes:
        path: Its path.
        tracked: The directory of the training whose run in W&B this one adds to, or its own.
        wandb_id: Id of the run in W&B, which stays when it is resumed here.

    Raises:
        UserError: If it is not a folder on this machine.
    """

    def __init__(self, config: Namespace, of: Path | None = None) -> None:
        self._key = "experiment" if config.run_dir is None else "run_dir"
        stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        given = config.run_dir or f"{RUNS}/{config.experiment}/{stamp}"
        if "://" in given:
            raise UserError(f"{given} must be a folder on this machine", self._key)
        self.path = local(Path(given), self._key)
        if not is_utf8(str(self.path.absolute())):
            raise self._error(": is not in UTF-8, as W&B needs it; choose another name")
        self.tracked = self.path if of is None else of
        self.wandb_id = str(identity(self.tracked).get("wandb_id") or secrets.token_hex(4))
        self._lock: int | None = None  # a number: copies of the model hold this, too
        self._made: list[Path] = []
        self._goes_on = False
        self._found: set[str] | None = None  # what was in the directory; None before it is claimed

    def holds(self, file: str | None) -> bool:
        """Return whether a file is in the directory."""
        return file is not None and self.path.resolve() in Path(file).resolve().parents

    def claim(self, config: str, goes_on: bool = False, asked: str | None = None) -> None:
        """Make the directory, and write the config into it.

        Args:
            config: The complete config as YAML.
            goes_on: Whether the run in the directory is resumed. It keeps its config and its
                summary until :meth:`go_on`.
            asked: The config that was asked for, if finders have changed it.

        Raises:
            UserError: If it can't be made, holds another run, or is that of a running process.
        """
        try:
            self._make()
            self._goes_on = goes_on
            if not goes_on and (self.path / CONFIG).exists():
                raise self._error(
                    ": holds another run; choose another, delete it, or go on with --resume"
                )
            if not (self.path / CONFIG).exists():
                write(self.path / CONFIG, config)
            asked = asked or (asked_config(self.path) if goes_on else None)
            identity = {"wandb_id": self.wandb_id, "slurm_job": this_job(), "config": asked}
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

    def go_on(self, config: str) -> None:
        """Let the run that is resumed here have another config from now on, if there is one.

        Its summary, and its config if it was another one, stay under another name.

        Args:
            config: The complete config as YAML.

        Raises:
            UserError: If that can't be written; then both are as they were.
        """
        if not self._goes_on:
            return
        self._goes_on = False
        own, summary = self.path / CONFIG, self.path / SUMMARY
        changed = own.read_text(encoding="utf-8") != config
        stamp = f"until-{time.strftime('%Y%m%d-%H%M%S')}"
        for old in filter(Path.exists, [own, summary] if changed else [summary]):
            copy(old, old.with_stem(f"{old.stem}-{stamp}"))
        if changed:
            write(own, config)
        summary.unlink(missing_ok=True)

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
