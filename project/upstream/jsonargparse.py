"""What is changed about jsonargparse: how it reads files, values, and the classes in a config."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import wraps
from types import UnionType
from typing import Any, Union, get_args, get_origin

from jsonargparse import Namespace, _typehints, _util, typing

typehints: Any = _typehints


def before_class_change(prepare: Callable[[Namespace, Namespace], None]) -> None:
    """Call a function before jsonargparse replaces a class in a config by another.

    jsonargparse keeps all arguments of the old class that the new one knows, too, so that ``SGD``
    would run with the ``weight_decay`` that the config gives ``AdamW``. It has no hook for it:
    https://github.com/Lightning-AI/pytorch-lightning/issues/8916

    Args:
        prepare: Takes the config of the old class, which it may change, and that of the new class.
    """
    keep: Callable[..., None] = _typehints.discard_init_args_on_class_path_change

    def prepare_and_keep(parser: Any, previous: Any, value: Any) -> None:
        if previous and previous["class_path"] != value["class_path"]:
            prepare(previous, value)
        keep(parser, previous, value)

    _typehints.discard_init_args_on_class_path_change = prepare_and_keep


def read_configs_by(read: Callable[[str], str]) -> None:
    """Let jsonargparse read its files by a function; it uses the encoding of the locale.

    Args:
        read: Takes the path of a file and returns its content.
    """
    before = typing.Path.read_text

    def read_text(path: typing.Path) -> str:
        is_file = not (path.is_url or path.is_fsspec or path._std_io)
        return read(path.absolute) if is_file else before(path)

    setattr(typing.Path, "read_text", read_text)  # noqa: B010  # mypy takes it for a mistake


def import_by(imported: Callable[[str, Callable[[str], Any]], Any]) -> None:
    """Let jsonargparse import what a value names by a function.

    Its policy of import paths is one for all configs, and tries the other alternatives of a type
    after a refusal.

    Args:
        imported: Takes an import path and what imports it, and returns the object.
    """
    load: Callable[..., Any] = _util.import_object

    def import_object(name: str, *args: Any, **options: Any) -> Any:
        by_code = False in (*args, options.get("check_path"))  # an annotation names it, no value
        return load(name, *args, **options) if by_code else imported(name, load)

    for name, module in list(sys.modules.items()):
        if name.startswith(f"{_util.__package__}.") and hasattr(module, load.__name__):
            setattr(module, load.__name__, import_object)


def find_configs_by(may_read: Callable[[str], bool]) -> None:
    """Let jsonargparse ask before it takes a text for the name of a file.

    Wherever a class is expected, it reads a file of that name, and there is no setting for it.

    Args:
        may_read: Takes the text and returns whether it may be a file.
    """
    start: Callable[..., None] = typing.Path.__init__

    @wraps(start)
    def init(path: typing.Path, text: Any, *args: Any, **options: Any) -> None:
        if isinstance(text, str) and not may_read(text):
            raise TypeError("no other file may be named here")
        start(path, text, *args, **options)

    setattr(typing.Path, "__init__", init)  # noqa: B010  # mypy takes it for a mistake


def read_numbers_by(load: Callable[[str], Any]) -> None:
    """Let jsonargparse read numbers and booleans by a function.

    Whatever loader is set, it reads them by its own, for which ``1:30`` is 90.

    Args:
        load: Takes a text and returns its value.
    """
    typehints.basic_json_or_yaml_load = load


class _AsItIs(typehints.NestedArg):  # type: ignore[misc]
    """What the command line gives an option of a class, for that option alone to read."""


_settled: ContextVar[bool] = ContextVar("_settled", default=False)


@contextmanager
def settled() -> Iterator[None]:
    """Let jsonargparse take the values of a parsed config as they are.

    Where any type is accepted, it would read the text ``true`` as YAML when it writes the config,
    and once more when it builds the object.
    """
    token = _settled.set(True)
    try:
        yield
    finally:
        _settled.reset(token)


def leave_texts() -> None:
    """Let jsonargparse leave texts alone: in :func:`settled`, and in arguments of a class.

    It takes ``--data.root null`` for None and ``--data.root "[a]"`` for a list, before it looks at
    the type of ``root``.
    """
    check: Callable[..., Any] = typehints.ActionTypeHint._check_type
    parse: Callable[..., Any] = typehints.parse_value_or_config

    @wraps(check)  # its signature is looked at
    def check_type(action: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(value, typehints.NestedArg) and not _takes_mapping(action._typehint):
            value = _AsItIs(*value)
        return check(action, value, *args, **kwargs)

    def parse_value(value: Any, *args: Any, **kwargs: Any) -> Any:
        as_it_is = isinstance(value, _AsItIs) or (kwargs.get("simple_types") and _settled.get())
        return (value, None) if as_it_is else parse(value, *args, **kwargs)

    typehints.ActionTypeHint._check_type = check_type
    typehints.parse_value_or_config = parse_value


def _takes_mapping(kind: Any) -> bool:
    origin = get_origin(kind)
    if origin in _typehints.mapping_origin_types:
        return True
    return origin in (Union, UnionType) and any(map(_takes_mapping, get_args(kind)))


def look_before(check_written: Callable[[str, Any], None]) -> None:
    """Call a function before jsonargparse checks a value, and let it number the items of a list.

    It fails at a ``class_path`` that is no text, and at ``init_args`` that are no mapping, with
    what Python says of these; and it doesn't say which item of a list is wrong.

    Args:
        check_written: Takes the key and the value, as it is written.
    """
    check: Callable[..., Any] = typehints.ActionTypeHint._check_type

    @wraps(check)  # its signature is looked at
    def check_type(action: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        nested = isinstance(value, typehints.NestedArg)
        check_written(
            *((f"{action.dest}.{value.key}", value.val) if nested else (action.dest, value))
        )
        try:
            return check(action, value, *args, **kwargs)
        except TypeError:
            items = value
            with suppress(typehints.get_loader_exceptions()):
                items = () if nested else typehints.parse_value_or_config(value)[0]
            many = isinstance(items, list | tuple) and _takes_list(action._typehint)
            for number, item in enumerate(items if many else ()):
                try:
                    check(action, [item], *args, **kwargs)
                except TypeError as error:
                    place = f'Parser key "{action.dest}[{number}]":'
                    raise TypeError(f"{place}\n{error}") from error
            raise

    typehints.ActionTypeHint._check_type = check_type


def keep_alternatives() -> None:
    """Let an error that no alternative of a type takes a value have the errors of all as its cause.

    jsonargparse raises it from that of the first one, and the others are lost.
    """
    fail: Callable[..., None] = typehints.raise_union_unexpected_value

    def raise_from_all(subtypes: Any, value: Any, exceptions: list[Exception]) -> None:
        try:
            fail(subtypes, value, exceptions)
        except ValueError as error:
            raise error from ExceptionGroup("alternatives", exceptions)

    typehints.raise_union_unexpected_value = raise_from_all


def _takes_list(kind: Any) -> bool:
    """Return whether a type takes a list of any length."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(map(_takes_list, args))
    return origin in _typehints.sequence_origin_types or (origin is tuple and args[-1] is Ellipsis)
