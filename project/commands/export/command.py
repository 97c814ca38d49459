"""``python -m project export``: writes the file, checks it, and leaves it only if it is right."""

import hashlib
import json
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from project import trust
from project.classifier import Classifier, Loaded, load_run
from project.commands.export.card import push, write_card
from project.commands.export.check import (
    BATCHES,
    Check,
    as_picture,
    check,
    images_to_check,
    logits_of,
    refuse_difference,
    refuse_loss,
)
from project.commands.export.formats import (
    DTYPES,
    Format,
    Precision,
    check_possible,
    write_onnx,
    write_program,
    write_safetensors,
)
from project.commands.export.graph import Pipeline
from project.commands.export.quantize import quantize
from project.console import print_table, readable, show
from project.environment import COMMAND, versions
from project.errors import UserError
from project.exported import classify
from project.exported.description import Description
from project.exported.running import FILES, Exported, Outputs, open_exported
from project.parsing import ProjectParser, options_of
from project.runs import identity
from project.saving import cant_write, copy, write

CHECKED = "check.json"


@dataclass(frozen=True)
class Request:
    """What the user asks for.

    Args:
        format: ``onnx`` or ``torch_export``, which hold the whole way from the pixels of a picture
            of any size to the probabilities; or ``safetensors``, the weights alone.
        precision: What the network computes in. ``int8``, for onnx, quantises weights and
            activations, by training images.
        output: Folder for the file and what belongs to it; None takes one in ``export/`` of the
            run.
        check: Number of test images to check the file on; None takes all.
        max_loss: Largest loss of accuracy that less precision may cost, on these images.
        calibration_images: Number of training images by which int8 chooses its scales.
        push_to_hub: User and name of a model on the hub of Hugging Face, to which everything is
            sent in the end; new ones are private.
    """

    format: Format = "onnx"
    precision: Precision = "fp32"
    output: str | None = None
    check: int | None = None
    max_loss: float = 0.01
    calibration_images: int = 200
    push_to_hub: str | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: Naming the key, what is wrong and what would be right.
        """
        for key in ("check", "calibration_images"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise UserError(f"{value} must be at least 1", key)
        if not 0 <= self.max_loss <= 1:
            raise UserError(f"{self.max_loss} must be in [0, 1]", "max_loss")
        check_possible(self.format, self.precision)


def export(arguments: Sequence[str]) -> None:
    """Write a trained classifier as one file, which has to prove itself on the test images.

    Args:
        arguments: What follows ``export`` on the command line.

    Raises:
        UserError: If it can't be written, or computes something else than the checkpoint.
    """
    packages, rest = trust.packages_in(arguments)
    config = _parser().parse(rest)
    request = options_of(Request, config)
    loaded = load_run(config.run, packages)
    loaded.model.float()
    classifier = Classifier(loaded.model, loaded.data)
    chosen = images_to_check(classifier, request.check)
    folder = Path(request.output or _default_output(loaded, request))
    with whole_folder(folder) as partial:
        path = partial / FILES[request.format]
        description = describe(loaded, request.precision)
        _write(classifier, request, description, path)
        found = check(_opened(path, packages), classifier, path, chosen)
        if request.precision == "fp32":
            refuse_difference(found)
        else:
            refuse_loss(found, request.max_loss)
        write(partial / CHECKED, json.dumps(asdict(found), indent=1) + "\n")
        run = loaded.checkpoint.parent.parent
        write_card(partial, run, description, found, request.format)
        if request.format == "onnx":
            copy(Path(classify.__file__), partial / Path(classify.__file__).name)
    show_check(found, request)
    show(f"exported: {readable(folder)}")
    show(f"classify: {shlex.join([*COMMAND, 'predict', str(folder)])} PICTURES")
    if request.push_to_hub is not None:
        show(f"sent: {push(folder, request.push_to_hub)}")


def _parser() -> ProjectParser:
    parser = ProjectParser(
        prog=" ".join([*COMMAND, "export"]),
        description="Write a trained classifier as one file, which has to prove itself on the test "
        "images. Nothing is left of one that doesn't.",
    )
    parser.add_argument("run", type=str, help="Run directory, or a checkpoint in one.")
    parser.add_class_arguments(Request)
    trust.add_option(parser, "the config of the run")
    return parser


def _default_output(loaded: Loaded, request: Request) -> Path:
    precision = "" if request.precision == "fp32" else f"-{request.precision}"
    return loaded.checkpoint.parent.parent / "export" / f"{request.format}{precision}"


def describe(loaded: Loaded, precision: str) -> Description:
    """Return what a file says of itself.

    Args:
        loaded: The run.
        precision: What the network computes in.
    """
    decoder = loaded.data.decoder()
    run = loaded.checkpoint.parent.parent
    digest = hashlib.sha256(loaded.checkpoint.read_bytes()).hexdigest()
    return Description(
        class_names=tuple(loaded.model.class_names),
        mode=decoder.mode,
        size=decoder.size,
        resize=decoder.resize,
        normalization=loaded.data.normalization,
        precision=precision,
        config=loaded.config,
        run={
            "directory": readable(run.resolve().name),
            "checkpoint": loaded.checkpoint.name,
            "sha256": digest,
            "wandb_id": str(identity(run).get("wandb_id") or ""),
        },
        versions=versions(),
    )


class WeightsFile:
    """An export in safetensors, whose config builds the network.

    Args:
        path: The file.
        packages: Packages of one's own that the config may name.
    """

    def __init__(self, path: Path, packages: Sequence[str]) -> None:
        loaded = load_run(path, packages)
        self._classifier = Classifier(loaded.model, loaded.data)
        self.description = describe(loaded, "")

    def __call__(self, images: NDArray[np.uint8]) -> Outputs:
        """Return probabilities and logits, float32 ``[B, K]``, of uint8 ``[B, H, W, C]``."""
        decoder = self.description.decoder()
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        if tuple(pixels.shape[1:]) != decoder.shape:
            read = [decoder.of_picture(as_picture(image)) for image in images]
            pixels = torch.from_numpy(np.stack(read))
        logits = logits_of(self._classifier, pixels)
        return logits.softmax(1).numpy(), logits.numpy()


def _opened(path: Path, packages: Sequence[str]) -> Exported:
    if path.name == FILES["safetensors"]:
        return WeightsFile(path, packages)
    return open_exported(path)


def _write(classifier: Classifier, request: Request, description: Description, path: Path) -> None:
    model = classifier.model.cpu()
    if request.format == "safetensors":
        write_safetensors(model, description, path)
        return
    dtype = DTYPES.get(request.precision, torch.float32)
    model = deepcopy(model)  # another precision can't be undone
    model.channels_last = False
    pipeline = Pipeline(model, description.decoder(), description.normalization, dtype).eval()
    if request.format == "torch_export":
        write_program(pipeline, description, path)
        return
    write_onnx(pipeline, description, path)
    if request.precision == "int8":
        quantize(path, description, classifier.data, request.calibration_images)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Make a folder that is there once everything in it is written and right, and never before.

    Args:
        path: Where it belongs.

    Yields:
        A folder beside it, to be filled.

    Raises:
        UserError: If it can't be made, or is there already.
    """
    if path.exists():
        raise UserError(f"{readable(path)} exists; choose another, or delete it", "output")
    partial = path.with_name(f".{path.name}.partial")
    made = [folder for folder in path.parents if not folder.exists()]
    done = False
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        partial.rename(path)
        done = True
    except OSError as error:
        raise cant_write(path, error) from error
    finally:
        if not done:
            shutil.rmtree(partial, ignore_errors=True)
            for folder in made:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()


def show_check(found: Check, request: Request) -> None:
    """Show what a check has found beside what the checkpoint gives."""
    table = Table(title=f"{request.format}, {request.precision}")
    for column in ("", "checkpoint", "exported"):
        table.add_column(column)
    same = found.same_pixels
    table.add_row(
        f"accuracy, {same.images:,} {found.split} images",
        f"{same.accuracy_of_checkpoint:.4f}",
        f"{same.accuracy:.4f}",
    )
    table.add_row("same class", "", f"{same.agreement:.2%}")
    table.add_row("largest difference of a logit", "", f"{same.logit:.2g}")
    table.add_row("largest difference of a probability", "", f"{same.probability:.2g}")
    if found.whole is not None:
        text = f"the same, {found.whole.images} whole pictures"
        table.add_row(text, "", f"{found.whole.probability:.2g}")
    for size in BATCHES:
        table.add_row(
            f"milliseconds, batch {size}",
            f"{found.milliseconds_of_checkpoint[size]:.2f}",
            f"{found.milliseconds[size]:.2f}",
        )
    table.add_row("size", "", f"{found.size_mb:.1f} MB")
    print_table(table)
