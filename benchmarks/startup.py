"""How long it takes until something happens."""

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.contenders import VGG
from benchmarks.measure import Place
from benchmarks.processes import run
from benchmarks.results import Figures
from benchmarks.rounds import Round, Section, Task, medians

HELP = ["-m", "project", "--help"]
IMPORT = ["-c", "import torch, lightning"]
QUICKSTART = ["--config", "configs/quickstart.yaml", "--trainer.max_epochs", "1"]
UNTIL_FIRST_STEP = [
    *("--trainer.callbacks+=benchmarks.first_step.FirstStep", "--test_after_fit", "false"),
]
IMAGES_PER_CLASS = 50
MARK = "first step at "


def startup_section(quick: bool, place: Place) -> Section:
    """Return what is measured: the command line's help, imports alone, and the first step."""

    def whole_process(arguments: list[str]) -> Figures:
        _, seconds = run([sys.executable, *arguments], place.threads)
        return {"seconds": seconds}

    def first_step(arguments: list[str], folder: str) -> Figures:
        words = [*("-m", "project", "fit"), *arguments, *UNTIL_FIRST_STEP]
        start = time.time()
        with tempfile.TemporaryDirectory(dir=folder) as run_dir:
            words += ["--run_dir", str(Path(run_dir, "run"))]
            output, _ = run([sys.executable, *words], place.threads)
        moment = next(line for line in output.splitlines() if line.startswith(MARK))
        return {"seconds": float(moment.removeprefix(MARK)) - start}

    def quickstart(number: int) -> Figures:
        with tempfile.TemporaryDirectory() as folder:
            return first_step(QUICKSTART, folder)

    def second_fit(number: int) -> Figures:
        """Time the second of two: the first has decoded the images and extracted features."""
        limit = ["--data.limit_per_class", str(IMAGES_PER_CLASS)]
        arguments = [*VGG, "--data.root", str(place.data["folder"]), *limit]
        with tempfile.TemporaryDirectory() as folder:
            arguments += ["--data.cache_dir", str(Path(folder, "cache"))]
            first = first_step(arguments, folder)
            return first_step(arguments, folder) | {"first_fit_seconds": first["seconds"]}

    def summarise(rounds: Sequence[Round]) -> dict[str, Any]:
        return {"tasks": medians(rounds, "seconds")}

    tasks = [
        Task("`import torch, lightning`", lambda number: whole_process(IMPORT)),
        Task("`python -m project --help`", lambda number: whole_process(HELP)),
        Task("first training step of `quickstart.yaml`", quickstart),
        Task("first training step of `finetune_folder.yaml`, second fit", second_fit, once=True),
    ]
    return Section("startup", 1 if quick else 3, tasks, summarise)
