"""Sweeps: what a file means, which trials run, what goes on after a kill, and what is refused."""

import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, ClassVar

import optuna
import pytest
from scipy import stats

from project import config_text
from project.cli import main
from project.commands import child_runs
from project.commands.sweep import command
from project.commands.sweep.parameters import DISTRIBUTIONS, parameters_of
from project.commands.sweep.report import _names, _shown
from project.commands.sweep.settings import Sweep, read_sweep
from project.commands.sweep.study import Study
from project.csv_text import read_table
from project.signals import Stopped
from tests.conftest import CONFIGS

BASE = """
model:
  class_path: TrainFromScratch
  init_args: {network: {class_path: MLP, init_args: {hidden: [8]}}}
data: {class_path: Digits, init_args: {batch_size: 100, limit_per_class: 20}}
trainer: {max_epochs: 2, logger: {class_path: CSVLogger, init_args: {name: "", version: ""}}}
"""
SWEEP = """
name: digits
method: grid
metric: {name: val/accuracy, goal: maximize}
command: ["${env}", "${interpreter}", -m, project, fit, --config, base.yaml,
  --test_after_fit=false, "${args}"]
parameters:
  model.optimizer: {value: SGD}
  model.optimizer.lr: {values: [0.1, 1.0e+30]}
  model.network.hidden: {values: ["[8]", [16, 8]]}
"""
PARAMETERS = SWEEP[SWEEP.index("parameters:") :]
FOLDER = Path("runs/sweeps/small")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A sweep of four trials, two of which fail."""
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "small.yaml").write_text(SWEEP)
    return Path("small.yaml")


class InProcess:
    """Stands for the process of a trial: ``fit`` runs in this one, and is over at once."""

    pid = 0
    started: ClassVar[list[list[str]]] = []
    stops_at: ClassVar[int] = 0  # the trial at which the sweep gets a signal

    def __init__(self, arguments: list[str], stdout: IO[bytes], **_: Any) -> None:
        self.started.append(arguments)
        if len(self.started) == self.stops_at:
            raise Stopped(143)
        self.code: Any = 0
        text = io.TextIOWrapper(stdout, write_through=True)
        with redirect_stdout(text), redirect_stderr(text):
            try:
                self.fit(arguments[3:])
            except SystemExit as end:
                self.code = end.code
        text.detach()

    def poll(self) -> int:
        return int(self.code)

    def fit(self, arguments: list[str]) -> None:
        main(arguments)


class Pretended(InProcess):
    """The same for a process that trains nothing: it writes what a run leaves."""

    def fit(self, arguments: list[str]) -> None:
        given = dict(word[2:].split("=", 1) for word in arguments if "=" in word)
        rate = float(given["model.optimizer.lr"])
        if rate > 1:
            print("error: the training loss became nan")
            sys.exit(2)
        (run_dir := Path(given["run_dir"])).mkdir(parents=True)
        (run_dir / "config.yaml").write_text("trainer: {}")
        (run_dir / "metrics.csv").write_text(f"epoch,val/accuracy\n0,{rate}\n1,{rate / 2}\n")
        summary = {"val/accuracy": rate, "ended": True, "process_seconds": 7.0}
        (run_dir / "summary.json").write_text(json.dumps(summary))


class Waits(Pretended):
    """One that has validated twice, and ends when it is asked a second time, or told to."""

    asked = False

    def poll(self) -> int | None:  # type: ignore[override]
        self.asked, before = True, self.asked
        return self.code if before else None


@pytest.fixture
def start_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[InProcess]], type[InProcess]]:
    def change(kind: type[InProcess]) -> type[InProcess]:
        kind.started, kind.stops_at = [], 0
        changed = SimpleNamespace(**{**vars(subprocess), "Popen": kind})
        monkeypatch.setattr(child_runs, "subprocess", changed)
        monkeypatch.setattr("project.commands.sweep.trials.POLL_SECONDS", 0.0)
        return kind

    return change


@pytest.fixture
def trained(start_in: Callable[..., type[InProcess]]) -> type[InProcess]:
    """Start no processes, which takes most of the time of small runs."""
    return start_in(InProcess)


@pytest.fixture
def processes(
    start_in: Callable[..., type[InProcess]], monkeypatch: pytest.MonkeyPatch
) -> type[InProcess]:
    """Start no processes, train nothing, and draw nothing."""
    monkeypatch.setattr("project.commands.sweep.report.draw", lambda *_: None)
    return start_in(Pretended)


def rows() -> list[dict[str, str]]:
    return list(read_table(FOLDER / "trials.csv"))


# What runs


@pytest.mark.drawing
def test_sweep(small: Path, trained: type[InProcess], capfd: pytest.CaptureFixture[str]) -> None:
    """Four trials, stopped in the third; then the rest, a table, a picture and the best config."""
    trained.stops_at = 3
    small.write_text(SWEEP.replace("name: digits", r'name: "digits\n:"'))
    with pytest.raises(SystemExit) as exit_:
        main(["sweep", "--config", str(small)])
    assert exit_.value.code == 143
    assert "the same command continues with the missing trials" in capfd.readouterr().err
    before = {path: path.stat().st_mtime_ns for path in FOLDER.glob("trials/*/summary.json")}
    assert len(before) == 2
    main(["sweep", "--config", str(small)])
    out = capfd.readouterr().out
    assert "2 of 3 are finished already" in out
    assert all(path.stat().st_mtime_ns == moment for path, moment in before.items())
    found = rows()
    assert [row["trial"] for row in found] == list("0123")
    grid = Counter((row["model.optimizer.lr"], row["model.network.hidden"]) for row in found)
    assert len(grid) == 4 and set(grid.values()) == {1}
    states = Counter(row["state"] for row in found)
    assert states == {"complete": 2, "failed": 2}
    assert {row["model.optimizer.lr"] for row in found if row["error"]} == {"1e+30"}
    assert all("the training loss became" in row["error"] for row in found[2:])
    assert "4 trials: 2 complete, 2 failed" in out
    assert (FOLDER / "sweep.png").stat().st_size > 10_000
    best = max(
        (row for row in found if row["state"] == "complete"), key=lambda r: float(r["val/accuracy"])
    )
    config = config_text.mapping(FOLDER / "best.yaml")
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == float(
        best["model.optimizer.lr"]
    )
    assert "test_after_fit" not in config
    main(["fit", "--config", str(FOLDER / "best.yaml"), "--run_dir=again"])
    out = capfd.readouterr().out
    assert f"{float(best['val/accuracy']):.4f}" in out and "test" in out


def test_trials_end_early(
    small: Path,
    processes: type[InProcess],
    start_in: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Those that are worse after their first validation; the others end by themselves."""
    told = []

    def end(process: Any) -> None:
        told.append(process)
        process.code = 143

    start_in(Waits)
    monkeypatch.setattr("project.commands.sweep.trials.end", end)
    values = SWEEP.replace("[0.1, 1.0e+30]", "[0.4, 0.3, 0.5]")
    small.write_text(f"{values}early_terminate: {{type: hyperband, min_iter: 1, eta: 2}}")
    main(["sweep", "--config", str(small)])
    found = [(row["state"], float(row["val/accuracy"])) for row in rows()]
    early, whole = "stopped early", "complete"
    assert found[:4] == [(whole, 0.4), (whole, 0.4), (early, 0.15), (early, 0.15)]
    assert found[4:] == [(whole, 0.5), (whole, 0.5)]
    assert len(told) == 2
    out = capfd.readouterr().out
    assert "6 trials: 4 complete, 2 stopped early" in out
    assert re.findall(r"│ +(\d) │", out) == list("450123")  # the best one first


