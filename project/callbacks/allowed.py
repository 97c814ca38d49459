"""What a run can't have of Lightning's callbacks and trainer options, and what to use instead.

``docs/callbacks.md`` has a row for each callback and option, also for those that work.
"""

import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    Callback,
    DeviceStatsMonitor,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelPruning,
    OnExceptionCheckpoint,
    SpikeDetection,
    StochasticWeightAveraging,
    ThroughputMonitor,
    Timer,
    WeightAveraging,
)
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger
from lightning.pytorch.profilers import XLAProfiler

from project.approaches.metrics import natural_mode
from project.class_paths import init_args_of, is_a, listed, short_name, those_of
from project.config_text import in_line
from project.errors import UserError

REFUSED: dict[type[Callback], str] = {
    BaseFinetuning: "what it has unfrozen doesn't train in a resumed run; use the model FineTuning "
    "with a FineTuningSchedule",
    GradientAccumulationScheduler: "its factor is lost where a run resumes within an epoch; use "
    "trainer.accumulate_grad_batches",
    ModelPruning: "a resumed run trains what was pruned, and the last pruning comes after the last "
    "validation; prune the weights of a finished run with torch.nn.utils.prune",
    OnExceptionCheckpoint: "a later run would start from what it has left without being asked to; "
    "use checkpoint.every_n_steps",
    SpikeDetection: "can't load its own state, so no checkpoint could be tested or resumed; use "
    "trainer.gradient_clip_val",
    StochasticWeightAveraging: "its average is neither validated nor in a checkpoint; use "
    "EMAWeightAveraging",
    Timer: "use trainer.max_time, which does the same",
}
"""Callbacks that are refused, with their subclasses, and what to use instead."""

ONLY_ONE = (WeightAveraging, LearningRateFinder, BatchSizeFinder)
SAME_STATE: dict[type[Callback], tuple[str, ...]] = {  # options that tell two of a kind apart
    EarlyStopping: ("monitor", "mode"),
    ModelCheckpoint: (
        *("monitor", "mode"),
        *("every_n_train_steps", "every_n_epochs", "train_time_interval"),
    ),
}
LEAST = {  # of options of the trainer, where Lightning takes less, and does something else
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
    "min_epochs": 0,
    "min_steps": 0,
    "num_sanity_val_steps": -1,
}
NEED_A_LOGGER = (DeviceStatsMonitor, LearningRateMonitor, ThroughputMonitor)
LOGGERS_NEED = {MLFlowLogger: ("mlflow",), TensorBoardLogger: ("tensorboard", "tensorboardX")}


def check_trainer_config(trainer: Namespace) -> None:
    """Refuse what would go wrong in a training.

    Args:
        trainer: Config of the trainer.

    Raises:
        UserError: Naming the callback or the option, and what to use instead.
    """
    callbacks = listed(trainer.get("callbacks"))
    for number, callback in enumerate(callbacks):
        key = "trainer.callbacks"
        if len(callbacks) > 1:
            key += f"[{number}]"
        for refused, reason in REFUSED.items():
            if is_a(callback, refused):
                raise UserError(f"{short_name(callback)}: {reason}", key)
        _check_needs(callback, trainer, key)
        _check_mode(callback, key)
        if is_a(callback, EMAWeightAveraging):
            _check_average(callback, key)
        patience = init_args_of(callback).get("patience")
        if is_a(callback, EarlyStopping) and patience is not None and patience < 0:
            raise UserError(f"{patience} must be at least 0", f"{key}.patience")
        _check_finite(init_args_of(callback), key)
    _check_repeated(callbacks)
    _check_options(trainer)
    for logger in listed(trainer.get("logger")):
        for kind, packages in LOGGERS_NEED.items():
            if is_a(logger, kind) and not any(map(find_spec, packages)):
                install = f"pip install -e '.[{packages[0]}]'"
                raise UserError(
                    f"{short_name(logger)}: needs {packages[0]}: {install}", "trainer.logger"
                )


