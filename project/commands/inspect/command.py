"""``python -m project inspect``: what should be looked at before a data set is trained on."""

import secrets
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from project.approaches import FineTuning, ImageClassifier
from project.approaches.pretrained import is_checkpoint
from project.commands.inspect.findings import group, judge_labels
from project.commands.inspect.images import Found, find
from project.commands.inspect.report import Inspection, show_findings, write_files
from project.commands.preparation import folder_as_data, why_no_weights
from project.commands.probing import features_of
from project.console import readable, show
from project.data import ImageDataModule
from project.durations import duration
from project.environment import COMMAND
from project.errors import UserError, as_own_option
from project.parsing import ProjectParser, build, options_of

FOLDER = Path("runs", "inspect")


@dataclass(frozen=True)
class Request:
    """What the user asks for.

    Args:
        backbone: Pretrained backbone whose features tell the classes apart, as for ``FineTuning``:
            a name of torchvision, ``timm/`` and a name of timm, or the run of a ``FullTraining``.
        weights: Its weights, as for ``FineTuning``: ``DEFAULT``, another published name, or a file.
        images: Largest number of images to look at; of more, the same fraction of each class.
        output: Folder for report and tables; None makes a new one in ``runs/inspect``.
    """

    backbone: str = "timm/tf_efficientnet_lite0"
    weights: str | None = "DEFAULT"
    images: int = 20_000
    output: str | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: Naming the key, what is wrong and what would be right.
        """
        if self.images < 10:
            raise UserError(f"{self.images} must be at least 10", "images")


def inspect(arguments: Sequence[str]) -> None:
    """Find labels that are probably wrong, near-duplicates and broken files; nothing is removed.

    Args:
        arguments: What follows ``inspect`` on the command line.

    Raises:
        UserError: If the options or the data are wrong, or the weights aren't available.
    """
    start = time.perf_counter()
    arguments = [*folder_as_data(arguments)]
    parser = _parser()
    config = parser.parse(arguments)
    request = options_of(Request, config)
    model, data = _built(request, parser.parse(arguments, defaults=False).data.as_dict())
    stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    with output_folder(Path(request.output or FOLDER / stamp)) as folder:
        data.setup_lazily()
        found = find(data, request.images)
        show(f"features of {request.backbone} …")
        judged = found.of("train", "val")
        labels = judge_labels(found, judged, _features(model, data, found, judged))
        inspection = Inspection(
            found=found,
            labels=labels,
            groups=group(found, labels.margin),
            folder=folder,
            backbone=request.backbone,
            command=shlex.join([*COMMAND, "inspect", *arguments]),
        )
        write_files(inspection)
    show_findings(inspection)
    show(f"inspected in {duration(time.perf_counter() - start)}")


def _parser() -> ProjectParser:
    parser = ProjectParser(
        prog=shlex.join([*COMMAND, "inspect"]),
        description="Find labels that are probably wrong, near-duplicates and broken files. "
        "Nothing is removed.",
    )
    parser.add_subclass_arguments(ImageDataModule, "data", required=True)
    parser.add_class_arguments(Request)
    return parser


def _built(request: Request, data: dict[str, object]) -> tuple[ImageClassifier, ImageDataModule]:
    """Return the model, with its weights, and the data.

    Raises:
        UserError: If the weights aren't available.
    """
    if reason := why_no_weights(request.backbone, request.weights):
        raise UserError(reason, "weights")
    weights = None if is_checkpoint(request.backbone) else request.weights
    options = {"backbone": request.backbone, "weights": weights}
    config = {"class_path": FineTuning.__name__, "init_args": options}
    with as_own_option("model"):
        model, source = build({"data": data, "model": config})
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), source


def _features(
    model: ImageClassifier, data: ImageDataModule, found: Found, images: Tensor
) -> Tensor:
    """Return features of images, float32 ``[M, F]``; of each split, they must be in order."""
    features = []
    for name, split in found.splits.items():
        mine = images[torch.isin(images, found.of(name))]
        if len(mine):
            features.append(features_of(model, data, split.subset(found.index[mine]))[0])
    return torch.cat(features)


@contextmanager
def output_folder(path: Path) -> Iterator[Path]:
    """Make a folder, and remove it where nothing came to be in it.

    Raises:
        UserError: If it can't be made.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{readable(path)} can't be made: {reason}", "output") from error
    try:
        yield path
    except BaseException:
        with suppress(OSError):
            for folder in made:
                folder.rmdir()
        raise
