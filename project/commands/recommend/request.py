"""The options of the command."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from project.commands.recommend.rules import Experience, Objective
from project.data import ImageDataModule
from project.durations import seconds_of
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
        check: Folder of a comparison of the same data, such as ``runs/compare/compare``: what is
            predicted is shown beside what that measured, for as many epochs, and no config is
            written.
    """

    objective: Objective = "task"
    experience: Experience = "intermediate"
    time: str = "30m"
    epochs: int = 10
    backbone: str = "timm/tf_efficientnet_lite0"
    weights: str | None = "DEFAULT"
    sample: int = 400
    output: str = "configs/recommended.yaml"
    check: str | None = None

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
