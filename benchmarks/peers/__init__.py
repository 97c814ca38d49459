"""Other people's way of doing the reference jobs, each run in a process of its own.

A module holds the peers of one job that share their packages, one function for each. Nothing here
imports ``project``, and this file nothing but the standard library: Keras has its own environment.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Options(NamedTuple):
    """What a peer is told; all peers of a job are told the same.

    Attributes:
        data: Folder that the job's data is in.
        epochs: Epochs to train.
        images: Training images of an epoch.
        steps: Steps to measure where a peer is too slow for an epoch.
        seed: Seed of weights and order.
    """

    data: Path
    epochs: int
    images: int
    steps: int
    seed: int


Peer = Callable[[Options], dict[str, Any]]


def main(*peers: Peer) -> None:
    """Run the peer that the command line names, and print its figures as the last line.

    They are ``epoch_seconds`` and ``loss`` (mean over the training images) of each epoch,
    ``accuracy`` on the test images or null, and ``images`` trained on in each of these epochs.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=[peer.__name__ for peer in peers])
    parser.add_argument("--data", type=Path, required=True)
    for name in ("epochs", "images", "steps", "seed"):
        parser.add_argument(f"--{name}", type=int, default=0)
    arguments = vars(parser.parse_args())
    chosen = {peer.__name__: peer for peer in peers}[arguments.pop("peer")]
    print(json.dumps(chosen(Options(**arguments))))
