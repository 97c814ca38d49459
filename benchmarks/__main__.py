"""``python -m benchmarks``: measure this project beside other people's way of doing the same jobs.

Every contender runs in a process of its own with the same number of threads, in interleaved
order. ``--quick`` takes about 5 minutes on two cores, a full benchmark less than 30. Afterwards
``python -m benchmarks.table`` puts the results into docs/benchmarks.md.
"""

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.contenders import JOBS, Job
from benchmarks.measure import Place, run_contender
from benchmarks.processes import ROOT, RunError, last_json, run
from benchmarks.results import add_ratios, contender_summary
from benchmarks.rounds import (
    Progress,
    Round,
    Section,
    Task,
    measure_anchors,
    run_rounds,
    runs_of,
)
from benchmarks.scaling import scaling_section
from benchmarks.startup import startup_section
from project import __version__
from project.environment import available_cores

OTHERS = {"startup": startup_section, "scaling": scaling_section}
OTHERS_NEED = {"startup": "folder", "scaling": "mnist"}
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "numpy")
KERAS_VERSIONS = """
import json
from importlib.metadata import distributions
found = {package.name.replace("_", "-"): package.version for package in distributions()}
names = ("keras", "tensorflow", "tensorflow-cpu")
print(json.dumps({name: found[name] for name in names if name in found}))
"""
RESULTS = Path(__file__).parent / "results.json"


def job_section(job: Job, quick: bool, place: Place, stand_in: bool) -> Section:
    """Return a job with all of its contenders."""
    size = job.quick if quick else job.full
    able = [one for one in job.contenders if cpu_has_bfloat16() or not one.bfloat16]
    for one in set(job.contenders) - set(able):
        print(f"{job.name} {one.name}: left out, this CPU has no bfloat16", file=sys.stderr)

    def summarise(rounds: Sequence[Round]) -> dict[str, Any]:
        contenders = {
            contender.name: {"what": contender.what}
            | contender_summary(
                runs_of(rounds, contender.name), size.images, job.epochs, contender.extent
            )
            for contender in able
        }
        add_ratios(contenders, job.base)
        facts = {"what": job.what, "base": job.base, "images": size.images, "epochs": job.epochs}
        return facts | {"stand_in": stand_in, "contenders": contenders}

    tasks = [
        Task(
            contender.name,
            partial(run_contender, contender, job, size, place),
            contender.once,
        )
        for contender in able
    ]
    return Section(job.name, len(size.epochs), tasks, summarise)


def cpu() -> str:
    """Return the name of the processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cpu_has_bfloat16() -> bool:
    """Return whether the CPU has instructions for bfloat16; it would emulate them at great cost."""
    query = getattr(torch.cpu, "get_capabilities", None)  # older releases of torch can't tell
    return query is None or any(value for name, value in query().items() if "bf16" in name)


def machine(place: Place) -> dict[str, Any]:
    """Return what the results depend on, apart from the code."""
    try:
        keras = last_json(run([str(place.keras_python), "-c", KERAS_VERSIONS], place.threads)[0])
    except RunError:
        keras = {}
    versions = {package: version(package) for package in PACKAGES}
    return {
        "cpu": cpu(),
        "cores": available_cores(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": place.threads,
        "platform": platform.platform(),
        "versions": {"project": __version__, "python": platform.python_version()}
        | versions
        | keras,
    }


def earlier(path: Path, here: dict[str, Any], quick: bool) -> dict[str, Any]:
    """Return results to go on with: sections measured on the same machine with the same size."""
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text())
        if found["machine"] == here and found["quick"] == quick:
            return found
    return {"machine": here, "quick": quick}


def prepare(names: Sequence[str], place: Place) -> dict[str, bool]:
    """Make the data be there; return the sections that can run, and whether on a stand-in."""
    needed = {name: JOBS[name].data if name in JOBS else OTHERS_NEED[name] for name in names}
    stand_in = {}
    for kind in dict.fromkeys(needed.values()):
        root = str(place.data[kind])
        print(f"data of {kind}: {root}", file=sys.stderr, flush=True)
        try:
            output, _ = run([sys.executable, "-m", "benchmarks.data", kind, root], place.threads)
            stand_in[kind] = last_json(output)["stand_in"]
        except RunError as error:
            print(f"  left out: {error}", file=sys.stderr, flush=True)
    return {name: stand_in[needed[name]] for name in names if needed[name] in stand_in}


def main() -> None:
    """Measure, and write the results down after each section."""
    everything = [*JOBS, *OTHERS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, epochs and images")
    parser.add_argument(
        "--jobs", nargs="+", choices=everything, default=everything, metavar="JOB",
        help=f"some of {', '.join(everything)}; those of others stay if machine and versions do",
    )  # fmt: skip
    parser.add_argument("--data", type=Path, default=Path("data"), help="root of Fashion-MNIST")
    parser.add_argument("--cifar", type=Path, help="root of CIFAR-10, if that is another")
    parser.add_argument(
        "--keras-python", type=Path, default=ROOT / ".venv-bench/bin/python",
        help="interpreter with Keras and TensorFlow",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=available_cores(), help="of each process")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the JSON file")
    arguments = parser.parse_args()
    data = arguments.data.absolute()
    place = Place(
        {
            "mnist": data,
            "cifar": (arguments.cifar or data).absolute(),
            "folder": data / "benchmark_folder",
        },
        arguments.keras_python.absolute(),
        arguments.threads,
    )
    try:
        measure(arguments, place)
    except KeyboardInterrupt:
        print("stopped; sections that were finished are written down", file=sys.stderr)
        sys.exit(130)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def measure(arguments: argparse.Namespace, place: Place) -> None:
    """Run all sections; write the results after each."""
    results = earlier(arguments.output, machine(place), arguments.quick)
    sections = [
        job_section(JOBS[name], arguments.quick, place, stand_in)
        if name in JOBS
        else OTHERS[name](arguments.quick, place)
        for name, stand_in in prepare(arguments.jobs, place).items()
    ]
    progress = Progress(sections)
    for section in sections:
        rounds = run_rounds(section, partial(measure_anchors, place.threads), progress)
        results[section.name] = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            **section.summarise(rounds),
            "rounds": rounds,
        }
        arguments.output.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
