"""What tells contenders apart: the options in which the configs of their runs differ."""

from collections.abc import Iterator, Sequence
from typing import Any

from project import config_text
from project.commands.compare.results import Row
from project.commands.compare.tables import UNKNOWN, Line, Table
from project.run_files import CONFIG

OF_A_RUN = ("seed_everything", "run_dir", "data.cache_dir", "trainer.logger")


def options_of(rows: Sequence[Row]) -> Table | None:
    """Return a table of the options that differ; None if none does, or a config is missing.

    Args:
        rows: Its columns, with results.
    """
    files = [row.results[0].run_dir / CONFIG for row in rows]
    if len(files) < 2 or not all(file.is_file() for file in files):
        return None
    found = [dict(_flat(config_text.mapping(file))) for file in files]
    lines = []
    for name in dict.fromkeys(name for options in found for name in options):
        values = [options.get(name, UNKNOWN) for options in found]
        if {*values} - {UNKNOWN, "null", "false", "[]"} and len({*values}) > 1:
            lines.append(Line(name, values, "", ""))
    return Table([(row.contender, "") for row in rows], lines, "option") if lines else None


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield each option with its value in one line; classes go by their short names."""
    if name in OF_A_RUN:
        return
    if isinstance(value, dict) and "class_path" in value:
        yield name, _short(value)
        value = value.get("init_args") or {}
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        if all("class_path" in item for item in value):
            for item in value:
                own = f"{name}.{_short(item)}"
                yield from _flat(item.get("init_args") or "used", own)
        else:
            yield name, "; ".join(map(_in_words, value))
    else:
        yield name, config_text.in_line(value)


def _short(value: dict[str, Any]) -> str:
    return str(value["class_path"]).rpartition(".")[2]


def _in_words(item: dict[str, Any]) -> str:
    given = ((key, value) for key, value in item.items() if value not in (None, False))
    return ", ".join(f"{key}: {config_text.in_line(value)}" for key, value in given)
