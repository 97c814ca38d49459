"""Training from scratch: MLP 784→128→64→10 on Fashion-MNIST, batch 64, Adam."""

import logging
import tempfile
import time
import warnings
from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Subset
from torchmetrics import Accuracy
from torchvision import datasets, transforms

from benchmarks.peers import Options, main

BATCH_SIZE, LEARNING_RATE = 64, 0.001

Batches = Iterator[tuple[Tensor, Tensor]]


def network() -> nn.Module:
    """Return the MLP, 109,386 parameters."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def tutorial_loader(options: Options) -> DataLoader[Any]:
    """Return the loader of a tutorial: each image is a PIL image, then a normalised tensor."""
    to_tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
    dataset = datasets.FashionMNIST(options.data, train=True, transform=to_tensor)
    return DataLoader(Subset(dataset, range(options.images)), batch_size=BATCH_SIZE, shuffle=True)


def in_memory(options: Options, train: bool) -> tuple[Tensor, Tensor]:
    """Return normalised images ``[N, 28, 28]`` and labels ``[N]``."""
    dataset = datasets.FashionMNIST(options.data, train=train)
    count = options.images if train else len(dataset)
    return (dataset.data[:count] / 255 - 0.5) / 0.5, dataset.targets[:count]


class InMemoryLoader:
    """Yields batches of tensors in memory, in a new order in each epoch."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return -(-len(self.labels) // BATCH_SIZE)

    def __iter__(self) -> Batches:
        for index in torch.randperm(len(self.labels)).split(BATCH_SIZE):
            yield self.images[index], self.labels[index]


@torch.inference_mode()
def accuracy(model: nn.Module, options: Options) -> float:
    """Return the accuracy on the test images."""
    images, labels = in_memory(options, train=False)
    return (model(images).argmax(1) == labels).float().mean().item()


def reference(options: Options) -> dict[str, Any]:
    """Train with the loop that tutorials write."""
    torch.manual_seed(options.seed)
    loader = tutorial_loader(options)
    model = network()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    seconds, losses = [], []
    for _ in range(options.epochs):
        start = time.perf_counter()
        running_loss = 0.0
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item() * len(labels)
        seconds.append(time.perf_counter() - start)
        losses.append(running_loss / options.images)
    return figures(options, seconds, losses, model)


def pytorch(options: Options) -> dict[str, Any]:
    """Train with the fastest loop that is written by hand in eager mode."""
    torch.manual_seed(options.seed)
    loader = InMemoryLoader(*in_memory(options, train=True))
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    seconds, losses = [], []
    for _ in range(options.epochs):
        start = time.perf_counter()
        total = torch.zeros(())
        for images, labels in loader:
            loss = functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(labels)
        seconds.append(time.perf_counter() - start)
        losses.append(total.item() / options.images)
    return figures(options, seconds, losses, model)


def figures(
    options: Options, seconds: list[float], losses: list[float], model: nn.Module
) -> dict[str, Any]:
    """Return what a peer reports."""
    return {
        "epoch_seconds": seconds,
        "loss": losses,
        "accuracy": accuracy(model.eval(), options),
        "images": options.images,
    }


class Clock(L.Callback):
    """Takes the time of each epoch, and the mean loss that the module has summed up."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        pl_module.loss_sum = torch.zeros(())
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop it."""
        self.seconds.append(time.perf_counter() - self._start)
        self.losses.append(pl_module.loss_sum.item())


class Bare(L.LightningModule):
    """Logs nothing; sums the loss up as the loop of :func:`pytorch` does."""

    loss_sum: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.model = network()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss."""
        images, labels = batch
        loss = functional.cross_entropy(self.model(images), labels)
        self.loss_sum += loss.detach() * len(labels)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=LEARNING_RATE)


class Naive(Bare):
    """Logs loss and accuracy of each step, as tutorials do."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = Accuracy(task="multiclass", num_classes=10)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss."""
        images, labels = batch
        logits = self.model(images)
        loss = functional.cross_entropy(logits, labels)
        self.log("train_loss", loss, prog_bar=True)
        self.log("train_accuracy", self.accuracy(logits, labels), prog_bar=True)
        self.loss_sum += loss.detach() * len(labels)
        return loss


def fit(options: Options, module: Bare, loader: Any, **trainer: Any) -> dict[str, Any]:
    """Train with a Trainer."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    clock = Clock()
    L.Trainer(accelerator="cpu", max_epochs=options.epochs, callbacks=[clock], **trainer).fit(
        module, loader
    )
    losses = [total / options.images for total in clock.losses]
    return figures(options, clock.seconds, losses, module.model)


def lightning_bare(options: Options) -> dict[str, Any]:
    """Train with Lightning, with all that costs time turned off, on tensors in memory."""
    L.seed_everything(options.seed, verbose=False)
    return fit(
        options,
        Bare(),
        InMemoryLoader(*in_memory(options, train=True)),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def lightning_naive(options: Options) -> dict[str, Any]:
    """Train with Lightning as its tutorials do."""
    L.seed_everything(options.seed, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        return fit(options, Naive(), tutorial_loader(options), logger=CSVLogger(folder))


if __name__ == "__main__":
    main(reference, pytorch, lightning_bare, lightning_naive)
