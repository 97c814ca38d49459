"""What is in a run directory, and how to recognise one."""

import json
from pathlib import Path
from typing import Any

CHECKPOINTS = "checkpoints"  # the folder of a run that holds them
PICTURES = "pictures"  # that of its figures
BEST, LAST = "best.ckpt", "last.ckpt"
CONFIG = "config.yaml"
SUMMARY = "summary.json"
METRICS = "metrics.csv"
IDENTITY = "run.json"
LOCK = ".lock"


def is_run_dir(folder: Path) -> bool:
    """Whether a folder is a run directory; other folders may hold a ``config.yaml``, too."""
    others = (LOCK, CHECKPOINTS)
    return (folder / CONFIG).is_file() and any((folder / name).exists() for name in others)


def read_summary(run: Path) -> dict[str, Any]:
    """Return the summary of a run; empty if it has none yet, or none that can be read."""
    return read_json(run / SUMMARY)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a file holds in JSON; empty if it can't be read, or isn't one."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
