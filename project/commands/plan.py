"""``python -m project plan``: a fine-tuning schedule before any of it is run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from project.approaches import FineTuning
from project.callbacks.schedule_plot import draw_schedule
from project.commands.dry import DryCLI
from project.console import print_table, show
from project.errors import UserError
from project.finetuning import FineTuningSchedule, Phase
from project.finetuning.preview import preview, tables
from project.finetuning.requirements import check_length, steps_per_epoch
from project.finetuning.resolved import NOMINAL_STEPS_PER_EPOCH, ResolvedSchedule, resolve
from project.trust import resolve_name
from project.upstream.lightning import callbacks_of


def plan(arguments: Sequence[str]) -> None:
    """Show what each phase of a fine-tuning trains, at which learning rates, at what cost.

    It takes the options of ``fit``. Nothing is trained, downloaded or written but the picture.

    Args:
        arguments: What follows ``plan`` on the command line.

    Raises:
        UserError: If the schedule can't work.
    """
    planned = PlanCLI(list(arguments))
    model, plot = planned.model, planned.options.plot
    if not isinstance(model, FineTuning):
        raise UserError(f"plan: needs model FineTuning, not {type(model).__name__}")
    if plot is not None and (Path(plot).suffix != ".png" or not Path(plot).parent.is_dir()):
        raise UserError(f"{plot} must be a .png file in a folder that exists", "--plot")
    schedule, steps = planned.resolve(model)
    per_epoch = steps or NOMINAL_STEPS_PER_EPOCH
    rows = preview(schedule, model, planned.datamodule.augment is not None, per_epoch)
    for table in tables(rows, schedule, counted=steps is not None):
        print_table(table)
    if plot is not None:
        unit = "optimizer step" + ("" if steps else f", if an epoch had {per_epoch} of them")
        draw_schedule(rows, list(schedule.groups.layer_group), Path(plot), unit)
        show(f"plot: {plot}")


class PlanCLI(DryCLI):
    """Builds what a config of ``fit`` names, without anything that leaves a trace."""

    words = ("plan",)
    description = "Show what each phase of a fine-tuning trains; it takes the options of fit."

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of ``fit``, and the picture."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--plot",
            type=str | None,
            default=None,
            help="PNG file to draw phases and learning rates into.",
        )

    def prepare(self, config: Namespace) -> None:
        """Let nothing be downloaded, decoded, logged or written."""
        super().prepare(config)
        data = config.data.init_args
        data.num_workers = 0
        lazy = resolve_name(config.data.class_path).lazy_options  # images are counted, not decoded
        data.update(Namespace(lazy))
        option = "table" if "table" in data else "root"
        if "classes" in data and data.classes is None and not Path(data[option]).exists():
            data.classes = ("0", "1")
            show(f"data.{option}: {data[option]} is not there; two classes are assumed")

    def resolve(self, model: FineTuning) -> tuple[ResolvedSchedule, int | None]:
        """Return the schedule, and the optimizer steps of an epoch if the data is there.

        Raises:
            UserError: If it can't work.
        """
        steps, found = self._count_steps(), callbacks_of(self.trainer, FineTuningSchedule)
        if self.trainer.max_epochs == 0:
            raise UserError("0 trains nothing, so there is nothing to plan", "trainer.max_epochs")
        epochs = max(self.trainer.max_epochs or 0, 1)
        frozen = Phase("frozen", ["head"], epochs=epochs, shape="constant")
        phases = found[0].phases if found else (frozen,)
        if steps is not None:
            check_length(self.trainer, phases, steps)
        schedule = resolve(phases, model, steps or NOMINAL_STEPS_PER_EPOCH)
        schedule.attach_to(model)
        return schedule, steps

    def _count_steps(self) -> int | None:
        data: Any = self.datamodule
        trainer: Any = self.trainer
        try:
            trainer.datamodule = data
            data.trainer = trainer
            data.only_counts = True
            data.setup("fit")
        except (UserError, OSError):
            if data.steps_per_epoch is None:
                show(
                    "steps are unknown without the data; an epoch is taken to have "
                    f"{NOMINAL_STEPS_PER_EPOCH}"
                )
            count: int | None = data.steps_per_epoch
            return count
        return steps_per_epoch(trainer)
