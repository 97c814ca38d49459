"""What a comparison will run and how long that takes, as far as finished runs tell."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from rich.table import Table

from project.commands.compare.headline import enumerated
from project.commands.compare.runs import Runs
from project.commands.compare.settings import Cell, Settings
from project.console import print_table, show
from project.durations import duration


@dataclass(frozen=True)
class Forecast:
    """The runs of a contender on one size of the training set, or the run of a source.

    Attributes:
        name: Name of the contender or source.
        size: As in the config; empty for a source.
        done: Seeds that are finished.
        left: Seeds that are not.
        seconds: Predicted time of one run; None if it is unknown.
        scaled: Whether the time was taken from another size.
    """

    name: str
    size: str
    done: Sequence[int]
    left: Sequence[int]
    seconds: float | None
    scaled: bool


def forecast(runs: Runs, cells: Sequence[Cell]) -> list[Forecast]:
    """Predict times from finished runs: of the contender on this size, else on another one.

    From another size, the time of the training is taken to be in proportion to the number of
    images, and the rest of the run to be the same. A contender of which no run is finished is
    unknown: it is not tried out.

    Args:
        runs: The runs.
        cells: Their cells.
    """
    sources = list(dict.fromkeys(cell.after for cell in cells if cell.after))
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in [*sources, *cells]:
        groups.setdefault((cell.contender or cell.name, cell.size), []).append(cell)
    known = {key: time for key, group in groups.items() if (time := _time(runs, group))}
    found = []
    for (name, size), group in groups.items():
        left = runs.missing(group)
        others = [float(other) for n, other in known if n == name and other]
        own = (name, size) in known
        seconds = None
        if own or others:
            whole, training = known[name, size] if own else known[name, f"{max(others):g}"]
            ratio = 1.0 if own else float(size) / max(others)
            seconds = whole + (ratio - 1) * training
        done = [cell.seed for cell in group if cell not in left]
        found.append(Forecast(name, size, done, [cell.seed for cell in left], seconds, not own))
    return found


def _time(runs: Runs, cells: Sequence[Cell]) -> tuple[float, float] | None:
    """Return the mean seconds of the whole runs that are finished, and of their trainings."""
    found = [summary for cell in cells if (summary := runs.summary(cell))]
    if not found:
        return None
    whole, training = (mean(s[name] for s in found) for name in ("process_seconds", "fit_seconds"))
    return whole, training


def show_forecast(runs: Runs, cells: Sequence[Cell], settings: Settings) -> None:
    """Print what would run and how long it would take; nothing is run."""
    found = forecast(runs, cells)
    table = Table("contender", "size", "finished seeds", "missing seeds", "each", "together")
    for row in found:
        about = "about " if row.scaled else ""
        each = "unknown" if row.seconds is None else about + duration(row.seconds)
        together = "" if row.seconds is None else about + duration(row.seconds * len(row.left))
        seeds = (", ".join(map(str, seeds)) or "–" for seeds in (row.done, row.left))
        source = not row.size
        table.add_row(row.name, row.size, *(("", "") if source else seeds), each, together)
    print_table(table)
    done, left = (sum(map(len, parts)) for parts in zip(*((f.done, f.left) for f in found)))
    show(f"{done} of {done + left} runs are finished{_time_left(found, settings)}.")
    if settings.until_sure:
        more = settings.max_seeds - len(settings.seeds)
        show(f"until_sure: then up to {more} more seeds of each contender that is still open")


def _time_left(found: Sequence[Forecast], settings: Settings) -> str:
    known = sum(row.seconds * len(row.left) for row in found if row.seconds) / settings.jobs
    unknown = [row for row in found if row.left and row.seconds is None]
    text = f"; the missing ones take about {duration(known)}" if known else ""
    if unknown:
        names = enumerated(list(dict.fromkeys(row.name for row in unknown)), "or")
        count = f"{sum(len(row.left) for row in unknown)}{' more' if known else ''}"
        text += f"; the time of {count} is unknown, as no run of {names} is finished"
        if settings.max_time:
            text += f"; each trains for at most {settings.max_time}"
    return text
