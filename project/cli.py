"""The command line: LightningCLI, with its faults mended.

Each mended fault is tested in ``tests/test_cli.py``.
"""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import (
    LearningRateMonitor,
    TQDMProgressBar,
    WeightAveraging,
)
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from project import __version__
from project.approaches import ImageClassifier
from project.callbacks import (
    BestAndLast,
    Figures,
    PredictionWriter,
    ResourceMonitor,
    RunRecord,
    RunReport,
    TestPredictions,
)
from project.callbacks.checkpoint import best_and_last
from project.checkpoints import find_checkpoint, load_checkpoint
from project.commands.plan import PlanningTrainer, prepare_plan
from project.data import ImageDataModule
from project.errors import UserError
from project.finetuning import FineTuningSchedule
from project.parsing import (
    FROM_DATA,
    ProjectParser,
    explain,
    link_data_and_model,
    stretch_presets,
)
from project.runs import experiment_name, new_run_dir, with_config_of_run
from project.tracking import how_to_view, wandb_mode

QUIET = (  # warnings that are about this project's own choices, or that no user can act on
    ".*does not have many workers.*",  # whole batches out of memory need none
    ".*Experiment logs directory .* exists and is not empty.*",  # it is the run directory
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*recommended to use .*sync_dist=True.*",  # metrics are synchronised by torchmetrics
    ".*loading a checkpoint outside the .fit. stage.*",  # of an average, which is in it
    ".*number of training batches .* is smaller than the logging interval.*",
    ".*module\\(s\\) in eval mode at the start of training.*",  # a frozen backbone is
    ".*LeafSpec.*",  # a deprecation of torch's that lightning 2.6 meets
    ".*anonymous setting has no effect.*",
    ".*dataloader is not resumable.*",  # BatchSampler goes on where the epoch was left
    ".*You requested to overfit but enabled .* shuffling.*",  # train_dataloader turned it off
    ".*Couldn't infer the batch indices.*",  # batches carry their own
    ".*Total length of `list` across ranks is zero.*",  # no validation split
    ".*`tensorboardX` has been removed.*",
)


def _compare(arguments: Sequence[str]) -> None:
    from project.commands.compare import compare

    compare(arguments, ProjectCLI)


def _recommend(arguments: Sequence[str]) -> None:
    from project.commands.recommend import recommend

    recommend(arguments)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "compare": _compare,
    "recommend": _recommend,
}
"""What takes no config of a run: command to function."""


