"""What a sweep is: a file in W&B's format, as https://docs.wandb.ai/guides/sweeps describes it."""

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from project import config_text
from project.commands.sweep.parameters import Parameter, as_text, check_number, parameters_of
from project.environment import PACKAGE
from project.errors import UserError, under

METHODS = ("grid", "random", "bayes")
OF_THE_SERVER = {  # what W&B does with keys that decide nothing here
    "program": "shows it beside the command",
    "project": "keeps the sweep there",
    "entity": "keeps the sweep there",
    "description": "shows it",
    "controller": "chooses values, or leaves that to a program of one's own",
    "apiVersion": "reads the file accordingly",
    "kind": "reads the file accordingly",
}
KNOWN = ("name", "method", "metric", "parameters", "command", "early_terminate", "run_cap")
OF_THE_SWEEP = ("run_dir", "experiment", "ckpt_path", "resume", "config")
START = ("${env}", "${interpreter}", "-m", PACKAGE, "fit")
ARGUMENTS = "${args}"
ENVIRONMENT = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")


@dataclass(frozen=True)
class Halving:
    """Successive halving: which trials end early, after how many validations.

    W&B calls it Hyperband, and has one bracket of it.

    Attributes:
        first: Number of validations before the first decision.
        eta: Factor from one decision to the next; one of ``eta`` trials goes on.
        strict: Whether the last validation counts, and not the best one so far.
    """

    first: int
    eta: int
    strict: bool


@dataclass(frozen=True)
class Sweep:
    """A sweep.

    Attributes:
        name: Its name, which is the W&B group of its runs.
        method: One of ``METHODS``.
        metric: Name of the metric.
        maximize: Whether large values of the metric are good.
        target: Value of the metric at which the sweep ends; None without one.
        parameters: What is searched, and constants.
        command: The options of ``fit`` before those of the parameters, and those after them.
        halving: Which trials end early; None lets all of them end.
        run_cap: Number of trials; None if the file gives none.
    """

    name: str
    method: str
    metric: str
    maximize: bool
    target: float | None
    parameters: tuple[Parameter, ...]
    command: tuple[tuple[str, ...], tuple[str, ...]]
    halving: Halving | None
    run_cap: int | None

    def arguments(self, values: Mapping[str, str]) -> list[str]:
        """Return the command line of a trial.

        Args:
            values: The values of the parameters, by name.
        """
        before, after = self.command
        given = [f"--{name}={value}" for name, value in values.items()]
        return ["fit", *before, *given, *after]

    @property
    def combinations(self) -> int:
        """Number of combinations of values on a grid."""
        return math.prod(len(parameter.choices or ()) for parameter in self.parameters)

    def combination(self, number: int) -> dict[str, str]:
        """Return one of the combinations on a grid, of which the last parameter changes first.

        Args:
            number: Which one, from 0; after the last one comes the first one again.
        """
        values = {}
        for parameter in reversed(self.parameters):
            choices = parameter.choices or ()
            number, place = divmod(number, len(choices))
            values[parameter.name] = choices[place]
        return values

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same when a sweep goes on: else its scores can't be compared."""
        before, after = self.command
        return {
            "metric": [self.metric, self.maximize],
            "parameters": {one.name: [one.kind, dict(one.options)] for one in self.parameters},
            "command": [*before, *after],
            "configs": [_sha256(word) for word in _configs([*before, *after])],
        }


def _configs(words: Sequence[str]) -> list[str]:
    joined = [word.partition("=")[2] for word in words if word.startswith("--config=")]
    return joined + [after for word, after in pairwise(words) if word in ("--config", "-c")]


def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if Path(path).is_file() else ""


def read_sweep(path: Path, more: Sequence[str] = ()) -> Sweep:
    """Return the sweep of a file.

    Args:
        path: The file.
        more: Further options of ``fit``, which beat those of the file.

    Raises:
        UserError: With the key of what is wrong.
    """
    found = config_text.plain(config_text.mapping(path))
    try:
        return _sweep(found, path.stem, more)
    except UserError as error:
        error.key = f"{path}: {error.key}" if error.key else str(path)
        raise


