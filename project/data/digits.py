"""The optical digits of UCI: real images that come with the package."""

from importlib.resources import files

import numpy as np
import torch

from project.console import readable
from project.data.base import ROOT, ImageDataModule
from project.data.batches import TensorImages
from project.data.splits import stratified_split
from project.errors import UserError


class Digits(ImageDataModule):
    """1,797 handwritten digits of 8×8 pixels that come with the package; no download is needed.

    A fifth of each class is the test set, which is the same in every run.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine
    Learning Repository, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0 (the part that UCI calls
    the test set; pixels are counts from 0 to 16).
    """

    class_names = tuple("0123456789")
    source_shape = (1, 8, 8)

    def load(self) -> tuple[TensorImages, None, TensorImages]:
        """Return training and test images.

        Raises:
            UserError: If there is a root, whose images would be left out in silence.
        """
        if self.root != ROOT:
            raise UserError(
                f"{readable(self.root)} isn't read, as Digits come with the package; give the "
                "class that reads it, too, as in --data ImageFolder",
                "data.root",
            )
        with (files(__package__) / "digits.npz").open("rb") as file:
            content = np.load(file, allow_pickle=False)
            counts = torch.from_numpy(content["images"])
            labels = torch.from_numpy(content["labels"]).long()
        pixels = (counts.int() * 255 // 16).to(torch.uint8).unsqueeze(1)
        images = TensorImages(pixels, labels)
        train, test = stratified_split(labels, fraction=0.2, seed=0)
        return images.subset(train), None, images.subset(test)
