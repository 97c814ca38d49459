"""``python -m project sweep``: a sweep in W&B's format, run by Optuna."""

import math
import shlex
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from jsonargparse.typing import NonNegativeInt, PositiveInt

from project import signals
from project.commands.child_runs import check
from project.commands.sweep.settings import Sweep, read_sweep
from project.console import show
from project.durations import seconds_of
from project.environment import COMMAND
from project.errors import UserError
from project.parsing import ProjectParser
from project.runs import RUNS

FOLDER = RUNS / "sweeps"


def sweep(arguments: Sequence[str]) -> None:
    """Search hyperparameters, or go on with a search that was stopped.

    Args:
        arguments: What follows ``sweep`` on the command line; after ``--``, options of ``fit``.

    Raises:
        UserError: If the sweep or one of its options is wrong; then nothing is run.
    """
    own, more = list(arguments), []
    if "--" in own:
        place = own.index("--")
        own, more = own[:place], own[place + 1 :]
    config = _parser().parse(own)
    path = Path(config.config)
    found = read_sweep(path, more)
    count = _count(found, config.trials)
    seconds = math.inf if config.time is None else seconds_of(config.time, "time")
    if find_spec("optuna") is None:
        raise UserError("sweep needs Optuna: pip install -e '.[sweep]'")
    check(found.arguments(_examples(found)))
    from project.commands.sweep.report import write_report  # these need Optuna
    from project.commands.sweep.study import Study
    from project.commands.sweep.trials import Trials

    folder = Path(config.output or FOLDER / path.stem)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} can't be used: {error.strerror}", "output") from error
    study = Study(found, folder, config.storage, config.seed)
    trials = Trials(found, study, folder, config.jobs, count, seconds)
    show(f"{count} trials in {folder}")
    if study.count:
        show(f"{study.finished} of {study.count} are finished already")
    signals.now.advice = "the same command continues with the missing trials"
    trials.run()
    write_report(found, study, folder, trials.run_dir)


def _parser() -> ProjectParser:
    parser = ProjectParser(
        prog=shlex.join([*COMMAND, "sweep"]),
        description="Search hyperparameters by a sweep file of W&B, with no server; what follows "
        "-- are options of fit for all trials.",
    )
    parser.add_argument(
        "-c", "--config", type=str, required=True, help="Sweep file, in W&B's format."
    )
    parser.add_argument(
        "--output",
        type=str | None,
        default=None,
        help="Folder of the trials and the report; None is a folder in runs/sweeps/ with the name "
        "of the file.",
    )
    parser.add_argument(
        "--jobs",
        type=PositiveInt,
        default=1,
        help="Number of trials at the same time. Each gets its share of the processor cores, or a "
        "GPU.",
    )
    parser.add_argument(
        "--trials",
        type=PositiveInt | None,
        default=None,
        help="Number of trials in all; None is run_cap of the file, or the whole grid.",
    )
    parser.add_argument(
        "--time",
        type=str | None,
        default=None,
        help="Time after which no trial begins, as 45s, 30m or 1h30m; None sets none.",
    )
    parser.add_argument(
        "--storage",
        type=str | None,
        default=None,
        help="Where Optuna keeps the study: the URL of a database, or a file; None is a file in "
        "the folder of the sweep.",
    )
    parser.add_argument("--seed", type=NonNegativeInt, default=0, help="Seed of the search.")
    return parser


def _count(found: Sweep, trials: int | None) -> int:
    most = found.combinations if found.method == "grid" else None
    asked = trials or found.run_cap or most
    if asked is None:
        raise UserError(
            f"{found.method} has no end; give a number, or run_cap in the file", "trials"
        )
    return asked if most is None else min(asked, most)


def _examples(found: Sweep) -> dict[str, str]:
    """Return a value of each parameter."""
    return {one.name: one.example for one in found.parameters}