class ProjectCLI(LightningCLI):
    """``fit``, ``validate``, ``test`` and ``predict``, each in a run directory of its own."""

    def __init__(self, args: ArgsType = None) -> None:
        self.run_dir = Path()
        self.known_classes: tuple[str, ...] | None = None  # those of the checkpoint
        self.resources = ResourceMonitor()
        self.report = RunReport(self.resources)
        super().__init__(
            ImageClassifier,
            ImageDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            save_config_callback=None,  # RunRecord writes it, into the run directory
            trainer_class=PlanningTrainer,
            seed_everything_default=0,
            parser_class=ProjectParser,
            parser_kwargs={
                "prog": "python -m project",
                "description": "Train, evaluate and use an image classifier. Beside the commands "
                f"below there is {' and '.join(COMMANDS)}, which have a --help of their own.",
                "version": __version__,
            },
            trainer_defaults={
                "max_epochs": None,  # what a FineTuningSchedule takes, else 10
                "enable_model_summary": False,  # RunReport says it in a line
                "use_distributed_sampler": False,  # BatchSampler shares the images out
            },
            args=args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Leave out what must not be chosen: only ``weights_only=True`` ever loads."""
        hidden = {"weights_only", "verbose", "return_predictions"}
        commands = {name: skip | hidden for name, skip in LightningCLI.subcommands().items()}
        return commands | {"plan": {"model", "datamodule"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of a run, and what data and model know of each other."""
        parser.add_argument(
            "--run_dir", type=str | None, default=None, help="Exactly this run directory."
        )
        parser.add_argument(
            "--experiment",
            type=str | None,
            default=None,
            help="Folder in runs/ for the run directory; by default the name of the config file.",
        )
        parser.add_argument(
            "--test_after_fit",
            type=bool,
            default=True,
            help="Whether fit ends by testing the best checkpoint.",
        )
        parser.add_lightning_class_args(BestAndLast, "checkpoint")
        parser.set_defaults(
            {
                "data": {"class_path": "project.data.Digits"},
                "model": {"class_path": "project.approaches.TrainFromScratch"},
                "trainer.logger": {
                    "class_path": "lightning.pytorch.loggers.WandbLogger",
                    "init_args": {"project": "image-classification"},
                },
            }
        )
        link_data_and_model(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Take the config of the run that a checkpoint belongs to, unless one is given."""
        given = sys.argv[1:] if args is None else args
        if isinstance(given, list):
            self.config = parser.parse_args(with_config_of_run([str(arg) for arg in given]))
        else:
            self.config = parser.parse_object(given)

    def _parse_ckpt_path(self) -> None:
        """Don't let a checkpoint change the config.

        Lightning lets its hyperparameters win over the command line, and imports the classes that
        it names: https://github.com/Lightning-AI/pytorch-lightning/issues/20801
        """

    def before_instantiate_classes(self) -> None:
        """Check what parsing can't, choose the run directory and send everything there."""
        config = self.config[self.subcommand]
        for name in FROM_DATA:
            if config.model.init_args.get(name) is not None:
                raise UserError(f"model.{name}: comes from the data; remove it")
        if config.trainer.max_epochs is None and not _has_schedule(config.trainer):
            config.trainer.max_epochs = 10
        stretch_presets(config.trainer)
        if self.subcommand == "plan":
            prepare_plan(config)
        else:
            self._find_checkpoint(config)
            self._open_run(config)
        if self.subcommand != "fit":
            _remove_weights(config.model.init_args)  # the checkpoint has them
        if config.trainer.max_epochs is None:
            config.trainer.max_epochs = -1  # FineTuningSchedule sets it

    def _find_checkpoint(self, config: Namespace) -> None:
        if config.ckpt_path is not None:
            fit = self.subcommand == "fit"
            config.ckpt_path = str(find_checkpoint(config.ckpt_path, "last" if fit else "best"))
            hparams = load_checkpoint(config.ckpt_path).get("hyper_parameters", {})
            self.known_classes = hparams.get("class_names")
            if self.subcommand == "predict" and "classes" in config.data.init_args:
                config.data.init_args.classes = self.known_classes
        elif self.subcommand != "fit":
            raise UserError(
                f"{self.subcommand} needs --ckpt_path with a run directory or a checkpoint: it "
                "would evaluate random weights"
            )

    def _open_run(self, config: Namespace) -> None:
        if config.trainer.logger in (None, False):
            config.trainer.logger = False
        for logger in _listed(config.trainer.logger):
            if logger.init_args.get("save_dir") is None:
                logger.init_args.save_dir = "."  # stands for the run directory
        config.experiment = config.experiment or experiment_name(config)
        self.run_dir = new_run_dir(str(self.subcommand), config)
        config.run_dir = None  # the saved config gets a new directory when it runs again
        saved = self._parser(self.subcommand).dump(config, skip_none=False)
        self.trainer_defaults["callbacks"] = [
            RunRecord(saved, self.run_dir),
            self.resources,
            TestPredictions(),  # before the summary says that there was a test
            self.report,
            Figures(),
            PredictionWriter(),
        ]
        config.trainer.default_root_dir = str(self.run_dir)
        self._configure_loggers(config.trainer)
        self._configure_progress(config.trainer)

    def _configure_loggers(self, trainer: Namespace) -> None:
        """Send the loggers into the run directory, with a CSV file beside, and W&B offline."""
        if trainer.logger is False:
            return
        loggers = _listed(trainer.logger)
        for logger in loggers:
            if logger.init_args.get("save_dir") == ".":
                logger.init_args.save_dir = str(self.run_dir)
            if logger.class_path.endswith(".WandbLogger"):
                self._configure_wandb(logger.init_args)
        if not any(logger.class_path.endswith(".CSVLogger") for logger in loggers):
            in_run_dir = Namespace(save_dir=str(self.run_dir), name="", version="")
            loggers.append(
                Namespace(class_path="lightning.pytorch.loggers.CSVLogger", init_args=in_run_dir)
            )
        trainer.logger = loggers
        self.trainer_defaults["callbacks"].append(LearningRateMonitor())

    def _configure_wandb(self, arguments: Namespace) -> None:
        chosen = "offline" if arguments.get("offline") else arguments.get("mode")
        if chosen is None or os.environ.get("WANDB_MODE"):
            arguments.mode, reason = wandb_mode()
        else:
            reason = f"{chosen}, by trainer.logger"
        self.report.tracking = reason
        if reason.startswith("offline"):
            self.report.viewing = how_to_view(self.run_dir)
        config = self.config[self.subcommand]
        arguments.name = arguments.get("name") or f"{config.experiment}/{self.run_dir.name}"
        # jsonargparse passes null for what Lightning would default to "allow"
        arguments.resume = arguments.get("resume") or "allow"

    def _configure_progress(self, trainer: Namespace) -> None:
        """Show a progress bar to a person at a terminal only."""
        own = any("ProgressBar" in callback.class_path for callback in _callbacks(trainer))
        if own:
            return
        if trainer.enable_progress_bar is None:
            trainer.enable_progress_bar = sys.stderr.isatty()
        if trainer.enable_progress_bar:
            self.trainer_defaults["callbacks"].append(TQDMProgressBar(refresh_rate=20))

    def instantiate_classes(self) -> None:
        """Build data, model and trainer; what they refuse is a mistake in the config."""
        try:
            super().instantiate_classes()
        except (TypeError, ValueError, MisconfigurationException, ModuleNotFoundError) as error:
            raise UserError(explain(str(error))) from error
        if self.known_classes and tuple(self.known_classes) != self.model.class_names:
            raise UserError(
                f"the checkpoint knows the classes {', '.join(self.known_classes)}, and the data "
                f"has {', '.join(self.model.class_names)} (a --config replaces that of the run)"
            )
        trainer: Any = self.trainer
        for callback in trainer.callbacks:
            if isinstance(callback, FineTuningSchedule) and self.subcommand == "fit":
                callback.bind(self.model, self.trainer)
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbLogger):
                # Lightning passes it always, and W&B then warns that it has no effect
                logger._wandb_init.pop("anonymous", None)

    def after_fit(self) -> None:
        """Test the best checkpoint and show the result."""
        trainer: Any = self.trainer
        for callback in trainer.callbacks:
            if isinstance(callback, WeightAveraging):
                callback._average_model = None  # or it would load the weights it averaged
        checkpoint = best_and_last(self.trainer)
        best = checkpoint.best_model_path if checkpoint else None
        wanted = self.config[self.subcommand].test_after_fit and self.datamodule.test_images
        if wanted and (best or trainer.fast_dev_run):
            self.trainer.test(self.model, self.datamodule, ckpt_path=best or None, verbose=False)
        self.report.show_result(self.trainer, self.model)

    def test(self, **kwargs: Any) -> None:
        """Test without Lightning's table: the report has one."""
        self.trainer.test(verbose=False, **kwargs)

    def validate(self, **kwargs: Any) -> None:
        """Validate without Lightning's table: the report has one."""
        self.trainer.validate(verbose=False, **kwargs)

    def after_test(self) -> None:
        """Show the result."""
        self.report.show_result(self.trainer, self.model)

    def after_validate(self) -> None:
        """Show the result."""
        self.report.show_result(self.trainer, self.model)

    def after_predict(self) -> None:
        """Say where the predictions are."""
        if self.trainer.is_global_zero:
            print(f"predictions: {self.run_dir / 'predictions.csv'}")


def _listed(loggers: Any) -> list[Namespace]:
    if isinstance(loggers, bool):
        return []
    return list(loggers) if isinstance(loggers, list) else [loggers]


def _callbacks(trainer: Namespace) -> list[Namespace]:
    chosen = trainer.callbacks or []
    return list(chosen) if isinstance(chosen, list) else [chosen]


def _remove_weights(model: Namespace) -> None:
    network = model.get("network") or Namespace()
    for arguments in (model, network.get("init_args") or Namespace()):
        if "weights" in arguments:
            arguments.weights = None


def _has_schedule(trainer: Namespace) -> bool:
    found = [c for c in _callbacks(trainer) if c.class_path.endswith("FineTuningSchedule")]
    if len(found) > 1:
        raise UserError("trainer.callbacks: there are two FineTuningSchedules; leave one")
    return bool(found)


def main(args: ArgsType = None) -> None:
    """Run the command line.

    Args:
        args: Arguments; null takes those of the process.

    Raises:
        SystemExit: With 2 for a mistake in config or data, 143 when terminated.
    """
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in QUIET:
        warnings.filterwarnings("ignore", message)
    os.environ.setdefault("WANDB_SILENT", "true")
    torch.set_float32_matmul_precision("high")
    if not torch.cuda.is_available():  # or optimizers load the GPU's library again in each step
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    given = sys.argv[1:] if args is None else args
    failed = 1
    try:
        if isinstance(given, list) and given and given[0] in COMMANDS:
            COMMANDS[given[0]](given[1:])
        else:
            ProjectCLI(args)
        failed = 0
    except (UserError, MisconfigurationException, PermissionError) as error:
        if os.environ.get("PROJECT_TRACEBACK"):
            raise
        message = str(error)
        if isinstance(error, PermissionError):
            message = f"{error.filename}: {error.strerror}"
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
    except SIGTERMException:
        sys.exit(143)  # Lightning would exit with 0
    finally:
        if "wandb" in sys.modules:
            sys.modules["wandb"].finish(exit_code=failed)
