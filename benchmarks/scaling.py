"""What an image costs as the work grows: more images, and larger batches."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks.contenders import JOBS, Contender, Job, Size
from benchmarks.measure import Place, run_contender
from benchmarks.results import Figures, timed
from benchmarks.rounds import Round, Section, Task, medians

IMAGES, BATCH_SIZES, BATCH_SIZE = (1000, 10_000, 60_000), (16, 64, 256, 1024, 4096), 64
EPOCHS = 3
CONFIG = ("--config", "configs/scratch_mnist.yaml")

POINTS = tuple(
    dict.fromkeys(
        [(count, BATCH_SIZE) for count in IMAGES] + [(IMAGES[-1], size) for size in BATCH_SIZES]
    )
)


def scaling_section(quick: bool, place: Place) -> Section:
    """Return what is measured: the MLP, whose steps cost so little that all else shows."""
    job: Job = JOBS["mlp"]

    def task(images: int, batch_size: int) -> Task:
        name = f"{images} images, batch {batch_size}"
        arguments = (*CONFIG, "--data.batch_size", str(batch_size), "--test_after_fit", "false")
        contender = Contender(name, name, arguments=arguments)
        size = Size((EPOCHS,), images)

        def measure(number: int) -> Figures:
            figures = run_contender(contender, job, size, place, number)
            rate = figures["images"] / median(timed(figures["epoch_seconds"]))
            return figures | {"images_per_second": rate}

        return Task(name, measure)

    def summarise(rounds: Sequence[Round]) -> dict[str, Any]:
        return {"tasks": medians(rounds, "images_per_second")}

    chosen = [(60_000, 64), (60_000, 1024)] if quick else POINTS
    return Section("scaling", 1, [task(*point) for point in chosen], summarise)
