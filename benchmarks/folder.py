"""Measure what it costs to start and to go through a folder of JPEGs, in each way of keeping it.

``python -m benchmarks.folder --images 20000`` writes JPEGs of about 500×375 into 10 class folders,
unless they are there, and goes through them twice at 128×128 in shuffled batches of 64, which
come out normalised, as a model would get them. No model runs. ``--images 2000 --width 4032
--image_size 224`` does it with photos of today's cameras. Each way has a process of its own:

- *memory*, *disk*, *auto*, *off*: ``ImageFolder`` with this ``cache``. *disk, first* finds an
  empty cache folder; *disk* and *auto* find what that has left.
- *beyond its limit*: ``auto`` with images that fit neither on the disk nor into memory.
- *Pillow*: without the extra ``fast``.
- *torchvision*: its ``ImageFolder`` with Resize, CenterCrop, ToTensor and Normalize in a
  ``DataLoader``, with that many workers.

*start* is everything before the first batch, without the imports. *RSS* is the peak of the main
process, and counts the pages of mapped files that it has. *anonymous* is the memory that can't be
dropped or shared with a later run, of the workers too, beyond what the imports took: the highest
that was seen every 20 batches. Memory is read from ``/proc``, so it needs Linux.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import datasets, transforms
from tqdm import tqdm

from project.console import print_table
from project.data import ImageFolder
from project.data.batches import BatchLoader, Source
from project.data.sampling import BatchSampler
from project.decoding.decode import Decoder
from project.environment import device_name, versions

BATCH_SIZE, EPOCHS, CLASSES = 64, 2, 10
WAYS = {  # name: option cache, worker processes
    "disk, first, Pillow": ("disk", 0),
    "disk, first": ("disk", 0),
    "disk": ("disk", 0),
    "auto": ("auto", 0),
    "memory": ("memory", 0),
    "off": ("off", 0),
    "off, 2 workers, Pillow": ("off", 2),
    "off, 2 workers": ("off", 2),
    "beyond its limit, 2 workers": ("auto", 2),
    "torchvision": ("torchvision", 0),
    "torchvision, 2 workers": ("torchvision", 2),
}


def write_images(root: Path, count: int, width: int) -> None:
    """Write smooth noise of all scales with some grain, which JPEG finds about as hard as photos.

    Args:
        root: Folder to make; it appears when it is whole.
        count: Number of images.
        width: Of an image in pixels, on average; the height is three quarters of it.
    """
    if root.is_dir():
        return
    temporary = root.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    for label in range(CLASSES):
        (temporary / f"class{label}").mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        written = pool.map(partial(_write_image, temporary, width), range(count))
        for _ in tqdm(written, "writing", count, disable=not sys.stderr.isatty()):
            pass
    temporary.rename(root)


def _write_image(root: Path, width: int, number: int) -> None:
    generator = np.random.default_rng(number)
    size = (
        width + int(generator.integers(-20, 21)),
        width * 3 // 4 + int(generator.integers(-15, 16)),
    )
    total = generator.normal(128, 8, (size[1], size[0], 1)).astype(np.float32).repeat(3, axis=2)
    for cells in (3, 10, 40, 160):
        coarse = generator.normal(128, 150 / cells**0.5, (cells, cells, 3)).clip(0, 255)
        smooth = Image.fromarray(coarse.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
        total += np.asarray(smooth, dtype=np.float32) - 128
    image = Image.fromarray(total.clip(0, 255).astype(np.uint8))
    image.save(root / f"class{number % CLASSES}" / f"{number:06}.jpg", quality=90)


def batches_of_project(
    root: Path, size: int, cache_dir: Path, cache: Any, workers: int, **limits: float
) -> Iterable[Tensor]:
    """Set up the data module, and return what goes through an epoch as it does."""
    data = ImageFolder(
        root=str(root),
        image_size=size,
        test_fraction=0,
        val_fraction=0,
        cache=cache,
        cache_dir=str(cache_dir),
        **limits,  # type: ignore[arg-type]
    )
    data.setup("fit")
    assert data.train_images is not None
    sampler = BatchSampler(len(data.train_images), BATCH_SIZE, shuffle=True)
    loader = BatchLoader(Source(data.train_images), sampler, workers)

    class Epoch:
        def __iter__(self) -> Any:
            for batch in loader:
                yield data.on_after_batch_transfer(batch, 0).images
            sampler.set_epoch(sampler.epoch + 1)

    return Epoch()


def batches_of_torchvision(root: Path, size: int, workers: int) -> Iterable[Tensor]:
    """Return the usual loader of the usual dataset."""
    steps = [
        transforms.Resize(size),
        transforms.CenterCrop(size),
        transforms.ToTensor(),
        transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ]
    dataset = datasets.ImageFolder(root, transforms.Compose(steps))
    loader: DataLoader[Any] = DataLoader(
        dataset, BATCH_SIZE, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )

    class Epoch:
        def __iter__(self) -> Any:
            for images, _ in loader:
                yield images

    return Epoch()


def measure(way: str, root: Path, size: int, cache_dir: Path) -> dict[str, Any]:
    """Go through the images in this process, and return what it costs."""
    cache, workers = WAYS[way]
    limits = {}
    if "limit" in way:
        limits, cache_dir = {"cache_gb": 1e-6, "memory_gb": 1e-6}, cache_dir / "empty"
    if "Pillow" in way:
        Decoder.__init__.__defaults__ = (False,)  # as if the extra weren't installed
    before = anonymous_mb()
    start = time.perf_counter()
    if cache == "torchvision":
        epoch = batches_of_torchvision(root, size, workers)
    else:
        epoch = batches_of_project(root, size, cache_dir, cache, workers, **limits)
    result: dict[str, Any] = {"way": way, "start_seconds": time.perf_counter() - start}
    highest, count = anonymous_mb(), 0
    seconds: list[float] = []
    for _ in range(EPOCHS):
        start, count = time.perf_counter(), 0
        for number, images in enumerate(epoch):
            assert images.shape[1:] == (3, size, size) and images.dtype == torch.float32
            count += len(images)
            if number % 20 == 0:
                highest = max(highest, anonymous_mb())
        seconds.append(time.perf_counter() - start)
    return result | {
        "epoch_seconds": seconds,
        "images_per_second": count / seconds[-1],
        "peak_rss_mb": from_proc("self/status", "VmHWM"),
        "imports_anonymous_mb": before,
        "anonymous_mb": highest - before,
    }


def anonymous_mb() -> float:
    """Return the anonymous memory of this process and its workers; what they share counts once."""
    own = os.getpid()
    workers = Path(f"/proc/{own}/task/{own}/children").read_text().split()
    return sum(from_proc(f"{process}/smaps_rollup", "Pss_Anon") for process in (own, *workers))


def from_proc(file: str, name: str) -> float:
    """Return a size in MB out of a file below ``/proc``."""
    (line,) = (x for x in Path("/proc", file).read_text().splitlines() if x.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024 / 1e6


def main() -> None:
    """Measure all ways, print a table and write a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=500, help="of a JPEG, in pixels")
    parser.add_argument("--image_size", type=int, default=128, help="that a model gets")
    parser.add_argument("--data", type=Path, default=Path("data/benchmark"), help="for the JPEGs")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark_folder.json"))
    parser.add_argument("--way", choices=list(WAYS), help="measure this one in this process")
    args = parser.parse_args()
    root, cache_dir = args.data / f"jpeg-{args.images}-{args.width}", args.data / "cache"
    if args.way is not None:
        print(json.dumps(measure(args.way, root, args.image_size, cache_dir)))
        return
    write_images(root, args.images, args.width)
    shutil.rmtree(cache_dir, ignore_errors=True)
    columns = (
        "way",
        "start, s",
        "epoch 1, s",
        "epoch 2, s",
        "images/s",
        "RSS, MB",
        "anonymous, MB",
    )
    table, results = Table(*columns), []
    for way in WAYS:
        command = [sys.executable, "-m", "benchmarks.folder", *sys.argv[1:], "--way", way]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found = json.loads(output.splitlines()[-1])
        results.append(found)
        times = [found["start_seconds"], *found["epoch_seconds"]]
        sizes = [found[name] for name in ("images_per_second", "peak_rss_mb", "anonymous_mb")]
        table.add_row(way, *(f"{t:.2f}" for t in times), *(f"{size:,.0f}" for size in sizes))
    print_table(table)
    about = {name: getattr(args, name) for name in ("images", "width", "image_size")}
    about |= {"threads": torch.get_num_threads(), "versions": versions()}
    about |= {"device": device_name(torch.device("cpu")), "results": results}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
