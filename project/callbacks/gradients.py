"""Gradients and updates of each layer group, every few steps."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from project.approaches import ImageClassifier
from project.errors import UserError
from project.networks.groups import LayerGroups

SECTION = "weights"


class GradientNorms(L.Callback):
    """Logs how large the gradients and the updates of each layer group are.

    ``weights/grad_norm/<group>`` is the 2-norm of the gradient, before it is clipped, and
    ``weights/update_ratio/<group>`` that of the change of the weights in the step, divided by that
    of the weights. Groups that a phase freezes are left out.

    Args:
        every_n_steps: Optimizer steps from one time to the next; None takes
            ``trainer.log_every_n_steps``. In such a step, there is a copy of what trains.
    """

    def __init__(self, every_n_steps: int | None = None) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise UserError(f"{every_n_steps} must be at least 1, or null", "every_n_steps")
        self.every_n_steps = every_n_steps
        self._norms: dict[str, Tensor] = {}  # of the gradients of a step that is logged
        self._weights: dict[str, list[tuple[Tensor, Tensor]]] = {}  # and what they were before it

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any
    ) -> None:
        """Measure the gradients, and remember the weights."""
        every = self.every_n_steps or trainer.log_every_n_steps  # type: ignore[attr-defined]  # set late
        if not every or (trainer.global_step + 1) % every:
            return
        for name, members in trained(pl_module).items():
            gradients = [p.grad for p in members if p.grad is not None]
            self._norms[f"{SECTION}/grad_norm/{name}"] = get_total_norm(gradients)
            self._weights[name] = [(p.detach(), p.detach().clone()) for p in members]

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Measure the update, and log both."""
        if not self._norms:
            return
        values = self._norms
        for name, weights in self._weights.items():
            update = get_total_norm([now - before for now, before in weights])
            size = get_total_norm([before for _, before in weights])
            values[f"{SECTION}/update_ratio/{name}"] = update / size
        self._norms, self._weights = {}, {}
        numbers = torch.stack(list(values.values())).tolist()  # the only wait for a GPU
        row = {"epoch": trainer.current_epoch, **dict(zip(values, numbers))}
        for logger in trainer.loggers:
            logger.log_metrics(row, step=trainer.global_step - 1)


def trained(pl_module: L.LightningModule) -> Mapping[str, list[nn.Parameter]]:
    """Return the parameters of each layer group of the network that have a gradient."""
    assert isinstance(pl_module, ImageClassifier)
    network = pl_module.network
    named = dict(network.named_parameters())
    groups: dict[str, list[nn.Parameter]] = {}
    owners = LayerGroups(network.layer_groups(), list(named)).group_of
    for name, parameter in named.items():
        if parameter.requires_grad and parameter.grad is not None:
            groups.setdefault(owners[name], []).append(parameter)
    return groups
