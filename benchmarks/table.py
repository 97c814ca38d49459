"""``python -m benchmarks.table``: put the results into docs/benchmarks.md, between two comments."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contenders import JOBS

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
RESULTS = Path(__file__).parent / "results.json"
BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"

Results = Mapping[str, Any]


def table(results: Results) -> str:
    """Return the results in Markdown."""
    parts = [job_table(results[name]) for name in JOBS if name in results]
    if "startup" in results:
        parts.append(list_of("start-up", "seconds", results["startup"], "{:.1f}"))
    if "scaling" in results:
        title = "`scratch_mnist.yaml` as the work grows"
        parts.append(list_of(title, "images_per_second", results["scaling"], "{:,.0f}"))
    return "\n\n".join([*parts, footnote(results)])


def job_table(job: Results) -> str:
    """Return the table of a job: seconds, and how many times as fast as the base that is."""
    head = f"**{job['what']}**, {job['images']:,} images, {job['epochs']} epochs"
    if job["stand_in"]:
        head += ", not on these images but on others in the same files"
    lines = [
        "| | | epoch, s | × | training, s | × | process, s | × | accuracy |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, contender in job["contenders"].items():
        lines.append(row([f"`{name}`", contender["what"], *cells(contender)]))
    return "\n".join([head, "", *lines])


def cells(contender: Results) -> Sequence[str]:
    """Return the cells with figures."""
    if "epoch_seconds" not in contender:
        return ["failed" if contender["errors"] else "not run", *[""] * 6]
    found = []
    mark = "\\*" if contender["extrapolated"] else ""
    for clock in ("epoch_seconds", "training_seconds", "process_seconds"):
        of_whole = "" if clock == "epoch_seconds" else mark
        found.append(number(contender[clock]) + of_whole)
        ratio = contender.get("ratios", {}).get(clock)
        found.append("" if ratio is None else f"{ratio:.{1 if ratio >= 9.95 else 2}f}")
    score = contender["accuracy"]
    accuracy = "–" if score is None else f"{score:.3f}"
    if contender.get("learns_less"):
        accuracy += ", learns less"
    return [*found, accuracy]


def number(value: float) -> str:
    """Return seconds with three digits."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def list_of(title: str, figure: str, section: Results, form: str) -> str:
    """Return a table of one figure."""
    lines = [f"| {title} | {figure.replace('_', ' ')} |", "|---|---|"]
    for name, task in section["tasks"].items():
        lines.append(row([f"{name}", form.format(task[figure]) if figure in task else "failed"]))
    return "\n".join(lines)


def row(found: Sequence[str]) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(found)} |"


def footnote(results: Results) -> str:
    """Return what has to be known to read the tables."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    sections = [value for value in results.values() if isinstance(value, dict) and "date" in value]
    rounds = [round_ for section in sections for round_ in section["rounds"]]
    marked = sum(round_["marked"] for round_ in rounds)
    days = sorted({section["date"][:10] for section in sections})
    size = "a quick run" if results["quick"] else "a full run"
    cores, threads = machine["cores"], machine["threads"]
    return (
        "Medians over rounds and epochs, the first epoch left out; × is the base's time over the "
        "contender's. *Training* is that of the whole job, *process* also has imports and reading "
        "the data. \\* extrapolated to all epochs and images from those that were run: a frozen "
        "VGG16 without a cache was given a few steps. Accuracy is that on the test images after "
        "the most epochs that were run; a contender more than 0.01, and two standard errors over "
        f"the rounds, below the base gets no ratio. {', '.join(days)}, {size}: {machine['cpu']}, "
        f"{cores} cores, {threads} threads; {versions}. In {marked} of {len(rounds)} rounds the "
        "speed of the machine changed by more than 10 %. Every figure: "
        "[`benchmarks/results.json`](../benchmarks/results.json)."
    )


def with_table(page: str, found: str) -> str:
    """Return the page with what is between the two comments replaced.

    Raises:
        ValueError: If the comments aren't in it.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{BEGIN} and {END} must be in the page, in this order")
    return f"{before}{BEGIN}\n{found}\n{END}{after}"


def main() -> None:
    """Rewrite the page."""
    if not RESULTS.is_file():
        sys.exit(f"error: {RESULTS} isn't there; python -m benchmarks makes it")
    PAGE.write_text(with_table(PAGE.read_text(), table(json.loads(RESULTS.read_text()))))


if __name__ == "__main__":
    main()
