"""What keeps the ranks of a distributed training identical when other parameters train."""

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy

from project.approaches import FineTuning
from project.errors import UserError
from project.finetuning.resolved import ResolvedPhase


def train_phase(trainer: L.Trainer, model: FineTuning, phase: ResolvedPhase) -> None:
    """Train what a phase trains, and nothing else, on all ranks.

    DDP ignores the gradients of parameters that were frozen when it wrapped the model, in silence:
    https://github.com/Lightning-AI/pytorch-lightning/issues/20340. So it wraps the model again.
    """
    before = [parameter.requires_grad for parameter in model.parameters()]
    model.set_trained(phase.trained, phase.phase.norm)
    changed = before != [parameter.requires_grad for parameter in model.parameters()]
    strategy = trainer.strategy
    if changed and isinstance(strategy, DDPStrategy):
        strategy.model = model
        strategy.configure_ddp()
    check_ranks(trainer, model)


def check_ranks(trainer: L.Trainer, model: L.LightningModule) -> None:
    """Compare the parameters of all ranks, by the sum of each.

    Raises:
        UserError: If they differ.
    """
    if trainer.world_size == 1:
        return
    names = [name for name, _ in model.named_parameters()]
    sums = torch.stack(
        [parameter.detach().sum(dtype=torch.float64) for parameter in model.parameters()]
    )
    largest, smallest = (
        trainer.strategy.reduce(sums.clone(), reduce_op=which) for which in ("max", "min")
    )
    equal = (largest == smallest) | largest.isnan()
    if not equal.all():
        wrong = [name for name, same in zip(names, equal.tolist()) if not same]
        raise UserError(
            f"the ranks have drifted apart in epoch {trainer.current_epoch + 1}: {len(wrong)} "
            f"parameters differ, the first is {wrong[0]}; something changed the model of one rank"
        )
