"""Classes as a config names them: by ``class_path`` and ``init_args``."""

from contextlib import suppress
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from project import config_text
from project.errors import UserError
from project.trust import resolve_name

FROM_DATA = ("num_classes", "image_shape", "class_names", "normalization")
"""Options of a model that the data gives it."""
FROM_MODEL = ("input_spec",)
"""Options of the data that a pretrained backbone gives it."""


def listed(value: Any) -> list[Namespace]:
    """Return what a config has under a key that takes one class or a list of them.

    None, true and false are no classes.
    """
    if isinstance(value, list | tuple):
        return list(value)
    return [value] if isinstance(value, Namespace) else []


def is_a(value: Namespace, base: type) -> bool:
    """Return whether a config names a class or a subclass of it."""
    found = named(value.class_path)
    return isinstance(found, type) and issubclass(found, base)


def init_args_of(value: Namespace) -> Namespace:
    """Return the options that a config gives a class; empty if it gives none."""
    return value.get("init_args") or Namespace()


def short_name(value: Namespace) -> str:
    """Return the name of the class that a config names, without its module."""
    name: str = value.class_path.rpartition(".")[2]
    return name


def named(class_path: str) -> Any:
    """Return what a path names; None for a name without its module, which the parser answers."""
    try:
        return resolve_name(class_path)
    except (ValueError, ImportError, AttributeError):
        return None


def class_parser(owner: type) -> ArgumentParser:
    """Return a parser of the options of a class."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(owner, fail_untyped=False, sub_configs=True)
    return parser


def check_written(key: str, value: Any) -> None:
    """Check what a config says of a class before it is read, where the parser fails at it.

    Args:
        key: Key of the value.
        value: What is written: a mapping, a list of these, or the text of one.

    Raises:
        UserError: If a class has no name, or options that are none.
    """
    if isinstance(value, str) and value.startswith(("{", "[")):
        with suppress(yaml.YAMLError):  # which the parser answers
            value = config_text.load(value)
    if isinstance(value, list | tuple):
        for number, item in enumerate(value):
            check_written(f"{key}[{number}]", item)
    if not isinstance(value, Namespace | dict):
        return
    for name, inner in [*(vars(value) if isinstance(value, Namespace) else value).items()]:
        own = key if name == "init_args" else f"{key}.{name}"
        if name == "class_path" and not (isinstance(inner, str) and inner):
            raise UserError(f"{config_text.in_line(inner)} must be the name of a class", own)
        if name == "init_args" and not isinstance(inner, Namespace | dict):
            reason = (
                f"{config_text.in_line(inner)} must be a mapping of options to values, or left out"
            )
            raise UserError(reason, f"{key}.init_args")
        if name == "init_args":
            for option in vars(inner) if isinstance(inner, Namespace) else inner:
                config_text.check_key(option, own)
        check_written(own, inner)


def those_of(value: Any, base: type) -> list[Namespace]:
    """Return the configs under a key that name a class or a subclass of it."""
    return [one for one in listed(value) if is_a(one, base)]
