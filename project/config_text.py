"""Configs as text: YAML in UTF-8, where whatever is written is read again as the same value.

jsonargparse writes YAML with one notion of a number and reads it with another, so that the text
``1e3`` comes back as 1000.0; it reads the locale's encoding; and it takes what a file gives in
quotes for YAML once more.
"""

import re
from collections.abc import Hashable
from enum import Enum
from pathlib import Path
from typing import Any, cast

import yaml
from jsonargparse import Namespace

from project.errors import UserError

MOST_VALUES = 1_000_000  # of a config, with what aliases repeat
MISSING = "null"  # the word that means None, in a file and on the command line


class Text(str):
    """A text that a YAML file gives in quotes: it is what it is, not YAML once more."""

    __slots__ = ()


class ConfigLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads YAML 1.1 with the numbers of YAML 1.2, and takes no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return a mapping.

        Raises:
            yaml.MarkedYAMLError: If a key is there twice; YAML would take the last.
        """
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                problem = f"the key {key.value!r} is there twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                seen.add(key.value)
        return cast(dict[Hashable, Any], super().construct_mapping(node, deep=deep))

    def _text(self, node: yaml.ScalarNode) -> str:
        text = str(self.construct_scalar(node))
        return Text(text) if node.style else text


_NUMBERS = {
    "float": r"[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.\d[\d_]*"
    r"(?:[eE][-+]?\d+)?|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
    "int": r"[-+]?(?:0b[01_]+|0x[\da-fA-F_]+|0o?[0-7_]+|[1-9][\d_]*|0)",
}
ConfigLoader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag.rpartition(":")[2] not in ("timestamp", "value", *_NUMBERS)
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, _pattern in _NUMBERS.items():
    ConfigLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}",
        re.compile(f"^(?:{_pattern})$", re.ASCII),
        list("-+0123456789."),
    )
ConfigLoader.add_constructor("tag:yaml.org,2002:str", ConfigLoader._text)


class ConfigDumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Writes a text in quotes unless it is a plain word that nothing could take for another."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write a value that occurs twice twice."""
        return True

    def _write_text(self, data: str) -> yaml.Node:
        text = str(data.value if isinstance(data, Enum) else data)  # a default of Lightning's Timer
        style = None if _PLAIN.fullmatch(text) and type(load(text)) is str else '"'
        node: yaml.Node = self.represent_scalar("tag:yaml.org,2002:str", text, style=style)
        return node


_PLAIN = re.compile(r"(?:[A-Za-z_/]|\.\.?/)[\w./-]*(?:[ :][\w./-]+)*", re.ASCII)
ConfigDumper.add_representer(str, ConfigDumper._write_text)
ConfigDumper.add_multi_representer(str, ConfigDumper._write_text)


def load(text: str, path: str = "") -> Any:
    """Read YAML.

    Args:
        text: The content of a config file, or a value on the command line.
        path: Where it is from, for the message.

    Returns:
        What it holds; a text that isn't a config in any sense, such as a comment, is itself.

    Raises:
        yaml.YAMLError: If it can't be read; the message says where.
    """
    try:
        value = yaml.load(str(text), ConfigLoader)
        _check_size([value])
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise yaml.YAMLError(f"{path and f'{path}, '}{place}{error.problem}") from error
    except yaml.reader.ReaderError as error:
        reason = f"the character {chr(error.character)!a} is not allowed in YAML"
        raise yaml.YAMLError(f"{path and f'{path}: '}{reason}") from error
    except (ValueError, UnicodeError) as error:  # such as 0x_, or half of a surrogate pair
        raise yaml.YAMLError(f"{path and f'{path}: '}{error}") from error
    if value is None and text.strip() != MISSING:
        return text
    if (
        isinstance(value, dict)
        and value
        and text.strip(" {}") == text.strip() == f"{next(iter(value))}:"
    ):
        return text  # C: is a text
    return value


def _check_size(values: list[Any]) -> None:
    """Refuse what aliases make endless, or nearly so.

    Raises:
        ValueError: If there are more values than a config could have.
    """
    count = 0
    while values:
        value = values.pop()
        count += 1
        if count > MOST_VALUES:
            raise ValueError("its aliases (*) repeat each other without end")
        if isinstance(value, dict | list | tuple):
            values += value.values() if isinstance(value, dict) else value


def dump(value: Any) -> str:
    """Write YAML that :func:`load` reads as the same value."""
    text: str = yaml.dump(
        value, Dumper=ConfigDumper, allow_unicode=True, sort_keys=False, width=1000
    )
    return text


def in_line(value: Any) -> str:
    """Return a value as YAML in one line."""
    text: str = yaml.dump(
        value, Dumper=ConfigDumper, allow_unicode=True, default_flow_style=True, width=1000
    )
    return text.removesuffix("...\n").strip()


def plain(value: Any) -> Any:
    """Return a value of a config with ordinary strings, for use by others."""
    if isinstance(value, Text):
        return str(value)
    if isinstance(value, Namespace):
        return Namespace(**plain(vars(value)))
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(item) for item in value)
    return value


def read(path: str | Path) -> str:
    """Return the content of a file in UTF-8, with or without a byte order mark.

    Raises:
        UserError: If it is in another encoding, or can't be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        at = f"byte {error.start} is {error.object[error.start]:#04x}"
        raise UserError(f"is not in UTF-8 ({at}); save it in that encoding", str(path)) from error
    except OSError as error:
        raise UserError(error.strerror or str(error), str(path)) from error


def check_key(key: Any, place: str) -> None:
    """Check that a key of a config is a text.

    Raises:
        UserError: With the place, if it is a number, a truth value or nothing.
    """
    if not isinstance(key, str):
        raise UserError(f"the key {in_line(key)} must be the name of an option", place)


def mapping(path: str | Path) -> dict[str, Any]:
    """Return what a config file holds.

    Raises:
        UserError: If it isn't YAML, or no mapping of names to values.
    """
    try:
        content = load(read(path))
    except yaml.YAMLError as error:
        raise UserError(str(error), str(path)) from error
    if not isinstance(content, dict):
        raise UserError("holds no keys; a config has lines such as `trainer:`", str(path))
    for key, section in content.items():
        check_key(key, str(path))
        for name in section if isinstance(section, dict) else ():
            check_key(name, f"{path}: {key}")
    return content
