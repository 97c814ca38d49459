"""The settings of a comparison, and the runs that they ask for."""

import hashlib
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from project.commands.compare.choice import MARGIN
from project.commands.compare.sequential import LEAST_SEEDS
from project.commands.preparation import shortest_name
from project.durations import seconds_of
from project.environment import COMMAND
from project.errors import UserError

OF_THE_COMPARISON = {  # option of fit: the setting that fixes it for all contenders
    "seed_everything": "seeds",
    "trainer.max_epochs": "epochs",
    "trainer.max_time": "max_time",
    "trainer.max_steps": "epochs",
    "trainer.fast_dev_run": "epochs",
    "trainer.overfit_batches": "train_fractions",
    "trainer.limit_train_batches": "train_fractions",
    "trainer.limit_val_batches": "data",
    "trainer.limit_test_batches": "data",
    "trainer.callbacks.init_args.epochs": "epochs",
    "data": "data",
    "data.class_path": "data",
    "data.root": "data",
    "data.val_fraction": "data",
    "data.test_fraction": "data",
    "data.split_seed": "data",
    "data.steps_per_epoch": "data",
    "data.limit_per_class": "images_per_class",
    "data.train_fraction": "train_fractions",
    "test_after_fit": "nothing: every run is tested",
    "run_dir": "output",
    "ckpt_path": "nothing: a stopped comparison resumes by itself",
}
LONGEST_NAME = 200  # bytes of a name; a folder has up to 255, with size, seed and digest
UNLESS_GIVEN = {  # defaults of the data options, which override the contenders' configs
    "val_fraction": 0.1,
    "split_seed": 0,
    "steps_per_epoch": None,
    "limit_per_class": None,
    "train_fraction": 1.0,
}


@dataclass(frozen=True)
class Contender:
    """One way to train a classifier, as a config of ``fit``.

    Args:
        config: Config file of ``fit``, or several, each overriding those before.
        options: Options of ``fit`` by name, such as ``trainer.precision``; they override the files.
        source: Name of the source that provides the backbone; None takes that of the config.
    """

    config: str | list[str]
    options: dict[str, Any] = field(default_factory=dict)
    source: str | None = None