def test_what_follows_the_command_beats_the_file(small: Path) -> None:
    first = ["fit", "--config", "base.yaml", "--test_after_fit=false"]
    sweep = read_sweep(small, ["--b=2"])
    assert sweep.arguments({"a": "[1, 2]"}) == [*first, "--a=[1, 2]", "--b=2"]


def study_of(sweep: Sweep, folder: str = "study", storage: str | None = None) -> Study:
    Path(folder).mkdir(exist_ok=True)
    return Study(sweep, Path(folder), storage, seed=0)


def searched(small: Path, method: str = "random", more: str = "") -> Sweep:
    small.write_text(
        SWEEP.replace("grid", method)
        .replace("values: [0.1, 1.0e+30]", "min: 0.0, max: 1.0")
        .replace("parameters:", f"{more}\nparameters:")
    )
    return read_sweep(small)


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_resumed_study_draws_what_an_uninterrupted_one_draws(small: Path, method: str) -> None:
    """And what was drawn when it was killed stays: nothing is drawn twice."""
    sweep = searched(small, method)

    def drawn(folder: str, counts: list[int]) -> list[str]:
        found = []
        for count in counts:
            study = study_of(sweep, folder)
            for number in study.unfinished():
                trial = study.again(number)
                assert trial is not None
                study.finish(trial, score=float(trial.user_attrs["values"]["model.optimizer.lr"]))
            for _ in range(count):
                trial = study.ask()
                found.append(trial.user_attrs["values"]["model.optimizer.lr"])
                if len(found) != 5:  # the fifth is killed
                    study.finish(trial, score=float(found[-1]))
        return found

    whole, parts = drawn("whole", [14]), drawn("parts", [5, 9])
    assert len(set(whole)) == 14
    assert parts[:5] == whole[:5]
    assert len({*parts}) == 14
    assert method == "bayes" or parts == whole
    study = study_of(sweep, "parts")
    assert (study.count, study.finished) == (14, 14)


