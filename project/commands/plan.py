"""``python -m project plan``: a fine-tuning schedule before any of it is run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from project.approaches import FineTuning
from project.approaches.pretrained import remove_weights
from project.callbacks.plots import drawing
from project.console import print_table, show
from project.errors import UserError
from project.finetuning import FineTuningSchedule, Phase
from project.finetuning.preview import PhasePreview, preview, tables
from project.finetuning.requirements import check_length, steps_per_epoch
from project.finetuning.resolved import NOMINAL_STEPS_PER_EPOCH, ResolvedSchedule, resolve
from project.lightning_cli import ProjectCLI
from project.trust import resolve_name


def plan(arguments: Sequence[str]) -> None:
    """Show what each phase of a fine-tuning trains, at which learning rates, at what cost.

    It takes the options of ``fit``. Nothing is trained, downloaded or written but the picture.

    Args:
        arguments: What follows ``plan`` on the command line.

    Raises:
        UserError: If the schedule can't work.
    """
    planned = PlanCLI(list(arguments), run=False)
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
        draw(rows, schedule, steps is not None, Path(plot))
        show(f"plot: {plot}")


class PlanCLI(ProjectCLI):
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
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="Not used; configs of fit have it."
        )

    def prepare(self, config: Namespace) -> None:
        """Let nothing be downloaded, decoded, logged or written."""
        config.trainer.logger = False
        config.trainer.enable_progress_bar = False
        remove_weights(config.model.init_args)
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
        steps, found = self._count_steps(), self.callbacks_of(FineTuningSchedule)
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


@drawing()
def draw(
    rows: Sequence[PhasePreview], schedule: ResolvedSchedule, counted: bool, path: Path
) -> None:
    """Draw the phases as bars, one line for each layer group, and the learning rates as curves.

    Args:
        rows: The phases.
        schedule: The schedule that they are of.
        counted: Whether the steps of an epoch are known, not assumed.
        path: PNG file.
    """
    from matplotlib import colormaps  # slow to import
    from matplotlib.figure import Figure

    groups = list(schedule.groups.layer_group)
    colors = [colormaps["viridis"](place / len(groups)) for place in range(len(groups))]
    figure = Figure(figsize=(9, 3.5 + 0.3 * len(groups)), layout="constrained")
    bars, curves = figure.subplots(2, 1, sharex=True, height_ratios=(len(groups), 9))
    start = 0
    for row in rows:
        length = len(next(iter(row.learning_rates.values())))
        for group, curve in row.learning_rates.items():
            place = groups.index(group)
            bars.barh(place, length, left=start, color=colors[place], align="center")
            curves.plot(range(start, start + length), curve.tolist(), color=colors[place])
        cost = "" if row.gflop is None else f"\n{row.gflop:.3g} GFLOP/image"
        middle = start + length / 2
        bars.text(
            middle,
            len(groups) - 0.4,
            row.resolved.phase.name + cost,
            ha="center",
            va="bottom",
            fontsize=8,
        )
        for axes in (bars, curves):
            axes.axvline(start, color="grey", linewidth=0.5)
        start += length
    bars.set_yticks(range(len(groups)), groups)
    bars.set_ylim(-0.5, len(groups) - 0.5)
    highest = max(float(curve.max()) for row in rows for curve in row.learning_rates.values())
    curves.set(yscale="log", ylabel="learning rate", xlim=(0, start), ylim=(highest / 1e5, None))
    assumed = "" if counted else f", if an epoch had {NOMINAL_STEPS_PER_EPOCH} of them"
    curves.set_xlabel(f"optimizer step{assumed}")
    figure.savefig(path, dpi=150)
