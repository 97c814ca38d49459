"""The feature cache: what a frozen part of the network makes of the images, computed once."""

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from project.approaches import FineTuning
from project.callbacks.report import show
from project.data import Batch, ImageDataModule
from project.data.batches import BatchLoader, BatchSampler, CachedFeatures, Images
from project.randomness import mix, run_seed

CHECKED_IMAGES = 8  # of which the features of an older run are computed again, and compared
TOLERANCE = 0.02  # of the largest feature; bfloat16 is exact to 0.004


class CannotCacheError(Exception):
    """Why the features are not cached; the training goes on without."""


class FeatureCache:
    """Computes the features of training and validation images, and keeps them for later runs.

    Each rank computes its share. An entry is found again by the weights and the architecture of the
    frozen part, the images, and how they are transformed; the features of some images are computed
    again to see that it still holds.

    Args:
        trainer: Who trains.
        model: Its model, with those parameters frozen that the phase freezes.
        views: How many random views of each training image to keep, where images are augmented.
    """

    def __init__(self, trainer: Any, model: FineTuning, views: int | None) -> None:
        self.trainer = trainer
        self.model = model
        self.data: ImageDataModule = trainer.datamodule
        self.views = views

    def fill(self) -> str:
        """Let the data module yield features instead of images, if that is possible.

        Returns:
            What there is to say about it, in a line.
        """
        try:
            return self._fill()
        except CannotCacheError as error:
            return f"features not cached: {error}"

    def _fill(self) -> str:
        if self.model.flip_tta:
            raise CannotCacheError("model.flip_tta evaluates mirror images, too")
        views = 1
        if self.data.augment is not None:
            if self.views is None:
                raise CannotCacheError(
                    "the training images are augmented; set views to cache that many random views "
                    "of each image"
                )
            views = self.views
        self.depth = self._depth()
        train, val = self.data.train_images, self.data.val_images
        assert train is not None
        found, size, epoch = [], 0, self.trainer.current_epoch
        features: list[CachedFeatures | None] = []
        for images, augmented in ((train, self.data.augment is not None), (val, False)):
            if images is None or len(images) == 0:
                features.append(None)
                continue
            values, was_there = self._features(images, views if augmented else 1, augmented)
            features.append(CachedFeatures(values, images.labels, self.depth, epoch))
            found.append(was_there)
            size += values.nbytes
        self.data.train_features, self.data.val_features = features
        how = "found" if all(found) else "computed"
        return f"features {how}: {size / 1e6:,.0f} MB in {self.data.cache_dir.folder}"

    def _depth(self) -> int:
        """Return how many stages come before the first that trains."""
        network = self.model.network
        depth = network.frozen_depth()
        if depth == 0:
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
            in_parts = network(network.prefix(images, depth), depth)
            return torch.equal(in_parts, network(images))
        except (RuntimeError, TypeError):  # stages that don't fit each other
            return False
        finally:
            self.model.train()

    def _features(self, images: Images, views: int, augmented: bool) -> tuple[Tensor, bool]:
        """Return the features ``[views * N, ...]`` of a split, and whether they were there."""
        batch = images[torch.arange(min(CHECKED_IMAGES, len(images)))]
        sample = self._compute(batch, view=0 if augmented else None)
        key = self._key(images, views, augmented, sample)
        cache, strategy = self.data.cache_dir, self.trainer.strategy
        with ExitStack() as stack:
            self._on_rank_0(lambda: stack.enter_context(cache.lock(key)))
            found = strategy.reduce_boolean_decision(_holds(cache.path(key), sample))
            if not found:
                shape = (views * len(images), *sample.shape[1:])
                temporary: Path = self._on_rank_0(
                    lambda: cache.create(key, shape, _stored(sample).numpy().dtype)
                )
                if not strategy.reduce_boolean_decision(temporary.is_file()):
                    raise CannotCacheError(
                        f"not all nodes see {cache.folder}; set data.cache_dir to a folder that "
                        "they share"
                    )
                self._write(temporary, images, views, augmented)
                strategy.barrier()
                self._on_rank_0(lambda: cache.publish(temporary, key))
        return _load(cache.path(key), sample.dtype), found

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

    def _write(self, path: Path, images: Images, views: int, augmented: bool) -> None:
        """Compute this rank's share of the features."""
        features = np.load(path, mmap_mode="r+")
        sampler = BatchSampler(
            len(images),
            self.data.fitting_eval_batch_size,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        loader = BatchLoader(images, sampler, self.data.num_workers_for(images))
        has_bar = self.trainer.progress_bar_callback is not None
        if self.trainer.global_rank == 0 and not has_bar:
            show(f"computing features of {len(features):,} images")
        hidden = not has_bar or self.trainer.global_rank != 0
        for batch in tqdm(loader, "features", leave=False, disable=hidden):
            for view in range(views):
                rows = view * len(images) + batch.indices.numpy()
                values = self._compute(batch, view if augmented else None)
                features[rows] = _stored(values).numpy()
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

    def _key(self, images: Images, views: int, augmented: bool, sample: Tensor) -> str:
        network = self.model.network
        stages = network.stages()
        frozen = network.backbone
        if self.depth < len(stages):
            frozen = nn.ModuleList(stages[: self.depth])
        facts = [
            torch.__version__,
            self.trainer.precision,
            sample.dtype,
            frozen,
            self.data.image_shape,
            self.data.normalization,
            images.fingerprint(),
            (views, run_seed(), self.data.augment) if augmented else None,
        ]
        key = hashlib.sha256(repr(facts).encode())
        for name, value in frozen.state_dict().items():
            key.update(name.encode())
            key.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return key.hexdigest()


def _stored(features: Tensor) -> Tensor:
    """Return them in a type that numpy has."""
    return features.view(torch.int16) if features.dtype == torch.bfloat16 else features


def _load(path: Path, dtype: torch.dtype) -> Tensor:
    array = np.load(path, mmap_mode="c")  # torch has no tensors that can't be written to
    return torch.from_numpy(array).view(dtype)


def _holds(path: Path, sample: Tensor) -> bool:
    """Whether the entry is there, and of the same features as these of its first images."""
    if not path.is_file():
        return False
    stored = _load(path, sample.dtype)[: len(sample)].float()
    sample = sample.float()
    return bool(((stored - sample).abs() <= TOLERANCE * sample.abs().max()).all())