def test_bayes_searches_where_it_is_good(small: Path) -> None:
    sweep = searched(small, "bayes")
    study = study_of(sweep)
    errors = []
    for _ in range(30):
        trial = study.ask()
        error = abs(float(trial.user_attrs["values"]["model.optimizer.lr"]) - 0.3)
        study.finish(trial, score=-error)
        errors.append(error)
    assert sum(errors[15:]) < 0.6 * sum(errors[:15])


def test_each_machine_goes_on_with_its_own_trials(small: Path) -> None:
    sweep = searched(small)
    url = "sqlite:///study.db"
    here, there = study_of(sweep, "here", url), study_of(sweep, "there", url)
    first, second = here.ask(), there.ask()
    assert (first.number, second.number) == (0, 1)
    assert first.user_attrs["values"] != second.user_attrs["values"]
    assert here.unfinished() == [0] and there.unfinished() == [1]
    there.finish(second, score=0.5)
    assert here.again(1) is None and here.count == 2 and here.finished == 1


def test_halving(small: Path) -> None:
    """Half of the trials end at 2, 4, … validations; the best one so far counts unless strict."""
    more = "early_terminate: {type: hyperband, min_iter: 2, eta: 2, strict: false}"
    study = study_of(searched(small, more=more))
    good, bad, late = study.ask(), study.ask(), study.ask()
    assert not study.report(good, {1: 0.9, 2: 0.8, 3: 0.9})
    assert not study.report(bad, {1: 0.5})
    assert study.report(bad, {1: 0.5, 2: 0.6})
    assert not study.report(late, {1: 0.95, 2: 0.1})
    strict = study_of(searched(small, more=more.replace("false", "true")), "strict")
    first, late = strict.ask(), strict.ask()
    assert not strict.report(first, {1: 0.9, 2: 0.8})
    assert strict.report(late, {1: 0.95, 2: 0.1})
    assert strict.finish(late).score == 0.1
    diverged = strict.ask()
    assert strict.report(diverged, {1: 0.9, 2: math.nan})
    assert strict.finish(diverged).score is None  # nothing can be drawn at nan


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("min_iter: 3", (3, 3)),
        ("max_iter: 27, s: 2", (3, 3)),
        ("max_iter: 27, s: 9", (1, 3)),
        ("max_iter: 32, s: 3, eta: 2", (4, 2)),
    ],
)
def test_bands_of_hyperband(given: str, found: tuple[int, int], small: Path) -> None:
    halving = searched(small, more=f"early_terminate: {{type: hyperband, {given}}}").halving
    assert halving is not None and (halving.first, halving.eta) == found


def test_a_target_ends_the_sweep(small: Path, processes: type[InProcess]) -> None:
    small.write_text(SWEEP.replace("maximize}", "maximize, target: 0.01}"))
    for _ in range(2):
        main(["sweep", "--config", str(small)])
    assert len(processes.started) == 1


