"""Runs the trials of a sweep: each in a process of its own, stopped early where it is no use."""

import csv
import fcntl
import math
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from project import signals
from project.callbacks.plots import short
from project.commands.child_runs import ChildRuns, end, error_in
from project.commands.sweep.settings import Sweep
from project.console import show
from project.durations import duration
from project.run_files import METRICS, is_run_dir, read_summary
from project.signals import Stopped

if TYPE_CHECKING:
    from subprocess import Popen

    from optuna.trial import Trial

    from project.commands.sweep.study import Result, Study

POLL_SECONDS = 0.2
LONGEST = 100  # characters of an error; its log has all
BY_SIGNAL = {128 + signum for signum in signals.WORDS} | {-signum for signum in signals.WORDS}
SIGNAL_SECONDS = 2.0  # by which the signal of a group of processes has come to this one, too


@dataclass
class Running:
    """A trial whose process is running.

    Attributes:
        trial: The trial.
        process: Its process.
        slot: Which of those at the same time it is.
        began: When the process was started.
        ends_early: Whether it was told to end.
    """

    trial: "Trial"
    process: "Popen[bytes]"
    slot: int
    began: float
    ends_early: bool = False


class Trials:
    """The trials of a sweep in its folder.

    ``trials/`` holds a run directory for each trial, ``logs/`` its output, ``locks/`` a file that a
    trial's processes lock. A trial whose process was killed goes on from its last checkpoint. One
    that still runs after this program was killed keeps its lock, and its result is waited for.
    Several of these programs, also on several machines, can share a folder.

    Args:
        sweep: The sweep.
        study: Its study.
        folder: Its folder.
        jobs: Number of trials at the same time.
        count: Number of trials.
        seconds: Time after which no trial begins.
    """

    def __init__(
        self, sweep: Sweep, study: "Study", folder: Path, jobs: int, count: int, seconds: float
    ) -> None:
        self.sweep = sweep
        self.study = study
        self.folder = folder
        self.count = count
        self._until = time.monotonic() + seconds
        self._children = ChildRuns(sweep.name, jobs)
        self._running: dict[int, Running] = {}
        self._slots = list(range(jobs))
        self._locks: dict[int, int] = {}

    def run_dir(self, number: int) -> Path:
        """Return the run directory of a trial."""
        return self.folder / "trials" / f"{number:04d}"

    def log(self, number: int) -> Path:
        """Return the file with the output of a trial."""
        return self.folder / "logs" / f"{number:04d}.txt"

    def run(self) -> None:
        """Run the trials that are missing; what fails stays in its log.

        Raises:
            Stopped: If there is a signal; the trials that are running have then ended, and the
                next time they go on.
        """
        signals.now.wait()  # so that nothing is left half written
        try:
            while self._start() or self._running or self._elsewhere():
                for number in list(self._running):
                    self._look(number)
                if signals.now.received:
                    raise Stopped(signals.now.code)
                time.sleep(POLL_SECONDS)
        except BaseException:
            self._children.stop()
            raise
        finally:
            for number in list(self._locks):
                self._unlock(number)
        signals.now.act()

    def _elsewhere(self) -> bool:
        """Return whether another process runs trials in this folder, or a killed one left some."""
        return any(number not in self._running for number in self.study.unfinished())

    def _start(self) -> bool:
        """Start trials while there is room for them; return whether one was started."""
        started = False
        while self._slots and (trial := self._next()) is not None:
            self._begin(trial)
            started = True
        return started

    def _next(self) -> "Trial | None":
        """Return a trial to run, and lock it: one that was killed before, else a new one."""
        with self._alone():
            for number in self.study.unfinished():
                if number not in self._locks and self._lock(number):
                    if (trial := self.study.again(number)) is not None:
                        return trial
                    self._unlock(number)  # it has just ended
            if self.study.count >= self.count or self._is_over():
                return None
            trial = self.study.ask()
            self._lock(trial.number)
            return trial

    def _is_over(self) -> bool:
        best, target = self.study.best(), self.sweep.target
        reached = False
        if best is not None and best.score is not None and target is not None:
            reached = best.score >= target if self.sweep.maximize else best.score <= target
        return reached or time.monotonic() > self._until

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _lock(self, number: int) -> bool:
        """Lock the file of a trial, unless the trial is running."""
        path = self.folder / "locks" / f"{number:04d}"
        path.parent.mkdir(exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        self._locks[number] = lock
        return True

    def _unlock(self, number: int) -> None:
        os.close(self._locks.pop(number))

    def _begin(self, trial: "Trial") -> None:
        run_dir = self.run_dir(trial.number)
        if self._summary(trial.number).get("ended") or trial.user_attrs.get("ends_early"):
            self._finish(trial)  # its process has ended after this program was killed
            self._unlock(trial.number)
            return
        goes_on = is_run_dir(run_dir)
        if not goes_on:
            shutil.rmtree(run_dir, ignore_errors=True)
        slot = self._slots.pop(0)
        arguments = [
            *self.sweep.arguments(trial.user_attrs["values"]),
            f"--experiment={self.sweep.name}",
            f"--{'resume' if goes_on else 'run_dir'}={run_dir}",
        ]
        log, lock = self.log(trial.number), self._locks[trial.number]
        process = self._children.start(arguments, log, slot, lock, append=goes_on)
        self._running[trial.number] = Running(trial, process, slot, time.monotonic())

    def _look(self, number: int) -> None:
        """Read what a trial has measured, end it early if it is no use, and take its result."""
        one = self._running[number]
        code = one.process.poll()
        if code is None:
            if not one.ends_early and self.study.report(one.trial, self._scores(number)):
                one.trial.set_user_attr("ends_early", True)
                one.ends_early = True
                end(one.process)
            return
        if code in BY_SIGNAL and not one.ends_early and _signal_comes():
            return  # it goes on the next time
        self._finish(one.trial, code, time.monotonic() - one.began)
        del self._running[number]
        self._slots.append(one.slot)
        self._unlock(number)

    def _finish(self, trial: "Trial", code: int = 0, seconds: float = 0.0) -> None:
        number = trial.number
        score, error = None, ""
        early = trial.user_attrs.get("ends_early", False)
        self.study.report(trial, self._scores(number))
        if not early and code:
            killed = code < 0
            error = (
                f"ended by {signal.Signals(-code).name}" if killed else error_in(self.log(number))
            )
        elif not early:
            score = self._score(number)
            if score is None:
                error = f"logged no {self.sweep.metric}, or none that is a number"
        seconds = seconds or self._summary(number).get("process_seconds", 0.0)
        result = self.study.finish(trial, score, error, seconds)
        show(self._news(result))

    def _news(self, result: "Result") -> str:
        text = f"failed: {short(result.error, LONGEST)}" if result.error else result.state
        if result.score is not None:
            text = f"{self.sweep.metric} {result.score:.4f}"
            text += "" if result.state == "complete" else f", {result.state}"
        took = f" in {duration(result.seconds)}" if result.seconds else ""
        return f"trial {result.number}: {text}{took}; {self.study.finished} of {self.count}"

    def _summary(self, number: int) -> dict[str, Any]:
        return read_summary(self.run_dir(number))

    def _score(self, number: int) -> float | None:
        """Return the metric of a trial: that of its best checkpoint, else the last one."""
        found = self._summary(number).get(self.sweep.metric.removeprefix("best/"))
        if found is None:
            found = next(reversed(self._scores(number).values()), None)
        return found if isinstance(found, int | float) and math.isfinite(found) else None

    def _scores(self, number: int) -> dict[int, float]:
        """Return the metric after each validation, counted from 1."""
        metric = self.sweep.metric.removeprefix("best/")
        found: list[float] = []
        path = self.run_dir(number) / METRICS
        with suppress(OSError, ValueError), path.open(newline="", encoding="utf-8") as file:
            found += [float(row[metric]) for row in csv.DictReader(file) if row.get(metric)]
        return dict(enumerate(found, start=1))


def _signal_comes() -> bool:
    """Return whether the signal that ended a process was one for this program, too."""
    until = time.monotonic() + SIGNAL_SECONDS
    while not signals.now.received and time.monotonic() < until:
        time.sleep(0.05)
    return bool(signals.now.received)
