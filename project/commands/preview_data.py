"""``python -m project preview-data``: training images as the network sees them."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt
from lightning.pytorch.cli import LightningArgumentParser

from project.callbacks.figures import training_images
from project.callbacks.plots import draw_rows
from project.commands.dry import DryCLI
from project.console import show
from project.errors import UserError

MOST_IMAGES = 100
MOST_EPOCHS = 50


def preview_data(arguments: Sequence[str]) -> None:
    """Draw training images as the network sees them, each in some epochs side by side.

    It takes the options of ``fit``. Nothing is trained, and no weights are downloaded.

    Args:
        arguments: What follows ``preview-data`` on the command line.

    Raises:
        UserError: If the data is missing, or the sheet can't be written.
    """
    cli = PreviewCLI(list(arguments))
    options, data = cli.options, cli.datamodule
    path = Path(options.output)
    if path.suffix != ".png" or not path.parent.is_dir():
        raise UserError(f"{path} must be a .png file in a folder that exists", "--output")
    for name, most in (("images", MOST_IMAGES), ("epochs", MOST_EPOCHS)):
        if options[name] > most:
            raise UserError(f"{options[name]} must be at most {most}", f"--{name}")
    data.prepare_data()
    data.setup("fit")
    try:
        draw_rows(*training_images(data, options.images, options.epochs), path)
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror}", "--output") from error
    if data.augment is None:
        show("data.augment: null, so all epochs have the same images")
    if cli.model.mixing:
        show("model.mixup and model.cutmix, which mix the images of a batch, aren't drawn")
    show(f"sheet: {path}")


class PreviewCLI(DryCLI):
    """Builds what a config of ``fit`` names, without a run directory."""

    words = ("preview-data",)
    description = "Draw training images as the network sees them; it takes the options of fit."

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of ``fit``, and those of the sheet."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--output", type=str, default="preview.png", help="PNG file to draw the sheet into."
        )
        parser.add_argument(
            "--images", type=PositiveInt, default=8, help="Number of images, spread over the data."
        )
        parser.add_argument(
            "--epochs", type=NonNegativeInt, default=5, help="Number of epochs, from the first on."
        )

    def prepare(self, config: Namespace) -> None:
        """Let only the images be decoded that are drawn, and nothing be logged."""
        super().prepare(config)
        if "cache" in config.data.init_args:
            config.data.init_args.cache = "off"