def test_time_ends_the_sweep(small: Path, processes: type[InProcess]) -> None:
    main(["sweep", "--config", str(small), "--time=1s", "--trials=1"])
    assert len(processes.started) == 1  # the first one has begun in time
    main(["sweep", "--config", str(small), "--time=1s", "--trials=2", "--jobs=1"])
    assert len(processes.started) == 2


def test_a_trial_that_ended_without_the_sweep_is_not_run_again(
    small: Path, processes: type[InProcess]
) -> None:
    """As after a kill of the sweep alone; one that has begun, and did not end, goes on."""
    main(["sweep", "--config", str(small), "--trials=1"])
    study = Study(read_sweep(small), FOLDER, None, 0)
    whole, begun = study.ask(), study.ask()
    shutil.copytree(FOLDER / "trials" / "0000", FOLDER / "trials" / "0001")
    (run := FOLDER / "trials" / "0002" / "checkpoints").mkdir(parents=True)
    (run.parent / "config.yaml").touch()
    main(["sweep", "--config", str(small), "--trials=3"])
    assert len(processes.started) == 2
    assert processes.started[1][-1] == f"--resume={run.parent}"
    command, _, *options = processes.started[1][3:-2]  # the second draws no pictures
    assert [command, *options] == study.sweep.arguments(begun.user_attrs["values"])
    assert [row["trial"] for row in rows()] == ["0", "1", "2"]
    assert [row["state"] for row in rows()] == ["complete", "complete", "failed"]
    assert rows()[whole.number]["seconds"] == "7.0"


def test_a_metric_that_is_not_there(small: Path, fails: Callable[..., str], processes: Any) -> None:
    small.write_text(SWEEP.replace("val/accuracy", "val/beauty"))
    said = fails("sweep", "--config", small, "--trials=2")
    assert (
        said == "none of 2 trials came to its end: logged no val/beauty, or none that is a number"
    )


# What is drawn

QUANTILES = (0.1, 0.37, 0.5, 0.9)
REFERENCE: dict[str, tuple[dict[str, Any], Callable[[float], float]]] = {  # as W&B has them
    "q_uniform": ({"min": 1, "max": 9, "q": 0.5}, lambda u: round((1 + 8 * u) / 0.5) * 0.5),
    "q_log_uniform": ({"min": 0, "max": 3, "q": 2}, lambda u: round(math.exp(3 * u) / 2) * 2),
    "q_log_uniform_values": (
        {"min": 2, "max": 50, "q": 3},
        lambda u: round(stats.loguniform.ppf(u, 2, 50) / 3) * 3,
    ),
    "normal": ({"mu": 2, "sigma": 3}, lambda u: stats.norm.ppf(u, 2, 3)),
    "q_normal": ({"mu": 2, "sigma": 3, "q": 1}, lambda u: round(stats.norm.ppf(u, 2, 3))),
    "log_normal": ({"mu": 0, "sigma": 0.5}, lambda u: stats.lognorm.ppf(u, 0.5)),
    "q_log_normal": (
        {"mu": 1, "sigma": 0.5, "q": 0.1},
        lambda u: round(stats.lognorm.ppf(u, 0.5, scale=math.e) / 0.1) * 0.1,
    ),
    "beta": ({"a": 2, "b": 5}, lambda u: stats.beta.ppf(u, 2, 5)),
    "q_beta": ({"a": 2, "b": 5, "q": 0.01}, lambda u: round(stats.beta.ppf(u, 2, 5) / 0.01) * 0.01),
}
NATIVE: dict[str, tuple[dict[str, Any], optuna.distributions.BaseDistribution]] = {
    "int_uniform": ({"min": 1, "max": 9}, optuna.distributions.IntDistribution(1, 9)),
    "uniform": ({"min": 1, "max": 9}, optuna.distributions.FloatDistribution(1, 9)),
    "log_uniform": (
        {"min": 0, "max": 2},
        optuna.distributions.FloatDistribution(1, math.exp(2), log=True),
    ),
    "log_uniform_values": (
        {"min": 0.1, "max": 10},
        optuna.distributions.FloatDistribution(
            math.exp(math.log(0.1)), math.exp(math.log(10)), log=True
        ),
    ),
    "inv_log_uniform": (  # the logarithm of 1/x is uniform
        {"min": -1, "max": 2},
        optuna.distributions.FloatDistribution(math.exp(-2), math.e, log=True),
    ),
    "inv_log_uniform_values": (
        {"min": 0.1, "max": 10},
        optuna.distributions.FloatDistribution(
            math.exp(math.log(0.1)), math.exp(math.log(10)), log=True
        ),
    ),
    "categorical": ({"values": [1, "a"]}, optuna.distributions.CategoricalDistribution(["1", "a"])),
}


