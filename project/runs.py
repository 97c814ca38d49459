"""Run directories: making a new one, and finding the config of an old one."""

import os
import secrets
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from project import config_text
from project.checkpoints import TRUSTED_PACKAGES, find_checkpoint
from project.errors import UserError

RUNS = Path("runs")


def with_config_of_run(args: list[str]) -> list[str]:
    """Insert ``--config`` of the run that ``--ckpt_path`` belongs to, unless one is given."""
    if any(arg in ("-c", "--config") or arg.startswith("--config=") for arg in args):
        return args
    joined = [arg.partition("=")[2] for arg in args if arg.startswith("--ckpt_path=")]
    separate = [after for arg, after in pairwise(args) if arg == "--ckpt_path"]
    for path in joined + separate:
        config = find_checkpoint(path).parent.parent / "config.yaml"
        if not config.is_file():
            raise UserError(f"--ckpt_path {path}: no {config} beside it; give --config")
        _refuse_foreign_classes(config)
        return [args[0], "--config", str(config), *args[1:]]
    return args


def _refuse_foreign_classes(config: Path) -> None:
    """Don't import what a config names that nobody asked for by ``--config``.

    Raises:
        UserError: If it names a class outside of the trusted packages.
    """

    def class_paths(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(path := value.get("class_path"), str):
                yield path
            value = list(value.values())
        for item in value if isinstance(value, list) else []:
            yield from class_paths(item)

    for path in class_paths(config_text.mapping(config)):
        if path.split(".")[0] not in TRUSTED_PACKAGES:
            raise UserError(f"{config} names {path}; if you trust it, give --config {config}")


def experiment_name(config: Namespace) -> str:
    """The name of the last config file, or of the approach where there is none."""
    files = config.get("config") or []
    name: str = Path(str(files[-1])).stem if files else config.model.class_path.rpartition(".")[2]
    return name


def new_run_dir(subcommand: str, config: Namespace) -> Path:
    """Make the run directory, on the first rank; the others never write to theirs.

    Raises:
        UserError: If it holds another run.
    """
    if config.run_dir is None:
        stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        run_dir = Path(RUNS, config.experiment, stamp)
    else:
        run_dir = Path(config.run_dir)
    if not _is_first_rank():
        return run_dir
    resumed = (
        subcommand == "fit"
        and config.ckpt_path is not None
        and run_dir.resolve() in Path(config.ckpt_path).resolve().parents
    )
    if (run_dir / "config.yaml").exists() and not resumed:
        raise UserError(f"--run_dir {run_dir}: holds another run; choose another or delete it")
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run directory {run_dir} can't be made: {error.strerror}") from error
    return run_dir


def _is_first_rank() -> bool:
    """Whether this process is the first of a run; before Lightning knows it."""
    return all(
        os.environ.get(name, "0") == "0"
        for name in ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")
    )
