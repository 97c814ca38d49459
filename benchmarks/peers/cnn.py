"""Complete training: CNN 32-64-64 and dense 64 on CIFAR-10 in [0, 1], batch 32, Adam."""

import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.peers import Options, cifar, main

BATCH_SIZE, LEARNING_RATE = 32, 0.001


def network() -> nn.Module:
    """Return the CNN, 122,570 parameters, with the initial weights of Keras."""
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1024, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    for module in model:
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return model


def read(options: Options, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Return images ``[N, 3, 32, 32]``, in [0, 1], and labels ``[N]``."""
    images, labels = map(torch.from_numpy, cifar.read(options.data, names))
    return images.permute(0, 3, 1, 2).contiguous() / 255, labels


def train(options: Options, channels_last: bool, bf16: bool) -> dict[str, Any]:
    """Train on tensors in memory with a loop that is written by hand."""
    torch.manual_seed(options.seed)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images, labels = (part[: options.images] for part in read(options, cifar.TRAIN))
    images = images.to(memory_format=layout)
    model = network().to(memory_format=layout)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    seconds, losses = [], []
    for _ in range(options.epochs):
        start = time.perf_counter()
        total = torch.zeros(())
        for index in torch.randperm(len(labels)).split(BATCH_SIZE):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = functional.cross_entropy(model(images[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(index)
        seconds.append(time.perf_counter() - start)
        losses.append(total.item() / options.images)
    test_images, test_labels = read(options, cifar.TEST)
    with torch.inference_mode():
        guesses = torch.cat([model(batch).argmax(1) for batch in test_images.split(1000)])
    return {
        "epoch_seconds": seconds,
        "loss": losses,
        "accuracy": (guesses == test_labels).float().mean().item(),
        "images": options.images,
    }


def pytorch(options: Options) -> dict[str, Any]:
    """Train in float32."""
    return train(options, channels_last=False, bf16=False)


def pytorch_fast(options: Options) -> dict[str, Any]:
    """Train in channels_last and with autocast to bfloat16."""
    return train(options, channels_last=True, bf16=True)


if __name__ == "__main__":
    main(pytorch, pytorch_fast)
