"""Writes the results of a comparison for programs: ``results.csv`` and ``results.json``."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from project.commands.compare.findings import Findings
from project.commands.compare.results import Comparison, Result
from project.commands.compare.verdict import Verdict
from project.csv_text import table

PER_IMAGE = ("labels", "predictions")


def write_results(
    comparison: Comparison, findings: Findings, verdict: Verdict, folder: Path
) -> None:
    """Write ``results.csv`` and ``results.json`` into a folder that exists."""
    write_csv(comparison.results, findings.figures, folder)
    write_json(comparison, findings, verdict, folder)


def write_csv(results: Sequence[Result], figures: Sequence[str], folder: Path) -> None:
    """Write ``results.csv``, a line for each run."""
    before = ("contender", "size", "seed", "images", "error")
    after = ("command", "run_dir", "config_sha256")
    with table(folder / "results.csv") as to:
        to.row([*before, *figures, *after])
        for result in results:
            named = {name: getattr(result, name) for name in (*before, *after)}
            named["run_dir"] = result.place(folder)
            values = (result.figures.get(name, math.nan) for name in figures)
            finite = (value if math.isfinite(value) else None for value in values)
            to.row([*(named[name] for name in before), *finite, *(named[name] for name in after)])


def write_json(comparison: Comparison, findings: Findings, verdict: Verdict, folder: Path) -> None:
    """Write ``results.json``: everything except predictions, which the run directories hold."""
    runs = [
        {
            **{f.name: getattr(result, f.name) for f in fields(result) if f.name not in PER_IMAGE},
            "run_dir": result.place(folder),
        }
        for result in comparison.results
    ]
    content = {
        **{f.name: getattr(comparison, f.name) for f in fields(comparison)},
        "data": asdict(comparison.data),
        "metric": findings.metric.figure,
        "margin": findings.margin,
        "verdict": asdict(verdict),
        "crossings": [asdict(crossing) for crossing in findings.crossings],
        "rows": [
            {
                "contender": row.contender,
                "size": row.size,
                "images": row.images,
                "seeds": [result.seed for result in row.results],
                "failed_seeds": [result.seed for result in row.failed],
                "mean": {figure: row.mean(figure) for figure in findings.figures},
                "std": {figure: row.std(figure) for figure in findings.figures},
            }
            for row in findings.rows
        ],
        "runs": runs,
    }
    del content["results"], content["picture"]
    text = json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "results.json").write_text(f"{text}\n", "utf-8", "backslashreplace")


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold: numbers that aren't finite become None."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
