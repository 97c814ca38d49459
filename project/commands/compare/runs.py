"""Runs the cells of a comparison: each in a process of its own, and none of them twice."""

import fcntl
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from statistics import mean
from typing import Any

from tqdm import tqdm

from project.callbacks.tested import TEST_PREDICTIONS
from project.commands.child_runs import ChildRuns, error_in
from project.commands.compare.metrics import ACCURACY, Metric
from project.commands.compare.settings import Cell
from project.console import show
from project.durations import duration
from project.errors import UserError
from project.run_files import SUMMARY, read_json, read_summary
from project.saving import write

CACHE = "cache"
IMAGES = "images.json"


class Runs:
    """The runs of a comparison in its folder.

    ``runs/`` holds a run directory for each cell, ``logs/`` its output. A cell is finished once it
    has been tested, unless its process ended with an error. An unfinished one starts from the
    beginning the next time, so a kill costs only the runs that were running. Runs share nothing,
    not even a cache: if one reused what another has computed, its measured time would be too short.

    Args:
        folder: Folder of the comparison.
        group: W&B group of all runs.
        jobs: Number of runs at the same time.
        metric: Score of a finished run that is shown.
    """

    def __init__(self, folder: Path, group: str, jobs: int, metric: Metric = ACCURACY) -> None:
        self.folder = folder
        self.group = group
        self.jobs = jobs
        self.metric = metric
        self._children = ChildRuns(group, jobs)
        self._slots: SimpleQueue[int] = SimpleQueue()
        for slot in range(jobs):
            self._slots.put(slot)

    def run_dir(self, cell: Cell) -> Path:
        """Return the run directory of a cell."""
        return self.folder / "runs" / cell.key

    def summary(self, cell: Cell) -> dict[str, Any] | None:
        """Return the summary of a run, None if it isn't finished.

        The predictions are written before the summary says that there was a test.
        """
        found = read_summary(self.run_dir(cell))
        is_tested = "test/accuracy" in found and (self.run_dir(cell) / TEST_PREDICTIONS).is_file()
        return found if is_tested else None

    def error(self, cell: Cell) -> str:
        """Return why a run failed: its error message, else the last line of its output."""
        if cell.after and self.summary(cell.after) is None:
            return f"its {cell.after.name} failed: {self.error(cell.after)}"
        return error_in(self.log(cell))

    def log(self, cell: Cell) -> Path:
        """Return the file with a run's output."""
        return self.folder / "logs" / f"{cell.key}.txt"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other comparison uses the folder, and lock it.

        The runs inherit the lock. If a comparison was killed, a run of it that is still running
        holds the lock until it ends; then its result can be used.

        Raises:
            UserError: If the folder can't be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / ".lock").open("w")
        except OSError as error:
            raise UserError(f"output: {self.folder} can't be used: {error.strerror}") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                show(f"waiting for another comparison, or runs of a killed one, in {self.folder}")
                fcntl.flock(file, fcntl.LOCK_EX)
            self._lock = file.fileno()
            yield

    def check_images(self, images: Mapping[str, str]) -> None:
        """Refuse other images than those of finished runs, whose report would be written over.

        Args:
            images: Content of each split of the comparison's data.

        Raises:
            UserError: Which says how both can be had.
        """
        before = read_json(self.folder / IMAGES)
        if before and before != images and any((self.folder / "runs").glob(f"*/{SUMMARY}")):
            raise UserError(
                f"the images are not those of the finished runs in {self.folder}; to compare on "
                "these, give another --output",
                "data",
            )

    def write_images(self, images: Mapping[str, str]) -> None:
        """Write what :meth:`check_images` looks at the next time."""
        write(self.folder / IMAGES, json.dumps(images, indent=2) + "\n")

    def run_all(self, cells: Sequence[Cell]) -> None:
        """Run the unfinished cells, sources first; an error of a run stays in its log.

        An exception here, such as that of a signal, ends the runs that are running.
        """
        sources = list(dict.fromkeys(cell.after for cell in cells if cell.after))
        everything = [*sources, *cells]
        left = self.missing(everything)
        for folder in (self.folder / "runs").glob(f"*/{CACHE}"):  # of runs that were killed
            shutil.rmtree(folder, ignore_errors=True)
        if done := len(everything) - len(left):
            show(f"{done} of {len(everything)} runs are finished already")
        disable = not sys.stderr.isatty()
        bar = tqdm(total=len(everything), initial=done, unit="run", disable=disable)
        with bar, ThreadPoolExecutor(self.jobs) as pool:
            try:
                for part in (self.missing(sources), self.missing(cells)):
                    futures = {pool.submit(self._run, cell): cell for cell in part}
                    for future in as_completed(futures):
                        future.result()
                        left.remove(futures[future])
                        bar.update()
                        show(self._news(futures[future], self._seconds_left(everything, left)))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self._children.stop()
                raise

    def missing(self, cells: Sequence[Cell]) -> list[Cell]:
        """Return the cells that aren't finished."""
        return [cell for cell in cells if self.summary(cell) is None]

    def _news(self, cell: Cell, seconds_left: float) -> str:
        found = self.summary(cell)
        result = f"failed: {self.error(cell)}"
        if found is not None:
            score = found.get(f"test/{self.metric.figure}")
            result = "finished" if score is None else f"{self.metric.words} {score:.4f}"
            result += f" in {duration(found['process_seconds'])}"
        rest = f"; about {duration(seconds_left)} left" if seconds_left else ""
        return f"{cell.name}: {result}{rest}"

    def _seconds_left(self, cells: Sequence[Cell], left: Sequence[Cell]) -> float:
        """Estimate from the finished runs, where possible those of the same contender and size."""
        taken: dict[tuple[str, str], list[float]] = {}
        for cell in cells:
            if (found := self.summary(cell)) is not None:
                key = (cell.contender, cell.size)
                taken.setdefault(key, []).append(found["process_seconds"])
        if not taken:
            return 0.0
        means = {key: mean(seconds) for key, seconds in taken.items()}
        other = mean(means.values())
        return sum(means.get((c.contender, c.size), other) for c in left) / self.jobs

    def _run(self, cell: Cell) -> None:
        """Run a cell to its end, unless its source has failed."""
        if cell.after and self.summary(cell.after) is None:
            return
        slot = self._slots.get()
        try:
            failed = self._start(cell, slot).wait() != 0
            summary = self.run_dir(cell) / SUMMARY
            if failed and summary.is_file():  # after its test, so it looks finished
                summary.replace(summary.with_stem(f"{summary.stem}-of-failed-run"))
        finally:
            shutil.rmtree(self.run_dir(cell) / CACHE, ignore_errors=True)
            self._slots.put(slot)

    def arguments(self, cell: Cell) -> list[str]:
        """Return the command line of a cell, without the program."""
        run_dir = self.run_dir(cell)
        places = {"run_dir": run_dir, "data.cache_dir": run_dir / CACHE, "experiment": self.group}
        if cell.after:
            places["model.backbone"] = self.run_dir(cell.after)
        return [*cell.arguments, *(f"--{name}={place}" for name, place in places.items())]

    def _start(self, cell: Cell, slot: int) -> "subprocess.Popen[bytes]":
        shutil.rmtree(
            self.run_dir(cell), ignore_errors=True
        )  # of an earlier run that isn't finished
        arguments = self.arguments(cell)
        return self._children.start(arguments, self.log(cell), slot, self._lock)