def drawn_as(kind: str, options: dict[str, Any], quantile: float) -> str:
    (one,) = parameters_of({"x": {"distribution": kind, **options}})
    return one.text(one.draw(optuna.trial.FixedTrial({"x": quantile})))


@pytest.mark.parametrize("kind", REFERENCE)
def test_a_quantile_becomes_the_value_of_its_distribution(kind: str) -> None:
    options, reference = REFERENCE[kind]
    for quantile in QUANTILES:
        assert float(drawn_as(kind, options, quantile)) == pytest.approx(reference(quantile))
    if isinstance(options.get("q"), int):
        assert drawn_as(kind, options, 0.5).isdecimal()


@pytest.mark.parametrize("kind", NATIVE)
def test_what_optuna_has_itself(kind: str) -> None:
    options, expected = NATIVE[kind]
    study = optuna.create_study()
    (one,) = parameters_of({"x": {"distribution": kind, **options}})
    trial = study.ask()
    one.text(one.draw(trial))
    assert trial.distributions == {"x": expected}


def test_every_distribution_of_wandb_is_tested() -> None:
    others = {"constant", "categorical_w_probabilities"}
    assert {*REFERENCE, *NATIVE, *others} == DISTRIBUTIONS.keys()


def test_probabilities() -> None:
    options = {"values": ["a", [1, 2], None], "probabilities": [0.2, 0.0, 0.8]}
    kind = "categorical_w_probabilities"
    found = Counter(drawn_as(kind, options, place / 1000) for place in range(1, 1000))
    assert found == {"a": 200, "null": 799}
    (implied,) = parameters_of({"x": options})
    assert implied.kind == kind


def test_nested_and_implied_parameters() -> None:
    found = parameters_of(
        {
            "a": {
                "parameters": {
                    "b": {"parameters": {"c": {"value": True}}},
                    "d": {"min": 1, "max": 2},
                }
            },
            "e": {"values": ["x", {"k": 1}]},
            "f": {"min": 1, "max": 2.5},
        }
    )
    assert [(one.name, one.kind, one.example) for one in found] == [
        ("a.b.c", "constant", "true"),
        ("a.d", "int_uniform", "1"),
        ("e", "categorical", "x"),
        ("f", "uniform", "1.75"),
    ]


def test_a_grid_has_each_combination_once(small: Path) -> None:
    small.write_text(
        SWEEP.replace(
            "{values: [0.1, 1.0e+30]}", "{distribution: q_uniform, min: 0, max: 1, q: 0.25}"
        )
        + "  seed_everything: {min: 1, max: 3}\n"
    )
    found = read_sweep(small)
    grid = [found.combination(number) for number in range(found.combinations)]
    assert len({tuple(point.values()) for point in grid}) == len(grid) == 4 * 2 * 3
    assert found.combination(len(grid)) == grid[0]
    assert {point["model.optimizer.lr"] for point in grid} == {"0.0", "0.25", "0.5", "0.75"}


# What is refused

