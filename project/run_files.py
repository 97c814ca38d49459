"""What is in a run directory, and how one is told from another folder."""

from pathlib import Path

CHECKPOINTS = "checkpoints"  # the folder of a run that holds them
CONFIG = "config.yaml"
SUMMARY = "summary.json"
IDENTITY = "run.json"
LOCK = ".lock"


def is_run_dir(folder: Path) -> bool:
    """Whether a folder is a run directory; other folders may hold a ``config.yaml``, too."""
    others = (LOCK, CHECKPOINTS)
    return (folder / CONFIG).is_file() and any((folder / name).exists() for name in others)
