"""The parameters of a sweep: each distribution of W&B's format, as one of Optuna's.

https://docs.wandb.ai/guides/sweeps/sweep-config-keys lists the distributions; what each of them
means is in https://github.com/wandb/sweeps (``params.py``). Optuna has uniform, log-uniform and
categorical ones. A value of another distribution is drawn as its quantile, which is uniform.
"""

import json
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from project.errors import UserError

if TYPE_CHECKING:
    from optuna.trial import Trial

BOUNDS = {"min": None, "max": None}
NORMAL = {"mu": 0.0, "sigma": 1.0}
BETA = {"a": 1.0, "b": 1.0}
STEP = {"q": 1.0}
DISTRIBUTIONS: dict[str, dict[str, Any]] = {  # the options of each; None has to be given
    "constant": {"value": None},
    "categorical": {"values": None},
    "categorical_w_probabilities": {"values": None, "probabilities": None},
    "int_uniform": BOUNDS,
    "uniform": BOUNDS,
    "q_uniform": BOUNDS | STEP,
    "log_uniform": BOUNDS,
    "log_uniform_values": BOUNDS,
    "q_log_uniform": BOUNDS | STEP,
    "q_log_uniform_values": BOUNDS | STEP,
    "inv_log_uniform": BOUNDS,
    "inv_log_uniform_values": BOUNDS,
    "normal": NORMAL,
    "q_normal": NORMAL | STEP,
    "log_normal": NORMAL,
    "q_log_normal": NORMAL | STEP,
    "beta": BETA,
    "q_beta": BETA | STEP,
}
RANGES: dict[str, Callable[[float, float], tuple[float, float]]] = {  # of the logarithm of a value
    "log_uniform": lambda low, high: (low, high),
    "log_uniform_values": lambda low, high: (math.log(low), math.log(high)),
    "inv_log_uniform": lambda low, high: (-high, -low),
    "inv_log_uniform_values": lambda low, high: (math.log(low), math.log(high)),
}
EDGE = 1e-6  # the quantiles 0 and 1 of a normal distribution are infinite
MOST_STEPS = 10_000  # of a parameter on a grid


@dataclass(frozen=True)
class Parameter:
    """A parameter of a sweep: an option of ``fit``, and the values that it may have.

    Attributes:
        name: Name of the option, with dots.
        kind: One of ``DISTRIBUTIONS``.
        options: Its options, complete.
    """

    name: str
    kind: str
    options: Mapping[str, Any]

    @property
    def is_log(self) -> bool:
        """Whether a picture of its values has a logarithmic axis."""
        return self.kind.removeprefix("q_") in (*RANGES, "log_normal")

    @property
    def choices(self) -> list[str] | None:
        """Its values as the command line takes them, None if they are numbers of a range."""
        if self.kind == "constant":
            return [as_text(self.options["value"])]
        if self.kind.startswith("categorical"):
            return [as_text(value) for value in self.options["values"]]
        return None

    def draw(self, trial: "Trial") -> Any:
        """Let Optuna draw the value itself, or its quantile; a constant is not drawn."""
        low, high = self.options.get("min", 0), self.options.get("max", 1)
        if self.kind == "constant":
            return None
        if self.choices is not None and not self.options.get("probabilities"):
            return trial.suggest_categorical(self.name, self.choices)
        if self.kind == "int_uniform":
            return trial.suggest_int(self.name, low, high)
        if self.kind == "uniform":
            return trial.suggest_float(self.name, low, high)
        if self.kind in RANGES:
            least, most = map(math.exp, RANGES[self.kind](low, high))
            return trial.suggest_float(self.name, least, most, log=True)
        return trial.suggest_float(self.name, EDGE, 1 - EDGE)

    def text(self, drawn: Any) -> str:
        """Return a value as the command line takes it.

        Args:
            drawn: What :meth:`draw` returned.
        """
        if self.kind == "constant":
            return as_text(self.options["value"])
        if self.choices is not None:
            if not (shares := self.options.get("probabilities")):
                return str(drawn)
            place = bisect_left(list(accumulate(shares)), drawn)
            return self.choices[min(place, len(shares) - 1)]
        if self.kind in ("int_uniform", "uniform", *RANGES):
            return as_text(drawn)
        return as_text(self.at(drawn))

    @property
    def example(self) -> str:
        """One of its values: the first one, or that in the middle."""
        return self.choices[0] if self.choices else as_text(self.at(0.5))

    def at(self, quantile: float) -> float:
        """Return the value at a quantile."""
        value, step = self._before_rounding(quantile), self.options.get("q")
        if step is not None:
            value = round(value / step) * step
        return int(value) if self.kind == "int_uniform" else value

    def _before_rounding(self, quantile: float) -> float:
        kind, options = self.kind.removeprefix("q_"), self.options
        if kind == "beta":
            from scipy.special import betaincinv

            return float(betaincinv(options["a"], options["b"], quantile))
        if kind.endswith("normal"):
            value = NormalDist(options["mu"], options["sigma"]).inv_cdf(quantile)
            return math.exp(value) if kind == "log_normal" else value
        low, high = options["min"], options["max"]
        if kind.endswith("uniform") and kind not in RANGES:
            return float(low + quantile * (high - low))
        low, high = RANGES[kind](low, high)
        return math.exp(low + quantile * (high - low))

    def on_grid(self) -> "Parameter":
        """Return it with its values one by one, as W&B's grid has them.

        Raises:
            UserError: If it has no such values.
        """
        low, high, step = (self.options.get(key, 1) for key in ("min", "max", "q"))
        if self.kind == "int_uniform":
            count = high - low + 1
        elif self.kind == "q_uniform":
            count = (high - low) / step
        elif self.choices is not None and not self.options.get("probabilities"):
            return self
        else:
            raise UserError(
                f"{self.kind} has no grid; give values, or method: random or bayes", self.name
            )
        if count > MOST_STEPS:
            raise UserError(f"{count:,.0f} values are too many for a grid", self.name)
        values = [low + number * step for number in range(math.ceil(count))]
        return replace(self, kind="categorical", options={"values": values})