def _sweep(found: Mapping[str, Any], name: str, more: Sequence[str]) -> Sweep:
    for key in found:
        if key not in (*KNOWN, *OF_THE_SERVER):
            raise UserError(f"is no key of a sweep here; known are {', '.join(KNOWN)}", str(key))
    method = found.get("method")
    if method not in METHODS:
        raise UserError(f"{method!r} must be one of {', '.join(METHODS)}", "method")
    with under("parameters"):
        parameters = parameters_of(found.get("parameters"))
        for option, count in Counter(parameter.name for parameter in parameters).items():
            if option in OF_THE_SWEEP:
                raise UserError("is set by the sweep; leave it out", option)
            if count > 1:
                raise UserError("is there twice, with dots and nested", option)
        if method == "grid":
            parameters = [parameter.on_grid() for parameter in parameters]
    metric, maximize, target = _metric(found.get("metric"))
    given, run_cap = found.get("name") or name, found.get("run_cap")
    if isinstance(given, Mapping | list):
        raise UserError(f"{given!r} must be a text", "name")
    if run_cap is not None and (type(run_cap) is not int or run_cap < 1):
        raise UserError(f"{run_cap!r} must be a number of trials", "run_cap")
    return Sweep(
        name=str(given),
        method=method,
        metric=metric,
        maximize=maximize,
        target=target,
        parameters=tuple(parameters),
        command=_command(found.get("command"), more),
        halving=_halving(found.get("early_terminate")),
        run_cap=run_cap,
    )


def _mapping(found: Any, key: str, known: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(found, Mapping):
        raise UserError(f"{found!r} must have {' and '.join(known[:2])}", key)
    for name in found:
        if name not in known:
            raise UserError(f"isn't known here; known are {', '.join(known)}", f"{key}.{name}")
    return found


def _metric(found: Any) -> tuple[str, bool, float | None]:
    metric = _mapping(found, "metric", ("name", "goal", "target"))
    name, goal, target = metric.get("name"), metric.get("goal", "minimize"), metric.get("target")
    if not isinstance(name, str) or not name:
        raise UserError("must be that of a metric, such as val/accuracy", "metric.name")
    if goal not in ("minimize", "maximize"):
        raise UserError(f"{goal!r} must be minimize or maximize", "metric.goal")
    if target is not None:
        check_number(target, "metric.target")
    return name, goal == "maximize", target


def _command(found: Any, more: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    form = f"[{', '.join(START)}, --config, configs/…, {ARGUMENTS}]"
    if not isinstance(found, list):
        raise UserError(f"must be a list, such as {form}", "command")
    words = [ENVIRONMENT.sub(_variable, as_text(word)) for word in found]
    start = [word for word in START if word != "${env}" or words[:1] == ["${env}"]]
    rest = words[len(start) :]
    if words[: len(start)] != start or rest.count(ARGUMENTS) != 1:
        raise UserError(f"must have the form {form}", "command")
    place = rest.index(ARGUMENTS)
    return tuple(rest[:place]), (*rest[place + 1 :], *more)


def _variable(found: re.Match[str]) -> str:
    """Return the value of an environment variable; one that is not set is its name, as in W&B."""
    return os.environ.get(found[1], found[1])


def _halving(found: Any) -> Halving | None:
    if found is None:
        return None
    key = "early_terminate"
    options = _mapping(found, key, ("type", "min_iter", "max_iter", "s", "eta", "strict"))
    if options.get("type") != "hyperband":
        raise UserError(f"{options.get('type')!r} must be hyperband", f"{key}.type")
    for name in filter(options.__contains__, ("min_iter", "max_iter", "s", "eta")):
        value, least = options[name], 2 if name == "eta" else 1
        check_number(value, f"{key}.{name}")
        if value % 1 or value < least:
            raise UserError(f"{value} must be a whole number from {least} on", f"{key}.{name}")
    eta, strict = int(options.get("eta", 3)), options.get("strict", True)
    if not isinstance(strict, bool):
        raise UserError(f"{strict!r} must be true or false", f"{key}.strict")
    if "min_iter" in options:
        return Halving(int(options["min_iter"]), eta, strict)
    if "max_iter" in options and "s" in options:
        steps = min(int(options["s"]), int(math.log(options["max_iter"], eta)))
        if steps:
            return Halving(int(options["max_iter"] / eta**steps), eta, strict)
        raise UserError(f"{options['max_iter']} must be more than eta", f"{key}.max_iter")
    raise UserError("needs min_iter, or max_iter and s", key)