BAD = [
    ("method: grid", "method: tpe", "small.yaml: method: 'tpe' must be one of grid, random, bayes"),
    ("method", "methods", "small.yaml: methods: is no key of a sweep here; known are name, method"),
    ("maximize", "most", "small.yaml: metric.goal: 'most' must be minimize or maximize"),
    ("{name: val/accuracy,", "{nam: a,", "small.yaml: metric.nam: isn't known here"),
    ("-m, project", "train.py", "small.yaml: command: must have the form [${env}, ${interpreter}"),
    ('"${args}"', "--a", "small.yaml: command: must have the form [${env}, ${interpreter}"),
    ("value: SGD", "valu: SGD", "parameters.model.optimizer: has no value, values, min and max"),
    (
        "value: SGD",
        "distribution: gamma",
        "parameters.model.optimizer: there is no distribution 'gamma'; known are constant, cat",
    ),
    ("value: SGD", "min: 3, max: 1", "parameters.model.optimizer: min: 3 must be less than max: 1"),
    ("value: SGD", "min: 1, max: a", "parameters.model.optimizer: max: 'a' must be a number"),
    ("value: SGD", "min: 0, max: 1, q: 1", "model.optimizer: int_uniform has no 'q'; it has min"),
    (
        "value: SGD",
        "distribution: log_uniform_values, min: 0, max: 1",
        "parameters.model.optimizer: min: 0 must be more than 0 for a logarithm",
    ),
    (
        "value: SGD",
        "values: [a, b], probabilities: [0.5, 0.6]",
        "parameters.model.optimizer: probabilities must be one for each value, and sum up to 1",
    ),
    ("value: SGD", "values: [1, 1]", "parameters.model.optimizer: values: 1, 1 has one of them"),
    ("value: SGD", "min: 0.0, max: 1.0", "parameters.model.optimizer: uniform has no grid; give"),
    ("{value: SGD}", "SGD", "parameters.model.optimizer: 'SGD' must be a mapping, such as {value"),
    ("model.optimizer:", "run_dir:", "small.yaml: parameters.run_dir: is set by the sweep; leave"),
    ("model.optimizer:", "model.optimiser:", "no option 'optimiser'"),
    ("base.yaml", "bass.yaml", "bass.yaml"),
    (
        "name: digits",
        "early_terminate: {type: envelope}",
        "small.yaml: early_terminate.type: 'envelope' must be hyperband",
    ),
    (
        "name: digits",
        "early_terminate: {type: hyperband, min_iter: 1, eta: 2.5}",
        "small.yaml: early_terminate.eta: 2.5 must be a whole number from 2 on",
    ),
    (
        "name: digits",
        "early_terminate: {type: hyperband}",
        "small.yaml: early_terminate: needs min_iter, or max_iter and s",
    ),
    *(
        (
            "name: digits",
            f"early_terminate: {{type: hyperband, max_iter: 9, s: 1, {key}: {value}}}",
            f"small.yaml: early_terminate.{key}: {said} must be a number",
        )
        for key, value, said in (
            ("min_iter", "many", "'many'"),
            ("min_iter", "[1]", "[1]"),
            ("min_iter", "null", "None"),
            ("min_iter", ".nan", "nan"),
            ("min_iter", "true", "True"),
            ("eta", "null", "None"),
            ("eta", ".inf", "inf"),
        )
    ),
    ("name: digits", "run_cap: many", "small.yaml: run_cap: 'many' must be a number of trials"),
    ("name: digits", "name: [digits]", "small.yaml: name: ['digits'] must be a text"),
    ("goal: maximize", "goal: maximize, target: .nan", "small.yaml: metric.target: nan must be a"),
    ("value: SGD", "distribution: [beta]", "model.optimizer: there is no distribution ['beta']"),
    ("value: SGD", "parameters: {}", "small.yaml: parameters.model.optimizer: parameters must be"),
    (PARAMETERS, "parameters: {}", "small.yaml: parameters must be options of fit by name, each"),
    *(
        ("value: SGD", wide, "parameters.model.optimizer: log_normal has values here that are no")
        for wide in ("distribution: log_normal, mu: 1000", "distribution: log_normal, sigma: 400")
    ),
    (
        "value: SGD",
        "distribution: uniform, min: -1.0e+308, max: 1.0e+308",
        "parameters.model.optimizer: uniform has values here that are no finite numbers",
    ),
    (
        "{value: SGD}",
        "{value: SGD}\n  model: {parameters: {optimizer: {value: SGD}}}",
        "small.yaml: parameters.model.optimizer: is there twice, with dots and nested",
    ),
]


@pytest.mark.parametrize(("old", "new", "message"), BAD)
def test_bad_sweeps(
    old: str, new: str, message: str, small: Path, fails: Callable[..., str]
) -> None:
    """One message, and nothing is run."""
    small.write_text(SWEEP.replace(old, new, 1))
    assert message in fails("sweep", "--config", small)
    assert not Path("runs").exists()


