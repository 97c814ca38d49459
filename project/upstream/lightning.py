"""The private parts of Lightning that are used, and the warnings that are hidden."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from subprocess import Popen
from types import FrameType
from typing import Any, TypeVar

import lightning as L
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector
from lightning_utilities.core.rank_zero import rank_zero_only

QUIET = (  # warnings about what is meant to be so, or that no user can act on
    "(?s).*Checkpoint directory .* exists and is not empty.*",
    ".*recommended to use .*sync_dist=True.*",  # metrics are synchronised by torchmetrics
    ".*loading a checkpoint outside the .fit. stage.*",  # of an average, which is in it
    ".*number of training batches .* is smaller than the logging interval.*",
    ".*module\\(s\\) in eval mode at the start of training.*",  # a frozen backbone is
    ".*LeafSpec.*",  # a deprecation of torch's that lightning 2.6 meets
    ".*dataloader is not resumable.*",  # BatchSampler resumes in the middle of an epoch
    ".*You requested to overfit but enabled .* shuffling.*",  # train_dataloader turned it off
    ".*Couldn't infer the batch indices.*",  # batches carry their own
    ".*callbacks used to create the checkpoint need to be provided.*",  # Resume says it
    ".*Total length of `list` across ranks is zero.*",  # no validation split
)


Kind = TypeVar("Kind", bound=L.Callback)


def callbacks_of(trainer: Any, kind: type[Kind]) -> list[Kind]:
    """Return the callbacks of a class; Lightning sets them late, and declares no attribute."""
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]


class CheckpointsDecideNothing(LightningCLI):
    """A LightningCLI whose checkpoints don't change the config.

    LightningCLI lets the hyperparameters of ``--ckpt_path`` win over the command line, and imports
    the classes that they name: https://github.com/Lightning-AI/pytorch-lightning/issues/20801
    """

    def _parse_ckpt_path(self) -> None:
        """Do nothing."""

    @property
    def command_parser(self) -> LightningArgumentParser:
        """The parser of the chosen subcommand; LightningCLI has it as a private method."""
        return self._parser(self.subcommand)


def restored(frame: FrameType) -> tuple[str, Any] | None:
    """Return what a call restores from a checkpoint, and from which; None if it restores nothing.

    Lightning takes the parts of a checkpoint as they are, and says nothing of it in an error.
    """
    owner = frame.f_locals.get("self")
    if not isinstance(owner, _CheckpointConnector):
        return None
    return frame.f_code.co_name.removeprefix("restore_"), owner.trainer.ckpt_path


def own_signals(trainer: L.Trainer) -> None:
    """Keep a trainer from handling signals, and from asking all ranks for one in each batch.

    Inside the handler of a SIGTERM, Lightning sends a tensor to all ranks, which hangs unless all
    of them are in it: https://github.com/Lightning-AI/pytorch-lightning/issues/20806
    """
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def started_ranks(trainer: L.Trainer) -> Callable[[], Sequence[Popen[Any]]]:
    """Return a function for the processes that a trainer has started as further ranks."""
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        return lambda: launcher.procs
    return lambda: ()


def stop_after_batch(trainer: L.Trainer) -> None:
    """Let a training end after the batch, or after the epoch if it is its last one."""
    trainer._signal_connector.received_sigterm = True


def requeue_signal(trainer: L.Trainer) -> int | None:
    """Return the signal with which SLURM says that a job should be put into its queue again."""
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
        return environment.requeue_signal
    return None


def resume_by_epochs(trainer: L.Trainer) -> None:
    """Let a resumed run with ``max_steps`` begin after the epoch that its checkpoint has ended.

    FitLoop would count that epoch twice.
    """
    trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]


class _StepsAlone(_LoggerConnector):
    @property
    def should_update_logs(self) -> bool:
        trainer = self.trainer
        stops, trainer.should_stop = trainer.should_stop, False
        try:
            return super().should_update_logs
        finally:
            trainer.should_stop = stops


def log_by_steps_alone(trainer: L.Trainer) -> None:
    """Let a training that is stopped log what it would log otherwise.

    Lightning logs the values of an earlier step once more, as those of the step where it stops.
    """
    trainer._logger_connector.__class__ = _StepsAlone


def unlogged(trainer: L.Trainer) -> dict[str, Any] | None:
    """Return the step and the metrics that a trainer logs right after a checkpoint; None for none.

    It logs them after the last callback, and doesn't say what they are.
    """
    loop, logs = trainer.fit_loop, trainer._logger_connector
    batches: Any = loop.epoch_loop.batch_progress
    epochs: Any = loop.epoch_progress.current
    step = loop.epoch_loop._batches_that_stepped
    if trainer.validating or batches.current.processed == 0:
        return None
    if logs._first_loop_iter is None:  # the batches of the epoch are over
        due = batches.is_last_batch and epochs.processed > epochs.completed
        step -= 1
    else:
        ends = batches.current.processed > batches.current.completed
        due = ends and not loop._should_accumulate() and logs.should_update_logs
    metrics = logs.metrics["log"] if due else {}
    if not metrics:
        return None
    numbers = {name: torch.as_tensor(value).item() for name, value in metrics.items()}
    if "step" in numbers:
        return {"step": int(numbers.pop("step")), "metrics": numbers}
    return {"step": step, "metrics": {"epoch": trainer.current_epoch, **numbers}}


def restart_averages(trainer: L.Trainer) -> None:
    """Restart averages of weights with the next step; WeightAveraging has no method for it."""
    for average in callbacks_of(trainer, WeightAveraging):
        if average._average_model is not None:
            average._average_model.n_averaged.zero_()


def follow_weights(trainer: L.Trainer, model: L.LightningModule) -> None:
    """Let averages of weights that average nothing yet be the weights themselves.

    Until its first update, WeightAveraging validates and saves the weights of the beginning.
    """
    for average in callbacks_of(trainer, WeightAveraging):
        if average._average_model is not None and not average._average_model.n_averaged:
            average._average_model.module.load_state_dict(model.state_dict())


def forget_averages(trainer: L.Trainer) -> None:
    """Let averages of weights keep out of what follows a training.

    After ``fit``, WeightAveraging loads its own average in place of the checkpoint that is tested.
    """
    for average in callbacks_of(trainer, WeightAveraging):
        average._average_model = None


def drop_anonymous(logger: WandbLogger) -> None:
    """Take back an option that Lightning always passes, and that W&B warns of: it has no effect."""
    logger._wandb_init.pop("anonymous", None)


def uploads_checkpoints(logger: Logger) -> bool:
    """Return whether a logger uploads the checkpoint that was just written; it doesn't say."""
    return bool(getattr(logger, "_log_model", False))


