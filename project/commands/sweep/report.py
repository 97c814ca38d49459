"""What a sweep ends with: a table, a picture, and the config of its best trial."""

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from rich.table import Table

from project import config_text, csv_text
from project.callbacks.plots import drawing, short
from project.commands.sweep.parameters import Parameter
from project.commands.sweep.settings import Sweep
from project.commands.sweep.study import RESULTS, Result, Study
from project.console import print_table, readable, show
from project.durations import duration
from project.environment import COMMAND
from project.errors import UserError
from project.run_files import CONFIG
from project.saving import write

MOST_ROWS = 10  # of the table in the terminal; the file has all
MOST_PARAMETERS = 11  # that are drawn, the most important ones
COLUMNS = 4  # of the picture
COLORS = {"complete": "tab:blue", "stopped early": "tab:gray"}
OF_THE_TRIAL = ("test_after_fit", "experiment")  # what the config of a trial has for the sweep


def write_report(sweep: Sweep, study: Study, folder: Path, run_dir: Callable[[int], Path]) -> None:
    """Write table, picture and best config into the folder of a sweep, and show what is best.

    Args:
        sweep: The sweep.
        study: Its study.
        folder: Its folder.
        run_dir: Returns the run directory of a trial.

    Raises:
        UserError: If no trial came to its end.
    """
    results = study.results()
    shares = study.importances()
    searched = [one for one in sweep.parameters if len(one.choices or "ab") > 1]
    searched.sort(key=lambda one: -shares.get(one.name, 0))
    ranked = _ranked(sweep, results)
    _write_table(folder / "trials.csv", sweep, results)
    best = study.best()
    if best is None:
        errors = [one.error for one in results if one.error]
        last = f": {errors[-1]}" if errors else ""
        raise UserError(f"none of {len(results)} trials came to its end{last}")
    draw(sweep, results, searched, shares, best, folder / "sweep.png")
    print_table(_table(sweep, ranked, searched))
    counts = {state: sum(one.state == state for one in results) for state in RESULTS.values()}
    many = "trial" if len(results) == 1 else "trials"
    show(f"{len(results)} {many}: " + ", ".join(f"{n} {state}" for state, n in counts.items() if n))
    if shares:
        show("importance: " + ", ".join(f"{name} {share:.2f}" for name, share in shares.items()))
    show(f"table: {folder / 'trials.csv'}   picture: {folder / 'sweep.png'}")
    show(f"best: trial {best.number}, {sweep.metric} {best.score:.4f}, in {run_dir(best.number)}")
    config = run_dir(best.number) / CONFIG
    if config.is_file():  # else another machine has it
        _write_best(config, folder / "best.yaml", sweep, best)
        show(f"train it again, and test it: {_again(folder / 'best.yaml')}")


def _again(path: Path) -> str:
    return shlex.join([*COMMAND, "fit", "--config", str(path)])


def _write_best(config: Path, path: Path, sweep: Sweep, best: Result) -> None:
    values = config_text.mapping(config)
    values = {name: value for name, value in values.items() if name not in OF_THE_TRIAL}
    said = f"Trial {best.number} of the sweep {sweep.name}: {sweep.metric} {best.score:.4f} with"
    given = [f"  {name}: {value}" for name, value in best.values.items()]
    head = [f"# {readable(line)}".rstrip() for line in (_again(path), "", said, *given)]
    write(path, "\n".join([*head, config_text.dump(values)]))


def _ranked(sweep: Sweep, results: Sequence[Result]) -> list[Result]:
    """Return the results, those that came to their end first, and the best of them first."""
    states = list(RESULTS.values())
    sign = -1 if sweep.maximize else 1
    return sorted(results, key=lambda one: (states.index(one.state), sign * (one.score or 0)))


def _table(sweep: Sweep, ranked: Sequence[Result], searched: Sequence[Parameter]) -> Table:
    table = Table(caption=None if len(ranked) <= MOST_ROWS else f"{MOST_ROWS} of {len(ranked)}")
    table.add_column("trial", justify="right")
    table.add_column(sweep.metric, justify="right")
    names = _names([one.name for one in searched])
    for name in names.values():
        table.add_column(name, justify="right")
    table.add_column("")
    table.add_column("time", justify="right")
    for one in ranked[:MOST_ROWS]:
        score = "" if one.score is None else f"{one.score:.4f}"
        values = [_shown(one.values.get(name, "")) for name in names]
        state = "" if one.state == "complete" else short(one.error, 60) or one.state
        table.add_row(str(one.number), score, *values, state, duration(one.seconds))
    return table


def _names(names: Sequence[str]) -> dict[str, str]:
    """Return the last part of each name, with as many parts before it as tell them apart."""
    found = {}
    for name in names:
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            found[name] = ".".join(parts[-count:])
            alike = [one for one in names if f".{one}".endswith(f".{found[name]}")]
            if len(alike) == 1:
                break
    return found


