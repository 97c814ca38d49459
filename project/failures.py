"""Errors that nobody foresaw: whose they are, and one line for those that a user can mend."""

import os
import re
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from inspect import signature
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import Any, Literal, TypeVar

import jsonargparse
import lightning
import torch
from jsonargparse import Namespace, add_instantiator
from lightning.fabric.plugins import ClusterEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import Precision
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from torch.distributed import DistError
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from project.console import readable
from project.errors import UserError
from project.trust import Refused, resolve_name
from project.upstream.lightning import restored

OURS = Path(__file__).parent
LIBRARIES = {
    *map(
        str, (Path(str(module.__file__)).parents[1] for module in (torch, lightning, jsonargparse))
    ),
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    *(*site.getsitepackages(), site.getusersitepackages()),
}
"""Where they are; PYTHONPATH and .pth files may name other folders than Python's own."""
KEYS: dict[type, str] = {
    Callback: "trainer.callbacks",
    Logger: "trainer.logger",
    Profiler: "trainer.profiler",
    LRScheduler: "model.lr_scheduler",
    Optimizer: "model.optimizer",
}
AROUND: dict[type, str] = {
    ClusterEnvironment: "the environment",
    Accelerator: "trainer.accelerator",
    Precision: "trainer.precision",
    Strategy: "trainer.strategy",
}
"""Keys of what the config doesn't name by a class. What is in ``AROUND`` calls all the rest."""

