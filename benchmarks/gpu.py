"""``python -m benchmarks.gpu``: this project beside loops by hand, on one GPU.

Each loop has all images in the memory of the GPU, and does nothing but train: no metric, no log, no
checkpoint. The project runs as it is used, in a process of its own. Seconds are those of an epoch,
the median of all but the first. The data is that of the formats, with pixels of noise: on
it nothing is learned, and everything takes its time.
"""

import argparse
import gzip
import json
import pickle
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.processes import RunError, run
from project.networks import MLP, Airbench

MOST_SHIFT = 2  # pixels, where images are shifted


@dataclass(frozen=True)
class Job:
    """A training, as the project is told it and as a loop does it.

    Args:
        data: Which data set it needs.
        arguments: What follows ``python -m project fit``, but for data, epochs and run directory.
        network: Builds the network.
        batch_size: Images per step.
        precision: Of the trainer.
        moved: Whether the images are flipped and shifted.
    """

    data: str
    arguments: tuple[str, ...]
    network: Callable[[], nn.Module]
    batch_size: int
    precision: str = "32-true"
    moved: bool = False


SCRATCH = ("--config", "configs/scratch_mnist.yaml", "--data.variant", "FashionMNIST")
AIRBENCH = ("--config", "configs/full_fashion_best.yaml", "--data", "CIFAR10")
WIDE = ("--model.network.widths", "[64,256,256]", "--trainer.callbacks", "null")
FOLDER = (
    *("--config", "configs/finetune_folder_best.yaml", "--model.weights", "null"),
    *("--trainer.callbacks", "FineTuningSchedule", "--trainer.callbacks.preset", "full"),
    *("--data.batch_size", "64", "--data.val_fraction", "0", "--data.augment", "null"),
    *("--data.image_size", "224", "--model.dropout", "0"),
)
RESNET = ("--model.backbone", "timm/resnet50")
FILES = ("--data.cache", "off", "--data.num_workers", "14")


def _mlp() -> nn.Module:
    return MLP((1, 28, 28), 10, hidden=(128, 64))


def _airbench() -> nn.Module:
    return Airbench((3, 32, 32), 10, widths=(64, 256, 256))


def _lite() -> nn.Module:
    return timm.create_model("tf_efficientnet_lite0", num_classes=2)


def _resnet() -> nn.Module:
    return timm.create_model("resnet50", num_classes=2)


BF16 = ("--trainer.precision", "bf16-mixed")
JOBS = {
    "MLP, batch 64": Job("mnist", SCRATCH, _mlp, 64),
    "MLP, batch 512": Job("mnist", (*SCRATCH, "--data.batch_size", "512"), _mlp, 512),
    "Airbench, batch 250, bf16": Job(
        "cifar", (*AIRBENCH, *WIDE), _airbench, 250, "bf16-mixed", True
    ),
    "EfficientNet-Lite0, batch 64, bf16": Job("folder", (*FOLDER, *BF16), _lite, 64, "bf16-mixed"),
    "the same from files": Job("folder", (*FOLDER, *BF16, *FILES), _lite, 64, "bf16-mixed"),
    "ResNet-50, batch 64, bf16": Job(
        "folder", (*FOLDER, *RESNET, *BF16), _resnet, 64, "bf16-mixed"
    ),
}


def write_data(root: Path, images: int) -> None:
    """Write the three data sets in their formats."""
    generator = np.random.default_rng(0)
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        for name, shape in (("images-idx3", (count, 28, 28)), ("labels-idx1", (count,))):
            pixels = generator.integers(0, 256 if "images" in name else 10, shape, dtype=np.uint8)
            header = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
            file = raw / f"{part}-{name}-ubyte.gz"
            file.write_bytes(gzip.compress(header + pixels.tobytes(), 1))
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for number in range(6):
        pixels = generator.integers(0, 256, (10_000, 3072), dtype=np.uint8)
        content = {"data": pixels, "labels": generator.integers(0, 10, 10_000).tolist()}
        name = "test_batch" if number == 5 else f"data_batch_{number + 1}"
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    for number in range(images):
        name = root / "folder" / ("train" if number % 10 else "test") / "ab"[number % 2]
        name.mkdir(parents=True, exist_ok=True)
        blots = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        picture = Image.fromarray(blots).resize((500, 375), Image.Resampling.BICUBIC)
        picture.save(name / f"{number}.jpg", quality=90)


