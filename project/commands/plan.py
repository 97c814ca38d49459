"""``python -m project plan``: a fine-tuning schedule before any of it is run."""

from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import Namespace

from project.approaches import FineTuning
from project.console import print_table, show
from project.data import ImageDataModule
from project.errors import UserError
from project.finetuning import FineTuningSchedule, Phase
from project.finetuning.preview import PhasePreview, preview, tables
from project.finetuning.requirements import check_length, steps_per_epoch


class PlanningTrainer(L.Trainer):
    """A trainer that can also say what it would do."""

    def plan(
        self,
        model: L.LightningModule,
        datamodule: Any,
        plot: str | None = None,
        ckpt_path: str | None = None,
    ) -> None:
        """Show what each phase of a fine-tuning trains, at which learning rates, at what cost.

        Nothing is trained, downloaded or written but the picture.

        Args:
            model: A :class:`FineTuning`.
            datamodule: The data, which needn't be there.
            plot: PNG file to draw phases and learning rates into.
            ckpt_path: Not used; configs of ``fit`` have it.

        Raises:
            UserError: If the schedule can't work.
        """
        if not isinstance(model, FineTuning):
            raise UserError(f"plan: needs model FineTuning, not {type(model).__name__}")
        if plot is not None and (Path(plot).suffix != ".png" or not Path(plot).parent.is_dir()):
            raise UserError(f"--plot {plot}: must be a .png file in a folder that exists")
        callbacks: list[Any] = self.callbacks  # type: ignore[attr-defined]  # set late
        found = [callback for callback in callbacks if isinstance(callback, FineTuningSchedule)]
        frozen = Phase("frozen", ["head"], epochs=self.max_epochs, shape="constant")
        schedule = found[0] if found else FineTuningSchedule((frozen,))
        schedule.bind(model, self)
        steps = self._steps_per_epoch(datamodule)
        if steps is not None:
            check_length(self, schedule.phases, steps)
        rows = preview(schedule, model, steps, augmented=datamodule.augment is not None)
        for table in tables(rows, model):
            print_table(table)
        if plot is not None:
            draw(rows, model, steps, Path(plot))
            show(f"plot: {plot}")

    def _steps_per_epoch(self, data: ImageDataModule) -> int | None:
        try:
            self.datamodule = data
            data.trainer = self
            data.setup("fit")
        except (UserError, OSError):
            if data.steps_per_epoch is None:
                show("steps are unknown without the data; an epoch is taken to have 100")
                return None
            return data.steps_per_epoch
        return steps_per_epoch(self)


def prepare_plan(config: Namespace) -> None:
    """Let nothing be downloaded, decoded, logged or written.

    Args:
        config: Config of the command; it is changed.
    """
    config.trainer.logger = False
    config.trainer.enable_progress_bar = False
    data = config.data.init_args
    data.num_workers = 0
    if "cache" in data:
        data.cache = "off"  # images are counted, not decoded
    if "classes" in data and data.classes is None and not Path(data.root).is_dir():
        data.classes = ("0", "1")
        show(f"data.root: {data.root} is not there; two classes are assumed")


def draw(rows: list[PhasePreview], model: FineTuning, steps: int | None, path: Path) -> None:
    """Draw the phases as bars, one line for each layer group, and the learning rates as curves.

    Args:
        rows: The phases.
        model: The model.
        steps: Optimizer steps of an epoch; null if the data isn't there.
        path: PNG file.
    """
    from matplotlib import colormaps  # slow to import
    from matplotlib.figure import Figure

    groups = model.optimizer_groups()
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
        bars.text(middle, len(groups) - 0.4, row.name + cost, ha="center", va="bottom", fontsize=8)
        for axes in (bars, curves):
            axes.axvline(start, color="grey", linewidth=0.5)
        start += length
    bars.set_yticks(range(len(groups)), groups)
    bars.set_ylim(-0.5, len(groups) - 0.5)
    highest = max(float(curve.max()) for row in rows for curve in row.learning_rates.values())
    curves.set(yscale="log", ylabel="learning rate", xlim=(0, start), ylim=(highest / 1e5, None))
    curves.set_xlabel("optimizer step" if steps else "optimizer step, if an epoch had 100 of them")
    figure.savefig(path, dpi=150)
