"""The loggers of a run, and where W&B keeps it: online if the user is logged in, else offline."""

import os
import shlex
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args
from urllib.parse import urlparse
from urllib.request import getproxies

from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from project.class_paths import is_a, listed
from project.errors import UserError
from project.upstream import logged_in_to_wandb, wandb_url

Mode = Literal["online", "offline", "disabled", "shared"]
PROBE_SECONDS = 3.0
RUN_DIR = "."  # as save_dir of a logger
FOLDERS = {CSVLogger: "", TensorBoardLogger: "tensorboard"}  # there, instead of version_0, …


@dataclass(frozen=True)
class Tracking:
    """What a person is told of W&B.

    Attributes:
        mode: Whether W&B is online, and why; empty without W&B.
        viewing: How to see the run in W&B; empty where there is nothing to see.
    """

    mode: str = ""
    viewing: str = ""


def check_loggers(trainer: Namespace) -> None:
    """Let loggers write into the run directory unless the config says otherwise.

    Args:
        trainer: Config of the trainer; it is changed.
    """
    if trainer.logger is None:
        trainer.logger = False
    for logger in listed(trainer.logger):
        if logger.init_args.get("save_dir") is None:
            logger.init_args.save_dir = RUN_DIR


def configure_loggers(trainer: Namespace, run_dir: Path, name: str) -> Tracking:
    """Send the loggers into the run directory, and add a CSV file to them.

    Args:
        trainer: Config of the trainer; it is changed.
        run_dir: The run directory.
        name: Name of the run in W&B, where the config gives none.

    Raises:
        UserError: If the mode of W&B is none.
    """
    if trainer.logger is False:
        return Tracking()
    tracking, loggers = Tracking(), listed(trainer.logger)
    for logger in loggers:
        if logger.init_args.get("save_dir") == RUN_DIR:
            logger.init_args.save_dir = str(run_dir)
            for kind, folder in FOLDERS.items():
                if is_a(logger, kind) and logger.init_args.get("name", "own") is None:
                    logger.init_args.name = folder
                    logger.init_args.version = logger.init_args.get("version") or ""
        if is_a(logger, WandbLogger):
            tracking = _configure_wandb(logger.init_args, run_dir, name)
    if not any(is_a(logger, CSVLogger) for logger in loggers):
        in_run_dir = Namespace(save_dir=str(run_dir), name="", version="")
        class_path = f"{CSVLogger.__module__}.{CSVLogger.__name__}"
        loggers.append(Namespace(class_path=class_path, init_args=in_run_dir))
    trainer.logger = loggers
    return tracking


def _configure_wandb(options: Namespace, run_dir: Path, name: str) -> Tracking:
    chosen = "offline" if options.get("offline") else options.get("mode")
    if chosen is None or os.environ.get("WANDB_MODE"):
        options.mode, reason = wandb_mode()
    else:
        reason = f"{chosen}, by trainer.logger"
    options.name = options.get("name") or name
    # jsonargparse passes None for what Lightning would default to "allow"
    options.resume = options.get("resume") or "allow"
    return Tracking(reason, how_to_view(run_dir) if reason.startswith("offline") else "")


def wandb_mode() -> tuple[Mode, str]:
    """Decide how W&B runs, before it is started.

    ``wandb.init`` itself prompts, crashes or waits for minutes without a key or a network, and
    can't be relied on to fall back: https://github.com/wandb/wandb/issues/9865

    Returns:
        The mode and the reason for it.

    Raises:
        UserError: If ``WANDB_MODE`` is not a mode.
    """
    if chosen := os.environ.get("WANDB_MODE"):
        chosen = {"dryrun": "offline", "run": "online"}.get(chosen, chosen)
        if chosen not in get_args(Mode):
            raise UserError(f"{chosen} is none of {', '.join(get_args(Mode))}", "WANDB_MODE")
        return cast(Mode, chosen), f"{chosen}, by WANDB_MODE"
    url = os.environ.get("WANDB_BASE_URL") or wandb_url()
    has_key = any(os.environ.get(f"WANDB_{name}") for name in ("API_KEY", "IDENTITY_TOKEN_FILE"))
    if not has_key and not logged_in_to_wandb(url):
        return "offline", "offline, because nobody is logged in (wandb login)"
    address = urlparse(url)
    if address.scheme in getproxies():
        return "online", "online, through a proxy"
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=PROBE_SECONDS).close()
    except OSError:
        return "offline", f"offline, because {address.hostname} can't be reached"
    return "online", "online"


def how_to_view(run_dir: Path) -> str:
    """Return the line that says how to see and to upload an offline run."""
    folder = shlex.quote(f"{run_dir}/wandb")
    return f"view: wandb leet {folder}   upload: wandb sync {folder}/*run-*"
