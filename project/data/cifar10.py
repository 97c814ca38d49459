"""CIFAR-10 and CIFAR-100."""

import pickle
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torchvision import datasets

from project.console import readable
from project.data.base import ImageDataModule
from project.data.batches import TensorImages
from project.data.download import (
    BROKEN,
    CHECKSUMS,
    check_files,
    lock,
    move_into,
    note_checksums,
    scratch,
)
from project.errors import UserError


class CIFAR10(ImageDataModule):
    """RGB images of 32×32 pixels, 50,000 for training and 10,000 for testing.

    They are downloaded by torchvision into ``root/cifar-10-batches-py`` (or
    ``root/cifar-100-python``). Existing batch files are used as they are.

    Args:
        variant: The data set with 10 or with 100 classes.
        kwargs: Options of every data module.
    """

    source_shape = (3, 32, 32)

    def __init__(self, variant: Literal["CIFAR10", "CIFAR100"] = "CIFAR10", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.variant = variant
        self._dataset = datasets.CIFAR10 if variant == "CIFAR10" else datasets.CIFAR100
        self._labels = "labels" if variant == "CIFAR10" else "fine_labels"
        self.class_names = _CIFAR10 if variant == "CIFAR10" else _CIFAR100

    @property
    def _folder(self) -> Path:
        return Path(self.root, self._dataset.base_folder)

    def _batches(self, train: bool) -> list[Path]:
        listed = self._dataset.train_list if train else self._dataset.test_list
        return [self._folder / name for name, _ in listed]

    def _files(self) -> list[Path]:
        return [*self._batches(train=True), *self._batches(train=False)]

    def prepare_data(self) -> None:
        """Download the data set unless all of its files exist.

        Raises:
            UserError: If the download fails.
        """
        files = self._files()
        if all(file.is_file() for file in files):
            return
        with lock(Path(self.root)):
            missing = [file.name for file in files if not file.is_file()]
            if not missing:
                return
            if self._folder.exists() and not (self._folder / CHECKSUMS).is_file():
                raise UserError(
                    f"{readable(self._folder)} lacks {', '.join(missing)}; complete it, or delete "
                    "it to have it downloaded"
                )
            with scratch(Path(self.root)) as temporary:
                try:
                    self._dataset(temporary, download=True)
                except BROKEN as error:
                    raise UserError(
                        f"{self.variant} could not be downloaded ({error}); unpack "
                        f"{self._dataset.filename} into {self.root}",
                        "data.root",
                    ) from error
                folder = temporary / self._dataset.base_folder
                if self._folder.exists():  # a damaged file was deleted
                    move_into([folder / name for name in missing], self._folder)
                else:
                    note_checksums([folder / file.name for file in files], folder)
                    folder.rename(self._folder)

    def load(self) -> tuple[TensorImages, None, TensorImages]:
        """Return training and test images."""
        check_files(self._files())
        return self._part(train=True), None, self._part(train=False)

    def _part(self, train: bool) -> TensorImages:
        images, labels = [], []
        for path in self._batches(train):
            try:
                with path.open("rb") as file:
                    content = _ArraysOnly(file, encoding="latin1").load()
                images.append(np.asarray(content["data"], dtype=np.uint8).reshape(-1, 3, 32, 32))
                labels.append(np.asarray(content[self._labels], dtype=np.int64))
            except Exception as error:  # a damaged pickle may raise anything
                raise UserError(
                    f"{readable(path)} is not a batch of {self.variant}: {error}"
                ) from error
        return TensorImages(
            torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(labels))
        )


class _ArraysOnly(pickle.Unpickler):
    """Reads the pickle files of CIFAR; refuses everything but arrays, so that no code can run."""

    allowed: ClassVar = {"_reconstruct", "ndarray", "dtype", "_frombuffer", "scalar"}

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in self.allowed:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in it")


_CIFAR10 = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
_CIFAR100 = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
    camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
    cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
    lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
    oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
    spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """.split()
)