def _shown(value: str) -> str:
    """Return a value with at most 4 digits, if it is a fraction."""
    number = _number(value)
    return short(value) if number is None or value.isdecimal() else f"{number:.4g}"


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _write_table(path: Path, sweep: Sweep, results: Sequence[Result]) -> None:
    names = [one.name for one in sweep.parameters]
    with csv_text.table(path) as table:
        table.row(["trial", "state", sweep.metric, "seconds", *names, "error"])
        for one in results:
            values = [one.values.get(name) for name in names]
            table.row([one.number, one.state, one.score, round(one.seconds, 1), *values, one.error])


@drawing()
def draw(
    sweep: Sweep,
    results: Sequence[Result],
    searched: Sequence[Parameter],
    shares: Mapping[str, float],
    best: Result,
    path: Path,
) -> None:
    """Draw the score over the trials and over each parameter, and the importances.

    Args:
        sweep: The sweep.
        results: The finished trials.
        searched: The parameters, the most important one first.
        shares: Importance of each; may be empty.
        best: The best trial.
        path: PNG file to write.
    """
    from matplotlib.figure import Figure  # slow to import

    scored = [one for one in results if one.score is not None]
    drawn = searched[:MOST_PARAMETERS]
    count = 1 + len(drawn) + bool(shares)
    columns = min(COLUMNS, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(3.4 * columns, 2.8 * rows + 0.4), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    low, high = _range(sweep, scored)
    _over_time(grid[0], sweep, scored, best)
    for axes, parameter in zip(grid[1:], drawn):
        _over_values(axes, parameter, scored, best)
    for axes in grid[: 1 + len(drawn)]:
        axes.set_ylim(low, high)
        axes.grid(alpha=0.3)
    names = _names([one.name for one in searched])
    for axes, parameter in zip(grid[1:], drawn):
        axes.set_xlabel(short(names[parameter.name], 32))
    for axes in grid[0 : 1 + len(drawn) : columns]:
        axes.set_ylabel(sweep.metric)
    if shares:
        axes = grid[count - 1]
        ordered = list(reversed(drawn))
        axes.barh(
            [short(names[one.name]) for one in ordered],
            [shares.get(one.name, 0) for one in ordered],
        )
        axes.set(xlabel="importance (PED-ANOVA)", xlim=(0, 1))
    for axes in grid[count:]:
        axes.set_axis_off()
    figure.suptitle(f"{sweep.name}: {len(results)} trials, best {best.score:.4f} (★)")
    figure.savefig(path, dpi=120)


def _range(sweep: Sweep, scored: Sequence[Result]) -> tuple[float, float]:
    """Return the scores to draw: from the best one to the quartile of the worst ones."""
    scores = sorted((one.score or 0 for one in scored), reverse=sweep.maximize)
    best, worst = scores[0], scores[min(len(scores) - 1, round(len(scores) * 0.75))]
    room = 0.08 * abs(best - worst) or 0.01
    return min(best, worst) - room, max(best, worst) + room


def _over_time(axes: Any, sweep: Sweep, scored: Sequence[Result], best: Result) -> None:
    _scatter(axes, [one.number for one in scored], scored)
    complete = [(one.number, one.score or 0) for one in scored if one.state == "complete"]
    so_far = list(accumulate((score for _, score in complete), max if sweep.maximize else min))
    numbers = [number for number, _ in complete]
    axes.step(numbers, so_far, where="post", label="best so far", color="tab:orange")
    axes.plot(best.number, best.score, "*", color="tab:red", markersize=12)
    axes.set_xlabel("trial")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=7)


def _over_values(axes: Any, parameter: Parameter, scored: Sequence[Result], best: Result) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    choices = parameter.choices
    places: list[float]
    if choices is not None:
        places = [choices.index(one.values[parameter.name]) for one in scored]
        axes.set_xticks(range(len(choices)), [short(one, 14) for one in choices])
        axes.set_xlim(-0.5, len(choices) - 0.5)
        if sum(map(len, choices)) > 24:
            axes.tick_params(axis="x", rotation=25)
    else:
        places = [float(one.values[parameter.name]) for one in scored]
        if parameter.is_log:
            axes.set_xscale("log")
            wide = max(places) >= 10 * min(places)
            axes.xaxis.set_major_locator(
                LogLocator(subs=(1, 3), numticks=6) if wide else MaxNLocator(4)
            )
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
    _scatter(axes, places, scored)
    numbers = [one.number for one in scored]
    place = places[numbers.index(best.number)]
    axes.plot(place, best.score, "*", color="tab:red", markersize=12)


def _scatter(axes: Any, places: Sequence[float], scored: Sequence[Result]) -> None:
    for state, color in COLORS.items():
        of_it = [(place, one.score) for place, one in zip(places, scored) if one.state == state]
        if of_it:
            axes.plot(*zip(*of_it), "o", color=color, alpha=0.7, markersize=5, label=state)
