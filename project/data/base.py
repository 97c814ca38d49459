"""The common data module: splits, loaders, and transforms of whole batches on the device."""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from project.data.augment import Augment, Operation, augmentation
from project.data.augment.interpolation import middle, sampled
from project.data.batches import Batch, BatchLoader, Images, Source
from project.data.cache import CacheDir
from project.data.limits import check, check_limits
from project.data.ranks import check_equal, num_ranks, one_error
from project.data.sampling import SAMPLINGS, BatchSampler, ClassOrder, Sampling, class_shares
from project.data.splits import first_per_class, spread, stratified_split
from project.decoding.decode import Decoder, Resize
from project.errors import UserError
from project.networks import InputSpec
from project.randomness import mix, run_seed

ROOT = "data"  # where data sets are, below the working directory
MEAN_AND_STD = 0.5  # which map pixel values [0, 1] to [-1, 1]

MOST_SHIFT = 1e6  # of the mean and std of the normalisation, and 1 / it of a std


class ImageDataModule(L.LightningDataModule, ABC):
    """Base of all data modules: a source of images, split into train, validation and test.

    A subclass sets :attr:`class_names` and :attr:`source_shape`, without reading the data if
    possible, and implements :meth:`load`. Images stay uint8 until they are on the device, where the
    whole batch is resized, augmented and normalised at once.

    A subclass that decodes all files in ``setup`` sets :attr:`lazy_options` to the options with
    which it decodes each image only when it is asked for. That is enough to count the images, or to
    look at a few of them.

    Attributes:
        class_names: Names of the classes; the label of a class is its position.
        source_shape: Shape ``(C, H, W)`` of an image as :meth:`load` returns it.
        train_aspects: Width over height of each training picture, float32 ``[N]``, where pictures
            of any shape are squashed into images of one; otherwise None.

    Args:
        root: Folder with the data.
        batch_size: Images per step on each device.
        eval_batch_size: Images per step in validation, test and prediction. With None, a batch has
            as many pixels as 1,000 images of 32×32, and at least ``batch_size`` images.
        num_workers: Processes that load images. None uses no extra process for images in memory,
            and otherwise one for each core, up to 8.
        val_fraction: Fraction of the training images of each class that is set aside for
            validation. 0 trains on all of them; then the last epoch counts as the best.
        limit_per_class: Largest number of training images of each class, for experiments with
            little data. Validation and test images stay complete. Subsets are nested: a smaller
            one is contained in a larger one.
        train_fraction: Fraction of the training images of each class to keep, at least one image.
            These subsets are nested, too.
        steps_per_epoch: Batches per epoch; the images are repeated as often as necessary. With
            None, an epoch has as many images as there are.
        sampling: How often an epoch visits the images of each class. ``natural`` visits all images
            equally often. For classes of unequal size, ``balanced`` visits each class equally
            often, and ``sqrt`` in proportion to the square root of its size (Mahajan et al., 2018);
            the images of a small class are repeated, and those of a large class take turns.
        augment: Random changes of training images: a list of operations, which are applied one
            after the other, or the options of ``Augment``, the usual small changes. None makes
            none.
        image_size: Height and width in pixels that images are resized to. None takes the size that
            the pretrained backbone expects, or without one that of the source.
        mean: Mean of the pixel values in [0, 1], one for all channels or one for each. None takes
            what the pretrained backbone expects, or without one 0.5.
        std: Standard deviation of the pixel values; None as for ``mean``.
        split_seed: Seed of the split, of ``limit_per_class`` and of ``train_fraction``. It isn't
            the seed of the run, so that runs with several seeds use the same split.
        cache_dir: Folder for results that later runs use again: decoded images of an
            ``ImageFolder``, and features of frozen layers. It may be deleted while no run uses it.
        cache_gb: Largest size of that folder in gigabytes; the least recently used files are
            removed first.
        device_gb: Largest size in gigabytes of a split, or of its cached features, that is kept in
            the memory of a GPU if it is in memory anyway; it takes at most a quarter of what is
            free there. Larger ones are copied batch by batch.
        input_spec: The images that the pretrained backbone expects; given by the model.

    Raises:
        UserError: If a value is out of range.
    """

    class_names: tuple[str, ...] = ()
    source_shape: tuple[int, int, int] = (0, 0, 0)
    lazy_options: ClassVar[Mapping[str, Any]] = {}
    memory_gb = 0.0  # gigabytes of decoded images that setup may keep in memory
    only_counts = False  # whether the images are counted, and nothing more; set before setup

    def __init__(
        self,
        root: str = ROOT,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        num_workers: int | None = None,
        val_fraction: float = 0.1,
        limit_per_class: int | None = None,
        train_fraction: float = 1.0,
        steps_per_epoch: int | None = None,
        sampling: Sampling = "natural",
        augment: Augment | list[Operation] | None = None,
        image_size: int | None = None,
        mean: float | tuple[float, ...] | None = None,
        std: float | tuple[float, ...] | None = None,
        split_seed: int = 0,
        cache_dir: str = "cache",
        cache_gb: float = 20.0,
        device_gb: float = 8.0,
        input_spec: InputSpec | None = None,
    ) -> None:
        super().__init__()
        check("val_fraction", val_fraction, 0 <= val_fraction < 1, "in [0, 1)")
        check("train_fraction", train_fraction, 0 < train_fraction <= 1, "in (0, 1]")
        check("sampling", sampling, sampling in SAMPLINGS, f"one of {', '.join(SAMPLINGS)}")
        check_limits(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            limit_per_class=limit_per_class,
            steps_per_epoch=steps_per_epoch,
            image_size=image_size,
            cache_gb=cache_gb,
            device_gb=device_gb,
        )
        self.root = root
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.val_fraction = val_fraction
        self.limit_per_class = limit_per_class
        self.train_fraction = train_fraction
        self.steps_per_epoch = steps_per_epoch
        self.sampling: Sampling = sampling
        self.augment = augmentation(augment)
        self.image_size = image_size
        self.mean = mean
        self.std = std
        self.split_seed = split_seed
        self.cache_dir = CacheDir(Path(cache_dir), cache_gb)
        self.device_gb = device_gb
        self.input_spec = input_spec
        self.train_aspects: Tensor | None = None
        self.train_images: Images | None = None
        self.val_images: Images | None = None
        self.test_images: Images | None = None
        self._sources: dict[str, Source] = {}
        self._constants: tuple[Tensor, Tensor] | None = None  # of the normalisation, per pixel

    @abstractmethod
    def load(self) -> tuple[Images, Images | None, Images | None]:
        """Return training images, the source's own validation images, and test images.

        Validation and test images may be None; without validation images of the source, ``setup``
        sets aside ``val_fraction`` of the training images.

        Raises:
            UserError: If the data is missing or broken.
        """

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        if not self.class_names:
            raise UserError(f"data: {type(self).__name__} must set class_names")
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of an image that the model receives."""
        if min(self.source_shape) == 0:
            raise UserError(f"data: {type(self).__name__} must set source_shape, as (C, H, W)")
        channels, height, width = self.source_shape
        if self.input_spec is not None:
            channels, (height, width) = self.input_spec.channels, self.input_spec.size
        if self.image_size is not None:
            height = width = self.image_size
        return channels, height, width

    def decoder(self) -> Decoder:
        """Return what reads a picture of any size as the model takes it, before normalisation.

        Raises:
            UserError: If images are neither grey nor RGB.
        """
        return self._decoder_of("squash")

    def _decoder_of(self, resize: Resize) -> Decoder:
        channels, height, width = self.image_shape
        if channels not in (1, 3):
            raise UserError(f"data: no picture has {channels} channels; only 1 or 3 can be read")
        return Decoder("L" if channels == 1 else "RGB", (width, height), resize)

    @property
    def normalization(self) -> dict[str, list[float]]:
        """``mean`` and ``std`` of each channel, for pixel values in [0, 1]."""
        spec = self.input_spec
        return {
            "mean": self._per_channel("mean", self.mean, spec.mean if spec else None),
            "std": self._per_channel("std", self.std, spec.std if spec else None),
        }

    def _per_channel(
        self, name: str, given: float | tuple[float, ...] | None, expected: tuple[float, ...] | None
    ) -> list[float]:
        value = given if given is not None else expected or MEAN_AND_STD
        channels = self.image_shape[0]
        given_values = [value] if isinstance(value, int | float) else value
        if not all(math.isfinite(one) and abs(one) <= MOST_SHIFT for one in given_values):
            raise UserError(
                f"{value} must be finite, and at most {MOST_SHIFT:,.0f}", f"data.{name}"
            )
        values = [float(value)] * channels if isinstance(value, int | float) else list(value)
        if len(values) != channels:
            raise UserError(f"data.{name}: {len(values)} values for {channels} channels")
        if name == "std" and min(values) < 1 / MOST_SHIFT:
            raise UserError(f"data.std: {values} must be greater than 0, at least {1 / MOST_SHIFT}")
        return values

    def setup(self, stage: str) -> None:
        """Load the images once, set aside validation images, and take the subset to train on.

        Raises:
            UserError: If the data is missing or broken, or not the same on all ranks.
        """
        if self.train_images is None:
            self.check_ranks_after(self._load_and_split)

    def _load_and_split(self) -> None:
        train, val, test = self._loaded()
        if val is None and self.val_fraction:
            kept, held_out = stratified_split(train.labels, self.val_fraction, self.split_seed)
            val = train.subset(held_out) if len(held_out) else None
            train = train.subset(kept)
        if self.limit_per_class is not None or self.train_fraction < 1:
            most, fraction = self.limit_per_class or len(train), self.train_fraction
            train = train.subset(first_per_class(train.labels, most, fraction, self.split_seed))
        if len(train) == 0:
            raise UserError("data: no training images are left; lower val_fraction")
        self.train_images, self.val_images, self.test_images = train, val, test

    def check_ranks_after(self, find: Callable[[], None]) -> None:
        """Find images, and see that all ranks of a distributed run have found the same ones.

        Args:
            find: Sets the splits.

        Raises:
            UserError: On all ranks, if one of them fails, or has other images.
        """
        with one_error():
            find()
            facts = self._facts() if num_ranks() > 1 else {}
        check_equal(facts)

    def _facts(self) -> dict[str, Any]:
        """What all ranks must have in common, so that they train together, by its name."""
        splits = {"training": self.train_images, "validation": self.val_images}
        splits["test"] = self.test_images
        return {
            "classes": self.class_names,
            **{f"number of {name} images": len(images or ()) for name, images in splits.items()},
            **{f"{name} images": images and images.content() for name, images in splits.items()},
            "data.batch_size": self.batch_size,
            "data.eval_batch_size": self.fitting_eval_batch_size,
            "data.steps_per_epoch": self.steps_per_epoch,
            "data.sampling": self.sampling,
            "image size": self.image_shape,
            "normalisation": self.normalization,
            "data.augment": repr(self.augment),
            "seed": run_seed(),
        }

    def _loaded(self) -> tuple[Images, Images | None, Images | None]:
        """Return what :meth:`load` does, after a look at it.

        Raises:
            UserError: If that isn't what the rest expects.
        """
        name, loaded = type(self).__name__, self.load()
        if not isinstance(loaded, tuple) or len(loaded) != 3 or loaded[0] is None:
            raise UserError(
                f"data: load() of {name} must return three splits: training images, validation "
                "images or None, and test images or None"
            )
        for images in filter(None, loaded):
            lowest, highest = (int(label) for label in images.labels.aminmax())
            if lowest < 0 or highest >= self.num_classes:
                raise UserError(
                    f"data: {name} has labels from {lowest} to {highest}, and names for "
                    f"{self.num_classes} classes; a label is a position in class_names"
                )
            if images.in_memory:
                channels = images[torch.zeros(1, dtype=torch.int64)].images.shape[1]
                if channels not in (1, 3, self.source_shape[0]):
                    raise UserError(
                        f"data: {name} has images of {channels} channels, and source_shape says "
                        f"{self.source_shape[0]}; they must be [N, C, H, W]"
                    )
        return loaded

    def setup_lazily(self) -> None:
        """Fetch and find all images, but decode each only when it is asked for."""
        for option, value in self.lazy_options.items():
            setattr(self, option, value)
        self.prepare_data()
        self.setup("fit")

    def path(self, index: int) -> Path | None:
        """Return the file of the test image with this index, None if it has no file of its own."""
        assert self.test_images is not None
        return self.test_images.path(index)

    def class_sizes(self) -> Tensor:
        """Return the number of training images of each class, int64 ``[K]``, after ``setup``."""
        assert self.train_images is not None
        return self.train_images.labels.bincount(minlength=self.num_classes)

    def class_shares(self) -> Tensor:
        """Return the share of each class in an epoch of training, float64 ``[K]``."""
        return class_shares(self.class_sizes(), self.sampling)

    def write_notes(self, folder: Path) -> None:
        """Write what a run should tell of its data into the run directory; here nothing.

        Args:
            folder: The directory.

        Raises:
            UserError: If it can't be written.
        """

    def train_dataloader(self) -> BatchLoader:
        """Return the shuffled training batches."""
        assert self.train_images is not None and self.trainer is not None
        overfit = self.trainer.overfit_batches > 0  # type: ignore[attr-defined]  # set late
        loop: Any = self.trainer.fit_loop
        order = None
        if self.sampling != "natural" and not overfit:
            order = ClassOrder(self.train_images.labels, self.sampling, run_seed())
        sampler = BatchSampler(
            len(self.train_images),
            self.batch_size,
            training=True,
            shuffle=not overfit,
            seed=run_seed(),
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            steps=self.steps_per_epoch,
            class_order=order,
            position=lambda: loop.epoch_loop.batch_progress.current.ready,
        )
        if len(sampler) == 0:
            raise UserError(
                f"{len(self.train_images)} training images for {sampler.world_size} processes, "
                "each of which needs one",
                "data",
            )
        # Lightning sets the epoch of a resumed run too late for worker processes:
        # https://github.com/Lightning-AI/pytorch-lightning/issues/21938
        sampler.set_epoch(loop.epoch_progress.current.processed)
        return BatchLoader(self.source("train"), sampler, self.num_workers_for(self.train_images))

    def source(self, split: Literal["train", "val", "test"]) -> Source:
        """Return what the loaders of a split read from, now and later."""
        images: Images = getattr(self, f"{split}_images")
        source = self._sources.setdefault(split, Source(images))
        source.images = images
        source.device_gb = self.device_gb
        if self.trainer is not None:
            source.device = self.trainer.strategy.root_device
        return source

    def val_dataloader(self) -> BatchLoader | list[Any]:
        """Return the validation batches; an empty list if there is no validation split."""
        return self._eval_loader("val", "validate", "validation")

    def test_dataloader(self) -> BatchLoader | list[Any]:
        """Return the test batches; an empty list if there is no test split."""
        return self._eval_loader("test", "test", "test")

    def predict_dataloader(self) -> BatchLoader | list[Any]:
        """Return the test batches."""
        return self._eval_loader("test", "predict", "test")

    def _eval_loader(
        self, split: Literal["val", "test"], command: str, name: str
    ) -> BatchLoader | list[Any]:
        images = self.val_images if split == "val" else self.test_images
        if images is None or len(images) == 0:
            if self.trainer is not None and self.trainer.state.fn == command:
                raise UserError(f"data: there are no {name} images to {command}")
            return []
        world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        sampler = BatchSampler(
            len(images), self.fitting_eval_batch_size, rank=world[0], world_size=world[1]
        )
        return BatchLoader(self.source(split), sampler, self.num_workers_for(images))

    @property
    def fitting_eval_batch_size(self) -> int:
        """Images per step in validation, test and prediction."""
        pixels = math.prod(self.image_shape[1:])
        return self.eval_batch_size or max(self.batch_size, 1000 * 32 * 32 // max(pixels, 1024))

    def num_workers_for(self, images: Images) -> int:
        """Return the number of worker processes that load these images."""
        if self.num_workers is not None:
            return self.num_workers
        return 0 if images.in_memory else min(os.cpu_count() or 1, 8)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Resize, augment (in training) and normalise the whole batch, on its device."""
        if not isinstance(batch, Batch) or batch.depth:  # for a model summary, or cached features
            return batch
        seed = None
        if self.trainer is not None and self.trainer.training:
            seed = augmentation_seed(self.trainer.current_epoch)
        return batch._replace(images=self.transform(batch.images, batch.indices, seed))

    def transform(self, images: Tensor, indices: Tensor, seed: int | None) -> Tensor:
        """Return images as the model receives them: resized, augmented and normalised.

        Args:
            images: uint8 ``[B, C, H, W]``.
            indices: int64 ``[B]``; an image's index and the seed determine its augmentation.
            seed: Seed of the augmentation; None makes none.
        """
        aspects = self._aspects(images, indices)
        if seed is None or self.augment is None:
            return self.normalize(self.resized(images, aspects))
        channels, height, width = self.image_shape
        crops = self.augment.crops_first
        images = to_channels(images, channels) if crops else self.resized(images, aspects)
        return self.normalize(self.augment(images, indices, seed, (height, width), aspects))

    def resized(self, images: Tensor, aspects: Tensor | None = None) -> Tensor:
        """Return images ``[B, 1 or 3, H, W]`` of any size as those of a test, not normalised.

        Args:
            images: The images.
            aspects: Width over height of the pictures that were squashed into these, ``[B]``.
        """
        channels, height, width = self.image_shape
        images, size = to_channels(images, channels), (height, width)
        return images if images.shape[2:] == size else _resized(images, size, aspects)

    def _aspects(self, images: Tensor, indices: Tensor) -> Tensor | None:
        """Return width over height of the pictures of squashed images, else None."""
        if self.train_aspects is None or images.shape[2:] == self.image_shape[1:]:
            return None
        if self.train_aspects.device != images.device:
            self.train_aspects = self.train_aspects.to(images.device)
        return self.train_aspects[indices % len(self.train_aspects)]

    def sample(self, count: int = 2000) -> Tensor:
        """Return training images, resized and normalised but not augmented, ``[B, C, H, W]``.

        They are spread evenly over the split, and the same at each call.

        Args:
            count: Number of images if they have 32×32 pixels or fewer; of larger images, as many
                as have that many pixels in total.
        """
        assert self.train_images is not None
        pixels = math.prod(self.image_shape[1:])
        count = max(count * 32 * 32 // max(pixels, 1024), 1)
        index = spread(len(self.train_images), count)
        return self.transform(self.train_images[index].images, index, None)

    def normalize(self, images: Tensor) -> Tensor:
        """Return images with values in 0 to 255 as normalised floats ``[B, C, H, W]``."""
        shift, scale = self._shift_and_scale(images.device)
        normalized = torch.addcmul(shift, images.to(torch.float32), scale)
        true_precision = self.trainer.lightning_module.dtype if self.trainer else torch.float32
        return normalized.to(true_precision)

    def _shift_and_scale(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if self._constants is None or self._constants[0].device != device:
            std = torch.tensor(self.normalization["std"], device=device).view(-1, 1, 1)
            mean = torch.tensor(self.normalization["mean"], device=device).view(-1, 1, 1)
            self._constants = -mean / std, 1 / (255 * std)
        return self._constants


def data_of(trainer: Any) -> ImageDataModule:
    """Return the data module of a trainer; Lightning sets it late, and declares no attribute."""
    data: ImageDataModule = trainer.datamodule
    return data


def augmentation_seed(epoch: int) -> int:
    """Return the seed of the augmentation in an epoch of this run."""
    return mix(run_seed(), epoch)


def _resized(images: Tensor, size: tuple[int, int], aspects: Tensor | None) -> Tensor:
    """Return images ``[B, C, *size]``; of squashed ones the largest part in their centre."""
    if aspects is None:
        resized: Tensor = functional.resize(images, list(size), antialias=True)
        return resized
    return sampled(images, middle(aspects, size), size)


def to_channels(images: Tensor, channels: int) -> Tensor:
    """Return images ``[B, 1 or 3, H, W]`` as grey (1) or RGB (3)."""
    if images.shape[1] == channels:
        return images
    if channels == 1:
        images = functional.rgb_to_grayscale(images)
    return images.expand(-1, channels, -1, -1)
