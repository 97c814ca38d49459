"""What the files of a run may name: reading a config that nobody gave by hand runs no code.

``--ckpt_path RUN`` reads ``RUN/config.yaml``. It may be anyone's, and each class in a config is an
import and a call. There are two ways from a text to code, and each has one gate here:
:func:`imported` for whatever becomes an object, :func:`may_read` for whatever becomes a file of
more config. What the command line itself says passes both.
"""

import pkgutil
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import Namespace
from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import CheckpointIO, LayerSync, Precision
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from torch.nn import Module
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from project.checkpoints import from_home
from project.console import readable
from project.errors import UserError
from project.upstream.jsonargparse import find_configs_by, import_by

OPTION = "trust"
TRUSTED_PACKAGES = (
    __name__.split(".")[0],
    "torch",
    "torchvision",
    "torchmetrics",
    "timm",
    "lightning",
)
"""What a checkpoint, or the config beside it, may name to be imported."""

T = TypeVar("T")
KINDS: tuple[type, ...] = (
    *(Module, Optimizer, LRScheduler, LightningDataModule, Callback, Logger, Profiler, Strategy),
    *(Accelerator, CheckpointIO, ClusterEnvironment, LayerSync, Precision),
)
"""What a class of these packages must be: a key may take anything that can be called, or anything.

Nothing of these does more with its arguments than its name says, and neither does a dataclass of
this package.
"""

PLACES = {"root_dir", "default_root_dir", "dirpath", "dir", "log_dir", "save_dir"}
"""Options whose relative path would be one in the working directory, not in the run directory."""

SAVE_DIR, RUN_DIR = "save_dir", "."  # of a logger: the run directory
CONFIGS = (".yaml", ".yml", ".json")


