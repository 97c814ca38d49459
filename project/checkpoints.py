"""Saving, finding and opening checkpoints, without ever running code that is inside them."""

import zipfile
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from project.artifacts import fetched, is_artifact
from project.checkpoint_format import HYPER_PARAMETERS, NEEDED, PARTS, RESUMED, check_form
from project.console import readable, show
from project.errors import UserError
from project.run_files import CHECKPOINTS
from project.saving import whole

DAMAGED = ".damaged"  # what the name of one that was put aside ends in
ADVICE = "try a lower learning rate, trainer.gradient_clip_val or 32-bit precision"  # not finite


def from_home(path: str | Path) -> Path:
    """Return a path whose ``~/`` is replaced by the home directory.

    Raises:
        UserError: If there is none.
    """
    try:
        return Path(path).expanduser() if str(path).startswith("~/") else Path(path)
    except RuntimeError as error:
        raise UserError(f"{path}: this user has no home directory; give the whole path") from error


def local(path: Path, key: str) -> Path:
    """Return a path that Lightning doesn't take for the address of something else.

    It opens files with fsspec, which sees a kind of file system in ``a:b``, a home in ``~b`` and a
    chain of file systems in ``a::b``; only the last can't be written in another way.

    Args:
        path: A path.
        key: Key of the config that has it.

    Raises:
        UserError: If ``::`` is in the whole path.
    """
    if ":" in str(path) or str(path).startswith("~"):
        path = path.absolute()
    with suppress(OSError, ValueError, RuntimeError):  # named when it is used
        if "::" in str(path.resolve()):
            raise UserError(f"{path}: Lightning takes :: in a path for an address", key)
    return path


def find_checkpoint(path: str | Path, prefer: Literal["best", "last"] = "best") -> Path:
    """Return the checkpoint that ``path`` means: itself, or the one inside a run directory.

    That may be one which W&B keeps as an artifact.

    Raises:
        UserError: If there is none.
    """
    path = fetched(str(path)) if is_artifact(path) else from_home(path)
    if path.is_file():
        return path
    if not path.exists():
        raise UserError(f"{readable(path)}: no such checkpoint or run directory")
    for name in (prefer, "last", "best"):
        checkpoint = path / CHECKPOINTS / f"{name}.ckpt"
        if checkpoint.is_file():
            return checkpoint
    raise UserError(
        f"{readable(path)} holds no {CHECKPOINTS}/{prefer}.ckpt: is it a run directory?"
    )


def newest_checkpoint(run: Path) -> Path | None:
    """Return the checkpoint of a run directory with the most steps, of those that are whole.

    A damaged one is put aside, with a line that names it.

    Args:
        run: The run directory.

    Returns:
        The last or the best checkpoint, or None if there is none.

    Raises:
        UserError: If one can't be read, or all are damaged.
    """
    steps, damaged = {}, []
    for name in ("best", "last"):
        path = run / CHECKPOINTS / f"{name}.ckpt"
        if path.is_dir():  # of a strategy that shards
            steps[path] = -1
        elif path.exists():
            try:
                steps[path] = load_checkpoint(path).get("global_step", -1)
            except DamagedError as error:
                damaged.append(_put_aside(path, error))
    if damaged and not steps:
        raise UserError(
            f"{readable(run)}: no checkpoint is left that is whole ({', '.join(damaged)}); begin "
            "in another directory"
        )
    return max(reversed(steps), key=steps.__getitem__, default=None)


def _put_aside(path: Path, error: Exception) -> str:
    """Give a damaged checkpoint a name that none has yet, and return it."""
    names = (path.with_name(f"{path.name}{DAMAGED}{number or ''}") for number in count())
    aside = next(name for name in names if not name.exists())
    with suppress(OSError):  # another rank may have done it
        path.rename(aside)
    show(f"{error}; it is now {aside.name}")
    return aside.name


