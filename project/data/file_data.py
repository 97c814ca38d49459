"""Data modules whose images are files: which split holds which, and how they are decoded."""

import sys
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from project.console import class_name, readable, show, some
from project.data.bad_images import SKIPPED, excluded, refusal, write_bad
from project.data.base import ImageDataModule
from project.data.decoded import aspects, broken_files, known_broken, on_disk
from project.data.download import Allowance, fetch_archive, lock
from project.data.files import Broken, FileImages, ImageFiles, Pixels, in_memory
from project.data.limits import check_limits
from project.data.ranks import check_equal, is_first, one_error
from project.data.splits import stratified_split
from project.decoding.decode import Decoder, Resize
from project.decoding.listing import images_at, tell
from project.errors import UserError
from project.trust import check_download

DEFAULT_SIZE = 224


class Labelled(NamedTuple):
    """Image files of one split.

    Attributes:
        paths: Their paths.
        labels: int64 ``[N]``.
    """

    paths: list[str]
    labels: Tensor


class Found(NamedTuple):
    """What a source holds.

    Attributes:
        train: Training images.
        val: Validation images, if the source has a split of its own for them.
        test: Test images, likewise.
        is_split: Whether the source has splits; otherwise ``train`` is all that there is.
    """

    train: Labelled
    val: Labelled | None = None
    test: Labelled | None = None
    is_split: bool = True


class _Decoded(NamedTuple):
    """Decoded images of some splits.

    Attributes:
        files: Their files.
        places: Positions of these among the files of all splits, int64, sorted.
        used: Positions of those that the splits use, likewise.
        pixels: As for :class:`FileImages`.
    """

    files: ImageFiles
    places: Tensor
    used: Tensor
    pixels: Pixels | None

    @property
    def num_bytes(self) -> int:
        """How much memory they take, if they are in memory."""
        return self.files.num_bytes if self.pixels is not None else 0

    def of(self, split: FileImages) -> FileImages:
        """Return the images of one of the splits."""
        where = torch.searchsorted(self.places, split.places)
        return FileImages(self.files, where, split.labels, self.pixels)


