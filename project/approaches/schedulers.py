"""Learning rate schedulers: when they step, and one that torch lacks."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from project.errors import UserError


@dataclass
class Scheduler:
    """A learning rate scheduler and when it steps, by the names that Lightning gives them.

    Args:
        scheduler: Any torch scheduler, or ``WarmupCosine``.
        interval: Step after every optimizer step or after every epoch.
        frequency: How many of those intervals lie between two steps.
        monitor: Metric that ``ReduceLROnPlateau`` looks at.
    """

    scheduler: Callable[[Optimizer], LRScheduler]
    interval: Literal["step", "epoch"] = "epoch"
    frequency: int = 1
    monitor: str = "val/loss"

    def build(self, optimizer: Optimizer, total_steps: Callable[[], float]) -> LRScheduler:
        """Return the scheduler of an optimizer.

        Args:
            optimizer: The optimizer.
            total_steps: Returns the number of its steps in the whole training.

        Raises:
            UserError: If it refuses its arguments.
        """
        try:
            scheduler = self.scheduler(optimizer)
        except (TypeError, ValueError) as error:
            raise UserError(f"model.lr_scheduler: {error}") from error
        if isinstance(scheduler, WarmupCosine):
            if self.interval != "step":
                raise UserError("model.lr_scheduler: WarmupCosine needs interval: step")
            steps = total_steps()
            if steps == math.inf and scheduler.total_steps is None:
                raise UserError("model.lr_scheduler: WarmupCosine needs trainer.max_epochs")
            scheduler.set_total_steps(0 if steps == math.inf else int(steps))
        return scheduler

    def step_in_advance(self, scheduler: LRScheduler, step: int, steps_per_epoch: int) -> None:
        """Step after this optimizer step, from 1 on, as a training would that sees no plateau.

        Raises:
            UserError: If the scheduler can't go that far.
        """
        interval = steps_per_epoch if self.interval == "epoch" else 1
        if step % (interval * self.frequency) or isinstance(scheduler, ReduceLROnPlateau):
            return
        try:
            scheduler.step()
        except ValueError as error:
            raise UserError(f"model.lr_scheduler: {error}") from error


class WarmupCosine(LambdaLR):
    """A linear warm-up to the optimizer's learning rate, then a cosine down to a share of it.

    Goes with ``interval: step``. Cosine after Loshchilov and Hutter, 2017; warm-up after Goyal et
    al., 2017.

    Args:
        optimizer: Optimizer whose learning rates are changed; given by the approach.
        warmup: Share of all steps that the warm-up takes, in [0, 1].
        end: Share of the learning rate that is left at the end, in [0, 1].
        total_steps: Optimizer steps of the whole training; null takes what the trainer expects.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup: float = 0.05,
        end: float = 0.0,
        total_steps: int | None = None,
    ) -> None:
        if not (0 <= warmup <= 1 and 0 <= end <= 1):
            raise ValueError(f"warmup {warmup} and end {end} must be in [0, 1]")
        self.warmup = warmup
        self.end = end
        self.total_steps = total_steps
        super().__init__(optimizer, self._factor)

    def set_total_steps(self, total_steps: int) -> None:
        """Set the number of steps before the first one, unless the config gave it."""
        self.total_steps = self.total_steps or total_steps
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs):
            group["lr"] = lr * self._factor(0)

    def _factor(self, step: int) -> float:
        total = self.total_steps or 1
        warmup_steps = self.warmup * total
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        progress = min((step - warmup_steps) / max(total - warmup_steps, 1), 1.0)
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * progress)) / 2


class Shared:
    """A function that copies of the model share: copying it may copy the whole command line."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        return self.function(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Shared":
        return self


def plain_state(state: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a scheduler's state that ``weights_only`` loads."""
    kinds = (bool, int, float, str, list, tuple, type(None))
    return {name: value for name, value in state.items() if isinstance(value, kinds)}
