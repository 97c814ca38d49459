"""Learning rate schedulers: when they step, and a cosine with a warm-up."""

import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from project.approaches.metrics import natural_mode
from project.errors import UserError

KEY = "model.lr_scheduler.scheduler"
EARLY = ".*lr_scheduler.step.*before.*optimizer.step.*"  # a warning that a rehearsal doesn't need


@dataclass
class Scheduler:
    """A learning rate scheduler and when it steps; the options have Lightning's names.

    Args:
        scheduler: Any torch scheduler, or ``WarmupCosine``.
        interval: Step after every optimizer step or after every epoch.
        frequency: Number of those intervals between two steps of the scheduler.
        monitor: Metric that ``ReduceLROnPlateau`` monitors.
    """

    scheduler: Callable[[Optimizer], LRScheduler]
    interval: Literal["step", "epoch"] = "epoch"
    frequency: int = 1
    monitor: str = "val/loss"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: If a value is out of range.
        """
        if self.frequency < 1:
            message = f"{self.frequency} must be at least 1"
            raise UserError(message, "model.lr_scheduler.frequency")

    def build(self, optimizer: Optimizer, total_steps: Callable[[], float]) -> LRScheduler:
        """Return the scheduler of an optimizer.

        Args:
            optimizer: The optimizer.
            total_steps: Returns the number of optimizer steps of the whole training.

        Raises:
            UserError: If its arguments are invalid.
        """
        try:
            scheduler = self.scheduler(optimizer)
        except (TypeError, ValueError) as error:
            raise UserError(str(error), KEY) from error
        except ArithmeticError as error:
            raise UserError(f"one of its options must not be 0 ({error})", KEY) from error
        _check_numbers(scheduler)
        plateau = isinstance(scheduler, ReduceLROnPlateau) and scheduler.mode == "min"
        if plateau and natural_mode(self.monitor) == "max":
            raise UserError(
                f"mode: min takes the worst {self.monitor} for the best; use mode: max",
                "model.lr_scheduler",
            )
        if isinstance(scheduler, WarmupCosine):
            if self.interval != "step":
                raise UserError("model.lr_scheduler: WarmupCosine needs interval: step")
            steps = total_steps()
            if steps == math.inf and scheduler.total_steps is None:
                raise UserError("model.lr_scheduler: WarmupCosine needs trainer.max_epochs")
            scheduler.set_total_steps(0 if steps == math.inf else int(steps))
        return scheduler

    def rehearse(self, optimizer: Optimizer) -> None:
        """Let the scheduler step before the training, where an option divides by zero.

        Args:
            optimizer: One that isn't used.

        Raises:
            UserError: Naming the option.
        """
        scheduler = self.build(optimizer, lambda: 1)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", EARLY)
            self.step_in_advance(scheduler, self.frequency, 1)

    def check_length(self, scheduler: LRScheduler, steps: float, epochs: float) -> None:
        """Check before a training that its scheduler lasts as long; OneCycleLR has an end.

        Args:
            scheduler: The scheduler.
            steps: Optimizer steps of the whole training.
            epochs: Epochs of the whole training.

        Raises:
            UserError: If it would end before the training does.
        """
        most = getattr(scheduler, "total_steps", None)
        needed = (steps if self.interval == "step" else epochs) // self.frequency
        if isinstance(scheduler, OneCycleLR) and most is not None and needed > most:
            raise UserError(
                f"OneCycleLR ends after {most} steps, and the training takes {needed:.0f} of them: "
                f"one every {self.interval}; set total_steps to that",
                "model.lr_scheduler",
            )

    def step_in_advance(self, scheduler: LRScheduler, step: int, steps_per_epoch: int) -> None:
        """Step as a training would after an optimizer step.

        Args:
            scheduler: The scheduler; ``ReduceLROnPlateau`` never steps here.
            step: Number of the optimizer step, from 1 on.
            steps_per_epoch: Optimizer steps of an epoch.

        Raises:
            UserError: If the scheduler can't take so many steps.
        """
        interval = steps_per_epoch if self.interval == "epoch" else 1
        if step % (interval * self.frequency) or isinstance(scheduler, ReduceLROnPlateau):
            return
        try:
            scheduler.step()
        except ValueError as error:
            raise UserError(str(error), KEY) from error
        except ArithmeticError as error:
            zeros = [
                name for name, value in _numbers(scheduler) if value == 0 and type(value) is int
            ]
            place = f"{KEY}.{zeros[0]}: 0" if len(zeros) == 1 else f"{KEY}: one of its options"
            name = type(scheduler).__name__
            raise UserError(f"{place} must not be 0: {name} divides by it") from error


def _numbers(scheduler: LRScheduler) -> Iterator[tuple[str, float]]:
    """Yield the options of a scheduler that are numbers, as far as it keeps them."""
    for name in inspect.signature(type(scheduler)).parameters:
        value = getattr(scheduler, name, None)
        if isinstance(value, int | float) and name != "last_epoch":
            yield name, value


def _check_numbers(scheduler: LRScheduler) -> None:
    """Refuse numbers that torch takes, and computes nonsense with."""
    of_torch = type(scheduler).__module__ == LRScheduler.__module__
    for name, value in _numbers(scheduler):
        if not math.isfinite(value):
            raise UserError(f"{value} must be finite", f"{KEY}.{name}")
        if of_torch and type(value) is int and value < 0:
            raise UserError(f"{value} must be at least 0", f"{KEY}.{name}")


class WarmupCosine(LambdaLR):
    """A linear warm-up to the optimizer's learning rate, then a cosine decay to a fraction of it.

    Requires ``interval: step``. Cosine decay after Loshchilov and Hutter, 2017; warm-up after Goyal
    et al., 2017.

    Args:
        optimizer: Optimizer whose learning rates are changed; given by the approach.
        warmup: Fraction of all steps that the warm-up takes, in [0, 1].
        end: Learning rate at the end as a fraction of the optimizer's, in [0, 1].
        total_steps: Optimizer steps of the whole training; None takes the trainer's estimate.
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
        """Set the number of steps, unless the config gives it; call this before the first step."""
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
    """A function that copies of a model share instead of copying it.

    A function that jsonargparse built refers to its whole parser, which a deep copy would copy.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.function(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Shared":
        return self


def plain_state(state: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a scheduler's state that ``weights_only=True`` can load."""
    kinds = (bool, int, float, str, list, tuple, type(None))
    return {name: value for name, value in state.items() if isinstance(value, kinds)}
