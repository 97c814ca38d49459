"""Running a contender, and reading what it took."""

import csv
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contenders import Contender, Job, Size
from benchmarks.processes import last_json, run

FOLDER_IMAGES = 2000  # of the generated folder, in two classes
TOTAL = {"mnist": 60_000, "cifar": 50_000, "folder": FOLDER_IMAGES}
OWN_DATA = ("--data.val_fraction", "0")  # the others don't validate


@dataclass(frozen=True)
class Place:
    """Where things are, and how many threads each process gets."""

    data: dict[str, Path]
    keras_python: Path
    threads: int


def run_contender(
    contender: Contender, job: Job, size: Size, place: Place, number: int
) -> dict[str, Any]:
    """Run a contender in a process of its own.

    Args:
        contender: Who.
        job: What it does.
        size: How much of it.
        place: Where data and environments are.
        number: The round, from 0; it is also the seed.

    Returns:
        ``epoch_seconds`` and ``loss`` of each epoch, ``accuracy`` or null, ``images`` of these
        epochs, ``preparation_seconds`` of a training outside of its epochs, and ``wall_seconds``.

    Raises:
        RunError: If it fails.
    """
    if contender.peer is None:
        return _run_ours(contender, job, size, place, number)
    module, function = contender.peer
    python = str(place.keras_python) if contender.keras else sys.executable
    options = {
        "--data": place.data[job.data],
        "--epochs": size.epochs[number],
        "--images": size.images,
        "--steps": size.steps,
        "--seed": number,
    }
    words = [str(word) for option in options.items() for word in option]
    output, seconds = run(
        [python, "-m", f"benchmarks.peers.{module}", function, *words], place.threads
    )
    return last_json(output) | {"preparation_seconds": 0.0, "wall_seconds": seconds}


def our_arguments(contender: Contender, job: Job, size: Size, number: int, root: Path) -> list[str]:
    """Return what follows ``python -m project``, but for the run directory."""
    words = ["fit", *contender.arguments, "--data.root", str(root), *OWN_DATA]
    words += ["--seed_everything", str(number)]
    if job.data == "mnist":
        words += ["--data.variant", "FashionMNIST"]
    if size.images < TOTAL[job.data]:
        words += ["--data.limit_per_class", str(size.images // job.classes)]
    if contender.extent == "epochs":
        words += ["--trainer.max_epochs", str(size.epochs[number])]
    if contender.extent == "steps":
        words += ["--data.steps_per_epoch", str(size.steps), "--test_after_fit", "false"]
    elif job.data == "folder":
        words += ["--data.steps_per_epoch", str(size.images // job.batch_size)]
    return words


def _run_ours(
    contender: Contender, job: Job, size: Size, place: Place, number: int
) -> dict[str, Any]:
    words = our_arguments(contender, job, size, number, place.data[job.data])
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder, "run")
        words += ["--data.cache_dir", str(Path(folder, "cache"))]  # of which nothing is left
        command = [sys.executable, "-m", "project", *words, "--run_dir", str(run_dir)]
        _, seconds = run(command, place.threads)
        figures = read_run(run_dir)
    images = size.steps * job.batch_size if contender.extent == "steps" else size.images
    return figures | {"images": images, "wall_seconds": seconds}


def read_run(run_dir: Path) -> dict[str, Any]:
    """Return the figures that a run of this project wrote down."""
    summary = json.loads((run_dir / "summary.json").read_text())
    with (run_dir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    epochs: list[float] = summary["epoch_seconds"]
    return {
        "epoch_seconds": epochs,
        "loss": [float(row["train/loss"]) for row in rows if row.get("train/loss")],
        "accuracy": summary.get("test/accuracy"),
        "preparation_seconds": summary["fit_seconds"] - sum(epochs),
    }
