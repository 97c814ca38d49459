"""Opening a run: its directory, its loggers, and the callbacks that every run has."""

from dataclasses import dataclass, field
from pathlib import Path

import lightning as L
from jsonargparse import Namespace
from lightning.pytorch.callbacks import LearningRateMonitor

from project import config_text
from project.callbacks import (
    Figures,
    PredictionWriter,
    ResourceMonitor,
    Resume,
    RunRecord,
    RunReport,
    StopOnSignal,
    TestResults,
)
from project.callbacks.artifacts import Artifacts
from project.callbacks.calibration import TemperatureScaling
from project.callbacks.destinations import send_into
from project.callbacks.finite import FiniteSteps
from project.callbacks.learning_rates import LearningRates
from project.callbacks.logged import LoggedOnce
from project.callbacks.notices import Notices
from project.callbacks.report import progress_bars
from project.class_paths import those_of
from project.console import readable
from project.runs import RunDir
from project.tracking import check_loggers, configure_loggers


@dataclass
class Run:
    """A run that a command has opened.

    Attributes:
        directory: Its directory.
        config: Its complete config as YAML, without the paths of this run.
        report: What a person sees of it.
        asked: The config before finders have changed it, None without any.
        callbacks: The callbacks that every run has.
    """

    directory: RunDir
    config: str
    report: RunReport
    asked: str | None = None
    callbacks: list[L.Callback] = field(default_factory=list)


def open_run(
    config: Namespace, saved: str, asked: str | None = None, of: Path | None = None
) -> Run:
    """Choose the directory of a run, and send everything there.

    Args:
        config: Config of the command; it is changed.
        saved: The config to save, as YAML.
        asked: The same before finders have changed it, None without any.
        of: The run directory of the training that is tested, None in a training.

    Returns:
        The run; nothing is written yet.
    """
    check_loggers(config.trainer)
    directory = RunDir(config, of)
    name = readable(f"{config.experiment}/{directory.tracked.name}")
    tracking = configure_loggers(config.trainer, directory, name)
    resources = ResourceMonitor()
    results = TestResults(config.per_class)
    record = RunRecord(saved, directory)
    run = Run(directory, saved, RunReport(resources, results, tracking, record), asked)
    run.callbacks = [
        FiniteSteps(config.max_skipped_steps),
        record,
        Artifacts(record),
        Resume(config_text.plain(config_text.load(saved))),
        LoggedOnce(),
        resources,
        *([TemperatureScaling()] if config.calibrate else []),
        results,  # before the summary says that there was a test
        run.report,
        Figures(results, config.pictures),
        PredictionWriter(),
        Notices(),
        StopOnSignal(),
    ]
    if config.trainer.logger and not those_of(config.trainer.callbacks, LearningRateMonitor):
        run.callbacks.append(LearningRates())
    config.trainer.default_root_dir = str(directory.path)
    send_into(directory.path, config.trainer)
    run.callbacks += progress_bars(config.trainer)
    return run
