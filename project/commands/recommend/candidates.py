"""What can be recommended: configs of ``fit`` in ``configs/``, adapted to the data at hand."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from project import config_text
from project.commands.preparation import shortest_name
from project.errors import UserError

CONFIGS: Traversable = files(__package__) / "configs"
SIZES = (28, 64)  # smallest and largest height of the images that a network from scratch gets
LARGE = 2000  # training images from which on a batch has at least LARGE_BATCH of them
LARGE_BATCH = 64
LEAST_STEPS = 1000  # with fewer, an average of the weights still contains the random initial ones


@dataclass(frozen=True)
class Candidate:
    """One approach with its settings; ``configs/`` holds a config of its name.

    Args:
        name: Name in tables, and of its config.
        what: Description in words.
        pretrained: Whether it starts from pretrained weights.
    """

    name: str
    what: str
    pretrained: bool = False


CANDIDATES = (
    Candidate("scratch", "training from scratch: a small network of your own"),
    Candidate("complete", "complete training: a larger network, to be a foundation"),
    Candidate(
        "probe",
        "fine-tuning: a new head on frozen features, which are computed once",
        pretrained=True,
    ),
    Candidate("full", "fine-tuning: a new head and all layers at once", pretrained=True),
)


@dataclass(frozen=True)
class Task:
    """The data and the budget, the same for all candidates.

    Args:
        data: ``class_path`` and ``init_args`` of the data module, as the user gave them.
        image_size: Smaller side of the source's images, in pixels.
        images: Number of training images.
        epochs: Number of epochs of every candidate.
        backbone: Backbone of ``FineTuning``.
        weights: Weights of that backbone; None where it is a checkpoint.
        bfloat16: Whether bfloat16 is faster than float32 on this machine.
    """

    data: Mapping[str, Any]
    image_size: int
    images: int
    epochs: int
    backbone: str
    weights: str | None
    bfloat16: bool


def config_of(candidate: Candidate, task: Task) -> dict[str, Any]:
    """Return the config of ``fit`` for a candidate.

    Raises:
        UserError: If its file can't be read or lacks what is needed; the message names both.
    """
    config = _read(candidate)
    trainer, model, data = config["trainer"], config["model"], config["data"]["init_args"]
    trainer["max_epochs"] = task.epochs
    if not task.bfloat16:
        trainer.pop("precision", None)
    steps = task.epochs * task.images / data["batch_size"]
    if not candidate.pretrained and steps < LEAST_STEPS:
        trainer.pop("callbacks", None)  # averages of the weights
    if candidate.pretrained:
        model["init_args"] |= {"backbone": task.backbone, "weights": task.weights}
    config["data"] = _data(candidate, task, data)
    return config


def _read(candidate: Candidate) -> dict[str, Any]:
    file = CONFIGS / f"{candidate.name}.yaml"
    try:
        config = config_text.load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{file} can't be read: {error}") from error
    for key, kind in NEEDED.items():
        value = config
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if not isinstance(value, kind):
            raise UserError(f"{file}: {key} must be {KINDS[kind]}; recommend needs it")
    found: dict[str, Any] = config
    return found


NEEDED: dict[str, type] = {
    "trainer": dict,
    "model.class_path": str,
    "model.init_args": dict,
    "data.init_args.batch_size": int,
}
KINDS = {dict: "a mapping", str: "a string", int: "a whole number"}


def _data(candidate: Candidate, task: Task, own: Mapping[str, Any]) -> dict[str, Any]:
    options = {name: own[name] for name in ("batch_size", "augment") if name in own}
    if task.images >= LARGE:
        options["batch_size"] = max(options["batch_size"], LARGE_BATCH)
    if not candidate.pretrained and not SIZES[0] <= task.image_size <= SIZES[1]:
        options["image_size"] = min(max(task.image_size, SIZES[0]), SIZES[1])
    return {
        "class_path": shortest_name(str(task.data["class_path"])),
        "init_args": {**options, **(task.data.get("init_args") or {})},
    }


def write_config(path: Path, config: Mapping[str, Any], header: str) -> None:
    """Write a config of ``fit``; an existing file is renamed, not overwritten.

    Args:
        path: Path of the file.
        config: Its content.
        header: Text for the comment above it.

    Raises:
        UserError: If it can't be written.
    """
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():  # the user may have edited it
            path.rename(path.with_stem(f"{path.stem}-until-{time.strftime('%Y%m%d-%H%M%S')}"))
        text = comment + config_text.dump(dict(config))
        path.write_text(text, "utf-8", "backslashreplace")
    except OSError as error:
        raise UserError(f"output: {path} can't be written: {error.strerror}") from error
