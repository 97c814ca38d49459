"""Your own images: a folder with one subfolder per class."""

import hashlib
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from project.console import readable, show
from project.data.base import ImageDataModule, check_limits
from project.data.batches import Batch, Images
from project.data.decode import Decoder
from project.data.download import Allowance, fetch_archive, lock
from project.data.files import ImageFiles, Pixels, in_memory, on_disk
from project.data.listing import Search, class_folders
from project.data.ranks import one_error
from project.data.splits import stratified_split
from project.errors import UserError
from project.trust import check_download

DEFAULT_SIZE = 224


class FolderImages:
    """One split of a folder of images: a subset of the files, and their labels.

    Args:
        files: The files of all splits.
        places: Positions of the images of this split among the files, int64 ``[N]``.
        labels: int64 ``[N]``.
        pixels: Returns the images at given positions; None decodes the files each time.
    """

    def __init__(
        self, files: ImageFiles, places: Tensor, labels: Tensor, pixels: Pixels | None = None
    ) -> None:
        self.files = files
        self.places = places
        self.labels = labels
        self.in_memory = pixels is not None
        self._pixels = pixels or files.decode

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> Batch:
        number = index % len(self)
        return Batch(self._pixels(self.places[number]), self.labels[number], index)

    def subset(self, index: Tensor) -> "FolderImages":
        """Return the images of these indices, in that order, without copying or decoding them."""
        pixels = self._pixels if self.in_memory else None
        return FolderImages(self.files, self.places[index], self.labels[index], pixels)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the state of the files, their decoder and the labels."""
        return self._digest(decoded=True)

    def identity(self) -> str:
        """Return the SHA-256 of the state of the files and the labels."""
        return self._digest(decoded=False)

    def _digest(self, decoded: bool) -> str:
        files = self.files.sha256(self.places, decoded)
        return hashlib.sha256(files.encode() + self.labels.numpy().tobytes()).hexdigest()

    def content(self) -> str:
        """Return a SHA-256 of files and labels that doesn't depend on where the files lie."""
        files = self.files.content(self.places)
        return hashlib.sha256(files.encode() + self.labels.numpy().tobytes()).hexdigest()

    def path(self, index: int) -> Path:
        """Return the file of the image with this index."""
        return Path(self.files.paths[int(self.places[index])])

    def decoded(self) -> "FolderImages":
        """Return the same images, all of them decoded into memory.

        Raises:
            UserError: If a file is broken.
        """
        files = self.files.subset(self.places)
        pixels = in_memory(files, progress=False)
        return FolderImages(files, torch.arange(len(files)), self.labels, pixels)


