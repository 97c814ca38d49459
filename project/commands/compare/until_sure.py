"""Adds seeds to those contenders that still matter, until the choice between them is settled."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from project.commands.compare.findings import Findings, find
from project.commands.compare.headline import enumerated
from project.commands.compare.metrics import Metric
from project.commands.compare.results import Result, rows_of
from project.commands.compare.runs import Runs
from project.commands.compare.sequential import level_of_looks, why_stop
from project.commands.compare.settings import Cell, Settings, cells_of
from project.console import show
from project.durations import seconds_of


def until_sure(
    runs: Runs,
    cells: Sequence[Cell],
    settings: Settings,
    given: Mapping[str, Any],
    metric: Metric,
    read: Callable[[Sequence[Cell]], list[Result]],
) -> tuple[list[Cell], Findings]:
    """Run seed after seed, on the largest training set, of those that may be right.

    Which cells follow depends on the results of those before alone. So a comparison that was
    stopped anywhere, and is started again, runs the same cells and comes to the same verdict.

    Args:
        runs: The runs.
        cells: The cells of the config, which are finished.
        settings: The comparison.
        given: ``class_path`` and ``init_args`` of the data module, as they were given.
        metric: What decides.
        read: Returns the results of cells.

    Returns:
        All cells, and what their results show.
    """
    contenders = len({cell.contender for cell in cells})
    seeds, done = list(settings.seeds), list(cells)
    level = level_of_looks(contenders, len(seeds), settings.max_seeds)
    largest = max(settings.sizes, key=lambda size: float(size[0]))[0]
    while True:
        results = read(done)
        findings = find(rows_of(results), metric, settings.margin, level)
        why = _why_stop(findings, results, settings, level, len(seeds))
        if why or findings.choice is None:
            return done, replace(findings, ended=why)
        running = findings.choice.running
        show(f"{enumerated(running, 'or')}: still open after {len(seeds)} seeds")
        seeds.append(max(seeds) + 1)
        further = replace(settings, seeds=tuple(seeds), only=tuple(running))
        found = set(done)
        more = [
            cell for cell in cells_of(further, given) if cell.size == largest and cell not in found
        ]
        runs.run_all(more)
        done += more


def _why_stop(
    findings: Findings, results: Sequence[Result], settings: Settings, level: float, seeds: int
) -> str:
    choice, leads = findings.choice, findings.leads
    if choice is None:
        return ""
    costs = {row.contender: row.cost for row in findings.top}
    limits = (level, settings.margin, seeds, settings.max_seeds)
    if why := why_stop(choice, costs, leads, *limits):
        return why
    if settings.total_time is not None:
        spent = sum(result.figures.get("process_seconds", 0.0) for result in results)
        rows = [row for row in findings.top if row.contender in choice.running]
        following = sum(row.mean("process_seconds") for row in rows)
        if (spent + following) / settings.jobs > seconds_of(settings.total_time, "total_time"):
            return f"as another one would exceed total_time: {settings.total_time}"
    return ""
