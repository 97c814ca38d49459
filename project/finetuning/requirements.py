"""What a fine-tuning schedule asks of the trainer around it."""

import math
from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, WeightAveraging
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy

from project.approaches import FineTuning
from project.errors import UserError
from project.finetuning.phases import Phase


def check_model(model: L.LightningModule) -> FineTuning:
    """Return the model, if layer groups of it can be trained in phases.

    Raises:
        UserError: If it is none.
    """
    if not isinstance(model, FineTuning):
        raise UserError(
            f"FineTuningSchedule: the model is {type(model).__name__}; it needs FineTuning"
        )
    return model


def check_trainer(trainer: Any, phases: Sequence[Phase]) -> None:
    """Refuse a trainer that the phases can't work with.

    Raises:
        UserError: Naming the option, and why.
    """
    strategy = trainer.strategy
    sharded = isinstance(strategy, DeepSpeedStrategy)  # which is a DDPStrategy by inheritance
    if sharded or not isinstance(strategy, DDPStrategy | SingleDeviceStrategy):
        raise UserError(
            f"trainer.strategy: {type(strategy).__name__} shards parameters, and what trains "
            "can't change under it; FineTuningSchedule works on one device and with ddp"
        )
    for callback in trainer.callbacks:
        name = f"trainer.callbacks: {type(callback).__name__}"
        if isinstance(callback, EarlyStopping):
            raise UserError(
                f"{name} would end the training in the middle of the phases; give a phase a plateau"
            )
        if isinstance(callback, WeightAveraging) and any(phase.restore_best for phase in phases):
            raise UserError(f"{name} validates its average; leave restore_best false with it")
    for option, harmless in (
        ("max_steps", [-1]),
        ("min_epochs", [None, 0, 1]),
        ("min_steps", [None]),
    ):
        if getattr(trainer, option) not in harmless and not trainer.fast_dev_run:
            raise UserError(f"trainer.{option}: the phases say how long it takes; remove it")
    epochs = [phase.max_epochs for phase in phases]
    if None not in epochs:
        _check_epochs(trainer, sum(count for count in epochs if count))


def _check_epochs(trainer: Any, epochs: int) -> None:
    if trainer.max_epochs not in (None, -1, epochs) and not trainer.fast_dev_run:
        raise UserError(
            f"trainer.max_epochs: {trainer.max_epochs}, but the phases take {epochs} "
            f"epoch{'s' if epochs > 1 else ''}; remove it, or change the phases"
        )


def check_length(trainer: Any, phases: Sequence[Phase], steps_per_epoch: int) -> int:
    """Return the number of epochs, and refuse what the length of an epoch makes impossible.

    Args:
        trainer: The trainer.
        phases: The phases.
        steps_per_epoch: Optimizer steps of an epoch.

    Raises:
        UserError: If there is nothing to train or to validate on, or ``max_epochs`` differs.
    """
    if steps_per_epoch == 0:
        raise UserError("trainer.limit_train_batches: leaves no batch to train on")
    validated = trainer.limit_val_batches != 0
    if trainer.datamodule is not None:
        validated = validated and bool(trainer.datamodule.val_images)
    every = (trainer.check_val_every_n_epoch or 0) * steps_per_epoch
    for number, phase in enumerate(phases):
        if phase.plateau or phase.restore_best:
            key = f"phases[{number}].{'plateau' if phase.plateau else 'restore_best'}"
            if not validated:
                raise UserError("there are no validation images", key)
            if phase.length(steps_per_epoch) < every:
                raise UserError("the phase is over before it is validated; make it longer", key)
    steps = sum(phase.length(steps_per_epoch) for phase in phases)
    epochs = math.ceil(steps / steps_per_epoch)
    _check_epochs(trainer, epochs)
    return epochs


def steps_per_epoch(trainer: Any) -> int:
    """Return the number of optimizer steps of an epoch."""
    data = trainer.datamodule
    if data is None:  # the loaders were given to the trainer
        trainer.fit_loop.setup_data()
        batches = int(trainer.num_training_batches)
    else:  # setup_data would begin to iterate, and callbacks could no longer copy the model
        batches, limit = len(data.train_dataloader()), trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    accumulated: int = trainer.accumulate_grad_batches
    return math.ceil(batches / accumulated)