class ImageFolder(ImageDataModule):
    r"""Images of any size and mode in one subfolder per class.

    ``root`` contains either ``train/`` and optionally ``val/`` and ``test/``, each with the class
    folders, or the class folders themselves, which are then split. The classes are those of
    ``train``; other splits are matched to them by name. Files and folders whose name begins with a
    dot, folders of the system, run directories and the cache are ignored. Bytes of a name that
    aren't UTF-8, line breaks and the like become escapes in the name of the class, such as
    ``\xe9``. Transparent pixels become white, 16-bit greys keep their upper 8 bits, and the
    EXIF orientation is applied.

    Args:
        root: The folder.
        test_fraction: Fraction of each class that becomes the test set if ``root`` contains the
            class folders themselves. 0 makes no test set.
        classes: Names of the classes; None takes the names of the folders. ``predict`` takes those
            of the checkpoint, so that it doesn't need the training images.
        resize: ``crop`` scales the shorter side and crops the centre; ``squash`` ignores the aspect
            ratio.
        grayscale: One channel instead of three, unless a pretrained backbone expects three.
        cache: ``disk`` decodes the images once, into a file in ``cache_dir`` that later runs and
            all processes share; memory use doesn't grow with its size. ``memory`` decodes them into
            memory at each start, ``off`` anew for every batch. ``auto`` is ``disk`` with up to
            ``memory_gb`` of the file kept in memory; if the file can't be written, it is ``memory``
            up to that size and ``off`` beyond it. ``true`` means ``auto``, ``false`` means ``off``.
        memory_gb: Gigabytes of decoded images that ``auto`` may keep in memory.
        predict_dir: A folder of images to predict, with or without subfolders; None predicts the
            test images.
        url: Archive (zip or tar) to download if ``root`` doesn't exist yet.
        sha256: SHA-256 of that archive, in hexadecimal.
        unpacked_gb: Largest total size in gigabytes that the archive may unpack to.
        unpacked_files: Largest number of files that the archive may unpack to.
        kwargs: Options of every data module.
    """

    lazy_options: ClassVar[Mapping[str, Any]] = {"cache": "off"}

    def __init__(
        self,
        root: str = "data/images",
        test_fraction: float = 0.2,
        classes: tuple[str, ...] | None = None,
        resize: Literal["crop", "squash"] = "crop",
        grayscale: bool = False,
        cache: Literal["auto", "memory", "disk", "off"] | bool = "auto",
        memory_gb: float = 4.0,
        predict_dir: str | None = None,
        url: str | None = None,
        sha256: str | None = None,
        unpacked_gb: float = 100.0,
        unpacked_files: int = 5_000_000,
        **kwargs: Any,
    ) -> None:
        super().__init__(root=root, **kwargs)
        if not 0 <= test_fraction < 1:
            raise UserError(f"data.test_fraction: {test_fraction} must be in [0, 1)")
        check_limits(memory_gb=memory_gb, unpacked_gb=unpacked_gb, unpacked_files=unpacked_files)
        if (url is None) != (sha256 is None):
            raise UserError("data.url and data.sha256 must be given together")
        self.test_fraction = test_fraction
        self.resize = resize
        if isinstance(cache, bool):  # how YAML reads a plain off
            cache = "auto" if cache else "off"
        self.cache = cache
        self.memory_gb = memory_gb
        self.predict_dir = predict_dir
        self.url = url
        self.sha256 = sha256
        self.allowance = Allowance(int(unpacked_gb * 1e9), unpacked_files)
        self.source_shape = (1 if grayscale else 3, DEFAULT_SIZE, DEFAULT_SIZE)
        if classes and len(set(classes)) < len(classes):
            raise UserError(f"{', '.join(classes)} has a class twice", "data.classes")
        self._class_names = classes

    def prepare_data(self) -> None:
        """Download and unpack the archive if ``url`` is given and ``root`` is missing.

        Raises:
            UserError: If the download fails.
        """
        root = Path(self.root)
        if self.url is None or self.sha256 is None or self._class_folders(root):
            return
        check_download(self.url, "data.url")
        with lock(root.parent):
            if not self._class_folders(root):
                fetch_archive(self.url, self.sha256, root, self.allowance)

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]  # known once it is read
        """The class folders of the training split, sorted by name."""
        if self._class_names is None:
            self.prepare_data()
            folder = self._split("train") or Path(self.root)
            names = list(self._class_folders(folder))
            if not folder.is_dir():
                raise UserError(f"data.root: {readable(folder)} is not a folder")
            if len(names) < 2:
                found = f"only {names[0]}" if names else "none"
                raise UserError(
                    f"data.root: {readable(folder)} needs a subfolder for each of two or "
                    f"more classes, and has {found}"
                )
            self._class_names = tuple(names)
        return self._class_names

    def _class_folders(self, folder: Path) -> dict[str, Path]:
        """Return the folders of the classes by the names of the classes, sorted.

        Raises:
            UserError: If two names are the same once they are readable.
        """
        folders: dict[str, Path] = {}
        for path in class_folders(folder, self.cache_dir.folder):
            name = readable(path.name)
            if name in folders:
                raise UserError(
                    f"two folders of {readable(folder)} read as {name}; rename one", "data.root"
                )
            folders[name] = path
        return folders

    def _split(self, name: str) -> Path | None:
        folder = Path(self.root, name)
        return folder if folder.is_dir() and Path(self.root, "train").is_dir() else None

    def load(self) -> tuple[FolderImages, FolderImages | None, FolderImages | None]:
        """Return training, validation and test images; none of them is decoded yet."""
        train_folder, val_folder, test_folder = map(self._split, ("train", "val", "test"))
        folders = [train_folder or Path(self.root), val_folder, test_folder]
        found = [self._find(f, every_class=f is folders[0]) if f else ([], None) for f in folders]
        files = self._files([path for paths, _ in found for path in paths])
        places = torch.split(torch.arange(len(files)), [len(paths) for paths, _ in found])
        train, val, test = (
            None if labels is None else FolderImages(files, place, labels)
            for place, (_, labels) in zip(places, found)
        )
        assert train is not None
        if train_folder is None and self.test_fraction:
            kept, held_out = stratified_split(train.labels, self.test_fraction, seed=0)
            test = train.subset(held_out) if len(held_out) else None
            train = train.subset(kept)
        return train, val, test

    def setup(self, stage: str) -> None:
        """Find and decode the images once; with ``predict_dir``, only find the images there."""
        if stage == "predict" and self.predict_dir is not None:
            self.check_ranks_after(self._find_unlabelled)
        elif self.train_images is None:
            super().setup(stage)
            with one_error():
                self._decode()

    def _find_unlabelled(self) -> None:
        assert self.predict_dir is not None
        folder = Path(self.predict_dir)
        if not folder.exists():
            raise UserError(f"there is no folder {readable(folder)}", "data.predict_dir")
        paths = Search(folder).images_below(folder) if folder.is_dir() else []
        if not paths:
            raise UserError(f"data.predict_dir: {readable(folder)} holds no images")
        unknown = torch.full((len(paths),), -1)
        self.test_images = FolderImages(self._files(paths), torch.arange(len(paths)), unknown)

    def _find(self, folder: Path, every_class: bool = False) -> tuple[list[str], Tensor]:
        classes = {name: label for label, name in enumerate(self.class_names)}
        folders = self._class_folders(folder)
        unknown = sorted(set(folders) - set(classes))
        if unknown:
            raise UserError(
                f"{readable(folder)} has classes that the training images lack: "
                f"{', '.join(unknown)}; known are {', '.join(classes)}"
            )
        search = Search(folder)
        paths: list[str] = []
        labels: list[int] = []
        for name, label in classes.items():
            class_folder = folders.get(name, folder / name)
            found = search.images_below(class_folder)
            if every_class and not found:
                raise UserError(f"{readable(class_folder)} holds no images; remove it or fill it")
            paths += found
            labels += [label] * len(found)
        if not paths:
            raise UserError(f"{readable(folder)} holds no images")
        return paths, torch.tensor(labels)

    def _files(self, paths: list[str]) -> ImageFiles:
        channels, height, width = self.image_shape
        return ImageFiles(
            paths, Decoder("L" if channels == 1 else "RGB", (width, height), self.resize)
        )

    def _decode(self) -> None:
        """Decode the images that any of the splits uses, once for all splits."""
        splits = (self.train_images, self.val_images, self.test_images)
        found = [split for split in splits if isinstance(split, FolderImages)]
        files = found[0].files
        used = torch.unique(torch.cat([split.places for split in found]))
        part = len(used) < len(files) and not self._is_cached(files)  # with limit_per_class
        if part:
            files = files.subset(used)
        pixels = self._pixels(files)

        def decoded(split: Images | None) -> FolderImages | None:
            if not isinstance(split, FolderImages):
                return None
            places = torch.searchsorted(used, split.places) if part else split.places
            return FolderImages(files, places, split.labels, pixels)

        self.train_images, self.val_images, self.test_images = map(decoded, splits)

    def _is_cached(self, files: ImageFiles) -> bool:
        with suppress(OSError):  # reported later, when the cache is needed
            return self.cache in ("auto", "disk") and self.cache_dir.holds(files.key)
        return False

    def _pixels(self, files: ImageFiles) -> Pixels | None:
        fits = files.num_bytes <= self.memory_gb * 1e9
        first = self.trainer is None or self.trainer.global_rank == 0
        use = self.cache
        if use in ("auto", "disk"):
            try:
                return on_disk(files, self.cache_dir, resident=use == "auto" and fits)
            except OSError as error:
                place = readable(self.cache_dir.folder)
                reason = f"data.cache_dir: {place}: {error.strerror or error}"
            if use == "disk":
                raise UserError(f"{reason}; choose another, or data.cache auto, memory or off")
            use = "memory" if fits else "off"
            if first:
                where = "into memory at each start" if fits else "for every batch"
                show(f"{reason}; images are decoded {where}")
        if use == "memory":
            return in_memory(files, progress=first and sys.stderr.isatty())
        return None
