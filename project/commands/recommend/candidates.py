"""What can be recommended: shipped configs of ``fit``, fitted to the data at hand."""

import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError

from project.approaches import ImageClassifier
from project.data import ImageDataModule
from project.errors import UserError
from project.parsing import ProjectParser, explain, link_data_and_model

CONFIGS = Path(__file__).parents[3] / "configs"
SIZES = (28, 64)  # smallest and largest height of the images that a network from scratch gets
LARGE = 2000  # training images from which a step takes LARGE_BATCH of them, where it took fewer
LARGE_BATCH = 64
LEAST_STEPS = 1000  # with fewer, an average of the weights is still full of the random ones


@dataclass(frozen=True)
class Candidate:
    """One way to a classifier.

    Args:
        name: What tables call it.
        what: The same in words.
        file: Config that it starts from, in ``configs/``.
        pretrained: Whether it starts from pretrained weights.
        preset: Preset of its ``FineTuningSchedule``.
        augmented: Whether it keeps the augmentation of its config.
    """

    name: str
    what: str
    file: str
    pretrained: bool = False
    preset: str | None = None
    augmented: bool = True

    @property
    def path(self) -> Path:
        """Its config file."""
        return CONFIGS / self.file


CANDIDATES = (
    Candidate(
        "scratch", "training from scratch: a small network of your own", "compare/scratch.yaml"
    ),
    Candidate(
        "complete",
        "complete training: a larger network, to be a foundation",
        "full_fashion_best.yaml",
    ),
    Candidate(
        "probe",
        "fine-tuning: a new head on frozen features, which are computed once",
        "finetune_folder_best.yaml",
        pretrained=True,
        preset="probe",
        augmented=False,
    ),
    Candidate(
        "lp_ft",
        "fine-tuning: a new head first, then all layers",
        "finetune_folder_best.yaml",
        pretrained=True,
        preset="lp_ft",
    ),
)


@dataclass(frozen=True)
class Task:
    """What all candidates get.

    Args:
        data: ``class_path`` and ``init_args`` of the data module, as they were given.
        image_size: Height and width of the images of the source.
        images: Number of training images.
        epochs: Epochs of every candidate.
        backbone: As for ``FineTuning``.
        weights: As for ``FineTuning``.
        bfloat16: Whether mixed precision is faster.
    """

    data: Mapping[str, Any]
    image_size: int
    images: int
    epochs: int
    backbone: str
    weights: str | None
    bfloat16: bool


def config_of(candidate: Candidate, task: Task) -> dict[str, Any]:
    """Return the config of ``fit`` of a candidate.

    Raises:
        UserError: If the config that it starts from isn't there.
    """
    try:
        config: dict[str, Any] = yaml.safe_load(candidate.path.read_text())
    except OSError as error:
        raise UserError(f"{candidate.path}: recommend starts from it: {error.strerror}") from error
    config["trainer"]["max_epochs"] = task.epochs
    if not task.bfloat16:
        config["trainer"].pop("precision", None)
    steps = task.epochs * task.images / config["data"]["init_args"]["batch_size"]
    if not candidate.preset and steps < LEAST_STEPS:
        config["trainer"].pop("callbacks", None)
    if candidate.preset:
        config["trainer"]["callbacks"][0]["init_args"]["preset"] = candidate.preset
    if candidate.pretrained:
        config["model"]["init_args"] |= {"backbone": task.backbone, "weights": task.weights}
    config["data"] = _data(candidate, task, config["data"]["init_args"])
    return config


def _data(candidate: Candidate, task: Task, own: Mapping[str, Any]) -> dict[str, Any]:
    options = {"batch_size": own["batch_size"]}
    if task.images >= LARGE:
        options["batch_size"] = max(options["batch_size"], LARGE_BATCH)
    if candidate.augmented:
        options["augment"] = own["augment"]
    if not candidate.pretrained and not SIZES[0] <= task.image_size <= SIZES[1]:
        options["image_size"] = min(max(task.image_size, SIZES[0]), SIZES[1])
    name = str(task.data["class_path"])
    if name.startswith("project.data."):
        name = name.rpartition(".")[2]
    return {"class_path": name, "init_args": {**options, **(task.data.get("init_args") or {})}}


def build(config: Mapping[str, Any]) -> tuple[ImageClassifier, ImageDataModule]:
    """Return model and data module of a config of ``fit``, the images not yet read.

    Raises:
        UserError: If they don't fit each other.
    """
    parser = ProjectParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageDataModule, "data")
    parser.add_subclass_arguments(ImageClassifier, "model")
    link_data_and_model(parser)
    try:
        parsed = parser.parse_object(deepcopy({key: config[key] for key in ("data", "model")}))
        objects = parser.instantiate(parsed)
    except (ArgumentError, TypeError, ValueError, ModuleNotFoundError) as error:
        raise UserError(explain(str(error))) from error
    return objects.model, objects.data


def write_config(path: Path, config: Mapping[str, Any], header: str) -> None:
    """Write a config of ``fit``; one that is there already keeps its content under another name.

    Args:
        path: The file.
        config: Its content.
        header: What stands above it, as comments.

    Raises:
        UserError: If it can't be written.
    """
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():  # it may have been edited
            path.rename(path.with_stem(f"{path.stem}-until-{time.strftime('%Y%m%d-%H%M%S')}"))
        path.write_text(comment + yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
    except OSError as error:
        raise UserError(f"output: {path} can't be written: {error.strerror}") from error
