"""The parser behind the command line: what LightningCLI's own gets wrong in reading a config."""

import re
import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, NoReturn

from jsonargparse import Namespace, _typehints
from jsonargparse._util import import_object
from lightning.pytorch.cli import LightningArgumentParser
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from project.approaches import ImageClassifier
from project.data import ImageDataModule
from project.networks import Network

_keep_arguments: Callable[..., None] = _typehints.discard_init_args_on_class_path_change


def _start_afresh(parser: Any, previous: Any, value: Any) -> None:
    """Forget the arguments of an optimizer, scheduler or network when another class replaces it.

    jsonargparse keeps those that the new class knows too, so that ``SGD`` would run with the
    ``weight_decay`` that the config meant for ``AdamW``.
    """
    if previous and previous["class_path"] != value["class_path"]:
        replaced = import_object(value["class_path"])
        if isinstance(replaced, type) and issubclass(replaced, (Optimizer, LRScheduler, Network)):
            previous["init_args"] = Namespace()
    _keep_arguments(parser, previous, value)


_typehints.discard_init_args_on_class_path_change = _start_afresh


class ProjectParser(LightningArgumentParser):
    """Takes no abbreviated options, and answers a mistake with one line instead of a page."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong, where, and what would be right; exit with 2."""
        sys.stderr.write(f"error: {explain(message)}\n")
        sys.exit(2)


_NOISE = re.compile(
    r"^(Does not validate against any of the Union subtypes|Subtypes: .*|Errors:|"
    r"Expected a <class 'NoneType'>.*|Given value type: .*|Given value: .*|"
    r"Expected a path but .* either not accessible or invalid)$"
)


def explain(message: str) -> str:
    """Reduce jsonargparse's message to the key, the mistake and a suggestion.

    It nests what each alternative of a type has to say, down to ``Expected a NoneType``.
    """
    keys: list[str] = []
    causes: list[str] = []
    owner = ""
    for line in (line.strip().removeprefix("- ") for line in message.splitlines()):
        if match := re.match(r'^(?:.*: )?Parser key "([^"]+)":\s*(.*)$', line):
            keys.append(match[1])
            line = match[2]
        elif match := re.match(r"^Problem with given class_path '([^']+)':$", line):
            owner = match[1]
            continue
        if line and not _NOISE.match(line) and line not in causes:
            causes.append(line)
    cause = "; ".join(causes) or message
    if match := re.match(r"Option '([^']+)' is not accepted", cause):
        option = match[1].split(".")[0]
        cause = f"{owner.rpartition('.')[2]} has no option {option!r}" + _similar(
            option, _options(owner)
        )
    elif match := re.match(r"Expected a dot import path string: (\S+)", cause):
        known = _class_names(keys[-1] if keys else "")
        cause = f"no class {match[1]!r}" + _similar(match[1], known)
    return f"{'.'.join(keys)}: {cause}" if keys else cause


def _similar(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, n=2, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; it has {', '.join(known)}" if known else ""


def _options(class_path: str) -> list[str]:
    from jsonargparse import ArgumentParser

    try:
        parser = ArgumentParser(exit_on_error=False)
        return [
            name.removeprefix("x.")
            for name in parser.add_class_arguments(
                import_object(class_path), "x", fail_untyped=False, sub_configs=True
            )
        ]
    except Exception:
        return []


def _class_names(key: str) -> list[str]:
    bases: dict[str, type] = {
        "model": ImageClassifier,
        "data": ImageDataModule,
        "network": Network,
        "optimizer": Optimizer,
        "scheduler": LRScheduler,
    }
    return sorted(_subclasses(bases[key])) if key in bases else []


def _subclasses(base: type) -> set[str]:
    names: set[str] = set()
    subclass: type
    for subclass in base.__subclasses__():
        if not subclass.__name__.startswith("_"):
            names.add(subclass.__name__)
        names |= _subclasses(subclass)
    return names