@dataclass(frozen=True)
class Source:
    """A training that provides the backbone of contenders; it runs once.

    Args:
        config: Config file of ``fit``, or several, each overriding those before.
        options: Options of ``fit`` by name; they override the files.
    """

    config: str | list[str]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """A comparison: every contender with every seed on every size of the training set.

    All contenders get the same training, validation and test images and the same budget.

    Args:
        contenders: The contenders, by name.
        sources: Trainings that contenders start from, by name.
        seeds: Seeds of the runs.
        train_fractions: Fractions of the training images to try.
        images_per_class: Numbers of training images per class to try instead.
        metric: What decides: ``accuracy``, ``balanced_accuracy``, ``macro_f1``, or another score as
            the test logs it, such as ``auroc``. Small is good where the name ends in ``loss`` or
            ``error``. Null takes macro F1 where the largest class has three times the images of the
            smallest, else accuracy.
        margin: Differences of the metric up to it don't matter: then the cheaper contender is used.
        epochs: Number of epochs of every run. With None, ``max_time`` is the whole budget; then a
            learning rate schedule can't depend on the length of the training, and a preset of
            phases has its 10 epochs at most.
        max_time: Time limit of every training, as days:hours:minutes:seconds; None sets none.
        options: Options of ``fit`` by name for all contenders; a contender's own options override
            them.
        output: Folder of the runs and the report; None is a folder in ``runs/compare/`` with the
            name of the first config file.
        jobs: Number of runs at the same time. Each gets its share of the processor cores, or a
            GPU of its own, and takes longer than it would alone.
        only: Names of the contenders to run and to report; None takes all of them.
        until_sure: Run further seeds of the contenders that may still be the right one, on the
            largest training set, until the choice is settled: best, or no more than ``margin``
            worse and cheapest. The chance of a wrong choice is at most 5%, although it is looked
            at after each seed.
        max_seeds: Largest number of seeds of a contender, with ``until_sure``. What counts as
            settled depends on it, so it is to be fixed beforehand.
        total_time: With ``until_sure``, no further seed is run once all runs together would take
            longer, such as ``2h`` or ``1h30m``; None sets no limit.
        dry_run: Print which runs are finished, which are missing, and how long these will take;
            nothing is run.
    """

    contenders: dict[str, Contender]
    sources: dict[str, Source] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    train_fractions: tuple[float, ...] | None = None
    images_per_class: tuple[int, ...] | None = None
    metric: str | None = None
    margin: float = MARGIN
    epochs: int | None = 10
    max_time: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    output: str | None = None
    jobs: int = 1
    only: tuple[str, ...] | None = None
    until_sure: bool = False
    max_seeds: int = 20
    total_time: str | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            UserError: Naming the key, what is wrong and what would be right.
        """
        if not self.contenders:
            raise UserError("contenders: there are none; give at least one, better two")
        for name, value in {"seeds": self.seeds, "epochs": self.epochs, "jobs": self.jobs}.items():
            if value is not None and (not value or (isinstance(value, int) and value < 1)):
                raise UserError(f"{name}: {value} must be at least one")
        if self.epochs is None and not self.max_time:
            raise UserError("epochs: null needs max_time, or a training would have no end")
        if not self.margin >= 0:
            raise UserError(f"margin: {self.margin} must be at least 0")
        if self.until_sure and self.max_seeds < max(len(self.seeds), LEAST_SEEDS):
            least = max(len(self.seeds), LEAST_SEEDS)
            raise UserError(f"max_seeds: {self.max_seeds} must be at least {least}, to add seeds")
        if self.total_time is not None:
            seconds_of(self.total_time, "total_time")
        if self.max_time and not re.fullmatch(r"\d+:\d\d:\d\d:\d\d", self.max_time):
            raise UserError(
                f"max_time: {self.max_time!r} must be days:hours:minutes:seconds, as 00:00:05:00"
            )
        if self.train_fractions and self.images_per_class:
            raise UserError("train_fractions and images_per_class: give one of them")
        for fraction in self.train_fractions or ():
            if not 0 < fraction <= 1:
                raise UserError(f"train_fractions: {fraction} must be in (0, 1]")
        for count in self.images_per_class or ():
            if count < 1:
                raise UserError(f"images_per_class: {count} must be at least 1")
        for name in ("seeds", "train_fractions", "images_per_class"):
            values = getattr(self, name) or ()
            if len(set(values)) < len(values):
                raise UserError(f"{name}: {', '.join(map(str, values))} has one of them twice")
        for name in self.only or ():
            _known("only", name, self.contenders)
        _check_options("options", self.options)
        for name, source in self.sources.items():
            _check_name(f"sources.{name}", name)
            _check_files(f"sources.{name}", source.config)
        for name, contender in self.contenders.items():
            key = f"contenders.{name}"
            _check_name(key, name)
            _check_files(key, contender.config)
            _check_options(f"{key}.options", contender.options)
            if contender.source is not None:
                _known(f"{key}.source", contender.source, self.sources)

    @property
    def sizes(self) -> Sequence[tuple[str, str]]:
        """Name of each training-set size, and the option of ``fit`` that sets it."""
        if self.images_per_class:
            return [(str(n), f"--data.limit_per_class={n}") for n in self.images_per_class]
        fractions = self.train_fractions or (1.0,)
        return [(f"{share:g}", f"--data.train_fraction={share:g}") for share in fractions]


def _check_name(key: str, name: str) -> None:
    if "/" in name or "\0" in name or not name.strip() or name.startswith("."):
        raise UserError(f"{key}: the name becomes a folder; leave out / and leading dots")
    if len(os.fsencode(name)) > LONGEST_NAME:
        raise UserError(f"{key}: the name becomes a folder; at most {LONGEST_NAME} bytes are left")


def _check_files(key: str, config: str | list[str]) -> None:
    for file in _listed(config):
        if not Path(file).is_file():
            raise UserError(f"{key}.config: there is no file {file}")


def _check_options(key: str, options: Mapping[str, Any]) -> None:
    for name in options:
        if name.removeprefix("--") == "trainer":
            raise UserError(f"{key}: give the options of the trainer one by one: trainer.precision")
        if owner := OF_THE_COMPARISON.get(
            name.removeprefix("--").replace("data.init_args", "data")
        ):
            raise UserError(f"{key}: {name} must be the same for all; it is set by {owner}")


def _known(key: str, name: str, known: Mapping[str, Any]) -> None:
    if name not in known:
        names = f"known are {', '.join(known)}" if known else "there are none"
        raise UserError(f"{key}: there is no {name!r}; {names}")


def _listed(config: str | list[str]) -> list[str]:
    return [config] if isinstance(config, str) else config


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes:
        name: Name in the progress output.
        arguments: Its command line, without the program and the options for output folders.
        contender: Name of the contender; empty for a source.
        size: Size of the training set, as in the config.
        seed: Seed of the run.
        after: The source that must finish first; None if there is none.
    """

    name: str
    arguments: tuple[str, ...]
    contender: str = ""
    size: str = ""
    seed: int = 0
    after: "Cell | None" = None

    @property
    def key(self) -> str:
        """Name of its folder, with a digest of its arguments and of the content of config files.

        A changed config gets another folder, so its results are never mistaken for old ones.
        """
        digest = hashlib.sha256()
        for argument in self.arguments:
            digest.update(os.fsencode(argument) + b"\0")
            if argument.startswith("--config="):
                digest.update(Path(argument.partition("=")[2]).read_bytes())
        if self.after:
            digest.update(self.after.key.encode())
        return f"{self.name.replace(' ', '-')}-{digest.hexdigest()[:8]}"

    def command(self, *more: str) -> str:
        """Return the command that runs it."""
        return shlex.join([*COMMAND, *self.arguments, *more])


