"""``python -m project preview-data``: training images as the network sees them."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt
from lightning.pytorch.cli import LightningArgumentParser
from torch import Tensor

from project.approaches.pretrained import remove_weights
from project.callbacks.plots import drawing, short
from project.console import show
from project.data.sheet import sheet
from project.errors import UserError
from project.lightning_cli import ProjectCLI

MOST_IMAGES = 100
MOST_EPOCHS = 50
INCHES = 1.5  # of an image on the sheet


def preview_data(arguments: Sequence[str]) -> None:
    """Draw training images as the network sees them, each in some epochs side by side.

    It takes the options of ``fit``. Nothing is trained, and no weights are downloaded.

    Args:
        arguments: What follows ``preview-data`` on the command line.

    Raises:
        UserError: If the data is missing, or the sheet can't be written.
    """
    cli = PreviewCLI(list(arguments), run=False)
    options, data = cli.options, cli.datamodule
    path = Path(options.output)
    if path.suffix != ".png" or not path.parent.is_dir():
        raise UserError(f"{path} must be a .png file in a folder that exists", "--output")
    for name, most in (("images", MOST_IMAGES), ("epochs", MOST_EPOCHS)):
        if options[name] > most:
            raise UserError(f"{options[name]} must be at most {most}", f"--{name}")
    data.prepare_data()
    data.setup("fit")
    rows, labels = sheet(data, options.images, options.epochs)
    draw(rows, [data.class_names[label] for label in labels.tolist()], path)
    if data.augment is None:
        show("data.augment: null, so all epochs have the same images")
    if cli.model.mixing:
        show("model.mixup and model.cutmix, which mix the images of a batch, aren't drawn")
    show(f"sheet: {path}")


class PreviewCLI(ProjectCLI):
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
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="Not used; configs of fit have it."
        )

    def prepare(self, config: Namespace) -> None:
        """Let only the images be decoded that are drawn, and nothing be logged."""
        config.trainer.logger = False
        config.trainer.enable_progress_bar = False
        remove_weights(config.model.init_args)
        if "cache" in config.data.init_args:
            config.data.init_args.cache = "off"


@drawing()
def draw(rows: Tensor, names: Sequence[str], path: Path) -> None:
    """Draw a sheet of images: a row for each image, with its label.

    Args:
        rows: ``[N, 1 + epochs, C, H, W]`` with values in [0, 1].
        names: Class of each image.
        path: PNG file.

    Raises:
        UserError: If it can't be written.
    """
    from matplotlib.figure import Figure  # slow to import

    count, columns = rows.shape[:2]
    height = INCHES * rows.shape[3] / rows.shape[4]
    figure = Figure(figsize=(INCHES * columns, height * count + 0.3), layout="constrained")
    grid = figure.subplots(count, columns, squeeze=False)
    for row, (images, name) in enumerate(zip(rows, names)):
        for column, image in enumerate(images):
            axes = grid[row, column]
            pixels = image.permute(1, 2, 0).numpy()
            axes.imshow(pixels.repeat(3, axis=2) if pixels.shape[2] == 1 else pixels)
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.set_title("not augmented" if column == 0 else f"epoch {column}", fontsize=8)
        grid[row, 0].set_ylabel(short(name, 16), fontsize=8)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror}", "--output") from error
