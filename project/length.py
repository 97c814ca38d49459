"""How long a training takes: the one place where that is decided.

What limits it, the first that is given:

1. the phases of a ``FineTuningSchedule``, whose preset takes ``trainer.max_epochs``;
2. ``trainer.max_epochs``, ``max_steps`` and ``max_time``, or several of them;
3. :data:`DEFAULT_EPOCHS`, or ``trainer.min_epochs`` if that is more.
"""

from dataclasses import asdict
from typing import Any, get_args

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Timer

from project.class_paths import init_args_of, those_of
from project.config_text import in_line
from project.errors import UserError, under
from project.finetuning import FineTuningSchedule
from project.finetuning.phases import DEFAULT_EPOCHS, Preset, preset_phases

CALLBACKS = "trainer.callbacks"
ENDLESS = -1  # of Lightning, for epochs and steps


def settle_length(trainer: Namespace) -> None:
    """Write into the config of a trainer how long a training takes.

    ``max_epochs`` stays None where phases decide; they may be in steps, whose number of epochs is
    known when the data is there.

    Raises:
        UserError: If the config contradicts itself.
    """
    _check_time(trainer.get("max_time"))
    schedules = those_of(trainer.get("callbacks"), FineTuningSchedule)
    if len(schedules) > 1:
        raise UserError("there are two FineTuningSchedules; leave one", CALLBACKS)
    if schedules:
        _settle_preset(init_args_of(schedules[0]), trainer)
    else:
        _settle_epochs(trainer)


def _check_time(limit: Any) -> None:
    if limit is None:
        return
    try:
        seconds = Timer(limit).time_remaining()
    except (MisconfigurationException, TypeError, ValueError, OverflowError) as error:
        reason = "must be days:hours:minutes:seconds, as 00:12:00:00, or as {hours: 12}"
        raise UserError(f"{in_line(limit)} {reason}", "trainer.max_time") from error
    if seconds is not None and seconds <= 0:
        raise UserError(f"{in_line(limit)} must be more than 0 seconds", "trainer.max_time")


def _settle_preset(options: Namespace, trainer: Namespace) -> None:
    epochs = trainer.get("max_epochs") or 0
    if _has_preset(options) and options.epochs is None and epochs > 0:
        with under("trainer", epochs="max_epochs"):
            preset_phases(options.preset, epochs)  # refuses too few
        options.epochs = epochs


def _settle_epochs(trainer: Namespace) -> None:
    least, most = trainer.get("min_epochs") or 0, trainer.get("max_epochs")
    if most is not None:
        if ENDLESS < most < least:
            raise UserError(f"{least} is more than max_epochs: {most}", "trainer.min_epochs")
        return
    limited = trainer.get("max_steps", ENDLESS) != ENDLESS or trainer.get("max_time") is not None
    if not limited and trainer.get("min_steps"):
        raise UserError("is no limit; give max_epochs or max_steps, too", "trainer.min_steps")
    trainer.max_epochs = ENDLESS if limited else max(DEFAULT_EPOCHS, least)


def _has_preset(options: Namespace) -> bool:
    """Return whether the options name a preset; a subclass may have other options."""
    known = all(name in options for name in ("phases", "epochs"))
    return known and options.get("preset") in get_args(Preset)


def _epochs_of(options: Namespace) -> int:
    epochs: int | None = options.get("epochs")
    return DEFAULT_EPOCHS if epochs is None else epochs


def expand_presets(trainer: Namespace) -> None:
    """Replace the preset of a ``FineTuningSchedule`` by its phases, as they can be edited."""
    for schedule in those_of(trainer.get("callbacks"), FineTuningSchedule):
        options = init_args_of(schedule)
        _settle_preset(options, trainer)
        if _has_preset(options) and not options.phases:
            with under(CALLBACKS):
                phases = preset_phases(options.preset, _epochs_of(options))
            options.phases = tuple(Namespace(asdict(phase)) for phase in phases)
            options.preset = options.epochs = None