PLAIN_WORDS = KeyError, AttributeError, AssertionError, IndexError, ArithmeticError
MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|alloc_cpu", re.I)
OPTIONS = frozenset(signature(Trainer).parameters)
VARIABLES = (  # that Lightning and torch read as numbers
    *("MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "NUM_NODES"),
    *("LOCAL_WORLD_SIZE", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"),
)
OBJECTS = ("callbacks", "logger", "profiler", "plugins")
CHOICES = ("accelerator", "strategy", "precision")
T = TypeVar("T")
Whose = Literal["package", "library", "user"]


class Raised(BaseException):
    """An error on its way past jsonargparse, which reports only what its first alternative says."""


def build(class_type: type[T], *args: Any, **kwargs: Any) -> T:
    """Return an object of a class.

    Raises:
        Raised: From whatever the class raises.
    """
    try:
        return class_type(*args, **kwargs)
    except Exception as error:
        raise Raised from error


for _kind, _place in (KEYS | AROUND).items():
    if _place.startswith("trainer."):
        add_instantiator(build, _kind)


def explained(
    error: Exception,
    config: Namespace,
    own: Mapping[type, str] | None = None,
    building: bool = False,
) -> Exception:
    """Return the error to show: a UserError of one line, or the error itself with a note.

    The frames are looked at from the one that raised it outwards. The first that belongs to the
    package or to the user decides; before that, the first object of a library that the config
    names.

    Args:
        error: What was raised while a config was carried out.
        config: That config.
        own: Classes of the package whose options have a key of their own.
        building: Whether objects were still being built from it; then what the package hands on
            to a library is what the config gave.

    Returns:
        A UserError if the config, the data or the machine is at fault.
    """
    named = {**dict(named_classes(config)), **(own or {})}
    steps = [*walk_tb(error.__traceback__)]
    frames = [frame for frame, _ in steps]
    if isinstance(error, UserError):
        _complete(error, frames, named)
        return error
    if (told := _unrestored(error, frames)) is not None:
        return told
    trainer = config.get("trainer") or Namespace()
    for depth, frame in reversed(list(enumerate(frames))):
        whose = _whose(frame.f_code.co_filename)
        owner = frame.f_locals.get("self", frame.f_locals.get("cls"))
        nearby = depth >= len(frames) - 2
        key, name = _key(owner, (named, KEYS, AROUND) if nearby else (named, KEYS))
        if whose == "user":
            what = f"{name}, which {key} names: " if key else ""
            place = f"{_short(frame.f_code.co_filename)}, line {steps[depth][1]}"
            return _noted(error, f"raised in code of your own: {what}{place}")
        if (line := machine(error)) is not None:
            return line
        refused = building and isinstance(error, TypeError | ValueError | RuntimeError)
        known = refused if whose == "package" else _is_of_library(owner)
        if isinstance(error, MisconfigurationException) and not known:
            known = _caller(frames[:depth]) != "user"  # who may have called it where it can't be
        if key and known:
            return UserError(f"{name}: {sentence(error)}", key)
        if whose == "package" and not refused:
            return _outside(error, frames[depth + 1 :], trainer)
    return machine(error) or _outside(error, frames, trainer)


def _complete(error: UserError, frames: Sequence[FrameType], named: Mapping[type, str]) -> None:
    """Put the key of an object before that of an option, of which alone the object knows."""
    option = re.split(r"\W", error.key)[0]
    for frame in reversed(frames) if option else ():
        owner = frame.f_locals.get("self")
        key, _ = _key(owner, (named,))
        if key and option in signature(type(owner)).parameters and not error.key.startswith(key):
            error.key = f"{key}.{error.key}"
            return


def _caller(frames: Sequence[FrameType]) -> Whose:
    """Return whose code called a library."""
    callers = [_whose(frame.f_code.co_filename) for frame in frames]
    return next((whose for whose in reversed(callers) if whose != "library"), "library")


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it was raised from, also where there are several of these."""
    waiting, seen = [error], set()
    while waiting:
        error = waiting.pop(0)
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        yield error
        waiting += [
            *(error.exceptions if isinstance(error, BaseExceptionGroup) else ()),
            error.__cause__ or error.__context__,
        ]


def own_line(error: BaseException) -> str:
    """Return the file and the line of a user's own code that raised an error, if any did."""
    places = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        places.append((error.filename, error.lineno or 1))
    own = [f"{_short(file)}, line {line}" for file, line in places if _whose(file) == "user"]
    return own[-1] if own else ""


def _short(file: str) -> str:
    """Return a file as it is seen from where Python imports it."""
    roots = [root for root in sys.path if root and Path(file).is_relative_to(root)]
    return readable(Path(file).relative_to(max(roots, key=len)) if roots else file)


def _unrestored(error: Exception, frames: Sequence[FrameType]) -> UserError | None:
    """Return the UserError for an error of restoring a checkpoint, None for other errors."""
    parts = [found for frame in frames if (found := restored(frame))]
    own_code = any(_whose(frame.f_code.co_filename) == "user" for frame in frames)
    if not parts or own_code or isinstance(error, MisconfigurationException) or machine(error):
        return None
    part, path = parts[-1]
    reason = f"its {part} can't be restored: {sentence(error)}"
    return UserError(f"{readable(path)} is damaged, or of another program: {reason}", "ckpt_path")


def innermost(error: BaseException, package: str) -> BaseException:
    """Return what a package reports in words of its own, as it was raised."""
    while error.__cause__ is not None and raised_by(error) == package:
        error = error.__cause__
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
    return error


def raised_by(error: BaseException) -> str:
    """Return the name of the package whose code raised an error."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals.get("__name__", "")).partition(".")[0] if frames else ""


def machine(error: BaseException) -> UserError | None:
    """Return one line for an error of files, memory or network; None for another."""
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and MEMORY.search(str(error))
    ):
        hint = "lower data.batch_size, data.image_size, or the size of the network"
        return UserError(f"not enough memory ({sentence(error)}); {hint}")
    if isinstance(error, DistError):
        key, address = "MASTER_ADDR", os.environ.get("MASTER_ADDR")
        if "listen" in str(error):
            key, address = "MASTER_PORT", os.environ.get("MASTER_PORT")
        hint = "each machine must be able to reach the first, within the timeout of the strategy"
        return UserError(f"{address}: {sentence(error)}; {hint}", key)
    if isinstance(error, OSError) and error.strerror:
        where = error.filename or error.filename2
        return UserError(error.strerror, str(where) if where is not None else "")
    if isinstance(error, ValueError) and (variable := _variable(str(error))):
        return UserError(f"{os.environ[variable]!r}: {sentence(error)}", variable)
    if isinstance(error, ValueError) and "embedded null" in str(error):
        return UserError("a path in the config holds the character \\0")
    if isinstance(error, UnicodeError):
        return UserError(f"{sentence(error)}; use UTF-8")
    if type(error).__module__.partition(".")[0] == "wandb":
        return UserError(f"W&B: {sentence(error)}", "trainer.logger")
    return None


def _variable(text: str) -> str | None:
    """Return the environment variable of a distributed training whose value a message has."""
    found = re.search(r"(?:'(.+)'|\bwas (\S+)\.)$", text)
    value = found and (found[1] or found[2])
    return next((name for name in VARIABLES if value and os.environ.get(name) == value), None)


def fault(error: Exception) -> Exception:
    """Return an error of the package itself, with a request for a report."""
    return _noted(error, "this is a fault of the program: please report it, with the lines above")


def _noted(error: Exception, note: str) -> Exception:
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)
    return error


def named_classes(config: Any, key: str = "") -> Iterator[tuple[type, str]]:
    """Yield the classes that a config names, each with its key."""
    if isinstance(config, list | tuple):
        numbered = len(config) > 1 and key != KEYS[Logger]  # of which a run has more than are given
        for number, item in enumerate(config):
            yield from named_classes(item, f"{key}[{number}]" if numbered else key)
    if not isinstance(config, Namespace | dict):
        return
    if isinstance(path := config.get("class_path"), str):
        with suppress(ImportError, AttributeError, ValueError, Refused):  # the parser answers
            yield resolve_name(path), key
    for name, value in vars(config).items() if isinstance(config, Namespace) else config.items():
        inner = key if name == "init_args" else f"{key}.{name}" if key else str(name)
        yield from named_classes(value, inner)


def _key(owner: Any, known: Sequence[Mapping[type, str]]) -> tuple[str, str]:
    """Return the key of an object, and the name of its class; empty if it has none."""
    kind = owner if isinstance(owner, type) else type(owner)
    for keys in known:
        for base, key in keys.items():
            if isinstance(base, type) and issubclass(kind, base):
                return key, kind.__name__
    return "", ""


def _whose(file: str) -> Whose:
    path = Path(file)
    if path.is_relative_to(OURS):
        return "package"
    library = file.startswith("<") or any(map(path.is_relative_to, LIBRARIES))
    return "library" if library else "user"


def _is_of_library(owner: Any) -> bool:
    """Return whether an object's class is a library's, not one that only inherits from it.

    A logger of the package counts as one: it hands on what the config gave it.
    """
    kind = owner if isinstance(owner, type) else type(owner)
    file = getattr(sys.modules.get(kind.__module__), "__file__", None) or "<built in>"
    whose = _whose(file)
    return whose == "library" or (whose == "package" and issubclass(kind, Logger))


def _outside(error: Exception, frames: list[FrameType], trainer: Namespace) -> Exception:
    """Return an error of a library that the package called: the config's fault, or its own."""
    text = str(error)
    option = _option(text, trainer)
    by_trainer = any(isinstance(frame.f_locals.get("self"), Trainer) for frame in frames)
    kinds = TypeError | ValueError | RuntimeError | ImportError | ArithmeticError
    usual = isinstance(error, kinds)
    if not by_trainer or not (option or usual or isinstance(error, MisconfigurationException)):
        return fault(error)
    if option in ("accelerator", "strategy") and isinstance(trainer.get(option), str):
        return UserError(
            f"{trainer[option]!r} can't be used: {sentence(error)}", f"trainer.{option}"
        )
    return UserError(sentence(error), f"trainer.{option}" if option else "trainer")


def _option(text: str, trainer: Namespace) -> str | None:
    """Return the option of the trainer that a message of Lightning's is about, if it is clear.

    Of the options that the config gives, it is the one whose value the message has, or whose name;
    a message about a strategy may also mention the accelerator, which nobody has given.
    """
    words = re.findall(r"\w+", text)
    given = [
        name
        for name, option in signature(Trainer).parameters.items()
        if trainer.get(name) not in (None, option.default) and name not in OBJECTS
    ]
    by_value = [name for name in given if isinstance(trainer[name], str) and trainer[name] in words]
    mentioned = [word for word in words if word in OPTIONS and "_" in word]
    by_name = [name for name in given if name in words and name in CHOICES]
    found = [*by_value, *by_name, *mentioned]
    return found[0] if found else _option_in_quotes(text)


def _option_in_quotes(text: str) -> str | None:
    """Return an option whose name is an ordinary word, such as ``devices``, if it is meant."""
    quoted = re.findall(r"[`'\"(](\w+)[`'\"=]|(\w+)=", text)
    words = [word for pair in quoted for word in pair if word in OPTIONS]
    return words[0] if words else None


def sentence(error: BaseException, named: bool = False) -> str:
    """Return what an error says, in a line; with its kind where it needs it, or always."""
    text = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())
    if named or isinstance(error, PLAIN_WORDS) or not text:
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return text if len(text) < 400 else f"{text[:400]} …"
