"""Fine-tuning: VGG16, all of it frozen, dense 256 and one logit; 150×150, batch 20, Adam."""

import time
from itertools import chain, islice, repeat
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision import datasets, transforms
from torchvision.models.vgg import cfgs, make_layers

from benchmarks.peers import Options, main

BATCH_SIZE, LEARNING_RATE, SIZE, WARMUP_STEPS = 20, 0.001, (150, 150), 2


def pytorch(options: Options) -> dict[str, Any]:
    """Train for a few steps; each computes the frozen part without gradients."""
    torch.manual_seed(options.seed)
    to_tensor = transforms.Compose([transforms.Resize(SIZE), transforms.ToTensor()])
    dataset = datasets.ImageFolder(options.data / "train", to_tensor)
    loader = DataLoader(dataset, BATCH_SIZE, shuffle=True)
    backbone = make_layers(cfgs["D"]).requires_grad_(False).eval()  # VGG16 without its top
    head = nn.Sequential(nn.Flatten(), nn.Linear(8192, 256), nn.ReLU(), nn.Linear(256, 1))
    optimizer = torch.optim.Adam(head.parameters(), lr=LEARNING_RATE, fused=True)
    total = 0.0
    batches = chain.from_iterable(repeat(loader))
    for step, (images, labels) in enumerate(islice(batches, WARMUP_STEPS + options.steps)):
        if step == WARMUP_STEPS:
            start = time.perf_counter()
        with torch.no_grad():
            features = backbone(images)
        logits = head(features).squeeze(1)
        loss = functional.binary_cross_entropy_with_logits(logits, labels.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return {
        "epoch_seconds": [time.perf_counter() - start],
        "loss": [total / (WARMUP_STEPS + options.steps)],
        "accuracy": None,
        "images": options.steps * BATCH_SIZE,
    }


if __name__ == "__main__":
    main(pytorch)