class DamagedError(UserError):
    """A file that is no whole checkpoint."""


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU with ``weights_only=True``, and check what it is made of.

    Raises:
        UserError: If the file can't be read, is not a Lightning checkpoint, or holds code.
        DamagedError: If it is no whole file.
    """
    try:
        _check(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds: zip, pickle, end of file
        reason = readable(f"{type(error).__name__}: {error}".splitlines()[0])
        code = isinstance(error, UnpicklingError) and zipfile.is_zipfile(path)
        whole = code or isinstance(error, OSError | MemoryError)  # this process alone can't read it
        kind = UserError if whole else DamagedError
        raise kind(f"{readable(path)} can't be opened as a checkpoint: {reason}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"{readable(path)} is not a checkpoint of a run: it has no state_dict")
    _check_parts(checkpoint, PARTS, "", path)
    _check_parts(
        checkpoint.get("hyper_parameters", {}), HYPER_PARAMETERS, "hyper_parameters.", path
    )
    return checkpoint


def _check_parts(
    whole: Mapping[str, Any], forms: Mapping[str, Any], place: str, path: str | Path
) -> None:
    for name, form in forms.items():
        if name in whole:
            check_form(whole[name], form, place + name, path)


def check_resumable(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Check that a checkpoint has all that a training needs to go on.

    Raises:
        UserError: If it hasn't.
    """
    if missing := [name for name in NEEDED if name not in checkpoint]:
        raise UserError(
            f"{readable(path)} has no {missing[0]}: it holds weights only (save_weights_only), "
            "which no training can resume from",
            "ckpt_path",
        )
    check_form(checkpoint["loops"], RESUMED, "loops", path)
    if not checkpoint["optimizer_states"]:
        raise UserError(
            f"{readable(path)} is damaged: optimizer_states is empty, and no optimizer can go on",
            "ckpt_path",
        )


def _check(path: str | Path) -> None:
    """Compare the checksums of what a checkpoint holds, which torch writes and never reads.

    This reads 1.6 GB/s, where :func:`torch.load` reads 1.0 (2 cores of an AMD EPYC, torch 2.14.1).

    Raises:
        zipfile.BadZipFile: If it is damaged.
    """
    with Path(path).open("rb") as file:
        if file.read(4) != b"PK\x03\x04":  # of an old torch, or no checkpoint: torch says it
            return
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"it is damaged in {damaged}")


class WholeCheckpoints(TorchCheckpointIO):
    """Saves checkpoints that are whole or absent, and never opens a damaged one.

    Lightning writes to the system's folder for temporary files, and moves the file from there: if
    that is another file system, the move is a copy over the checkpoint that was there before.
    https://github.com/Lightning-AI/pytorch-lightning/issues/19970

    Args:
        background: Whether to write while the training goes on. What is saved is copied in memory
            first; the next save waits for the one before, so that there is one copy at most.

    Attributes:
        infinite: Names of weights and buffers that may hold what isn't finite.
    """

    def __init__(self, background: bool = False) -> None:
        self.infinite: set[str] = set()
        self._executor = ThreadPoolExecutor(max_workers=1) if background else None
        self._running: Future[None] | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None
    ) -> None:
        """Save a checkpoint.

        Raises:
            UserError: If the file can't be written, or there are weights that aren't finite; the
                file before it is still there.
        """
        self.teardown()
        self._check_finite(checkpoint, path)
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        elif self._executor is None:
            _save(checkpoint, Path(path))
        else:
            copy = tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), checkpoint)
            self._running = self._executor.submit(_save, copy, Path(path))

    def _check_finite(self, checkpoint: dict[str, Any], path: _PATH) -> None:
        weights = {**checkpoint["state_dict"], **checkpoint.get("current_model_state", {})}
        states = enumerate(tree_leaves(checkpoint.get("optimizer_states", [])))
        name = not_finite(
            {name: value for name, value in weights.items() if name not in self.infinite}
        ) or not_finite({f"value {number} of the optimizer": value for number, value in states})
        if name:
            raise UserError(f"{name} isn't finite, and is not saved; {path} is as it was; {ADVICE}")

    def load_checkpoint(self, path: _PATH, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            UserError: If it is damaged.
        """
        self.teardown()
        if "://" in str(path):
            return super().load_checkpoint(path, *args, **kwargs)
        return load_checkpoint(path)

    def remove_checkpoint(self, path: _PATH) -> None:
        """Remove a checkpoint."""
        self.teardown()
        super().remove_checkpoint(path)

    def teardown(self) -> None:
        """Wait for the checkpoint that is being written.

        Raises:
            UserError: If it couldn't be.
        """
        running, self._running = self._running, None
        if running is not None:
            running.result()


def not_finite(values: Mapping[str, Any]) -> str:
    """Return the first name of a tensor that holds what isn't finite; empty if there is none."""
    for name, value in values.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        # a sum is read fast, and may be infinite where no value is
        if not value.sum().isfinite() and not value.isfinite().all():
            return name
    return ""


def _save(checkpoint: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = (leaf.nbytes for leaf in tree_leaves(checkpoint) if isinstance(leaf, Tensor))
    with whole(path, sum(sizes)) as file:
        torch.save(checkpoint, file)