class FileDataModule(ImageDataModule):
    """Base of the data modules whose images are files of any size and mode.

    A subclass implements :meth:`find_class_names` and :meth:`find`, and :meth:`is_there` if it can
    be downloaded. Transparent pixels become white, 16-bit greys keep their upper 8 bits, and the
    EXIF orientation is applied.

    Args:
        test_fraction: Fraction of each class that becomes the test set if the source has no splits
            of its own. 0 makes no test set.
        classes: Names of the classes; None takes those of the source. ``predict`` takes those of
            the checkpoint, so that it doesn't need the training images.
        resize: ``crop`` scales the shorter side and crops the centre; ``squash`` ignores the aspect
            ratio; ``pad`` scales the longer side and fills the rest with white.
        decode_size: Height and width in pixels at which training images are kept, from all of the
            picture, so that ``RandomResizedCrop`` as the first of ``augment`` can take any part of
            it. None keeps them as the model gets them, so that it takes a part of that. Without
            ``augment``, it has no effect.
        grayscale: One channel instead of three, unless a pretrained backbone expects three.
        cache: ``disk`` decodes the images once, into a file in ``cache_dir`` that later runs and
            all processes share; memory use doesn't grow with its size. ``memory`` decodes them into
            memory at each start, ``off`` anew for every batch. ``auto`` is ``disk`` with up to
            ``memory_gb`` of the file kept in memory; if the file can't be written, it is ``memory``
            up to that size and ``off`` beyond it. ``true`` means ``auto``, ``false`` means ``off``.
        memory_gb: Gigabytes of decoded images that ``auto`` may keep in memory.
        predict_dir: Images to predict: a folder, with or without subfolders; a file; or a pattern
            such as ``photos/*.jpg``, in quotes, where ``**`` is any number of folders. None
            predicts the test images.
        url: Archive (zip or tar) to download if ``root`` doesn't exist yet.
        sha256: SHA-256 of that archive, in hexadecimal.
        unpacked_gb: Largest total size in gigabytes that the archive may unpack to.
        unpacked_files: Largest number of files that the archive may unpack to.
        on_bad_image: What to do with images that can't be read: ``error`` names all of them, or,
            where ``cache`` is ``off``, the first that is needed. ``skip`` leaves them out, and
            writes ``skipped_images.csv`` into the run directory. No other image takes their place:
            they are left out after the data is split. What ``skip`` has to know is found by
            reading all images once, and kept in ``cache_dir``.
        max_bad_fraction: Largest fraction of the images that may be skipped.
        exclude: A list of images to leave out, likewise after the data is split: a text file with a
            path on each line, or a CSV file with a column ``image``, ``file`` or ``path``. Paths
            are absolute, or relative to ``root`` or to the working directory.
        kwargs: Options of every data module.
    """

    lazy_options: ClassVar[Mapping[str, Any]] = {"cache": "off", "decode_size": None}

    def __init__(
        self,
        test_fraction: float = 0.2,
        classes: tuple[str, ...] | None = None,
        resize: Resize = "crop",
        decode_size: int | None = None,
        grayscale: bool = False,
        cache: Literal["auto", "memory", "disk", "off"] | bool = "auto",
        memory_gb: float = 4.0,
        predict_dir: str | None = None,
        url: str | None = None,
        sha256: str | None = None,
        unpacked_gb: float = 100.0,
        unpacked_files: int = 5_000_000,
        on_bad_image: Literal["error", "skip"] = "error",
        max_bad_fraction: float = 0.05,
        exclude: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= test_fraction < 1:
            raise UserError(f"data.test_fraction: {test_fraction} must be in [0, 1)")
        check_limits(memory_gb=memory_gb, unpacked_gb=unpacked_gb, unpacked_files=unpacked_files)
        check_limits(max_bad_fraction=max_bad_fraction)
        if (url is None) != (sha256 is None):
            raise UserError("data.url and data.sha256 must be given together")
        self.test_fraction = test_fraction
        check_limits(decode_size=decode_size)
        if decode_size is not None and self.augment is not None and not self.augment.crops_first:
            right = "the first of data.augment must be RandomResizedCrop, which takes a part of it"
            raise UserError(right, "data.decode_size")
        self.resize: Resize = resize
        self.decode_size = decode_size
        if isinstance(cache, bool):  # how YAML reads a plain off
            cache = "auto" if cache else "off"
        self.cache = cache
        self.memory_gb = memory_gb
        self.predict_dir = predict_dir
        self.url = url
        self.sha256 = sha256
        self.allowance = Allowance(int(unpacked_gb * 1e9), unpacked_files)
        self.on_bad_image = on_bad_image
        self.max_bad_fraction = max_bad_fraction
        self.exclude = exclude
        self.skipped: list[tuple[str, str]] = []  # path of each, and why
        self.source_shape = (1 if grayscale else 3, DEFAULT_SIZE, DEFAULT_SIZE)
        classes = classes and tuple(map(class_name, classes))
        if classes is not None and len(classes) < 2:
            raise UserError(f"{some(classes) or 'none'} must be two or more", "data.classes")
        if classes and len(set(classes)) < len(classes):
            raise UserError(f"{', '.join(classes)} has a class twice", "data.classes")
        self._class_names = classes

    @abstractmethod
    def find_class_names(self) -> tuple[str, ...]:
        """Return the names of the classes of the training images, sorted.

        Raises:
            UserError: If there aren't two or more.
        """

    @abstractmethod
    def find(self) -> Found:
        """Return the files of each split; labels are positions in :attr:`class_names`.

        Raises:
            UserError: If there are none, or their labels don't fit.
        """

    @abstractmethod
    def is_there(self) -> bool:
        """Whether ``root`` holds images, so that nothing has to be downloaded."""

    def prepare_data(self) -> None:
        """Download and unpack the archive if ``url`` is given and ``root`` is missing.

        Raises:
            UserError: If the download fails.
        """
        root = Path(self.root)
        if self.url is None or self.sha256 is None or self.is_there():
            return
        check_download(self.url, "data.url")
        with lock(root.parent):
            if not self.is_there():
                fetch_archive(self.url, self.sha256, root, self.allowance)

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]  # known once it is read
        """Names of the classes, sorted, or those of the option ``classes``."""
        if self._class_names is None:
            self.prepare_data()
            self._class_names = self.find_class_names()
        return self._class_names

    def load(self) -> tuple[FileImages, FileImages | None, FileImages | None]:
        """Return training, validation and test images; none of them is decoded yet."""
        found = self.find()
        splits = (found.train, found.val, found.test)
        files = self._files([path for split in splits if split for path in split.paths])
        counts = [len(split.paths) if split else 0 for split in splits]
        places = torch.split(torch.arange(len(files)), counts)
        train, val, test = (
            FileImages(files, place, split.labels) if split else None
            for place, split in zip(places, splits)
        )
        assert train is not None
        if not found.is_split and self.test_fraction:
            kept, held_out = stratified_split(train.labels, self.test_fraction, seed=0)
            test = train.subset(held_out) if len(held_out) else None
            train = train.subset(kept)
        return train, val, test

    def setup(self, stage: str) -> None:
        """Find and decode the images once; with ``predict_dir``, only find the images there."""
        if stage == "predict" and self.predict_dir is not None:
            self.check_ranks_after(self._find_unlabelled)
            if self.on_bad_image == "skip":
                with one_error():
                    assert isinstance(self.test_images, FileImages)
                    files = self.test_images.files
                    self._handle(self._unread(files), files, torch.arange(len(files)))
                self._agree()
        elif self.train_images is None:
            super().setup(stage)
            with one_error():
                self._decode()
            self._agree()

    def _find_unlabelled(self) -> None:
        assert self.predict_dir is not None
        paths, notes = images_at(self.predict_dir, "data.predict_dir")
        self.tell(notes)
        unknown = torch.full((len(paths),), -1)
        self.test_images = FileImages(self._files(paths), torch.arange(len(paths)), unknown)

    def tell(self, notes: Iterable[str]) -> None:
        """Show lines about the files, each once, and on the first rank alone."""
        if is_first():
            for note in notes:
                tell(note)

    def _files(self, paths: list[str]) -> ImageFiles:
        return ImageFiles(paths, self.decoder())

    def decoder(self) -> Decoder:
        """Return what reads a picture of any size as the model takes it, before normalisation."""
        return self._decoder_of(self.resize)

    def _larger_decoder(self) -> Decoder:
        """Return what reads training images larger, for crops of all of the picture."""
        decoder = self.decoder()
        assert self.decode_size is not None
        width, height = decoder.size
        scale = self.decode_size / max(height, width)
        if scale < 1:
            right = f"{self.decode_size} must be at least the image size, {max(height, width)}"
            raise UserError(right, "data.decode_size")
        size = round(width * scale), round(height * scale)
        return Decoder(decoder.mode, size, "squash" if self.resize == "crop" else self.resize)

    def _load_and_split(self) -> None:
        super()._load_and_split()
        if self.exclude is not None:
            assert isinstance(self.train_images, FileImages)
            paths, file = self.train_images.files.paths, Path(self.exclude)
            places, lost = excluded(file, paths, Path(self.root))
            if is_first():
                also = f"; {lost:,} of its lines name none" if lost else ""
                show(f"data.exclude: {len(places):,} images are left out{also}")
            self._leave_out(places, f"are in {readable(file)}", "data.exclude")

    def _decode(self) -> None:
        """Decode the images that any of the splits uses, once for all splits.

        With ``decode_size``, training images are decoded apart from the others, and larger.
        """
        names: Sequence[str] = ("train_images", "val_images", "test_images")
        larger = self.decode_size is not None and self.augment is not None
        ready: list[tuple[Sequence[str], _Decoded]] = []
        broken: Broken = {}
        for group in (names[:1], names[1:]) if larger else (names,):
            given = [getattr(self, name) for name in group]
            splits = [split for split in given if isinstance(split, FileImages)]
            if splits:
                room = self.memory_gb * 1e9 - sum(found.num_bytes for _, found in ready)
                of_train = larger and "train_images" in group
                decoder = self._larger_decoder() if of_train else self.decoder()
                found, faults = self._decoded(splits, decoder, room)
                ready.append((group, found))
                broken |= faults
        assert isinstance(self.train_images, FileImages)
        used = torch.unique(torch.cat([found.used for _, found in ready]))
        self._handle(broken, self.train_images.files, used)
        for group, found in ready:
            for name in group:
                if isinstance(split := getattr(self, name), FileImages):
                    setattr(self, name, found.of(split))
        if larger and self.resize == "crop" and not self.only_counts:
            files, places = self.train_images.files, self.train_images.places
            self.train_aspects = aspects(files, self.cache_dir)[places]

    def _decoded(
        self, splits: list[FileImages], decoder: Decoder, room: float
    ) -> tuple["_Decoded", Broken]:
        """Decode the images of some splits.

        Args:
            splits: The splits, of the files of all of them.
            decoder: Reads them.
            room: Bytes that they may take in memory.

        Returns:
            The images, and the broken files by their position among all files.
        """
        files = splits[0].files
        if decoder != files.decoder:
            files = ImageFiles(files.paths, decoder)
        used = torch.unique(torch.cat([split.places for split in splits]))
        if len(used) == len(files) or self._is_cached(files):
            pixels, broken = self._pixels(files, room)
            return _Decoded(files, torch.arange(len(files)), used, pixels), broken
        files = files.subset(used)  # with limit_per_class
        pixels, broken = self._pixels(files, room)
        broken = {int(used[place]): fault for place, fault in broken.items()}
        return _Decoded(files, used, used, pixels), broken

    def _handle(self, broken: Broken, files: ImageFiles, used: Tensor) -> None:
        """Skip the broken files among those that are used, or refuse them.

        Raises:
            UserError: If they are refused, too many, or all training images of a class.
        """
        needed = set(used.tolist())
        faults = {place: fault for place, fault in broken.items() if place in needed}
        if not faults:
            return
        bad = [(files.paths[place], fault.reason) for place, fault in faults.items()]
        refused = partial(refusal, bad, len(used), self.cache_dir.folder)
        if self.on_bad_image == "error":
            raise refused()
        if len(bad) > self.max_bad_fraction * len(used):
            raise refused(f"more than data.max_bad_fraction: {self.max_bad_fraction} allows")
        if any(fault.since is None for fault in faults.values()):
            raise refused("the machine may be at fault, so they aren't skipped; start again")
        self.skipped = bad
        if is_first():
            more = f"; {SKIPPED} in the run directory names them" if self.trainer else ""
            show(f"{len(bad):,} of {len(used):,} images can't be read and are left out{more}")
        self._leave_out(faults, "can't be read", "data.on_bad_image")

    def _leave_out(self, places: Iterable[int], why: str, key: str) -> None:
        """Take images out of their splits.

        Raises:
            UserError: If a class has no training images any more.
        """
        gone = torch.tensor(sorted(places))
        before = self.train_images
        for name in ("train_images", "val_images", "test_images"):
            if isinstance(images := getattr(self, name), FileImages):
                kept = images.subset((~torch.isin(images.places, gone)).nonzero().flatten())
                setattr(self, name, kept if len(kept) else None)
        if before is not None:
            left = self.train_images.labels if self.train_images else before.labels[:0]
            lost = sorted({*before.labels.tolist()} - {*left.tolist()})
            if lost:
                names = some(self.class_names[label] for label in lost)
                raise UserError(f"all training images of {names} {why}", key)

    def _agree(self) -> None:
        """See that all ranks skip the same images."""
        check_equal({"skipped images": [Path(path).name for path, _ in self.skipped]})

    def write_notes(self, folder: Path) -> None:
        """Write the images that are skipped into the run directory.

        Raises:
            UserError: If that fails.
        """
        if self.skipped:
            write_bad(folder / SKIPPED, self.skipped)

    def _unread(self, files: ImageFiles) -> Broken:
        """Return the broken files among some that setup doesn't decode."""
        if self.on_bad_image == "error":
            return {}
        if not self.only_counts:
            return broken_files(files, self.cache_dir, is_first() and sys.stderr.isatty())
        known = None
        with suppress(OSError):
            known = known_broken(files, self.cache_dir)
        if known is None:
            show("data.on_bad_image: which images can't be read isn't known yet; all are counted")
        return known or {}

    def _is_cached(self, files: ImageFiles) -> bool:
        with suppress(OSError):  # reported later, when the cache is needed
            return self.cache in ("auto", "disk") and self.cache_dir.holds(files.key)
        return False

    def _pixels(self, files: ImageFiles, room: float) -> tuple[Pixels | None, Broken]:
        fits = files.num_bytes <= room
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
            if is_first():
                where = "into memory at each start" if fits else "for every batch"
                show(f"{reason}; images are decoded {where}")
        if use == "memory":
            return in_memory(files, progress=is_first() and sys.stderr.isatty())
        return None, self._unread(files)
