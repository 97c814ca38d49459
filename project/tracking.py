"""The loggers of a run, and where W&B keeps it: online if the user is logged in, else offline."""

import configparser
import os
import shlex
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args
from urllib.parse import urlparse
from urllib.request import getproxies

from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from project import config_text
from project.class_paths import init_args_of, is_a, listed, named
from project.console import readable
from project.errors import UserError
from project.run_files import CONFIG
from project.runs import RunDir, identity
from project.upstream.wandb import logged_in_to_wandb, wandb_url
from project.wandb_logger import RunLogger, model_name

Mode = Literal["online", "offline", "disabled", "shared"]
PROBE_SECONDS = 3.0
RUN_DIR = "."  # as save_dir of a logger
WHERE = {"entity": "whose it is", "project": "what it is part of"}  # options for a run in W&B
FOLDERS = {CSVLogger: "", TensorBoardLogger: "tensorboard"}  # there, instead of version_0, …


@dataclass(frozen=True)
class Tracking:
    """What to show about loggers.

    Attributes:
        mode: Whether W&B is online, and why; empty without W&B.
        viewing: How to see the run, in W&B or TensorBoard; empty where there is nothing to see.
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
        options = init_args_of(logger)
        if "save_dir" in options and options.save_dir is None:  # a logger may have no such option
            options.save_dir = RUN_DIR


def leave_out_wandb(trainer: Namespace) -> None:
    """Don't start W&B for a command that has nothing to log.

    Args:
        trainer: Config of the trainer; it is changed.
    """
    others = [logger for logger in listed(trainer.logger) if not is_a(logger, WandbLogger)]
    trainer.logger = others or False


def configure_loggers(trainer: Namespace, run: RunDir, name: str) -> Tracking:
    """Send the loggers into the run directory, and add a CSV file to them.

    Args:
        trainer: Config of the trainer; it is changed.
        run: The run directory.
        name: Name of the run in W&B, where the config gives none.

    Raises:
        UserError: If the mode of W&B is none.
    """
    if trainer.logger is False:
        return Tracking()
    mode, views, loggers = "", [], listed(trainer.logger)
    for logger in loggers:
        options = init_args_of(logger)
        wandb = is_a(logger, WandbLogger)
        if options.get("save_dir") == RUN_DIR:
            elsewhere = os.environ.get("WANDB_DIR") or str(run.tracked) if wandb else None
            options.save_dir = elsewhere or str(run.path)
            for kind, folder in FOLDERS.items():
                if is_a(logger, kind) and options.get("name", "own") is None:
                    options.name = folder
                    options.version = options.get("version") or ""
        if is_a(logger, TensorBoardLogger):
            views.append(f"view: tensorboard --logdir {shlex.quote(str(options.save_dir))}")
        if wandb:
            mode, view = _configure_wandb(options, run, name)
            views.append(view)
            if named(logger.class_path) is WandbLogger:  # not a class of one's own
                logger.class_path = _path(RunLogger)
    if not any(is_a(logger, CSVLogger) for logger in loggers):
        in_run_dir = Namespace(save_dir=str(run.path), name="", version="")
        loggers.append(Namespace(class_path=_path(CSVLogger), init_args=in_run_dir))
    trainer.logger = loggers
    return Tracking(mode, "\n".join(filter(None, views)))


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__name__}"


def _configure_wandb(options: Namespace, run: RunDir, name: str) -> tuple[str, str]:
    chosen = "offline" if options.get("offline") else options.get("mode")
    if "mode" in options and options.get("offline"):  # which Lightning would make that of all runs
        options.offline, options.mode = False, "offline"
    if chosen is None:
        mode, reason = wandb_mode()
        if "mode" in options:
            options.mode = mode
        else:  # of a logger of one's own that doesn't pass it on
            os.environ["WANDB_MODE"] = mode
    else:
        reason = f"{chosen}, by trainer.logger"
    # Lightning passes on what it has, and the rest is left to W&B, which reads the environment
    options.name = options.get("name") or os.environ.get("WANDB_NAME") or name
    # jsonargparse passes None for what Lightning would default to "allow"
    options.resume = options.get("resume") or os.environ.get("WANDB_RESUME") or "allow"
    given = options.get("id") or options.get("version")
    run.wandb_id = given or os.environ.get("WANDB_RUN_ID") or run.wandb_id
    options.id = run.wandb_id
    folder = Path(options.get("save_dir") or run.path)
    if folder not in (run.path, run.tracked):
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):  # W&B would take a temporary folder, which is lost
            key = "WANDB_DIR" if os.environ.get("WANDB_DIR") == str(folder) else "trainer.logger"
            raise UserError(f"{readable(folder)} is no folder that can be written to", key)
    return reason, how_to_view(folder) if reason.startswith("offline") else ""


def given_by_environment() -> dict[str, Any]:
    """Return the options of W&B that are given outside of the config, in place of own defaults.

    An option beats the environment, that beats W&B's settings file, and that beats a default, as in
    W&B itself: https://docs.wandb.ai/guides/track/environment-variables. What this package has no
    default for is left to W&B, which reads both itself.
    """
    known = _given("WANDB_PROJECT")
    given: dict[str, Any] = {"project": known} if known else {}
    if kept := os.environ.get("WANDB_LOG_MODEL"):  # as other libraries have it, too
        given["log_model"] = kept.lower() not in ("false", "0", "no")
    return given


def _given(variable: str) -> str | None:
    """Return a variable of W&B, or else what one of its two settings files has in its place.

    ``wandb init``, ``wandb offline`` and ``wandb login --host`` write these.
    """
    if value := os.environ.get(variable):
        return value
    of_user = os.environ.get("WANDB_CONFIG_DIR") or os.path.expanduser("~/.config/wandb")  # noqa: PTH111
    parser = configparser.ConfigParser(interpolation=None)
    for folder in (of_user, Path(os.environ.get("WANDB_DIR") or ".", "wandb")):
        with suppress(configparser.Error, OSError, UnicodeDecodeError):  # W&B says what is wrong
            parser.read(Path(folder, "settings"))
    return parser.get("default", variable.removeprefix("WANDB_").lower(), fallback=None)


def wandb_mode() -> tuple[Mode, str]:
    """Decide how W&B runs, before it is started.

    ``wandb.init`` itself prompts, crashes or waits for minutes without a key or a network, and
    can't be relied on to fall back: https://github.com/wandb/wandb/issues/9865

    Returns:
        The mode and the reason for it.

    Raises:
        UserError: If ``WANDB_MODE`` is not a mode.
    """
    if chosen := _given("WANDB_MODE"):
        chosen = {"dryrun": "offline", "run": "online"}.get(chosen, chosen)
        source = "WANDB_MODE" if os.environ.get("WANDB_MODE") else "the settings file of W&B"
        if chosen not in get_args(Mode):
            raise UserError(f"{chosen} is none of {', '.join(get_args(Mode))}", source)
        return cast(Mode, chosen), f"{chosen}, by {source}"
    url = _given("WANDB_BASE_URL") or wandb_url()
    scheme, host, port = _server(url)
    has_key = any(os.environ.get(f"WANDB_{name}") for name in ("API_KEY", "IDENTITY_TOKEN_FILE"))
    if not has_key and not logged_in_to_wandb(url):
        return "offline", "offline, because nobody is logged in (wandb login)"
    if scheme in getproxies():
        return "online", "online, through a proxy"
    try:
        socket.create_connection((host, port), timeout=PROBE_SECONDS).close()
    except OSError:
        return "offline", f"offline, because {host} can't be reached"
    return "online", "online"


def _server(url: str) -> tuple[str, str, int]:
    """Return protocol, name and port of the server of an address."""
    with suppress(ValueError):  # of the port, of an address in brackets, of the name's encoding
        found = urlparse(url)
        name = (found.hostname or "").encode("idna").decode()
        if found.scheme in ("http", "https") and name:
            return found.scheme, name, found.port or (80 if found.scheme == "http" else 443)
    raise UserError(f"{url} must be https:// and the name of a server", "WANDB_BASE_URL")


def model_of(run: Path) -> str | None:
    """Return the name in W&B of the model of a run directory, None if it has none.

    Args:
        run: The run directory.
    """
    known = identity(run).get("wandb_id")
    for logger in _written(run):
        options = logger.get("init_args") or {}
        if known and options.get("log_model"):
            place = [options.get(name) for name in WHERE]
            return "/".join(filter(None, [*place, f"{model_name(known)}:best"]))
    return None


def _written(run: Path) -> list[dict[str, Any]]:
    """Return the loggers that the config of a run has."""
    if not (run / CONFIG).is_file():
        return []
    trainer = config_text.mapping(run / CONFIG).get("trainer") or {}
    loggers = trainer.get("logger") or []
    return [one for one in (loggers if isinstance(loggers, list) else [loggers]) if one is not True]


def how_to_view(run_dir: Path) -> str:
    """Return the lines that say how to see and to upload an offline run."""
    folder = shlex.quote(f"{run_dir}/wandb")
    return f"view: wandb leet {folder}\nupload: wandb sync {folder}/*run-*"
