"""The options of a run that aren't Lightning's, and what is chosen where a config says nothing."""

from jsonargparse.typing import NonNegativeInt
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import WandbLogger

from project import trust
from project.approaches import TrainFromScratch
from project.callbacks import BestAndLast
from project.data import Digits
from project.tracking import given_by_environment

OF_WANDB = {"project": "image-classification", "log_model": True}


def add_run_options(parser: LightningArgumentParser) -> None:
    """Add them to the parser of a command.

    Args:
        parser: The parser; it has the options of trainer, model and data.
    """
    parser.add_argument(
        "--run_dir", type=str | None, default=None, help="Exactly this run directory."
    )
    parser.add_argument(
        "--resume",
        type=str | None,
        default=None,
        help="auto: fit goes on with the newest run of this config, if it has not ended; or "
        "the run directory to go on with.",
    )
    parser.add_argument(
        "--experiment",
        type=str | None,
        default=None,
        help="Folder in runs/ for the run directory; by default the name of the first config file.",
    )
    trust.add_option(parser, "the config.yaml of a --ckpt_path")
    parser.add_argument(
        "--test_after_fit",
        type=bool,
        default=True,
        help="Whether fit ends by testing the best checkpoint.",
    )
    parser.add_argument(
        "--calibrate",
        type=bool,
        default=False,
        help="Whether a test or a prediction first scales its probabilities by the validation "
        "images (temperature scaling), so that they are as sure as they are right.",
    )
    parser.add_argument(
        "--pictures",
        type=NonNegativeInt,
        default=5,
        help="Epochs between pictures of validation predictions; 0 draws no picture at all.",
    )
    parser.add_argument(
        "--per_class",
        type=bool,
        default=False,
        help="Whether a test shows the scores of each class, the weakest first.",
    )
    parser.add_argument(
        "--max_skipped_steps",
        type=NonNegativeInt,
        default=0,
        help="How many steps of a training may be left out because their gradient isn't "
        "finite; the next one ends it.",
    )
    parser.add_lightning_class_args(BestAndLast, "checkpoint")
    parser.set_defaults(
        {
            "data": {"class_path": Digits.__name__},
            "model": {"class_path": TrainFromScratch.__name__},
            "trainer.logger": {
                "class_path": f"{WandbLogger.__module__}.{WandbLogger.__name__}",
                "init_args": OF_WANDB | given_by_environment(),
            },
        }
    )
