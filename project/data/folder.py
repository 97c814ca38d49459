"""Your own images: a folder with one subfolder per class."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from project.data.base import ImageDataModule, stratified_split
from project.data.batches import Batch, Images, TensorImages
from project.data.download import fetch_archive, lock
from project.errors import UserError

DEFAULT_SIZE = 224
BACKGROUND = (255, 255, 255)


class ImageFolder(ImageDataModule):
    """Images of any size and mode in one subfolder per class.

    ``root`` holds ``train/``, and optionally ``val/`` and ``test/``, with the class folders in
    each; or it holds the class folders itself and is split. The classes are those of ``train``;
    other splits are matched to them by name. Files and folders whose name begins with a dot are
    ignored. Transparent pixels become white, 16-bit greys keep their upper 8 bits, and the
    orientation that a camera noted is applied.

    Args:
        root: The folder.
        test_fraction: Share of each class that becomes the test set if ``root`` holds the class
            folders itself. 0 makes no test set.
        classes: Names of the classes; null takes the names of the folders. A checkpoint's own are
            used to predict with it, so that the training images needn't be there.
        resize: ``crop`` scales the shorter side and cuts out the middle, ``squash`` ignores the
            proportions.
        grayscale: One channel instead of three, unless the pretrained backbone says otherwise.
        memory_gb: Images are decoded once and kept in memory if that takes less than this many
            gigabytes, and are decoded for every batch otherwise.
        predict_dir: A folder of images to predict, with or without subfolders; null predicts the
            test images.
        url: Archive (zip or tar) to fetch if ``root`` doesn't exist yet.
        sha256: SHA-256 of that archive, in hexadecimal.
        kwargs: Options of every data module.
    """

    def __init__(
        self,
        root: str = "data/images",
        test_fraction: float = 0.2,
        classes: tuple[str, ...] | None = None,
        resize: Literal["crop", "squash"] = "crop",
        grayscale: bool = False,
        memory_gb: float = 4.0,
        predict_dir: str | None = None,
        url: str | None = None,
        sha256: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root=root, **kwargs)
        if not 0 <= test_fraction < 1:
            raise UserError(f"data.test_fraction: {test_fraction} must be in [0, 1)")
        if (url is None) != (sha256 is None):
            raise UserError("data.url and data.sha256 must be given together")
        self.test_fraction = test_fraction
        self.resize = resize
        self.memory_gb = memory_gb
        self.predict_dir = predict_dir
        self.url = url
        self.sha256 = sha256
        self.source_shape = (1 if grayscale else 3, DEFAULT_SIZE, DEFAULT_SIZE)
        self._class_names = classes

    def prepare_data(self) -> None:
        """Fetch and unpack the archive if there is one and the folder isn't there; once per node.

        Raises:
            UserError: If that fails.
        """
        root = Path(self.root)
        if self.url is None or self.sha256 is None or _subfolders(root):
            return
        with lock(root.parent):
            if not _subfolders(root):
                fetch_archive(self.url, self.sha256, root)

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]  # known once it is read
        """The class folders of the training split, sorted by name."""
        if self._class_names is None:
            self.prepare_data()
            folder = self._split("train") or Path(self.root)
            names = _subfolders(folder)
            if not folder.is_dir():
                raise UserError(f"data.root: {folder} is not a folder")
            if len(names) < 2:
                found = f"only {names[0]}" if names else "none"
                raise UserError(
                    f"data.root: {folder} needs a subfolder for each of two or more classes, "
                    f"and has {found}"
                )
            self._class_names = tuple(names)
        return self._class_names

    def _split(self, name: str) -> Path | None:
        folder = Path(self.root, name)
        return folder if folder.is_dir() and Path(self.root, "train").is_dir() else None

    def load(self) -> tuple[Images, Images | None, Images | None]:
        """Return training, validation and test images."""
        train_folder, val_folder, test_folder = map(self._split, ("train", "val", "test"))
        train = self._read(train_folder or Path(self.root), every_class=True)
        if train_folder is None and self.test_fraction:
            kept, held_out = stratified_split(train.labels, self.test_fraction, seed=0)
            test = self._loaded(train.subset(held_out)) if len(held_out) else None
            return self._loaded(train.subset(kept)), None, test
        val = self._loaded(self._read(val_folder)) if val_folder else None
        test = self._loaded(self._read(test_folder)) if test_folder else None
        return self._loaded(train), val, test

    def setup(self, stage: str) -> None:
        """Load the images once; for prediction, those of ``predict_dir`` alone if it is given."""
        if stage == "predict" and self.predict_dir is not None:
            folder = Path(self.predict_dir)
            paths = _images_below(folder) if folder.is_dir() else []
            if not paths:
                raise UserError(f"data.predict_dir: {folder} holds no images")
            unknown = torch.full((len(paths),), -1)
            self.test_images = self._files(paths, unknown)
            return
        super().setup(stage)

    def path(self, index: int) -> str:
        """Return the path of the test image with this index."""
        assert self.test_images is not None
        return str(self.test_images.paths[index])  # type: ignore[attr-defined]

    def _read(self, folder: Path, every_class: bool = False) -> "_Files":
        classes = {name: label for label, name in enumerate(self.class_names)}
        unknown = sorted(set(_subfolders(folder)) - set(classes))
        if unknown:
            raise UserError(
                f"{folder} has classes that the training images lack: {', '.join(unknown)}; "
                f"known are {', '.join(classes)}"
            )
        paths: list[Path] = []
        labels: list[int] = []
        for name, label in classes.items():
            found = _images_below(folder / name)
            if every_class and not found:
                raise UserError(f"{folder / name} holds no images; remove it or fill it")
            paths += found
            labels += [label] * len(found)
        if not paths:
            raise UserError(f"{folder} holds no images")
        return self._files(paths, torch.tensor(labels))

    def _files(self, paths: list[Path], labels: Tensor) -> "_Files":
        channels, height, width = self.image_shape
        fit = ImageOps.fit if self.resize == "crop" else _squash
        return _Files(paths, labels, "L" if channels == 1 else "RGB", (width, height), fit)

    def _loaded(self, files: "_Files") -> Images:
        channels, height, width = self.image_shape
        too_large = len(files) * channels * height * width > self.memory_gb * 1e9
        return files if too_large else files.in_memory_copy()


def open_image(path: str | Path, mode: Literal["L", "RGB"] = "RGB") -> Image.Image:
    """Read an image of any mode as 8-bit grey or RGB, upright, on white.

    Raises:
        UserError: If the file can't be read whole; the message names it.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I") or image.mode == "F":
                image = _to_8_bit(image)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                ground = Image.new("RGBA", image.size, (*BACKGROUND, 255))
                image = Image.alpha_composite(ground, image)
            return image.convert(mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = (
            "not an image"
            if isinstance(error, UnidentifiedImageError)
            else getattr(error, "strerror", None) or str(error)
        )
        raise UserError(f"{path}: broken image: {reason}") from error


def _to_8_bit(image: Image.Image) -> Image.Image:
    """16-bit greys lose their lower 8 bits; floats are taken to be in [0, 1] or [0, 255]."""
    values = np.asarray(image)
    if image.mode == "F":
        values = values * (255 if values.max(initial=0) <= 1 else 1)
    elif image.mode.startswith("I;16") or values.max(initial=0) > 255:
        values = values.astype(np.int64) >> 8
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def _squash(image: Image.Image, size: tuple[int, int], method: Image.Resampling) -> Image.Image:
    return image.resize(size, method)


class _Files:
    """Images that are decoded when a batch asks for them."""

    in_memory = False

    def __init__(
        self,
        paths: list[Path],
        labels: Tensor,
        mode: Literal["L", "RGB"],
        size: tuple[int, int],
        fit: Callable[..., Image.Image],
    ) -> None:
        self.paths = paths
        self.labels = labels
        self._mode: Literal["L", "RGB"] = mode
        self._size = size
        self._fit = fit

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Tensor) -> Batch:
        places = (index % len(self)).tolist()
        images = torch.stack([self._decode(self.paths[place]) for place in places])
        return Batch(images, self.labels[places], index)

    def subset(self, index: Tensor) -> "_Files":
        paths = [self.paths[place] for place in index.tolist()]
        return _Files(paths, self.labels[index], self._mode, self._size, self._fit)

    def in_memory_copy(self) -> "_DecodedFiles":
        with ThreadPoolExecutor() as pool:  # Pillow lets go of the GIL while it decodes
            images = list(pool.map(self._decode, self.paths))
        return _DecodedFiles(torch.stack(images), self.labels, self.paths)

    def _decode(self, path: Path) -> Tensor:
        image = self._fit(open_image(path, self._mode), self._size, Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image))
        return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


class _DecodedFiles(TensorImages):
    """Images in memory that know where they came from."""

    def __init__(self, images: Tensor, labels: Tensor, paths: list[Path]) -> None:
        super().__init__(images, labels)
        self.paths = paths

    def subset(self, index: Tensor) -> "_DecodedFiles":
        paths = [self.paths[place] for place in index.tolist()]
        return _DecodedFiles(self.images[index], self.labels[index], paths)


def _subfolders(folder: Path) -> list[str]:
    """Names of the subfolders that aren't hidden, sorted."""
    if not folder.is_dir():
        return []
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and entry.name[0] != "." and entry.name != "__MACOSX"
    )


def _images_below(folder: Path) -> list[Path]:
    """Paths of all images below the folder, sorted; hidden files and folders are left out."""
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        found += [
            Path(parent, name)
            for name in sorted(names)
            if name[0] != "." and name.lower().endswith(IMG_EXTENSIONS)
        ]
    return found
