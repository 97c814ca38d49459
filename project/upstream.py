"""Every private name of another library that the project touches, and every warning that it hides.

Each has its reason and a link. A test in ``tests/test_upstream.py`` fails when upstream no longer
needs it.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from functools import cache, wraps
from subprocess import Popen
from types import FrameType, UnionType
from typing import Any, Union, get_args, get_origin

import lightning as L
import torch
from jsonargparse import Namespace, _typehints, _util, typing
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector
from lightning_utilities.core.rank_zero import rank_zero_only
from torch import Tensor

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


typehints: Any = _typehints


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


def before_class_change(prepare: Callable[[Namespace, Namespace], None]) -> None:
    """Call a function before jsonargparse replaces a class in a config by another.

    jsonargparse keeps all arguments of the old class that the new one knows, too, so that ``SGD``
    would run with the ``weight_decay`` that the config gives ``AdamW``. It has no hook for it:
    https://github.com/Lightning-AI/pytorch-lightning/issues/8916

    Args:
        prepare: Takes the config of the old class, which it may change, and that of the new class.
    """
    keep: Callable[..., None] = _typehints.discard_init_args_on_class_path_change

    def prepare_and_keep(parser: Any, previous: Any, value: Any) -> None:
        if previous and previous["class_path"] != value["class_path"]:
            prepare(previous, value)
        keep(parser, previous, value)

    _typehints.discard_init_args_on_class_path_change = prepare_and_keep


def read_configs_by(read: Callable[[str], str]) -> None:
    """Let jsonargparse read its files by a function; it uses the encoding of the locale.

    Args:
        read: Takes the path of a file and returns its content.
    """
    before = typing.Path.read_text

    def read_text(path: typing.Path) -> str:
        is_file = not (path.is_url or path.is_fsspec or path._std_io)
        return read(path.absolute) if is_file else before(path)

    setattr(typing.Path, "read_text", read_text)  # noqa: B010  # mypy takes it for a mistake


def import_by(imported: Callable[[str, Callable[[str], Any]], Any]) -> None:
    """Let jsonargparse import what a value names by a function.

    Its policy of import paths is one for all configs, and tries the other alternatives of a type
    after a refusal.

    Args:
        imported: Takes an import path and what imports it, and returns the object.
    """
    load: Callable[..., Any] = _util.import_object

    def import_object(name: str, *args: Any, **options: Any) -> Any:
        by_code = False in (*args, options.get("check_path"))  # an annotation names it, no value
        return load(name, *args, **options) if by_code else imported(name, load)

    for name, module in list(sys.modules.items()):
        if name.startswith(f"{_util.__package__}.") and hasattr(module, load.__name__):
            setattr(module, load.__name__, import_object)


def find_configs_by(may_read: Callable[[str], bool]) -> None:
    """Let jsonargparse ask before it takes a text for the name of a file.

    Wherever a class is expected, it reads a file of that name, and there is no setting for it.

    Args:
        may_read: Takes the text and returns whether it may be a file.
    """
    start: Callable[..., None] = typing.Path.__init__

    @wraps(start)
    def init(path: typing.Path, text: Any, *args: Any, **options: Any) -> None:
        if isinstance(text, str) and not may_read(text):
            raise TypeError("no other file may be named here")
        start(path, text, *args, **options)

    setattr(typing.Path, "__init__", init)  # noqa: B010  # mypy takes it for a mistake


def read_numbers_by(load: Callable[[str], Any]) -> None:
    """Let jsonargparse read numbers and booleans by a function.

    Whatever loader is set, it reads them by its own, for which ``1:30`` is 90.

    Args:
        load: Takes a text and returns its value.
    """
    typehints.basic_json_or_yaml_load = load


class _AsItIs(typehints.NestedArg):  # type: ignore[misc]
    """What the command line gives an option of a class, for that option alone to read."""


_settled: ContextVar[bool] = ContextVar("_settled", default=False)


@contextmanager
def settled() -> Iterator[None]:
    """Let jsonargparse take the values of a parsed config as they are.

    Where any type is accepted, it would read the text ``true`` as YAML when it writes the config,
    and once more when it builds the object.
    """
    token = _settled.set(True)
    try:
        yield
    finally:
        _settled.reset(token)


def leave_texts() -> None:
    """Let jsonargparse leave texts alone: in :func:`settled`, and in arguments of a class.

    It takes ``--data.root null`` for None and ``--data.root "[a]"`` for a list, before it looks at
    the type of ``root``.
    """
    check: Callable[..., Any] = typehints.ActionTypeHint._check_type
    parse: Callable[..., Any] = typehints.parse_value_or_config

    @wraps(check)  # its signature is looked at
    def check_type(action: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(value, typehints.NestedArg) and not _takes_mapping(action._typehint):
            value = _AsItIs(*value)
        return check(action, value, *args, **kwargs)

    def parse_value(value: Any, *args: Any, **kwargs: Any) -> Any:
        as_it_is = isinstance(value, _AsItIs) or (kwargs.get("simple_types") and _settled.get())
        return (value, None) if as_it_is else parse(value, *args, **kwargs)

    typehints.ActionTypeHint._check_type = check_type
    typehints.parse_value_or_config = parse_value


def _takes_mapping(kind: Any) -> bool:
    origin = get_origin(kind)
    if origin in _typehints.mapping_origin_types:
        return True
    return origin in (Union, UnionType) and any(map(_takes_mapping, get_args(kind)))


def look_before(check_written: Callable[[str, Any], None]) -> None:
    """Call a function before jsonargparse checks a value, and let it number the items of a list.

    It fails at a ``class_path`` that is no text, and at ``init_args`` that are no mapping, with
    what Python says of these; and it doesn't say which item of a list is wrong.

    Args:
        check_written: Takes the key and the value, as it is written.
    """
    check: Callable[..., Any] = typehints.ActionTypeHint._check_type

    @wraps(check)  # its signature is looked at
    def check_type(action: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        nested = isinstance(value, typehints.NestedArg)
        check_written(
            *((f"{action.dest}.{value.key}", value.val) if nested else (action.dest, value))
        )
        try:
            return check(action, value, *args, **kwargs)
        except TypeError:
            items = value
            with suppress(typehints.get_loader_exceptions()):
                items = () if nested else typehints.parse_value_or_config(value)[0]
            many = isinstance(items, list | tuple) and _takes_list(action._typehint)
            for number, item in enumerate(items if many else ()):
                try:
                    check(action, [item], *args, **kwargs)
                except TypeError as error:
                    place = f'Parser key "{action.dest}[{number}]":'
                    raise TypeError(f"{place}\n{error}") from error
            raise

    typehints.ActionTypeHint._check_type = check_type


def keep_alternatives() -> None:
    """Let an error that no alternative of a type takes a value have the errors of all as its cause.

    jsonargparse raises it from that of the first one, and the others are lost.
    """
    fail: Callable[..., None] = typehints.raise_union_unexpected_value

    def raise_from_all(subtypes: Any, value: Any, exceptions: list[Exception]) -> None:
        try:
            fail(subtypes, value, exceptions)
        except ValueError as error:
            raise error from ExceptionGroup("alternatives", exceptions)

    typehints.raise_union_unexpected_value = raise_from_all


def _takes_list(kind: Any) -> bool:
    """Return whether a type takes a list of any length."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(map(_takes_list, args))
    return origin in _typehints.sequence_origin_types or (origin is tuple and args[-1] is Ellipsis)


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
    """Let averages of weights start anew with the next step; WeightAveraging has no way to."""
    for average in _averages(trainer):
        if average._average_model is not None:
            average._average_model.n_averaged.zero_()


