"""Rounds of interleaved runs, with the speed of the machine taken before and after each."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from benchmarks.processes import RunError, last_json, run
from benchmarks.results import Figures, drifted

Round = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """Something to measure.

    Args:
        name: What the results call it.
        measure: Takes the round, from 0, and returns figures; raises ``RunError``.
        once: Whether it takes part in the first round only.
    """

    name: str
    measure: Callable[[int], Figures]
    once: bool = False


@dataclass(frozen=True)
class Section:
    """Tasks that are measured in the same rounds.

    Args:
        name: Its key in the results.
        rounds: How many there are.
        tasks: What each of them measures.
        summarise: Makes the results out of all rounds.
    """

    name: str
    rounds: int
    tasks: Sequence[Task]
    summarise: Callable[[Sequence[Round]], dict[str, Any]]

    def order(self, number: int) -> list[Task]:
        """Return the tasks of a round, in reversed order in every second one."""
        tasks = [task for task in self.tasks if number == 0 or not task.once]
        return tasks[::-1] if number % 2 else tasks


class Progress:
    """Says on stderr what is running and how long the rest will take."""

    def __init__(self, sections: Iterable[Section]) -> None:
        self._left = Counter(
            f"{section.name} {task.name}"
            for section in sections
            for number in range(section.rounds)
            for task in section.order(number)
        )
        self._taken: dict[str, list[float]] = {}

    def start(self, key: str, number: int, rounds: int) -> None:
        """Say what begins."""
        left = self.seconds_left()
        estimate = f", about {left / 60:.0f} min left" if left is not None else ""
        print(f"{key}: round {number + 1} of {rounds}{estimate}", file=sys.stderr, flush=True)

    def end(self, key: str, seconds: float, error: str = "") -> None:
        """Note how long it took, and say what went wrong."""
        self._left[key] -= 1
        self._taken.setdefault(key, []).append(seconds)
        if error:
            indented = error.replace("\n", "\n    ")
            print(f"  failed: {indented}", file=sys.stderr, flush=True)

    def seconds_left(self) -> float | None:
        """Return the rest; a task that hasn't run yet takes as long as the average."""
        if not self._taken:
            return None
        known = {key: mean(seconds) for key, seconds in self._taken.items()}
        average = mean(known.values())
        return sum(count * known.get(key, average) for key, count in self._left.items())


def measure_anchors(threads: int) -> dict[str, float]:
    """Return how fast the machine is now."""
    output, _ = run([sys.executable, "-m", "benchmarks.anchors"], threads)
    return last_json(output)


def run_rounds(
    section: Section, anchors: Callable[[], dict[str, float]], progress: Progress
) -> list[Round]:
    """Measure a section.

    Returns:
        For each round its ``runs`` by task, each with figures or an ``error``; the anchors
        ``before`` and ``after`` it; and whether it is ``marked`` because they differ.
    """
    rounds: list[Round] = []
    before = anchors()
    for number in range(section.rounds):
        runs = {}
        for task in section.order(number):
            key = f"{section.name} {task.name}"
            progress.start(key, number, section.rounds)
            start = time.monotonic()
            try:
                runs[task.name] = task.measure(number)
            except RunError as error:
                runs[task.name] = {"error": str(error)}
            except Exception as error:  # of reading what it left behind
                runs[task.name] = {"error": repr(error)}
            progress.end(key, time.monotonic() - start, runs[task.name].get("error", ""))
        after = anchors()
        marked = drifted(before, after)
        rounds.append({"marked": marked, "before": before, "after": after, "runs": runs})
        before = after
    return rounds


def runs_of(rounds: Sequence[Round], name: str) -> list[Figures]:
    """Return the runs of a task."""
    return [round_["runs"][name] for round_ in rounds if name in round_["runs"]]


def medians(rounds: Sequence[Round], figure: str) -> dict[str, Any]:
    """Return the median of a figure for each task that has one, and the errors of the others."""
    found: dict[str, Any] = {}
    for name in rounds[0]["runs"]:
        runs = runs_of(rounds, name)
        values = [run[figure] for run in runs if figure in run]
        errors = [run["error"] for run in runs if "error" in run]
        found[name] = ({figure: median(values)} if values else {}) | {"errors": errors}
    return found
