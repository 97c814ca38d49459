"""The options of the command."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from project.commands.durations import seconds_of
from project.commands.recommend.rules import Experience, Objective
from project.data import ImageDataModule, ImageFolder, ImageTable
from project.data.cells import is_table
from project.environment import COMMAND
from project.errors import UserError
from project.parsing import ProjectParser


@dataclass(frozen=True)
class Request:
    """What the user asks for.

    Args:
        objective: What the model is for: this ``task``, a ``foundation`` for other tasks, or
            ``research`` on an architecture.
        experience: Experience of the person who will work with it.
        time: Longest training time, such as ``45s``, ``30m`` or ``1h30m``.
        epochs: Number of epochs of a training.
        backbone: Pretrained backbone to consider, as for ``FineTuning``: a name of torchvision,
            ``timm/`` and a name of timm, or the run of a ``FullTraining``.
        weights: Its weights, as for ``FineTuning``: ``DEFAULT``, another published name, or a file.
        sample: Number of training images to measure learning curves on.
        output: Path of the config of ``fit`` to write.
    """

    objective: Objective = "task"
    experience: Experience = "intermediate"
    time: str = "30m"
    epochs: int = 10
    backbone: str = "timm/tf_efficientnet_lite0"
    weights: str | None = "DEFAULT"
    sample: int = 400
    output: str = "configs/recommended.yaml"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: Naming the key, what is wrong and what would be right.
        """
        if self.epochs < 2:
            raise UserError(f"epochs: {self.epochs} must be at least 2")
        if self.sample < 30:
            raise UserError(f"sample: {self.sample} must be at least 30")
        if Path(self.output).suffix not in (".yaml", ".yml"):
            raise UserError(f"output: {self.output} must be a .yaml file")
        seconds_of(self.time, "time")


def request_parser() -> ProjectParser:
    """Return the parser of the command."""
    parser = ProjectParser(
        prog=shlex.join([*COMMAND, "recommend"]),
        description="Measure for a minute which approach fits the data, and write its config.",
    )
    parser.add_subclass_arguments(ImageDataModule, "data", required=True)
    parser.add_class_arguments(Request)
    parser.add_argument(
        "--explain", action="store_true", help="Show all rules, including those that don't hold."
    )
    return parser


def folder_as_data(arguments: Sequence[str]) -> Sequence[str]:
    """Turn ``--data FOLDER`` into the options of an ``ImageFolder`` with that root.

    A table, such as ``labels.csv``, becomes those of an ``ImageTable``.
    """
    words: list[str] = []
    for word in arguments:
        name, _, value = word.partition("=") if word.startswith("--data=") else ("", "", word)
        is_data = name == "--data" or (words and words[-1] == "--data")
        is_file = is_data and is_table(Path(value)) and not Path(value).is_dir()
        if is_data and (is_file or "/" in value or Path(value).is_dir()):
            words = words if name else words[:-1]
            kind, option = (ImageTable, "table") if is_file else (ImageFolder, "root")
            words += [f"--data={kind.__name__}", f"--data.{option}={value}"]
        else:
            words.append(word)
    return words