def follow_weights(trainer: L.Trainer, model: L.LightningModule) -> None:
    """Let averages of weights that average nothing yet be the weights themselves.

    Until its first update, WeightAveraging validates and saves the weights of the beginning.
    """
    for average in _averages(trainer):
        if average._average_model is not None and not average._average_model.n_averaged:
            average._average_model.module.load_state_dict(model.state_dict())


def forget_averages(trainer: L.Trainer) -> None:
    """Let averages of weights keep out of what follows a training.

    After ``fit``, WeightAveraging loads its own average in place of the checkpoint that is tested.
    """
    for average in _averages(trainer):
        average._average_model = None


def _averages(trainer: L.Trainer) -> list[WeightAveraging]:
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set late
    return [callback for callback in callbacks if isinstance(callback, WeightAveraging)]


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


def wandb_url() -> str:
    """Return the address of W&B's own server."""
    from wandb.sdk.lib.urls import DEFAULT_BASE_URL

    return str(DEFAULT_BASE_URL)


def logged_in_to_wandb(url: str) -> bool:
    """Return whether ``wandb login`` has left a key for a server.

    ``wandb.login`` itself would ask for one: https://github.com/wandb/wandb/issues/9865
    """
    from wandb.sdk.lib.wbauth import read_netrc_auth

    return bool(read_netrc_auth(host=url))


def allow_recompilation() -> None:
    """Let ``torch.compile`` make a program for each phase of a schedule, not 8 in all."""
    torch._dynamo.config.recompile_limit = 64


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


def any_not_finite(tensors: Sequence[Tensor]) -> Tensor:
    """Return whether one of the values isn't finite, as a float scalar, without a wait for a GPU.

    It is what ``torch.amp.GradScaler`` looks with, which has no public name and takes a third of
    the time of a norm.

    Args:
        tensors: Gradients of any shapes; those on other devices than the first are looked at there.
    """
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        if tensor.is_sparse:
            tensor = tensor.coalesce().values()
        if tensor.is_complex():
            tensor = torch.view_as_real(tensor)
        groups.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    found = torch.zeros((), device=tensors[0].device)
    for (device, _), group in groups.items():
        here = found if device == found.device else torch.zeros((), device=device)
        torch._amp_foreach_non_finite_check_and_unscale_(group, here, _one(device))
        if here is not found:
            found += here.to(found.device)
    return found


@cache
def _one(device: torch.device) -> Tensor:
    return torch.ones((), device=device)


# part: sweep
def running_trial(study: Any, trial: Any) -> Any:
    """Return the trial of an Optuna study that a killed process had begun, to go on with it.

    Optuna has no public name for the id: https://github.com/optuna/optuna/issues/2949

    Args:
        study: The study.
        trial: The trial as the study lists it.
    """
    from optuna.trial import Trial

    return Trial(study, trial._trial_id)


# end