def cells_of(settings: Settings, data: Mapping[str, Any]) -> list[Cell]:
    """Return all runs in the order in which they run: all runs of a seed before the next seed.

    Args:
        settings: The comparison.
        data: ``class_path`` and ``init_args`` of the data module, as they were given.

    Raises:
        UserError: If an option of the data module would be overridden.
    """
    name = "limit_per_class" if settings.images_per_class else "train_fraction"
    value = (data.get("init_args") or {}).get(name)
    if value not in (None, UNLESS_GIVEN[name]):
        key = OF_THE_COMPARISON[f"data.{name}"]
        raise UserError(f"data.{name}: it is set by {key}; leave it out, or give {key}: [{value}]")
    shared = [*_data_options(data), *_as_options(settings.options)]
    sources = {
        name: Cell(f"source {name}", ("fit", *_configs(source), *_as_options(source.options)))
        for name, source in settings.sources.items()
    }
    return [
        Cell(
            f"{name} {size} seed {seed}",
            (
                "fit",
                *_configs(contender),
                *shared,
                *_as_options(contender.options),
                *_budget(settings),
                option,
                f"--seed_everything={seed}",
            ),
            name,
            size,
            seed,
            sources[contender.source] if contender.source else None,
        )
        for seed in settings.seeds
        for size, option in settings.sizes
        for name, contender in settings.contenders.items()
        if settings.only is None or name in settings.only
    ]


def _configs(given: Contender | Source) -> list[str]:
    return [f"--config={file}" for file in _listed(given.config)]


def _budget(settings: Settings) -> list[str]:
    longest = [f"--trainer.max_time={settings.max_time}"] if settings.max_time else []
    return [f"--trainer.max_epochs={settings.epochs or -1}", *longest]


def _data_options(data: Mapping[str, Any]) -> list[str]:
    options = {**UNLESS_GIVEN, **(data.get("init_args") or {})}
    return [
        f"--data={shortest_name(str(data['class_path']))}",
        *_as_options({f"data.{key}": value for key, value in options.items()}),
    ]


def _as_options(options: Mapping[str, Any]) -> list[str]:
    """Return options in the form of the command line; JSON is valid YAML."""
    return [
        f"--{name.removeprefix('--')}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in options.items()
    ]
