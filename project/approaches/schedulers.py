"""Learning rate schedules that torch lacks."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


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
