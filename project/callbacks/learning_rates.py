"""The learning rate of each layer group, in every logger."""

from typing import Any

import lightning as L
from torch.optim import Optimizer

NAME = "weights/lr"


class LearningRates(L.Callback):
    """Logs the learning rates as ``weights/lr``, or ``weights/lr/<group>`` if there are several.

    They are those of a step: of the first one of each epoch, and of every one whose loss is logged.
    The parts of a group with and without weight decay have one learning rate, and count as one.
    """

    def __init__(self) -> None:
        self._names: list[str] = []  # of the optimizer's groups

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Name the groups."""
        self._names = names_of(trainer.optimizers[0])

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Log them, once a schedule has set those of the step."""
        if batch_idx % trainer.accumulate_grad_batches:
            return
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set late
        if batch_idx == 0 or (every and (trainer.global_step + 1) % every == 0):
            groups = trainer.optimizers[0].param_groups
            rates = {name: float(group["lr"]) for name, group in zip(self._names, groups)}
            for logger in trainer.loggers:
                logger.log_metrics(
                    {"epoch": trainer.current_epoch, **rates}, step=trainer.global_step
                )


def names_of(optimizer: Optimizer) -> list[str]:
    """Return the name of the learning rate of each group of an optimizer.

    Groups that have no name, as of an approach of one's own, are numbered if they have
    several learning rates.
    """
    groups = optimizer.param_groups
    labels = [group.get("group", group.get("name")) for group in groups]
    unnamed = {float(group["lr"]) for group, label in zip(groups, labels) if label is None}
    if len(unnamed) > 1:
        labels = [label or str(place) for place, label in enumerate(labels, 1)]
    several = len(set(labels)) > 1
    return [f"{NAME}/{label}" if several and label is not None else NAME for label in labels]