def test_bad_options(small: Path, fails: Callable[..., str]) -> None:
    assert "'config'" in fails("sweep") or "config" in fails("sweep")
    assert "nowhere.yaml" in fails("sweep", "--config", "nowhere.yaml")
    assert "time: '5 days' must be a length" in fails("sweep", "--config", small, "--time=5 days")
    assert "jobs" in fails("sweep", "--config", small, "--jobs=0")
    said = fails("sweep", "--config", small, "--", "--trainer.max_epoch=1")
    assert "no option 'trainer.max_epoch'; did you mean" in said
    searched(small)
    said = fails("sweep", "--config", small)
    assert said == "trials: random has no end; give a number, or run_cap in the file"
    said = fails("sweep", "--config", small, "--trials=1", "--storage=mysql://nobody@nowhere/x")
    assert said.startswith("storage: mysql://nobody@nowhere/x can't be used: ")
    Path("file").touch()
    said = fails("sweep", "--config", small, "--trials=1", "--output=file/folder")
    assert said == "output: file/folder can't be used: Not a directory"


def test_another_sweep_in_the_folder(
    small: Path, fails: Callable[..., str], processes: type[InProcess]
) -> None:
    main(["sweep", "--config", str(small), "--trials=1"])
    (base := Path("base.yaml")).write_text(BASE.replace("max_epochs: 2", "max_epochs: 1"))
    said = fails("sweep", "--config", small)
    assert said.startswith(
        "runs/sweeps/small/study.journal holds the sweep digits with another con"
    )
    base.write_text(BASE)
    small.write_text(SWEEP.replace("0.1", "0.2"))
    assert "with another parameters; choose another --output" in fails("sweep", "--config", small)
    assert len(processes.started) == 1


def test_without_optuna(
    small: Path, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    said = fails("sweep", "--config", small)
    assert said == "sweep needs Optuna: pip install -e '.[sweep]'"


def test_optuna_has_no_public_way_to_a_running_trial() -> None:
    """Else running_trial in project/upstream can go."""
    study = optuna.create_study()
    study.ask()
    (trial,) = study.trials
    assert not hasattr(trial, "trial_id") and hasattr(trial, "_trial_id")


# What is shown


def test_short_names() -> None:
    names = ["model.optimizer.lr", "model.lr", "data.batch_size"]
    assert list(_names(names).values()) == ["optimizer.lr", "model.lr", "batch_size"]
    assert [_shown(text) for text in ("0.0123456", "64", "1e-05", "[8, 8]", "AdamW")] == [
        *("0.01235", "64", "1e-05", "[8, 8]", "AdamW")
    ]


def start(*args: Any) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "project", "sweep", *map(str, args)],
        env=os.environ | {"PYTHONPATH": str(CONFIGS.parent)},
        stdout=subprocess.DEVNULL,
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_sweep_goes_on(how: signal.Signals, small: Path) -> None:
    """With two processes at the same time; each trial has one result, and no finished one two."""
    small.write_text(
        SWEEP.replace("[0.1, 1.0e+30]", "[0.1]") + "  seed_everything: {values: [1, 2, 3]}"
    )
    args = ("--config", small, "--jobs=2", "--", "--trainer.max_epochs=60")
    process = start(*args)
    while not (FOLDER / "trials" / "0003" / "metrics.csv").exists():  # some of it is done
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(how)
    code = process.wait()
    assert code == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[how]
    summaries = FOLDER.glob("trials/*/summary.json")
    done = {path: path.read_text() for path in summaries if '"ended": true' in path.read_text()}
    assert 2 <= len(done) < 6
    assert start(*args).wait() == 0
    assert all(path.read_text() == before for path, before in done.items())
    assert [(row["trial"], row["state"]) for row in rows()] == [(n, "complete") for n in "012345"]
    for path in FOLDER.glob("trials/*/metrics.csv"):
        epochs = [row["epoch"] for row in read_table(path) if row["val/accuracy"]]
        assert epochs == [str(number) for number in range(60)]
