"""The feature cache: the features that frozen layers give for the images, computed once."""

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from project.approaches import FineTuning
from project.console import show
from project.data import Batch, ImageDataModule
from project.data.batches import BatchLoader, CachedFeatures, Images, Source
from project.data.cache import CacheDir, check_length
from project.data.sampling import BatchSampler
from project.randomness import mix, run_seed
from project.signals import stop_where_agreed

CHECKED_IMAGES = 8  # of which the features of an older run are computed again, and compared
TOLERANCE = {torch.float64: 0.005, torch.float32: 0.005}  # of the largest feature
TOLERANCE_OF_HALF = 0.02  # bfloat16 is exact to 0.004


class CannotCacheError(Exception):
    """A reason not to cache features; the training continues without them."""


class FeatureCache:
    """Computes the features of training and validation images, and keeps them for later runs.

    Each rank computes its share. An entry is found again by the weights and the architecture of the
    frozen part, the images, and how they are transformed; the features of some images are computed
    again to see that it still holds.

    Args:
        trainer: The trainer.
        model: Its model, in which the parameters are frozen that the phase freezes.
        views: Number of random views of each training image to keep, if images are augmented.
    """

    def __init__(self, trainer: Any, model: FineTuning, views: int | None) -> None:
        self.trainer = trainer
        self.model = model
        self.data: Any = trainer.datamodule
        self.views = views

    def fill(self) -> str:
        """Let the data module yield features in place of images, if that is possible.

        Returns:
            A line for the user: what was cached, or why nothing was.
        """
        try:
            return self._fill()
        except CannotCacheError as error:
            return f"features not cached: {error}"

    def _fill(self) -> str:
        self._check()
        self.depth = self._depth()
        data = self.data
        train, found = self._features(data.train_images, self.views if data.augment else None)
        size = train.features.nbytes
        if data.val_images and _is_whole(self.trainer.limit_val_batches):
            val, val_found = self._features(data.val_images, None)
            data.source("val").features = val
            size, found = size + val.features.nbytes, found and val_found
        data.source("train").features = train
        how = "found" if found else "computed"
        return f"features {how}: {size / 1e6:,.0f} MB in {data.cache_dir.folder}"

    def _check(self) -> None:
        if not isinstance(self.data, ImageDataModule):
            raise CannotCacheError("the data is not an ImageDataModule")
        if not _is_whole(self.trainer.limit_train_batches):
            raise CannotCacheError("only a part of the images is trained on")
        if self.model.flip_tta:
            raise CannotCacheError("model.flip_tta evaluates mirror images, too")
        if self.model.mixing:
            raise CannotCacheError("model.mixup and cutmix mix the images of each batch anew")
        if self.data.augment is not None and self.views is None:
            raise CannotCacheError(
                "the training images are augmented; set views to cache that many random views of "
                "each image"
            )

    def _depth(self) -> int:
        """Return the number of stages before the first that trains."""
        network = self.model.network
        depth = network.frozen_depth()
        inside = {id(p) for stage in network.stages() for p in stage.parameters()}
        outside = [p for p in network.backbone.parameters() if id(p) not in inside]
        if depth == 0 or any(parameter.requires_grad for parameter in outside):
            raise CannotCacheError("nothing is frozen before what trains")
        if depth < len(network.stages()) and not self._is_sequence(depth):
            name = type(network.backbone).__name__
            raise CannotCacheError(
                f"{name} does more than to run its modules one after the other, and can't be cut "
                "where it begins to train; the head alone could train on features"
            )
        return depth

    @torch.no_grad()
    def _is_sequence(self, depth: int) -> bool:
        """Whether the backbone is its stages, one after the other."""
        network = self.model.network
        images = torch.rand(2, *self.data.image_shape).to(next(self.model.parameters()))
        self.model.eval()
        try:
            features = network.prefix(images, depth)
            in_parts = network.forward(features, depth)  # not compiled, or it would differ a bit
            return isinstance(features, Tensor) and torch.equal(in_parts, network.forward(images))
        except Exception:  # stages that don't fit each other may raise anything
            return False
        finally:
            self.model.train()

    def _features(self, images: Images, views: int | None) -> tuple[CachedFeatures, bool]:
        """Return the features of a split, and whether they were there.

        Args:
            images: The split.
            views: Number of random views of each image; None takes the images as they are.
        """
        batch = images[torch.arange(min(CHECKED_IMAGES, len(images)))]
        sample = self._compute(batch, None if views is None else 0)
        key = self._key(images, views, sample)
        cache, strategy = self.data.cache_dir, self.trainer.strategy
        with ExitStack() as stack:
            self._on_rank_0(lambda: stack.enter_context(cache.lock(key)))
            found = strategy.reduce_boolean_decision(_holds(cache, key, sample))
            if not found:
                shape = ((views or 1) * len(images), *sample.shape[1:])
                dtype = _stored(sample).numpy().dtype
                temporary: Path = self._on_rank_0(lambda: cache.create(key, shape, dtype))
                try:
                    self._write(temporary, images, views)
                    strategy.barrier()
                    self._on_rank_0(lambda: cache.publish(temporary, key))
                finally:
                    if self.trainer.global_rank == 0:
                        temporary.unlink(missing_ok=True)
            array = _load(cache.path(key))
            strategy.barrier()  # the lock is for all ranks
        features = torch.from_numpy(array).view(sample.dtype)
        check = partial(check_length, array)
        return CachedFeatures(features, images.labels, self.depth, check), found

    def _on_rank_0(self, function: Callable[[], Any]) -> Any:
        """Return on all ranks what it returns on the first."""
        result: Any = None
        if self.trainer.global_rank == 0:
            try:
                result = function()
            except OSError as error:
                result = error
        result = self.trainer.strategy.broadcast(result)
        if isinstance(result, OSError):
            raise CannotCacheError(f"data.cache_dir: {result}")
        return result

    def _write(self, path: Path, images: Images, views: int | None) -> None:
        """Compute this rank's share of the features."""
        if not self.trainer.strategy.reduce_boolean_decision(path.is_file()):
            raise CannotCacheError(
                f"not all nodes see {path.parent}; set data.cache_dir to a folder that they share"
            )
        features = np.load(path, mmap_mode="r+")
        sampler = BatchSampler(
            len(images),
            self.data.fitting_eval_batch_size,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        loader = BatchLoader(Source(images), sampler, self.data.num_workers_for(images))
        has_bar = self.trainer.progress_bar_callback is not None
        if self.trainer.global_rank == 0 and not has_bar:
            show(f"computing features of {len(features):,} images")
        hidden = not has_bar or self.trainer.global_rank != 0
        for place, batch in enumerate(tqdm(loader, "features", leave=False, disable=hidden)):
            stop_where_agreed(self.trainer, place)
            for number, view in enumerate([None] if views is None else range(views)):
                rows = number * len(images) + batch.indices.numpy()
                features[rows] = _stored(self._compute(batch, view)).numpy()
        features.flush()

    @torch.no_grad()
    def _compute(self, batch: Batch, view: int | None) -> Tensor:
        """Return the features of a batch of the loader, in a random view or as they are."""
        seed = None if view is None else mix(run_seed(), -1 - view)  # which no epoch has
        device = self.model.device
        self.model.eval()
        images = self.data.transform(batch.images.to(device), batch.indices.to(device), seed)
        with self.trainer.precision_plugin.forward_context():
            features = self.model.prefix(images, self.depth)
        self.model.train()
        return features.cpu()

    def _key(self, images: Images, views: int | None, sample: Tensor) -> str:
        network = self.model.network
        stages = network.stages()
        frozen = network.backbone
        if self.depth < len(stages):
            frozen = nn.ModuleList(stages[: self.depth])
        facts = [
            torch.__version__,
            self.trainer.precision,
            type(network),
            sample.dtype,
            frozen,
            self.data.image_shape,
            self.data.normalization,
            images.fingerprint(),
            views and (views, run_seed(), self.data.augment),
        ]
        key = hashlib.sha256(repr(facts).encode())
        for name, value in frozen.state_dict().items():
            key.update(name.encode())
            key.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return key.hexdigest()


def train_on_images(trainer: Any) -> None:
    """Let the data module yield training images again."""
    if isinstance(trainer.datamodule, ImageDataModule) and trainer.datamodule.train_images:
        trainer.datamodule.source("train").features = None


def use_images(trainer: Any) -> None:
    """Let the data module yield images again, of all splits."""
    train_on_images(trainer)
    if isinstance(trainer.datamodule, ImageDataModule) and trainer.datamodule.val_images:
        trainer.datamodule.source("val").features = None


def _stored(features: Tensor) -> Tensor:
    """Return them in a type that numpy has."""
    return features.view(torch.int16) if features.dtype == torch.bfloat16 else features


def _load(path: Path) -> NDArray[Any]:
    array: NDArray[Any] = np.load(path, mmap_mode="c")  # torch has no tensors that are read-only
    return array


def _holds(cache: CacheDir, key: str, sample: Tensor) -> bool:
    """Whether the entry is there and whole, and of these features of its first images."""
    try:
        if not cache.holds(key):
            return False
        array = _load(cache.path(key))
    except OSError:  # all ranks have to answer
        return False
    stored = torch.from_numpy(array[: len(sample)]).view(sample.dtype).float()
    tolerance = TOLERANCE.get(sample.dtype, TOLERANCE_OF_HALF)
    sample = sample.float()
    return bool(((stored - sample).abs() <= tolerance * sample.abs().max()).all())


def _is_whole(limit: float) -> bool:
    """Whether a limit of Lightning leaves all batches; 1 is one batch, 1.0 all of them."""
    return isinstance(limit, float) and limit == 1.0