class Refused(BaseException):
    """A refusal on its way past jsonargparse, which tries one alternative of a type after another.

    Args:
        what: What the file does.
        right: What would be right.
        text: The text in the file.
        key: Its key, where it is known.
    """

    def __init__(self, what: str, right: str, text: str, key: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.right = right
        self.text = text
        self.key = key


@dataclass
class _Command:
    """What a command line says, and the file that it doesn't name but reads.

    Attributes:
        packages: Packages that it trusts.
        said: Every text on it, and in the files that it names.
        files: The same as absolute paths, and the file that it reads.
        file: Config of a run; None if there is none, or it is named.
        path: Its absolute path.
        values: What that file holds.
    """

    packages: frozenset[str] = frozenset()
    said: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    file: Path | None = None
    path: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


_command: ContextVar[_Command] = ContextVar("_command")


def _now() -> _Command:
    return _command.get(None) or _Command()


@contextmanager
def command() -> Iterator[None]:
    """Forget what was trusted when a command ends, and say in one line what was refused.

    Raises:
        UserError: In place of a refusal.
    """
    token = _command.set(_Command())
    try:
        yield
    except Refused as refused:
        raise _told(refused) from refused
    finally:
        _command.reset(token)


def _told(refused: Refused) -> UserError:
    now = _now()
    key = refused.key or next(_places(now.values, refused.text), "")
    where = f" ({readable(key)})" if key else ""
    what, right = readable(refused.what), readable(refused.right)
    return UserError(f"{readable(now.file or '')} {what}{where}; {right}")


def _places(value: Any, text: str, key: str = "") -> Iterator[str]:
    """Yield the keys under which a text is; ``class_path`` and ``init_args`` are none."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            hidden = name in ("class_path", "init_args")
            yield from _places(inner, text, key if hidden else f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for inner in value:
            yield from _places(inner, text, key)
    elif text and text in str(value):
        yield key


def add_option(parser: Any, file: str) -> None:
    """Add ``--trust`` to a parser; :func:`packages_in` reads it.

    Args:
        parser: The parser.
        file: What may name the package, for the help.
    """
    parser.add_argument(
        f"--{OPTION}",
        type=str | None,
        default=None,
        metavar="PACKAGE",
        help=f"Package of one's own that {file} may name; can be repeated.",
    )


def packages_in(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the packages that ``--trust PACKAGE`` names, and the other arguments.

    Raises:
        UserError: If it isn't followed by the name of a package.
    """
    rest: list[str] = []
    packages: list[str] = []
    remaining = iter(args)
    for arg in remaining:
        name, joined, value = arg.partition("=")
        if name != f"--{OPTION}":
            rest.append(arg)
            continue
        packages.append(value if joined else next(remaining, ""))
        if not packages[-1].isidentifier() or packages[-1] in sys.stdlib_module_names:
            known = "must be followed by the name of a package of your own, as in my_network"
            raise UserError(f"{known}, not {readable(packages[-1])!r}", name)
    return packages, rest


def trust_packages(packages: Sequence[str]) -> None:
    """Trust packages until the command ends.

    Args:
        packages: Their names.

    Raises:
        UserError: If one isn't the name of a package of one's own.
    """
    packages, _ = packages_in([f"--{OPTION}={package}" for package in packages])
    _command.set(_Command(frozenset(packages) - {*TRUSTED_PACKAGES}))


def take_packages(args: Sequence[str]) -> list[str]:
    """Return a command line without ``--trust PACKAGE``, which holds for this command alone.

    Raises:
        UserError: If it isn't followed by the name of a package.
    """
    packages, rest = packages_in(args)
    trust_packages(packages)
    words = iter(rest)
    for arg in words:
        name, joined, value = arg.partition("=") if arg.startswith("--") else ("", "=", arg)
        if name in ("--ckpt_path", "--resume"):  # whose name may be another's choice
            if not joined:
                next(words, None)
        elif joined:
            _hear(value)
    return rest


def _hear(text: str, folder: Path | None = None) -> None:
    words = {text, *re.findall(r"[^\s\"'\[\]{},:=]+", text)}
    words |= {str(from_home(word)) for word in words if word.startswith("~/")}
    now = _now()
    now.said |= words
    now.files |= {str(Path(folder or "", word).absolute()) for word in words}


def distrust(file: Path, values: Mapping[str, Any]) -> None:
    """Let a config that the command line doesn't name run no code, until the command ends.

    Args:
        file: The config.
        values: What it holds.
    """
    now = _now()
    now.file, now.values = file, values
    now.path = str(file.absolute())
    now.files.add(now.path)


def imported(name: str, load: Callable[[str], Any]) -> Any:
    """Return the object of an import path in a config.

    Args:
        name: The import path.
        load: Imports it.

    Raises:
        Refused: If a config that nobody gave names it, and it isn't a class of a trusted package
            that a config is meant to name.
    """
    now = _now()
    is_path = "." in name and all(part.isidentifier() for part in name.split("."))
    if now.file is None or not is_path:  # load says what is wrong with it
        return load(name)
    return _checked(name, load)


def resolve_name(name: str) -> Any:
    """Return the object of an import path, under the same conditions as :func:`imported`."""
    load = pkgutil.resolve_name
    return load(name) if _now().file is None else _checked(name, load)


def _checked(name: str, load: Callable[[str], Any]) -> Any:
    now = _now()
    package = re.split("[.:]", name)[0]
    if name in now.said:
        return load(name)
    if package not in {*TRUSTED_PACKAGES, *now.packages}:
        if name.endswith(CONFIGS):
            raise Refused(f"names the file {name}", _whole(), name)
        raise Refused(f"names {name}", _right(package), name)
    found = load(name)
    if not is_trusted(found):
        raise Refused(f"names {name}, which no such file may", _whole(), name)
    return found


def _right(package: str) -> str:
    if package in sys.stdlib_module_names:
        return _whole()
    return f"if you trust the code of that package, give --{OPTION} {package}"


def _whole() -> str:
    return f"if you trust all of it, give --config {_now().file}"


def is_trusted(found: Any, *kinds: type) -> bool:
    """Return whether an object, imported from a trusted package, may be used by a run's files.

    Args:
        found: The object.
        kinds: What it must be a subclass of; by default any of ``KINDS``, or a dataclass.
    """
    home = str(getattr(found, "__module__", getattr(found, "__name__", ""))).partition(".")[0]
    if home in _now().packages:
        return True
    if not isinstance(found, type) or home not in TRUSTED_PACKAGES:
        return False
    own_values = not kinds and home == TRUSTED_PACKAGES[0] and is_dataclass(found)
    return own_values or issubclass(found, kinds or KINDS)


def class_in(file: Path, name: str, base: type[T]) -> type[T]:
    """Return a class that a checkpoint names.

    Args:
        file: The checkpoint.
        name: Import path of the class.
        base: What it must be a subclass of.

    Raises:
        UserError: If it isn't one, or of no trusted package.
    """
    package = name.partition(".")[0]
    if package not in {*TRUSTED_PACKAGES, *_now().packages}:
        right = f"if you trust the code of that package, give --{OPTION} {package}"
        if package in sys.stdlib_module_names:
            right = "no checkpoint may name that"
        raise UserError(readable(f"{file} names {name}; {right}"))
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{readable(file)} names {readable(name)}: {error}") from error
    if not (is_trusted(found, base) and isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{readable(file)} names {readable(name)}, which is no {base.__name__}")
    return found


def may_read(path: str) -> bool:
    """Return whether a text in a config may be the name of a file with more of it."""
    now = _now()
    return now.file is None or str(Path(path).absolute()) in now.files


def heard(text: str, path: str) -> str:
    """Return the content of a config file; what the command line names says it by hand, too."""
    now = _now()
    if now.file is not None and path != now.path:
        _hear(text, Path(path).parent)
    return text


def check_places(config: Namespace) -> None:
    """Let nothing be written outside of the run directory, unless the command line says so.

    Where data is, or a cache of it, isn't a part of a run: ``data`` may name any folder.

    Args:
        config: Config of the command.

    Raises:
        Refused: If the config of a run says so.
        UserError: If a config says what to trust.
    """
    now = _now()
    if config.get(OPTION) is not None:
        raise UserError("is for the command line alone", OPTION)
    if now.file is None:
        return
    names = ("run_dir", "trainer", "checkpoint")
    for key, text in _texts({name: config.get(name) for name in names}):
        name = key.rpartition(".")[2]
        here = name not in PLACES or (name == SAVE_DIR and text == RUN_DIR)
        if text not in now.said and (not here or key == names[0] or _leaves(text)):
            raise Refused(f"names {text}, which isn't in the run directory", _whole(), text, key)


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Namespace | dict):
        for name, inner in vars(value).items() if isinstance(value, Namespace) else value.items():
            if name != "class_path":
                place = key if name == "init_args" else f"{key}.{name}" if key else str(name)
                yield from _texts(inner, place)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner, key)
    elif isinstance(value, str | Path):
        yield key, str(value)


def _leaves(text: str) -> bool:
    return (
        text.startswith(("/", "~"))
        or ".." in Path(text).parts
        or re.match(r"\w+:[/.]", text) is not None
    )


def check_downloads(config: Namespace, prefix: str, key: str) -> None:
    """Let no weights be downloaded from where only the config of a run says.

    Args:
        config: A part of the config of the command.
        prefix: What the names of such places begin with.
        key: The key of that part.

    Raises:
        Refused: If it is so.
    """
    texts = dict(_texts(config, key))
    for place, text in texts.items():
        if text.startswith(prefix) and f"{place.rpartition('.')[0]}.weights" in texts:
            check_download(text, place)


def check_download(url: str, key: str) -> None:
    """Let nothing be downloaded that only the config of a run asks for.

    Raises:
        Refused: If it is so.
    """
    now = _now()
    if now.file is not None and url not in now.said:
        raise Refused(f"would download {url}", f"if you trust it, give --{key} {url}", url, key)


find_configs_by(may_read)
import_by(imported)
