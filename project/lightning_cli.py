"""``fit``, ``validate``, ``test`` and ``predict``: LightningCLI with its faults mended.

Each mended fault is tested in ``tests/test_cli.py``.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import WandbLogger

from project import __version__, config_text, signals, trust
from project.approaches import ImageClassifier
from project.approaches.pretrained import remove_weights
from project.callbacks import BestAndLast, RunReport
from project.callbacks.allowed import check_trainer_config
from project.callbacks.checkpoint import best_and_last
from project.callbacks.finders import Built, search, take_finders
from project.callbacks.notices import MonitorCheck, show_messages, stop_after_validations
from project.callbacks.plateau import PlateauSteps
from project.callbacks.predictions import PREDICTIONS
from project.callbacks.stopping import share_signals
from project.class_paths import FROM_DATA, short_name
from project.console import class_name, show, some
from project.data import ImageDataModule
from project.environment import COMMAND
from project.errors import UserError
from project.failures import Raised, explained, innermost, raised_by
from project.finetuning import FineTuningSchedule
from project.length import ENDLESS, settle_length
from project.mistakes import explain
from project.networks.backbone import HUB
from project.opening import Run, open_run
from project.parsing import ProjectParser, link_data_and_model
from project.resuming import open_checkpoint, resume, with_config_of_run
from project.run_options import add_run_options
from project.runs import RunDir, experiment_name, run_of
from project.tracking import leave_out_wandb
from project.upstream.jsonargparse import settled
from project.upstream.lightning import (
    CheckpointsDecideNothing,
    callbacks_of,
    drop_anonymous,
    forget_averages,
    log_on_first_rank,
    profile_nothing,
    skip_empty_hooks,
)

COMMANDS = {  # what each is given, and what it does
    "fit": ("--config FILE", "Train a classifier, keep its best epoch, and test that."),
    "test": ("--ckpt_path RUN", "Measure a trained classifier on its test images."),
    "validate": ("--ckpt_path RUN", "Measure a trained classifier on its validation images."),
    "predict": (
        "--ckpt_path RUN",
        "Classify pictures by `predict RUN PICTURES`, with --labels, --html, --list and more, "
        "which `predict RUN --help` explains; or by `predict --ckpt_path RUN`, with the options "
        "of fit, the test images of its own data or the pictures in --data.predict_dir.",
    ),
}
LIMITS = {
    "validate": "limit_val_batches",
    "test": "limit_test_batches",
    "predict": "limit_predict_batches",
}
OWN: dict[type, str] = {BestAndLast: "checkpoint"}
PARSER = ArgumentParser.__module__.partition(".")[0]


class ProjectCLI(CheckpointsDecideNothing):
    """Trains and evaluates, each time in a run directory of its own.

    Args:
        args: Arguments; None takes those of the process.
        run: Whether the first argument is a command, which is run; else model, data and trainer
            are built and nothing is run.
        other_commands: Names and descriptions of commands that the help lists beside its own.
    """

    words: tuple[str, ...] = ()  # what stands between the name of the package and the arguments
    description = "Train, evaluate and use an image classifier."

    def __init__(
        self,
        args: ArgsType = None,
        run: bool = True,
        other_commands: Mapping[str, str] | None = None,
    ) -> None:
        given = sys.argv[1:] if args is None else args
        self._given = [str(arg) for arg in given] if isinstance(given, list) else []
        self.opened: Run | None = None
        self.known_classes: tuple[str, ...] | None = None  # those of the checkpoint
        show_messages()
        with trust.command(), self._released_run(), self._explained():
            super().__init__(
                ImageClassifier,
                ImageDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                auto_configure_optimizers=False,
                save_config_callback=None,  # RunRecord writes it, into the run directory
                seed_everything_default=0,
                parser_class=ProjectParser,
                parser_kwargs={
                    "prog": " ".join((*COMMAND, *self.words)),
                    "description": self.description,
                    **({} if run else {"usage": "%(prog)s [--config FILE] [OPTIONS]"}),
                    "version": __version__,
                    "other_commands": other_commands,
                    **({name: _help(name) for name in self.subcommands()} if run else {}),
                },
                trainer_defaults={
                    "max_epochs": None,  # settle_length decides
                    "enable_model_summary": False,  # RunReport says it in a line
                    "use_distributed_sampler": False,  # BatchSampler shares the images out
                },
                args=args,
                run=run,
            )

    @contextmanager
    def _released_run(self) -> Iterator[None]:
        """Give the run directory back in the end, and remove it if nothing came of the run."""
        unused = True
        try:
            yield
            unused = False
        finally:
            if self.opened is not None:
                trainer = getattr(self, "trainer", None)
                measured = trainer and (trainer.global_step or trainer.callback_metrics)
                if unused and not measured and "wandb" in sys.modules:
                    sys.modules["wandb"].finish(exit_code=signals.now.code)  # it writes until then
                self.opened.directory.release(unused=unused and not measured)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say which key of the config an error deep inside a library is about.

        Raises:
            UserError: In place of such an error.
        """
        try:
            yield
        except Exception as error:
            told = explained(error, self.options, OWN) if hasattr(self, "subcommand") else error
            if told is error:
                raise
            raise told from error

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # static there
        """Leave out what must not be chosen, and the parsers of commands that are not run.

        Only ``weights_only=True`` ever loads.
        """
        hidden = {"weights_only", "verbose", "return_predictions"}
        of_trainer = LightningCLI.subcommands()
        known = {name: of_trainer[name] | hidden for name in COMMANDS}
        first = self._given[0] if self._given else ""
        return {first: known[first]} if first in known else known

    @property
    def options(self) -> Namespace:
        """The config of what is run."""
        options: Namespace = self.config[self.subcommand] if self.subcommand else self.config
        return options

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of a run, and what data and model know of each other."""
        add_run_options(parser)
        link_data_and_model(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Take the config of the run that a checkpoint belongs to, unless one is given."""
        if args is None or isinstance(args, list):
            assert isinstance(parser, ProjectParser)
            self.config = parser.parse(with_config_of_run(self._given))
        else:
            self.config = parser.parse_object(args)
        command = self.config.get("subcommand")
        seed = (self.config[command] if command else self.config).get("seed_everything")
        if seed is None:
            raise UserError("null must be a number", "seed_everything")
        if isinstance(seed, int) and not 0 <= seed < 2**32:
            raise UserError(f"{seed} must be from 0 to {2**32 - 1}", "seed_everything")

    def before_instantiate_classes(self) -> None:
        """Check what parsing can't, and decide where everything goes and how long it takes.

        Raises:
            UserError: If the config can't work.
        """
        config = self.options
        for name in ("trainer", "model", "data", "checkpoint"):
            if not isinstance(config.get(name), Namespace):
                raise UserError(f"{config[name]!r} must be options below it, or left out", name)
        for name in FROM_DATA:
            if config.model.init_args.get(name) is not None:
                raise UserError("comes from the data; remove it", f"model.{name}")
        trust.check_places(config)
        if self.subcommand in ("fit", None):
            check_trainer_config(config.trainer)
        settle_length(config.trainer.clone())  # refuses what can't be, before anything is written
        self.prepare(config)  # which saves the limits as they were asked for
        trust.check_downloads(config.model, HUB, "model")
        settle_length(config.trainer)
        stop_after_validations(config.trainer)
        if config.trainer.max_epochs is None:
            config.trainer.max_epochs = ENDLESS  # until FineTuningSchedule has counted the steps

    def prepare(self, config: Namespace) -> None:
        """Find the checkpoint, choose the run directory and send everything there.

        Args:
            config: Config of the command; it is changed.
        """
        config.experiment = experiment_name(config)
        self._resume(config)
        self.known_classes = open_checkpoint(config, str(self.subcommand))
        if config.calibrate and self.subcommand == "validate":
            raise UserError("is for test and predict, by the validation images", "calibrate")
        limit = LIMITS.get(str(self.subcommand))
        if limit and config.trainer[limit] == 0:
            raise UserError(f"0 leaves nothing to {self.subcommand}", f"trainer.{limit}")
        asked = self._search(config)
        of = run_of(config.ckpt_path) if self.subcommand != "fit" else None
        saved = self._saved(config)
        if self.subcommand == "predict":
            leave_out_wandb(config.trainer)
        self.opened = open_run(config, saved, asked, of)
        self.trainer_defaults["callbacks"] = self.opened.callbacks
        if self.subcommand != "fit":
            remove_weights(config.model.init_args)  # the checkpoint has them

    def _resume(self, config: Namespace) -> None:
        if self.subcommand == "fit":
            if not resume(config, lambda: config_text.load(self._saved(config)), self._given):
                sys.exit(0)
        elif config.resume is not None:
            raise UserError(f"{self.subcommand} takes --ckpt_path", "resume")

    def _search(self, config: Namespace) -> str | None:
        """Let finders write what they find into the config.

        Returns:
            The config that was asked for, if there are any.
        """
        trainer = config.trainer.clone()
        finders = take_finders(trainer)
        if not finders:
            return None
        if config.ckpt_path is not None and self.subcommand == "fit":
            raise UserError(
                "a resumed run keeps the learning rate and the batch size of its config.yaml; "
                "remove the finders, or give no config",
                "trainer.callbacks",
            )
        asked = self._saved(config)
        config.trainer = trainer
        for finder in finders:
            if self.subcommand == "fit":
                search(finder, config, self._build)
            else:
                show(f"{short_name(finder)}: only fit searches")
        return asked

    def _build(self, options: Namespace) -> Built:
        """Return what another config of the command names."""
        whole = self.config
        self.config = Namespace({self.subcommand: options, "subcommand": self.subcommand})
        try:
            self.instantiate_classes()
            built = Built(self.trainer, self.model, self.datamodule)
            del self.config_init, self.trainer, self.model, self.datamodule  # which hold the data
            return built
        finally:
            self.config = whole

    def _saved(self, config: Namespace) -> str:
        """Return the config to save, which runs again in a new directory.

        It says nothing of directory and checkpoint, not even null: those that the command line
        gives before ``--config`` would be lost.
        """
        values = config_text.load(self.command_parser.dump(config, skip_none=False))
        own = {"run_dir", "ckpt_path", "resume", trust.OPTION}
        return config_text.dump({name: value for name, value in values.items() if name not in own})

    def instantiate_classes(self) -> None:
        """Build data, model and trainer; what they refuse is a mistake in the config."""
        try:
            with settled():
                super().instantiate_classes()
        except (Exception, Raised) as error:
            raised = innermost(error, PARSER) if not isinstance(error, Raised) else error.__cause__
            if isinstance(raised, Exception) and raised_by(raised) != PARSER:
                raise explained(raised, self.options, OWN, building=True) from error
            raise UserError(explain(str(error))) from error
        known = [class_name(name) for name in self.known_classes or ()]
        if known and known != [class_name(name) for name in self.model.class_names]:
            raise UserError(
                f"the checkpoint knows the classes {some(known)}, and the data has "
                f"{some(self.model.class_names)} (a --config replaces that of the run)"
            )
        trainer: Any = self.trainer
        profile_nothing(trainer)
        share_signals(self.trainer)
        check = MonitorCheck(tests=self.options.get("test_after_fit", False))
        # before Lightning looks for the metric itself, and before others look at learning rates
        trainer.callbacks[:0] = [check, PlateauSteps()]
        skip_empty_hooks(trainer.callbacks)
        for schedule in callbacks_of(self.trainer, FineTuningSchedule):
            if self.subcommand in ("fit", None):
                schedule.check(self.trainer, self.model)
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbLogger):
                drop_anonymous(logger)
        self._claim_run()

    def _claim_run(self) -> None:
        """Make the run directory on the first rank: which that is, only the trainer knows.

        Raises:
            UserError: If the directory can't be used, or the environment names a rank too many.
        """
        trainer: Any = self.trainer
        if trainer.global_rank >= trainer.world_size:
            raise UserError(
                f"this is process {trainer.global_rank} of {trainer.world_size}, counted from 0; "
                "unset NODE_RANK and LOCAL_RANK, or give the number of machines",
                "trainer.num_nodes",
            )
        log_on_first_rank(trainer.global_rank)
        if self.opened is not None and trainer.is_global_zero:
            goes_on = self._goes_on(self.opened.directory)
            self.opened.directory.claim(self.opened.config, goes_on, self.opened.asked)

    def _goes_on(self, directory: RunDir) -> bool:
        """Return whether a training goes on in the directory where it has begun."""
        checkpoint = self.options.get("ckpt_path")
        resumed = self.options.get("resume") is not None or directory.holds(checkpoint)
        return self.subcommand == "fit" and resumed

    @property
    def report(self) -> RunReport:
        """What a person sees of the run."""
        assert self.opened is not None
        return self.opened.report

    def after_fit(self) -> None:
        """Test the best checkpoint, validate it unless that is done, and show the result."""
        trainer: Any = self.trainer
        forget_averages(trainer)
        checkpoint = best_and_last(self.trainer)
        best = checkpoint.best_model_path if checkpoint else None
        if best and self.report.lacks_validation(self.trainer):
            self.trainer.validate(self.model, self.datamodule, ckpt_path=best, verbose=False)
        if self.options.test_after_fit and (best or trainer.fast_dev_run):
            self._test_best(best or None)
        self.report.end(self.trainer, self.model)
        self.report.show_result(self.trainer, self.model)

    def _test_best(self, ckpt_path: str | None) -> None:
        reason = "" if self.datamodule.test_images else "there are no test images"
        if not self.trainer.limit_test_batches:
            reason = "trainer.limit_test_batches: 0"
        if not reason:
            self.trainer.test(self.model, self.datamodule, ckpt_path=ckpt_path, verbose=False)
        elif self.trainer.is_global_zero:
            show(f"nothing was tested: {reason}")

    def test(self, **kwargs: Any) -> None:
        """Test without Lightning's table: the report has one."""
        self.trainer.test(verbose=False, **kwargs)

    def validate(self, **kwargs: Any) -> None:
        """Validate without Lightning's table: the report has one."""
        self.trainer.validate(verbose=False, **kwargs)

    def after_test(self) -> None:
        """Show the result."""
        self.report.show_result(self.trainer, self.model)

    after_validate = after_test

    def after_predict(self) -> None:
        """Say where the predictions are."""
        if self.trainer.is_global_zero:
            print(f"predictions: {Path(self.trainer.default_root_dir, PREDICTIONS)}")


def _help(command: str) -> dict[str, str]:
    """Return how a command's help begins: without a hundred lines of options in brackets."""
    given, description = COMMANDS[command]
    usage = " ".join((*COMMAND, command, given, "[OPTIONS]"))
    return {"usage": usage, "description": description}
