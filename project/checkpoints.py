"""Finding and opening checkpoints, without ever running code that is inside them."""

from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch

from project.errors import UserError

# what a checkpoint, or the config beside it, may name to be imported
TRUSTED_PACKAGES = (
    __name__.split(".")[0],
    "torch",
    "torchvision",
    "torchmetrics",
    "timm",
    "lightning",
)


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
    chain of file systems in ``a::b``; only of the last there is no other way to write it.

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

    Raises:
        UserError: If there is none.
    """
    path = from_home(path)
    if path.is_file():
        return path
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint or run directory")
    for name in (prefer, "last", "best"):
        checkpoint = path / "checkpoints" / f"{name}.ckpt"
        if checkpoint.is_file():
            return checkpoint
    raise UserError(f"{path} holds no checkpoints/{prefer}.ckpt: is it a run directory?")


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU with ``weights_only=True``.

    Raises:
        UserError: If the file is broken, not a Lightning checkpoint, or holds code.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds: zip, pickle, end of file
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{path} can't be opened as a checkpoint: {reason}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"{path} is not a checkpoint of a run: it has no state_dict")
    return checkpoint
