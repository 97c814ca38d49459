"""Export one run of each kind of network in every format, and put a table into docs/exporting.md.

``python -m benchmarks.exports --data FOLDER --fashion ROOT --weights FILE`` trains each network for
a few epochs, which takes minutes: it is the files that are compared, not the accuracies. FOLDER has
``train`` and ``test`` with a subfolder for each class; ROOT is where FashionMNIST is, or goes to;
FILE has ImageNet weights of timm's ``tf_efficientnet_lite0``, and without it they are downloaded.
The figures are those of ``check.json``; the file and the checkpoint take turns.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import torch

from benchmarks.__main__ import cpu
from benchmarks.table import PAGE, row, with_table
from project.cli import main as project
from project.commands.export.formats import Format, Precision, check_possible
from project.errors import UserError

DOCS = PAGE.with_name("exporting.md")
IMAGES = 2000  # of a test set, at most
PACKAGES = ("torch", "onnxruntime", "lightning")
QUIETLY = ("--trainer.logger=false", "--trainer.enable_progress_bar=false")
COLUMNS = (
    *("file", "logit, of the largest", "probability", "same class", "accuracy", "MB"),
    *("batch 1, ms", "×", "batch 32, ms", "×"),
)


def trainings(data: Path, fashion: Path, weights: str) -> dict[str, Sequence[str]]:
    """Return the arguments of ``fit`` for each network, by what the table says of it."""
    of_fashion = ("--data=MNIST", "--data.variant=FashionMNIST", f"--data.root={fashion}")
    few = (*of_fashion, "--data.limit_per_class=300", "--trainer.max_epochs=2")
    of_folder = ("--data=ImageFolder", f"--data.root={data}", "--data.batch_size=16")
    tuned = ("--config=configs/finetune_folder_best.yaml", f"--data.root={data}")
    vgg = ("--model=FineTuning", "--model.backbone=vgg16", "--model.weights=null")
    once = '--trainer.callbacks={class_path: FineTuningSchedule, init_args: {preset: "probe"}}'
    return {
        "MLP of `scratch_mnist.yaml`, FashionMNIST": (
            *("--config=configs/scratch_mnist.yaml", *of_fashion, "--trainer.max_epochs=2"),
        ),
        "CNN of `full_cifar10.yaml`, FashionMNIST": ("--config=configs/full_cifar10.yaml", *few),
        "Airbench of `full_fashion_best.yaml`, with the mirrored image": (
            *("--config=configs/full_fashion_best.yaml", *few, "--trainer.precision=32-true"),
        ),
        "VGG16, random weights, 64 px": (
            *(*vgg, *of_folder, "--data.image_size=64", once, "--trainer.max_epochs=3"),
        ),
        "EfficientNet-Lite0, ImageNet weights, 128 px": (
            *(*tuned, f"--model.weights={weights}", "--data.image_size=128"),
            "--trainer.max_epochs=6",
        ),
        "ViT-Tiny, random weights, 224 px": (
            *("--model=FineTuning", "--model.backbone=timm/vit_tiny_patch16_224"),
            *("--model.weights=null", *of_folder, once, "--trainer.max_epochs=2"),
        ),
    }


def exports() -> Iterator[tuple[Format, Precision]]:
    """Yield each format with each precision that it can have."""
    for format_ in get_args(Format):
        for precision in get_args(Precision):
            with suppress(UserError):
                check_possible(format_, precision)
                yield format_, precision


def lines_of(run: Path) -> Iterator[str]:
    """Export a run in every way, and yield a line of the table for each."""
    for format_, precision in exports():
        folder = run / "export" / f"{format_}-{precision}"
        if not folder.exists():
            options = (f"--format={format_}", f"--precision={precision}", f"--check={IMAGES}")
            project(["export", str(run), *options, "--max_loss=1", f"--output={folder}"])
        found = json.loads((folder / "check.json").read_text(encoding="utf-8"))
        yield row([f"`{format_}` {precision}", *cells(found)])


def cells(check: dict[str, Any]) -> list[str]:
    """Return the figures of a file, from its ``check.json``."""
    same = check["same_pixels"]
    found = [
        f"{same['logit'] / same['largest_logit']:.0e}",
        f"{same['probability']:.0e}",
        f"{same['agreement']:.2%}",
        f"{same['accuracy']:.3f} ({same['accuracy_of_checkpoint']:.3f})",
        f"{check['size_mb']:.1f}",
    ]
    for size, taken in check["milliseconds"].items():
        found += [f"{taken:.2f}", f"{check['milliseconds_of_checkpoint'][size] / taken:.2f}"]
    return found


def main() -> None:
    """Train, export, and rewrite the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--fashion", type=Path, default=Path("data"), metavar="ROOT")
    parser.add_argument("--weights", default="DEFAULT", metavar="FILE")
    parser.add_argument("--runs", type=Path, help="keep the runs here, and go on from those there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = options.runs or Path(folder)
        parts = []
        every = trainings(options.data, options.fashion, options.weights)
        for number, (what, arguments) in enumerate(every.items()):
            run = runs / str(number)
            if not run.exists():
                project(["fit", *arguments, *QUIETLY, "--run_dir", str(run)])
            head = [f"**{what}**", "", row(COLUMNS), "|" + "---|" * len(COLUMNS)]
            parts.append("\n".join([*head, *lines_of(run)]))
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    foot = f"{cpu()}, threads: {torch.get_num_threads()}; {packages}."
    DOCS.write_text(with_table(DOCS.read_text(), "\n\n".join([*parts, foot])))


if __name__ == "__main__":
    main()
