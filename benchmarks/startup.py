"""How long it takes until something happens."""

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Place
from benchmarks.processes import run
from benchmarks.results import Figures
from benchmarks.rounds import Round, Section, Task, medians

HELP = ["-m", "project", "--help"]
IMPORT = ["-c", "import torch, lightning"]
QUICKSTART = [
    *("-m", "project", "fit", "--config", "configs/quickstart.yaml", "--trainer.max_epochs", "1"),
    *("--trainer.callbacks+=benchmarks.first_step.FirstStep", "--test_after_fit", "false"),
]
MARK = "first step at "


def startup_section(quick: bool, place: Place) -> Section:
    """Return what is measured: the command line's help, imports alone, and the first step."""

    def whole_process(arguments: list[str]) -> Figures:
        _, seconds = run([sys.executable, *arguments], place.threads)
        return {"seconds": seconds}

    def first_step(number: int) -> Figures:
        with tempfile.TemporaryDirectory() as folder:
            arguments = [*QUICKSTART, "--run_dir", str(Path(folder, "run"))]
            start = time.time()
            output, _ = run([sys.executable, *arguments], place.threads)
        moment = next(line for line in output.splitlines() if line.startswith(MARK))
        return {"seconds": float(moment.removeprefix(MARK)) - start}

    def summarise(rounds: Sequence[Round]) -> dict[str, Any]:
        return {"tasks": medians(rounds, "seconds")}

    tasks = [
        Task("import torch, lightning", lambda number: whole_process(IMPORT)),
        Task("python -m project --help", lambda number: whole_process(HELP)),
        Task("first training step of quickstart.yaml", first_step),
    ]
    return Section("startup", 1 if quick else 3, tasks, summarise)
