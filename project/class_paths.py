"""Classes as a config names them: by ``class_path`` and ``init_args``."""

from pkgutil import resolve_name
from typing import Any

from jsonargparse import Namespace


def listed(value: Any) -> list[Namespace]:
    """Return what a config has under a key that takes one class or a list of them.

    None, true and false are no classes.
    """
    if isinstance(value, list | tuple):
        return list(value)
    return [value] if isinstance(value, Namespace) else []


def is_a(value: Namespace, base: type) -> bool:
    """Return whether a config names a class or a subclass of it."""
    try:
        named = resolve_name(value.class_path)
    except (ValueError, ImportError, AttributeError):  # which the parser answers
        return False
    return isinstance(named, type) and issubclass(named, base)


def those_of(value: Any, base: type) -> list[Namespace]:
    """Return the configs under a key that name a class or a subclass of it."""
    return [one for one in listed(value) if is_a(one, base)]
