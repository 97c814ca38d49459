"""What a config of ``fit`` names, built without a run: for commands that only look at it."""

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from project.approaches.pretrained import remove_weights
from project.lightning_cli import ProjectCLI


class DryCLI(ProjectCLI):
    """Takes the options of ``fit``, and builds what they name; nothing is trained or logged."""

    def __init__(self, arguments: list[str]) -> None:
        super().__init__(arguments, run=False)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of ``fit``, and the one that only its subcommand has."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="Not used; configs of fit have it."
        )

    def prepare(self, config: Namespace) -> None:
        """Let nothing be downloaded or logged, and no run directory be made."""
        config.trainer.logger = False
        config.trainer.enable_progress_bar = False
        remove_weights(config.model.init_args)
