"""MNIST and the data sets of the same format."""

import gzip
import shutil
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from torchvision import datasets

from project.console import readable
from project.data.base import ImageDataModule
from project.data.batches import TensorImages
from project.data.download import BROKEN, check_files, lock, move_into, scratch
from project.errors import UserError

Variant = Literal[
    "MNIST",
    "FashionMNIST",
    "KMNIST",
    "QMNIST",
    "EMNIST-balanced",
    "EMNIST-byclass",
    "EMNIST-bymerge",
    "EMNIST-digits",
    "EMNIST-letters",
    "EMNIST-mnist",
]


class MNIST(ImageDataModule):
    """Grey images of 28×28 pixels: 60,000 for training and 10,000 for testing; QMNIST, EMNIST more.

    They are downloaded from torchvision's mirrors into ``root/<variant>/raw``. Existing idx files,
    also as ``.gz``, are used as they are.

    Args:
        variant: The data set, for EMNIST with the name of its split.
        kwargs: Options of every data module.
    """

    source_shape = (1, 28, 28)

    def __init__(self, variant: Variant = "MNIST", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.variant = self.name = variant
        name, _, emnist_split = variant.partition("-")
        self._dataset: type[datasets.MNIST] = getattr(datasets, name)
        self._options = {"split": emnist_split} if emnist_split else {}
        self.class_names = _class_names(name, emnist_split)

    @property
    def _raw(self) -> Path:
        return Path(self.root, self._dataset.__name__, "raw")

    def prepare_data(self) -> None:
        """Unpack or download the missing files.

        Raises:
            UserError: If the download fails.
        """
        if not self._missing():
            return
        with lock(Path(self.root)):
            if self._missing():
                self._unpack()
            if self._missing():
                self._download()

    def _missing(self) -> list[str]:
        return [file.name for file in self._files() if not file.is_file()]

    def _files(self) -> list[Path]:
        """The four idx files, by the names that torchvision reads."""
        if self._options:
            split = self._options["split"]
            names = [
                f"emnist-{split}-{part}-{kind}-ubyte"
                for part in ("train", "test")
                for kind in ("images-idx3", "labels-idx1")
            ]
        elif self.variant == "QMNIST":
            parts = datasets.QMNIST.resources
            names = [Path(url).stem for part in ("train", "test") for url, _ in parts[part]]
        else:
            names = [Path(url).stem for url, _ in self._dataset.resources]
        return [self._raw / name for name in names]

    def _unpack(self) -> None:
        with scratch(Path(self.root)) as temporary:
            for name in self._missing():
                packed = self._raw / f"{name}.gz"
                if packed.is_file():
                    try:
                        with gzip.open(packed) as source, (temporary / name).open("wb") as target:
                            shutil.copyfileobj(source, target)
                    except BROKEN as error:
                        raise UserError(f"{readable(packed)} is broken: {error}") from error
                    move_into([temporary / name], self._raw)

    def _download(self) -> None:
        with scratch(Path(self.root)) as temporary:
            try:
                for train in (True, False):
                    self._dataset(temporary, train=train, download=True, **self._options)
            except BROKEN as error:
                reason = " ".join(str(error).split())
                files = ", ".join(f"{name}.gz" for name in self._missing())
                raise UserError(
                    f"{self.variant} could not be downloaded ({reason}); put {files} into "
                    f"{readable(self._raw)}"
                ) from error
            raw = temporary / self._dataset.__name__ / "raw"
            move_into([raw / file.name for file in self._files()], self._raw)

    def load(self) -> tuple[TensorImages, None, TensorImages]:
        """Return training and test images."""
        check_files(self._files())
        return self._part(train=True), None, self._part(train=False)

    def _part(self, train: bool) -> TensorImages:
        try:
            dataset = self._dataset(self.root, train=train, **self._options)
        except Exception as error:  # torchvision takes for granted that a file is as it should be
            part = "training" if train else "test"
            raise UserError(
                f"the {part} files of {self.variant} in {readable(self._raw)} are broken "
                f"({error or 'size'}); delete them to have them downloaded again"
            ) from error
        images: Tensor = dataset.data
        labels: Tensor = dataset.targets
        if self.variant == "QMNIST":
            labels = labels[:, 0]  # the others are writer, partition and the like
        if self._options:
            images = images.transpose(1, 2)  # EMNIST stores columns first
        if self.variant == "EMNIST-letters":
            labels = labels - 1
        return TensorImages(images.unsqueeze(1).contiguous(), labels)


def _class_names(name: str, emnist_split: str) -> tuple[str, ...]:
    if emnist_split == "letters":
        return tuple("abcdefghijklmnopqrstuvwxyz")
    if emnist_split:
        return tuple(datasets.EMNIST.classes_split_dict[emnist_split])
    if name in ("FashionMNIST", "KMNIST"):
        return tuple(getattr(datasets, name).classes)
    return tuple("0123456789")
