"""Where Lightning's training loop is, and what a checkpoint says of that."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def stops(trainer: Any) -> bool:
    """Return whether the training stops after this batch, unless it is the epoch's last one."""
    step: int = trainer.global_step
    if trainer.max_steps != -1 and step >= trainer.max_steps:
        return True
    enough = trainer.current_epoch >= (trainer.min_epochs or 0) and step >= (trainer.min_steps or 0)
    return bool(trainer.should_stop and enough)


def validates_now(trainer: Any) -> bool:
    """Return whether a validation that the config asks for follows this batch."""
    every, batches = trainer.check_val_every_n_epoch, trainer.val_check_batch
    if not trainer.enable_validation or not sum(trainer.num_val_batches) or batches is None:
        return False
    if every is not None and (trainer.current_epoch + 1) % every:
        return False
    loop = trainer.fit_loop
    batch: int = loop.total_batch_idx if every is None else loop.batch_idx
    return bool((batch + 1) % batches == 0)


@contextmanager
def as_stopped(trainer: Any) -> Iterator[None]:
    """Let a checkpoint at the end of an epoch say whether the epoch is over.

    Lightning counts an epoch inside which a training stops as processed:
    https://github.com/Lightning-AI/pytorch-lightning/issues/19617
    """
    progress = trainer.fit_loop.epoch_progress
    rest = 0 if trainer.is_last_batch else 1
    for counts in (progress.current, progress.total):
        counts.processed -= rest
    try:
        yield
    finally:
        for counts in (progress.current, progress.total):
            counts.processed += rest


def interrupt_validation(trainer: Any) -> None:
    """Count no batch of this validation, and leave it as one that is still to be finished."""
    progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
    before = progress.total.completed - progress.current.completed
    for counts, completed in ((progress.total, before), (progress.current, 0)):
        counts.ready = counts.started = completed + 1
        counts.processed = counts.completed = completed


def forget_interruption(trainer: Any) -> None:
    """Forget the batch that a resumed validation had begun; else all later ones look unfinished."""
    total = trainer.fit_loop.epoch_loop.val_loop.batch_progress.total
    total.ready = total.started = total.processed = total.completed
