"""Reads the files that the runs of a comparison wrote."""

import csv
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from project.callbacks.tested import TEST_PREDICTIONS
from project.commands.compare.metrics import ACCURACY, Metric
from project.commands.compare.results import CURVES, Result
from project.commands.compare.runs import Runs
from project.commands.compare.settings import Cell
from project.csv_text import read_table
from project.data import ImageDataModule
from project.run_files import BEST, CHECKPOINTS, CONFIG, METRICS

TEST = "test/"
COSTS = (
    "fit_seconds",
    "process_seconds",
    "peak_memory_mb",
    "parameters_trained",
    "parameters_total",
    "best_epoch_seconds",
    "gflop_per_image",
)


def results_of(
    runs: Runs, cells: Sequence[Cell], data: ImageDataModule, metric: Metric = ACCURACY
) -> list[Result]:
    """Return the result of each run: an error where it failed or was given other images.

    Args:
        runs: The runs.
        cells: The cells whose runs they are.
        data: The data that all of them should have used, set up.
        metric: What each of them must have measured.
    """
    splits = {"val": data.val_images, "test": data.test_images}
    standard = {  # split and size: where the images are from, and their SHA-256
        (split, ""): ("this comparison", images.content())
        for split, images in splits.items()
        if images
    }
    found = []
    for cell in cells:
        result = Result(
            cell.contender, cell.size, cell.seed, _command(runs, cell), runs.run_dir(cell)
        )
        if cell.after:
            command = cell.after.command(f"--run_dir={runs.run_dir(cell.after)}")
            result = replace(result, source=command)
        summary = runs.summary(cell)
        if summary is None:
            found.append(replace(result, error=runs.error(cell)))
        elif error := _other_images(cell, summary, standard) or _unmeasured(metric, summary):
            found.append(replace(result, error=error))
        else:
            found.append(_read(result, summary, runs, cell, data.class_names))
    return found


def _other_images(
    cell: Cell, summary: Mapping[str, Any], standard: dict[tuple[str, str], tuple[str, str]]
) -> str:
    """Return how a run's images differ from the standard; empty if they don't.

    Validation and test images must be those of the comparison, training images those of the first
    run of the same size.
    """
    for split, images in summary["data"].items():
        place = (split, cell.size if split == "train" else "")
        first, sha256 = standard.setdefault(place, (cell.name, images["sha256"]))
        if images["sha256"] != sha256:
            name = {"train": "training", "val": "validation"}.get(split, split)
            return (
                f"its {name} images are not those of {first}; its config splits the data in "
                "another way, or the data has changed"
            )
    return ""


def _unmeasured(metric: Metric, summary: Mapping[str, Any]) -> str:
    """Return why a run can't be judged by the metric; empty if it can."""
    known = [name.removeprefix(TEST) for name, value in summary.items() if _is_score(name, value)]
    if metric.figure in known:
        value = summary[TEST + metric.figure]
        return "" if math.isfinite(value) else f"metric: its {metric.words} is {value}"
    return f"metric: its test gave no {metric.figure!r}; it gave {', '.join(known)}"


def _is_score(name: str, value: Any) -> bool:
    return name.startswith(TEST) and value is not None


def _command(runs: Runs, cell: Cell) -> str:
    backbone = [f"--model.backbone={runs.run_dir(cell.after)}"] if cell.after else []
    return cell.command(*backbone)


def _read(
    result: Result, summary: Mapping[str, Any], runs: Runs, cell: Cell, class_names: Sequence[str]
) -> Result:
    run_dir = result.run_dir
    source = runs.summary(cell.after) if cell.after else None
    trained, validated = (summary.get(f"{split}/accuracy", math.nan) for split in ("train", "val"))
    figures = {
        **{
            name.removeprefix(TEST): value
            for name, value in summary.items()
            if _is_score(name, value)
        },
        **{cost: math.nan if summary[cost] is None else summary[cost] for cost in COSTS},
        "gap": trained - validated,
        "source_seconds": source["process_seconds"] if source else 0.0,
        "images_per_second": summary["train_images_per_second"],
        "checkpoint_mb": _megabytes(run_dir / CHECKPOINTS / BEST),
    }
    file = (run_dir / TEST_PREDICTIONS).resolve()
    labels, predictions = _predictions(file, file.stat().st_mtime_ns, tuple(class_names))
    return replace(
        result,
        config_sha256=hashlib.sha256((run_dir / CONFIG).read_bytes()).hexdigest(),
        approach=summary["approach"],
        pretrained=summary["pretrained"],
        images=summary["data"]["train"]["images"],
        figures=figures,
        curves=_curves(run_dir / METRICS),
        labels=labels,
        predictions=predictions,
    )


@lru_cache(maxsize=1024)
def _predictions(file: Path, _: int, class_names: Sequence[str]) -> NDArray[np.int64]:
    """Return label and prediction of each test image, ``[2, N]``; of a file of that time."""
    places = {name: place for place, name in enumerate(class_names)}
    rows = [(places[row["label"]], places[row["prediction"]]) for row in read_table(file)]
    return np.array(rows, np.int64).T


def _megabytes(path: Path) -> float:
    """Return the size of a file in 10^6 bytes, nan if it was deleted."""
    return path.stat().st_size / 1e6 if path.is_file() else math.nan


def _curves(path: Path) -> dict[str, list[float]]:
    """Return the values of each epoch, which are spread over several rows of the file."""
    wanted = {"workload/fit_seconds": "seconds", **{name: name for name in CURVES}}
    epochs: dict[int, dict[str, float]] = {}
    if not path.is_file():  # a contender may log nothing
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for column, name in wanted.items():
                if row.get(column) and row["epoch"]:
                    epochs.setdefault(int(float(row["epoch"])), {})[name] = float(row[column])
    return {
        name: [values.get(name, math.nan) for _, values in sorted(epochs.items())]
        for name in wanted.values()
    }
