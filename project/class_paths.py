"""Classes as a config names them: by ``class_path`` and ``init_args``."""

from pkgutil import resolve_name
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from project.errors import UserError

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


def check_arguments(config: Any, key: str = "") -> None:
    """Check that the arguments of each class in a config have names.

    Args:
        config: A config or a value in it.
        key: Its key; may be empty.

    Raises:
        UserError: If ``init_args`` is something else, which jsonargparse lets pass.
    """
    for one in config if isinstance(config, list | tuple) else [config]:
        for name, value in vars(one).items() if isinstance(one, Namespace) else ():
            inner = f"{key}.{name}" if key else name
            if name == "init_args" and not isinstance(value, Namespace | dict | None):
                raise UserError(f"{value!r} must be a mapping of names to values", inner)
            check_arguments(value, inner)


def those_of(value: Any, base: type) -> list[Namespace]:
    """Return the configs under a key that name a class or a subclass of it."""
    return [one for one in listed(value) if is_a(one, base)]