def keeps_model(logger: WandbLogger) -> bool:
    """Return whether a config has ``log_model: true``, and not ``all``; the logger doesn't say."""
    return logger._log_model is True


def log_on_first_rank(rank: int) -> None:
    """Let loggers write if this process is the first of its training.

    Lightning decides by RANK, SLURM_PROCID and the like, which a cluster may have set for another
    purpose, and a trainer on one device leaves it so. Then nothing would be logged, in silence.

    Args:
        rank: Rank of this process, as the trainer has it.
    """
    rank_zero_only.rank = rank  # type: ignore[attr-defined]


def ema_decay(average: WeightAveraging) -> float | None:
    """Return the decay of an exponential moving average, None for another average.

    The callback keeps it in a function only.
    """
    function = average._kwargs.get("avg_fn")
    if not isinstance(average, EMAWeightAveraging) or function is None:
        return None
    return float(function(torch.tensor(1.0), torch.tensor(0.0), torch.tensor(1)))


def has_averaged(average: WeightAveraging) -> bool:
    """Return whether an average holds anything yet; the callback doesn't say."""
    model = average._average_model
    return model is not None and bool(model.n_averaged)


class _NoProfiler(PassThroughProfiler):
    """Lightning's default, which makes a generator for each of a hundred actions in a step."""

    nothing = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return self.nothing


def profile_nothing(trainer: Any) -> None:
    """Let a trainer without a profiler lose no time for it: of an MLP's steps, it takes 5 %."""
    if type(trainer.profiler) is PassThroughProfiler:
        trainer.profiler = _NoProfiler()


BATCH_HOOKS = (
    *("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward"),
    *("on_after_backward", "on_before_optimizer_step"),
    *("on_validation_batch_start", "on_validation_batch_end"),
)


def skip_empty_hooks(callbacks: Sequence[L.Callback]) -> None:
    """Let callbacks lose no time in hooks that they don't have.

    Lightning calls the empty ones of its base class, six for each callback in each step. It looks
    whether a hook can be called at all.
    """
    for callback in callbacks:
        for hook in BATCH_HOOKS:
            inherited = getattr(type(callback), hook) is getattr(L.Callback, hook)
            if inherited and hook not in vars(callback):
                setattr(callback, hook, None)
