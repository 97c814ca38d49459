"""Plain Lightning with its LightningCLI: a module, data, and a ModelCheckpoint with ``save_last``.

The images are made up, as many and as large as the digits that come with the project.
"""

from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import Accuracy

Loader = DataLoader[tuple[Tensor, ...]]


class Module(L.LightningModule):
    """An MLP with one hidden layer, trained by Adam."""

    def __init__(self, hidden: int = 2048) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10)
        )
        self.accuracy = Accuracy(task="multiclass", num_classes=10)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss."""
        loss = functional.cross_entropy(self.model(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the accuracy."""
        self.accuracy(self.model(batch[0]), batch[1])
        self.log("val/acc", self.accuracy, on_step=False, on_epoch=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters())


class Data(L.LightningDataModule):
    """Noise with ten classes that can be learned."""

    def __init__(self, batch_size: int = 128) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        """Make the images."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(1438, 1, 8, 8, generator=generator)
        labels = images.flatten(1)[:, :10].argmax(1)
        self.train = TensorDataset(images[:1294], labels[:1294])
        self.val = TensorDataset(images[1294:], labels[1294:])

    def train_dataloader(self) -> Loader:
        """Return the training images in an order of their own in each epoch."""
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> Loader:
        """Return the images for validation."""
        return DataLoader(self.val, 64)


class CLI(LightningCLI):
    """LightningCLI with a checkpoint that the command line can set up."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the checkpoint."""
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults({"checkpoint.save_last": True, "checkpoint.dirpath": "checkpoints"})


def run(command: str, options: list[str]) -> None:
    """Run a command of the CLI in the current folder."""
    trainer = {
        "accelerator": "cpu",
        "max_epochs": 3,
        "log_every_n_steps": 1,
        "logger": {
            "class_path": "lightning.pytorch.loggers.CSVLogger",
            "init_args": {"save_dir": "."},
        },
    }
    CLI(Module, Data, trainer_defaults=trainer, seed_everything_default=1, args=[command, *options])


def on(ranks: int) -> list[str]:
    """Return the options of the trainer for several ranks."""
    return [f"--trainer.devices={ranks}", "--trainer.strategy=ddp"] if ranks > 1 else []


def fit(often: bool, ranks: int = 1) -> None:
    """Train, or go on from the last checkpoint of the current folder."""
    saving = ["--checkpoint.every_n_train_steps=1"] if often else []
    run("fit", ["--ckpt_path=last", *saving, *on(ranks)])


def evaluate(checkpoint: Path) -> None:
    """Validate a checkpoint."""
    run("validate", [f"--ckpt_path={checkpoint}"])
