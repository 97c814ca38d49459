"""Lightning's logger for W&B, with the charts that a person wants to see first."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

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
    _defined = frozenset({STEP})

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
        for name in metrics.keys() - self._defined:
            self._define(name)
        super().log_metrics(metrics, step)

    def _define(self, name: str) -> None:
        """Choose the axis of a chart. W&B takes any one of several patterns that match a name."""
        self._defined |= {name}
        if name in (EPOCH, AXES["images"]):
            self.experiment.define_metric(name, hidden=True)
        elif name.startswith(OF_EPOCHS) and not name.endswith(EXCEPT) and self.by_epoch:
            self.experiment.define_metric(name, step_metric=EPOCH)
        else:
            self.experiment.define_metric(name, step_metric=STEP)


def _is_value(name: str, value: Any) -> bool:
    return isinstance(value, int | float) and name not in AXES
