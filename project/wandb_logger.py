"""Lightning's logger for W&B, with the charts that a person wants to see first."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from project.console import show
from project.saving import copy
from project.upstream.lightning import keeps_model

STEP = "trainer/global_step"  # as Lightning names it there
EPOCH = "trainer/epoch"
AXES = {"epoch": EPOCH, "images": "trainer/images", "phase": "trainer/phase"}
OF_EPOCHS = ("train/loss", "train/accuracy", "val/", "workload/")  # what such names begin with
EXCEPT = "_step"


class RunLogger(WandbLogger):
    """Shows metrics of epochs over epochs, and others over steps; and what is tested as a value.

    Charts are sorted by name, in the browser and in the terminal. So what isn't measured on images
    is in sections that come after ``train/`` and ``val/``.
    """

    trains = True
    by_epoch = True
    _defined: frozenset[str] = frozenset()  # the charts that have their axes

    def begin(self, trains: bool, by_epoch: bool = True) -> None:
        """Say what follows.

        Args:
            trains: Whether it is a training. What is logged otherwise is one value each, not a
                chart of one point.
            by_epoch: Whether the training has one validation in an epoch, or fewer; several of them
                would be at the same place of such a chart.
        """
        self.trains, self.by_epoch = trains, by_epoch

    @rank_zero_only
    def carry_on(self, values: Mapping[str, float]) -> None:
        """Repeat values of the run that this is a part of, where W&B would forget them.

        ``wandb sync`` continues the charts and the config of a run with several parts, and replaces
        its values by those of the last part. Online they stay.
        """
        if self.experiment.offline:
            self.experiment.summary.update(
                {name: value for name, value in values.items() if name not in AXES}
            )

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log numbers.

        Args:
            metrics: Name and value of each.
            step: The optimizer step.
        """
        if not self.trains:
            values = {name: value for name, value in metrics.items() if _is_value(name, value)}
            self.experiment.summary.update(values)
            metrics = {name: metrics[name] for name in metrics.keys() - values.keys() - AXES.keys()}
            if not metrics:
                return
        metrics = {AXES.get(name, name): value for name, value in metrics.items()}
        for name in {STEP, *metrics} - self._defined:
            self._define(name)
        super().log_metrics(metrics, step)

    def _define(self, name: str) -> None:
        """Choose the axis of a chart. W&B takes any one of several patterns that match a name."""
        self._defined |= {name}
        if "*" in name:  # of a layer group that a glob cuts; the pattern of Lightning's matches it
            return
        if name in (STEP, EPOCH, AXES["images"]):
            self.experiment.define_metric(name, hidden=True)
        elif name.startswith(OF_EPOCHS) and not name.endswith(EXCEPT) and self.by_epoch:
            self.experiment.define_metric(name, step_metric=EPOCH)
        else:
            self.experiment.define_metric(name, step_metric=STEP)

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Leave it to :meth:`keep_model`, which logs the best one alone, unless it is ``all``."""
        if not keeps_model(self):
            super().after_save_checkpoint(checkpoint_callback)

    @rank_zero_only
    def keep_model(self, files: Mapping[str, Path], metadata: Mapping[str, Any]) -> None:
        """Log the files of a model as an artifact, if the config says so.

        Online they are uploaded. Offline they stay beside the log of the run, as links where there
        can be any, for ``wandb sync``; what a resumed run replaces is still there.

        Args:
            files: The place of each file in the artifact, and where it is now.
            metadata: What W&B shows of it.
        """
        if not keeps_model(self) or self.experiment.disabled:
            return
        from wandb import Artifact

        run = self.experiment
        with _allowed_to_fail("the best model isn't logged"):
            artifact = Artifact(model_name(run.id), "model", metadata=dict(metadata))
            for name, path in files.items():
                kept = Path(run.sync_dir, "model", name).absolute()
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.unlink(missing_ok=True)
                try:
                    os.link(path, kept)
                except OSError:  # another file system, or one without links
                    copy(path, kept)
                artifact.add_file(str(kept), name, policy="immutable", skip_cache=True)
            run.log_artifact(artifact, aliases=["best", "latest"])

    @rank_zero_only
    def uses(self, artifact: str) -> None:
        """Say that the run uses the artifact of a name; W&B takes that online only."""
        if self.experiment.offline or self.experiment.disabled:
            return
        with _allowed_to_fail(f"{artifact} isn't linked"):
            self.experiment.use_artifact(artifact)

    @rank_zero_only
    def uses_images(self, name: str, place: Path | None, splits: Mapping[str, Any]) -> None:
        """Say which images a training uses; W&B gets no image, only what identifies them.

        A reference of W&B's to a folder would list every file in it.

        Args:
            name: What they are.
            place: Where they are, if they are in files.
            splits: Number and SHA-256 of those of each split.
        """
        if self.experiment.offline or self.experiment.disabled:
            return
        from wandb import Artifact

        with _allowed_to_fail(f"{name} isn't linked"):
            uri = place.resolve().as_uri() if place is not None else None
            artifact = Artifact(name, "dataset", metadata={"place": uri, **splits})
            with artifact.new_file("images.json", encoding="utf-8") as file:
                json.dump(splits, file)  # other images make another version
            self.experiment.use_artifact(artifact)


@contextmanager
def _allowed_to_fail(what: str) -> Iterator[None]:
    """Say in a line what W&B has not, whatever the reason: a training doesn't depend on it."""
    try:
        yield
    except Exception as error:
        show(f"W&B: {what}: {(str(error) or repr(error)).splitlines()[0]}")


def model_name(wandb_id: str) -> str:
    """Return the name of the model of a run in W&B, as Lightning would call it."""
    return f"model-{wandb_id}"


def _is_value(name: str, value: Any) -> bool:
    return isinstance(value, int | float) and name not in AXES