def as_text(value: Any) -> str:
    """Return a value as the command line takes it; JSON is valid YAML."""
    return value if isinstance(value, str) else json.dumps(value)


def parameters_of(found: Any, prefix: str = "") -> list[Parameter]:
    """Return the parameters that a sweep file gives, nested ones with dots between their names.

    Raises:
        UserError: With the key of what is wrong.
    """
    if not isinstance(found, Mapping) or not found:
        raise UserError(
            "parameters must be options of fit by name, each with what it may be", prefix[:-1]
        )
    parameters: list[Parameter] = []
    for name, options in found.items():
        key = f"{prefix}{name}"
        if not isinstance(options, Mapping):
            raise UserError(f"{options!r} must be a mapping, such as {{value: {options!r}}}", key)
        if "parameters" in options:
            if len(options) > 1:
                raise UserError("a parameter with parameters below it has no other options", key)
            parameters += parameters_of(options["parameters"], f"{key}.")
        else:
            parameters.append(_parameter(key, options))
    return parameters


def _parameter(name: str, given: Mapping[str, Any]) -> Parameter:
    kind = given.get("distribution") or _implied(name, given)
    if not isinstance(kind, str) or kind not in DISTRIBUTIONS:
        known = ", ".join(DISTRIBUTIONS)
        raise UserError(f"there is no distribution {kind!r}; known are {known}", name)
    defaults = DISTRIBUTIONS[kind]
    options = defaults | {key: value for key, value in given.items() if key != "distribution"}
    for key, value in options.items():
        if key not in defaults:
            raise UserError(f"{kind} has no {key!r}; it has {', '.join(defaults)}", name)
        if key not in given and value is None:
            raise UserError(f"{kind} needs {key}", name)
        if key in ("values", "probabilities"):
            if not isinstance(value, list | tuple) or (key == "values" and not value):
                raise UserError(f"{key} must be a list of one or more", name)
        elif key != "value":
            check_number(value, name, f"{key}: ", whole=kind == "int_uniform")
    _check(name, kind, options)
    parameter = Parameter(name, kind, options)
    if parameter.choices is None and not _is_finite(parameter):
        raise UserError(f"{kind} has values here that are no finite numbers", name)
    return parameter


def _is_finite(parameter: Parameter) -> bool:
    with suppress(OverflowError):
        return all(math.isfinite(parameter.at(quantile)) for quantile in (EDGE, 1 - EDGE))
    return False


def _implied(name: str, given: Mapping[str, Any]) -> str:
    if "value" in given:
        return "constant"
    if "values" in given:
        return "categorical_w_probabilities" if "probabilities" in given else "categorical"
    if "min" in given and "max" in given:
        return "int_uniform" if all(type(given[key]) is int for key in BOUNDS) else "uniform"
    raise UserError("has no value, values, min and max, or distribution", name)


def check_number(value: Any, key: str, option: str = "", whole: bool = False) -> None:
    """Check that a value is a finite number.

    Args:
        value: The value.
        key: Its key.
        option: What the message begins with.
        whole: Whether it must be an integer.

    Raises:
        UserError: If it isn't.
    """
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
        raise UserError(f"{option}{value!r} must be a {'whole ' if whole else ''}number", key)


def _check(name: str, kind: str, options: Mapping[str, Any]) -> None:
    low, high = options.get("min", 0), options.get("max", 1)
    if low >= high:
        raise UserError(f"min: {low} must be less than max: {high}", name)
    if kind.endswith("log_uniform_values") and low <= 0:
        raise UserError(f"min: {low} must be more than 0 for a logarithm", name)
    if not kind.endswith("values") and "log_uniform" in kind and max(abs(low), abs(high)) > 300:
        raise UserError(f"{kind} takes exponents of e; {kind}_values takes the values", name)
    for key in ("q", "sigma", "a", "b"):
        if options.get(key, 1) <= 0:
            raise UserError(f"{key}: {options[key]} must be more than 0", name)
    if shares := options.get("probabilities"):
        numbers = all(isinstance(one, int | float) and one >= 0 for one in shares)
        if not numbers or len(shares) != len(options["values"]) or abs(sum(shares) - 1) > 1e-6:
            raise UserError("probabilities must be one for each value, and sum up to 1", name)
    values = [as_text(value) for value in options.get("values", ())]
    if len(set(values)) < len(values):
        raise UserError(f"values: {', '.join(values)} has one of them twice", name)
