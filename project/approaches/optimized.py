"""The optimizer and the learning rate scheduler of an approach, also in a resumed run."""

import warnings
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from project.approaches.optimizers import (
    align_state,
    build_optimizer,
    change,
    configured,
    optimizer_errors,
    other_scheduler,
)
from project.approaches.schedulers import EARLY, Scheduler, Shared


class OptimizedModule(L.LightningModule):
    """A LightningModule with the optimizer and the scheduler that a config names.

    Args:
        optimizer: Any torch optimizer; None is Adam with a learning rate of 0.001.
        lr_scheduler: Changes the learning rate during training; None keeps it constant.
        decay_norm_and_bias: Apply the optimizer's weight decay also to biases and to the
            parameters of norm layers.
    """

    def __init__(
        self,
        optimizer: Callable[..., Optimizer] | None,
        lr_scheduler: Scheduler | None,
        decay_norm_and_bias: bool,
    ) -> None:
        super().__init__()
        self._optimizer = Shared(optimizer) if optimizer else None
        self._lr_scheduler = lr_scheduler
        self._decay_norm_and_bias = decay_norm_and_bias
        self._configured: dict[str, Any] = {}
        self._loaded: dict[str, Any] | None = None
        self._scheduler_states: list[Any] = []  # of the checkpoint, which are loaded later

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and the scheduler that the config names.

        Raises:
            UserError: If their arguments are invalid.
        """
        if self._lr_scheduler is not None:
            self._lr_scheduler.rehearse(self._build_optimizer())
        optimizer = self._build_optimizer()
        scheduler = self._build_scheduler(optimizer, self.total_steps)
        if self._lr_scheduler is not None and scheduler is not None:
            epochs = self.trainer.max_epochs or 0
            self._lr_scheduler.check_length(scheduler, self.total_steps(), epochs)
        self._configured = configured(optimizer, scheduler)
        if other_scheduler(self._loaded, self._configured):
            self._scheduler_states.clear()  # they are those of another class
        if self._lr_scheduler is None or scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": scheduler,
                "interval": self._lr_scheduler.interval,
                "frequency": self._lr_scheduler.frequency,
                "monitor": self._lr_scheduler.monitor,
            },
        }

    @property
    def has_lr_scheduler(self) -> bool:
        """Whether the config names a learning rate scheduler."""
        return self._lr_scheduler is not None

    def total_steps(self) -> float:
        """Return the number of optimizer steps of the whole training."""
        return self.trainer.estimated_stepping_batches

    def _build_optimizer(self) -> Optimizer:
        try:
            trainer: L.Trainer | None = self.trainer
        except RuntimeError:  # it is not attached to one
            trainer = None
        with optimizer_errors():
            return build_optimizer(self._optimizer, self.parameter_groups, trainer)

    def _build_scheduler(
        self, optimizer: Optimizer, total_steps: Callable[[], float]
    ) -> LRScheduler | None:
        return self._lr_scheduler.build(optimizer, total_steps) if self._lr_scheduler else None

    def scheduled_learning_rates(self, steps: int, steps_per_epoch: int) -> Tensor:
        """Return the learning rate of each optimizer step, float32 ``[steps]``, without training.

        ``ReduceLROnPlateau`` counts as never reducing it.

        Raises:
            UserError: If the scheduler can't take so many steps.
        """
        optimizer = self._build_optimizer()
        scheduler = self._build_scheduler(optimizer, lambda: steps)
        rates = []
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", EARLY)
            for step in range(1, steps + 1):
                rates.append(optimizer.param_groups[0]["lr"])
                if self._lr_scheduler is not None and scheduler is not None:
                    self._lr_scheduler.step_in_advance(scheduler, step, steps_per_epoch)
        return torch.tensor(rates)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the configuration of optimizer and scheduler, in addition to their state."""
        checkpoint["configured"] = self._configured

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember the configuration of optimizer and scheduler of the checkpoint."""
        self._loaded = checkpoint.get("configured")
        self._scheduler_states = checkpoint.get("lr_schedulers", [])

    def on_train_start(self) -> None:
        """Apply those options of optimizer and scheduler that the config of a resumed run changes.

        Loading their state has restored the old options, such as the learning rate.

        Raises:
            UserError: If the optimizer is of another class, which can't use the state.
        """
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, Optimizer)
        align_state(optimizer)
        if self._loaded is not None:
            change(optimizer, self.lr_schedulers(), self._loaded, self._configured)

    def num_trained(self) -> int:
        """Return the number of parameters that are trained."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the trained parameters, in one group, or in two: with and without weight decay."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if self._decay_norm_and_bias:
            return [{"params": trained}]
        return [
            {"params": [parameter for parameter in trained if parameter.ndim > 1]},
            {
                "params": [parameter for parameter in trained if parameter.ndim <= 1],
                "weight_decay": 0.0,
            },
        ]
