"""Digits of which there are few of one class and many of another."""

import torch

from project.data import Digits
from project.data.batches import TensorImages

UNEQUAL = f"--data={__name__}.Unequal"


class Unequal(Digits):
    """4 images of the first class, 8 of the second and so on, in training and validation."""

    def load(self) -> tuple[TensorImages, None, TensorImages]:
        train, _, test = super().load()
        places = [(train.labels == label).nonzero().flatten() for label in range(10)]
        chosen = [place[: 4 * (label + 1)] for label, place in enumerate(places)]
        return train.subset(torch.cat(chosen)), None, test
