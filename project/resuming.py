"""Which run, and which of its checkpoints, a command goes on from."""

import os
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonargparse import Namespace, dict_to_namespace

from project import config_text, trust
from project.callbacks.finders import take_finders
from project.checkpoints import (
    check_resumable,
    find_checkpoint,
    from_home,
    load_checkpoint,
    local,
    newest_checkpoint,
)
from project.console import readable, show
from project.errors import UserError
from project.run_files import CONFIG, is_run_dir, read_summary
from project.runs import RUNS, asked_config, job_of, this_job

AUTO = "auto"
DECIDES = ("model", "data", "seed_everything")  # what makes another run, if it differs
_ABSENT = object()


def with_config_of_run(args: list[str]) -> list[str]:
    """Insert ``--config`` of the run that ``--ckpt_path`` or ``--resume`` names, if none is given.

    What ``--trust`` says is taken out; it is part of no config.

    Raises:
        UserError: If there is no config beside it.
    """
    args = trust.take_packages(args)
    if any(arg in ("-c", "--config") or arg.startswith("--config=") for arg in args):
        return args
    for option, value in reversed(list(_options(args))):  # the last one counts
        if option == "--ckpt_path":
            config = find_checkpoint(value).parent.parent / CONFIG
        elif option == "--resume" and value not in (AUTO, config_text.MISSING):
            config = _run(value) / CONFIG
        else:
            continue
        if not config.is_file():
            raise UserError(f"{option} {value}: no {config} beside it; give --config")
        trust.distrust(config, config_text.mapping(config))
        command = [] if args[0].startswith("-") else args[:1]  # what follows beats the config
        return [*command, f"--config={config}", *args[len(command) :]]
    return args


