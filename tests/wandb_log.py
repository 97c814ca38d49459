"""What W&B has written to its log of an offline run."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK = 32768  # bytes of a .wandb file, which has LevelDB's log format
HEADER = 7  # of the file, and of each part of a record


@dataclass
class Part:
    """One of the logs of a run, of which a resumed or tested run has several."""

    run: Any = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    artifacts: list[Any] = field(default_factory=list)
    ended: bool = False


def parts(run: Path) -> list[Part]:
    """Return what is in the logs of a run directory, in the order in which they began."""
    return [whole(file) for file in sorted(run.glob("wandb/offline-run-*/*.wandb"))]


def whole(file: Path) -> Part:
    """Return what is in a log, whose last lines W&B writes a moment after it has finished."""
    for _ in range(50):
        if (found := part(file)).ended:
            break
        time.sleep(0.02)
    return found


def part(file: Path) -> Part:
    from wandb.proto.wandb_internal_pb2 import Record

    found = Part()
    for content in records(file):
        record = Record.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run = record.run
            found.config |= values(record.run.config.update)
        elif kind == "history":
            found.rows.append(values(record.history.item))
        elif kind == "summary":
            found.summary |= values(record.summary.update)
        elif kind == "config":
            found.config |= values(record.config.update)
        elif kind == "metric" and record.metric.name:
            found.axes[record.metric.name] = record.metric.step_metric
            if record.metric.options.hidden:
                found.hidden.add(record.metric.name)
        elif kind == "artifact":
            found.artifacts.append(record.artifact)
        elif kind == "exit":
            found.ended = True
    return found


def values(items: Any) -> dict[str, Any]:
    named = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
    return {name: value for name, value in named.items() if not name.startswith("_")}


def records(file: Path) -> Iterator[bytes]:
    """Yield what is in a ``.wandb`` file."""
    content, place, record = file.read_bytes(), HEADER, b""
    while place + HEADER <= len(content):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        place += HEADER
        record += content[place : place + length]
        place += length
        if kind in (1, 4):  # the whole record, or the last part of one
            yield record
            record = b""