def _check_needs(callback: Namespace, trainer: Namespace, key: str) -> None:
    if trainer.get("logger") in (None, False) and any(is_a(callback, one) for one in NEED_A_LOGGER):
        raise UserError(
            f"{short_name(callback)}: has nothing to log to; remove it, or trainer.logger: false",
            key,
        )
    if is_a(callback, DeviceStatsMonitor):
        of_cpu = init_args_of(callback).get("cpu_stats")
        if of_cpu is None:
            of_cpu = not torch.cuda.is_available()
        if of_cpu and find_spec("psutil") is None:
            raise UserError(
                "DeviceStatsMonitor: needs psutil for the statistics of a CPU: pip install psutil",
                key,
            )


def _check_mode(callback: Namespace, key: str) -> None:
    options = init_args_of(callback)
    if options.get("mode") == "min" and natural_mode(str(options.get("monitor"))) == "max":
        raise UserError(
            f"{short_name(callback)}: mode: min takes the worst {options.monitor} for the best; "
            "use mode: max",
            key,
        )


def _check_average(callback: Namespace, key: str) -> None:
    options = init_args_of(callback)
    every = options.get("update_every_n_steps", 1)
    by_epoch = options.get("update_starting_at_epoch") is not None
    if every is None or (every < 1 and not (every == 0 and by_epoch)):
        raise UserError(
            f"{short_name(callback)}: update_every_n_steps: {every} must be at least 1, or 0 with "
            "update_starting_at_epoch, which averages after epochs only",
            key,
        )


def _check_repeated(callbacks: Sequence[Namespace]) -> None:
    for place, callback in enumerate(callbacks):
        if callback in callbacks[:place]:
            raise UserError(
                f"{short_name(callback)}: is there twice; leave one", "trainer.callbacks"
            )
    for kind in ONLY_ONE:
        if len(found := those_of(callbacks, kind)) > 1:
            names = " and ".join(dict.fromkeys(short_name(callback) for callback in found))
            raise UserError(f"{names}: there can be only one; leave one", "trainer.callbacks")
    for kept, options in SAME_STATE.items():
        of_kind = those_of(callbacks, kept)
        states = [[one.class_path, *(init_args_of(one).get(x) for x in options)] for one in of_kind]
        if any(state in states[:place] for place, state in enumerate(states)):
            raise UserError(
                f"{kept.__name__}: two of them agree in {', '.join(options)}, and a checkpoint "
                "keeps the state of one; change one of these",
                "trainer.callbacks",
            )


def _check_options(trainer: Namespace) -> None:
    refused: dict[str, tuple[Any, str]] = {
        "barebones": (
            trainer.get("barebones"),
            "switches off checkpoints, validation and logging, so there would be no result; see "
            "where the time goes with trainer.profiler: simple",
        ),
        "enable_checkpointing": (
            trainer.get("enable_checkpointing") is False,
            "the best checkpoint is what is tested; remove it (trainer.fast_dev_run keeps none)",
        ),
        "default_root_dir": (
            trainer.get("default_root_dir") is not None,
            "everything goes to the run directory; use run_dir or experiment",
        ),
        "limit_train_batches": (
            trainer.get("limit_train_batches") == 0,
            "leaves no batch to train on",
        ),
        "strategy": (
            str(trainer.get("strategy")).startswith(("ddp_spawn", "ddp_fork", "ddp_notebook")),
            f"{trainer.get('strategy')} leaves the result in processes that end before the test; "
            "use ddp",
        ),
        "profiler": (is_xla(trainer.get("profiler")), "XLA profiles TPUs only; use pytorch"),
    }
    for name, least in LEAST.items():
        value = trainer.get(name)
        refused[name] = (value is not None and value < least, f"{value} must be at least {least}")
    never = trainer.get("val_check_interval") == 0
    refused["val_check_interval"] = (never, "0 must be greater than 0")
    for option, (given, reason) in refused.items():
        if given:
            raise UserError(reason, f"trainer.{option}")
    _check_finite(trainer, "trainer")


def _check_finite(options: Namespace, key: str) -> None:
    for name, value in vars(options).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{in_line(value)} must be a finite number", f"{key}.{name}")


def is_xla(profiler: Any) -> bool:
    """Return whether a config names the profiler of TPUs."""
    return profiler == "xla" or bool(those_of(profiler, XLAProfiler))