def _options(args: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the options of a command line with their values."""
    for arg, after in pairwise([*args, ""]):
        option, equals, value = arg.partition("=")
        if option.startswith("--"):
            yield option, value if equals else after


def resume(config: Namespace, saved: Callable[[], Mapping[str, Any]], args: list[str]) -> bool:
    """Find the run that ``--resume`` means, and send the command there.

    Args:
        config: Config of the command. Its ``resume`` and ``run_dir`` become the run to go on with,
            if there is one, and ``ckpt_path`` the newest of its checkpoints.
        saved: Returns the config as it would be saved.
        args: The command line, whose options may differ from the config of the run.

    Returns:
        Whether there is something to do: a run that has ended, and whose config is this one, says
        so.

    Raises:
        UserError: If there is no such run, or its config differs where the command line is silent.
    """
    requeued = config.resume is None and _requeued()
    if config.resume is None and not requeued:
        return True
    if config.ckpt_path is not None and not requeued:
        raise UserError("is found by --resume; give one of them", "ckpt_path")
    found = _find(config, saved(), args, requeued)
    config.resume = None
    if found is None:
        return True
    run, changes = found
    if config.trainer.fast_dev_run:
        raise UserError(
            "would make a test run of the one that --resume means", "trainer.fast_dev_run"
        )
    config.resume = config.run_dir = str(run)
    _take_found(config, run)
    checkpoint = newest_checkpoint(run)
    for name, before, now in changes:
        show(f"{name}: {_short(before)} before, {_short(now)} now")
    if not changes and read_summary(run).get("ended"):
        show(
            f"{readable(run)} has ended, and nothing of its config is changed; "
            "give a larger limit, such as --trainer.max_epochs, or no --resume for a new run"
        )
        return False
    config.ckpt_path = None if checkpoint is None else str(checkpoint)
    if checkpoint is None:
        show(f"{readable(run)} has no checkpoint yet: it begins anew")
    return True


Change = tuple[str, Any, Any]


def _find(
    config: Namespace, saved: Mapping[str, Any], args: list[str], requeued: bool
) -> tuple[Path, list[Change]] | None:
    """Return the run to go on with, and what differs; None if a new one begins."""
    given = [option.removeprefix("--").rstrip("+") for option, _ in _options(args)]
    if not requeued and config.resume != AUTO:
        run = _run(config.resume)
        if config.run_dir is not None and Path(config.run_dir).resolve() != run.resolve():
            raise UserError(f"is not {run}, which --resume names; leave it out", "run_dir")
        changes = list(_changes(_config(run, config), saved))
        if unsaid := [change for change in changes if not _is_said(change[0], given)]:
            name, before, now = unsaid[0]
            raise UserError(
                f"{run} has {name}: {_short(before)}, and the config says {_short(now)}; give "
                f"--{name} on the command line to change it"
                + (f" ({len(unsaid) - 1} more)" if unsaid[1:] else ""),
                "resume",
            )
        return run, changes
    unlike = None
    for run in _candidates(config):
        if requeued and job_of(run) != this_job():
            continue
        try:
            changes = list(_changes(_config(run, config), saved))
        except UserError as error:
            show(f"{error}: this run is left out")
            continue
        others = [change for change in changes if _makes_another(change[0], given)]
        if not others:
            return run, changes
        unlike = unlike or (run, others[0])
    hint = ""
    if unlike is not None:
        run, (name, before, now) = unlike
        hint = f" ({readable(run)} has {name}: {_short(before)}, not {_short(now)})"
    if config.run_dir is not None and hint:
        raise UserError(f"this is another run than that of this config{hint}", "run_dir")
    show(f"no run of this config to go on with{hint}: a new one begins")
    return None


def _config(run: Path, config: Namespace) -> dict[str, Any]:
    """Return the config of a run as it was asked for, if this one asks for a search, too."""
    asked = asked_config(run) if _finders(config) else None
    return config_text.mapping(run / CONFIG) if asked is None else config_text.load(asked)


def _finders(config: Namespace) -> list[Namespace]:
    return take_finders(config.trainer.clone())


def _take_found(config: Namespace, run: Path) -> None:
    """Let a run go on with what its finders have found, and without them."""
    if take_finders(config.trainer):
        found = config_text.mapping(run / CONFIG)
        config.data.init_args.batch_size = found["data"]["init_args"]["batch_size"]
        optimizer = found["model"]["init_args"]["optimizer"]
        config.model.init_args.optimizer = optimizer and dict_to_namespace(optimizer)


def _candidates(config: Namespace) -> list[Path]:
    """Return the runs that may be of this config, the newest first."""
    if config.run_dir is not None:
        folders = [from_home(config.run_dir)]
    else:
        folders = list((RUNS / config.experiment).glob("*"))
    runs = [folder for folder in folders if is_run_dir(folder)]
    return sorted(runs, key=lambda run: (run / CONFIG).stat().st_mtime, reverse=True)


def _run(path: str) -> Path:
    """Return the run directory that a path means.

    Raises:
        UserError: If it is none.
    """
    run = from_home(path)
    if not is_run_dir(run):
        raise UserError(f"{path} is not a run directory: it has no {CONFIG}", "resume")
    return run


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], key: str = "") -> Iterator[Change]:
    """Yield the keys whose values differ between two configs, as a command line writes them."""
    for name in dict.fromkeys([*before, *now]):
        inner = key if name == "init_args" else f"{key}.{name}".removeprefix(".")
        old, new = before.get(name, _ABSENT), now.get(name, _ABSENT)
        if inner == "experiment" or (old is _ABSENT and not new):
            continue  # a name for the directory, or an option that the run's version lacked
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _changes(old, new, inner)
        elif config_text.plain(old) != config_text.plain(new):
            yield inner.removesuffix(".class_path"), old, new


def _is_said(key: str, given: list[str]) -> bool:
    """Return whether the command line has an option for a key, or for what it is part of."""
    return any(f"{key}.".startswith(f"{name}.") or name.startswith(f"{key}.") for name in given)


def _makes_another(key: str, given: list[str]) -> bool:
    return key.partition(".")[0] in DECIDES or not _is_said(key, given)


def _short(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    text = config_text.dump(value).strip().removesuffix("\n...") if value != [] else "[]"
    return text if len(text) < 60 and "\n" not in text else f"{text.splitlines()[0][:60]} …"


def _requeued() -> bool:
    """Return whether SLURM runs this job again, which it had started before."""
    return this_job() is not None and os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def open_checkpoint(config: Namespace, command: str) -> tuple[str, ...] | None:
    """Find the checkpoint that ``--ckpt_path`` means, and look whether the command can use it.

    Args:
        config: Config of the command; its ``ckpt_path`` becomes that of the file.
        command: ``fit``, which takes the last checkpoint of a run directory, or another command,
            which takes the best one.

    Returns:
        The names of the classes that it knows, if it knows them.

    Raises:
        UserError: If there is none, or it is damaged, or of no use to the command.
    """
    fit = command == "fit"
    if config.ckpt_path is None:
        if fit:
            return None
        raise UserError(
            f"{command} needs --ckpt_path with a run directory or a checkpoint: it would evaluate "
            "random weights"
        )
    found = find_checkpoint(config.ckpt_path, "last" if fit else "best")
    config.ckpt_path = str(local(found, "ckpt_path"))
    checkpoint = load_checkpoint(config.ckpt_path)
    if fit:
        check_resumable(checkpoint, config.ckpt_path)
    classes: tuple[str, ...] | None = checkpoint.get("hyper_parameters", {}).get("class_names")
    if command == "predict" and "classes" in config.data.init_args:
        config.data.init_args.classes = classes
    return classes