def images_of(job: Job, count: int) -> tuple[Tensor, Tensor]:
    """Return images of noise, uint8 ``[N, C, H, W]``, and labels ``[N]``, on the GPU."""
    count, shape, classes = {
        "mnist": (60_000, (1, 28, 28), 10),
        "cifar": (50_000, (3, 32, 32), 10),
        "folder": (count * 9 // 10, (3, 224, 224), 2),
    }[job.data]
    images = torch.randint(256, (count, *shape), dtype=torch.uint8, device="cuda")
    return images, torch.randint(classes, (count,), device="cuda")


def moved(images: Tensor) -> Tensor:
    """Return floats that are flipped and shifted, each image by chance."""
    flip = torch.rand(len(images), 1, 1, 1, device="cuda") < 0.5
    images = torch.where(flip, images.flip(3), images).float()
    size, wide = images.shape[-1], functional.pad(images, (MOST_SHIFT,) * 4, "reflect")
    start = torch.randint(2 * MOST_SHIFT + 1, (2, len(images), 1), device="cuda")
    rows, columns = start + torch.arange(size, device="cuda")
    places = torch.arange(len(images), device="cuda")[:, None, None]
    return wide[places, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def by_hand(job: Job, count: int, epochs: int) -> list[float]:
    """Train with a loop; return the seconds of each epoch."""
    torch.manual_seed(0)
    images, labels = images_of(job, count)
    model = job.network().cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    seconds = []
    for _ in range(epochs):
        torch.cuda.synchronize()
        start = time.perf_counter()
        total = torch.zeros((), device="cuda")
        for index in torch.randperm(len(labels), device="cuda").split(job.batch_size):
            batch = images[index]
            batch = ((moved(batch) if job.moved else batch.float()) / 255 - 0.5) / 0.5
            batch = batch.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cuda", torch.bfloat16, enabled=job.precision == "bf16-mixed"):
                loss = functional.cross_entropy(model(batch), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(index)
        total.item()
        seconds.append(time.perf_counter() - start)
    return seconds


def ours(job: Job, root: Path, epochs: int, options: tuple[str, ...]) -> list[float]:
    """Train with this project in a process of its own; return the seconds of each epoch."""
    data = root / "folder" if job.data == "folder" else root
    with tempfile.TemporaryDirectory() as folder:
        words = ["fit", *job.arguments, "--data.root", str(data), "--run_dir", f"{folder}/run"]
        words += ["--trainer.max_epochs", str(epochs), "--test_after_fit", "false", *options]
        words += ["--data.cache_dir", f"{root}/cache"]
        run([sys.executable, "-m", "project", *words], torch.get_num_threads())
        summary = json.loads(Path(folder, "run", "summary.json").read_text())
    seconds: list[float] = summary["epoch_seconds"]
    return seconds


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=JOBS, metavar="JOB")
    parser.add_argument("--images", type=int, default=4000, help="of the folder")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("options", nargs="*", help="for this project, after --")
    arguments = parser.parse_args()
    torch.backends.cudnn.benchmark = False  # as in the project's runs
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm"))
    print(f"{torch.cuda.get_device_name()}; {packages}\n", flush=True)
    print("| | by hand, images/s | ours, images/s | × |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        write_data(root := Path(folder, "data"), arguments.images)
        for name in arguments.jobs:
            job = JOBS[name]
            hand = statistics.median(by_hand(job, arguments.images, arguments.epochs)[1:])
            torch.cuda.empty_cache()
            images = len(images_of(job, arguments.images)[1])
            try:
                own = statistics.median(
                    ours(job, root, arguments.epochs, tuple(arguments.options))[1:]
                )
            except RunError as error:
                print(f"{name}: {images / hand:,.0f} by hand; {error}", file=sys.stderr, flush=True)
                continue
            print(f"| {name} | {images / hand:,.0f} | {images / own:,.0f} | {hand / own:.2f} |")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
