"""Splits, the order of batches, and what happens to a batch on its device."""

import math
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.utilities.combined_loader import _shutdown_workers_and_reset_iterator
from torch import Tensor

from project.data import Augment, Batch, Digits, ImageDataModule, ImageFolder
from project.data.base import to_channels
from project.data.batches import BatchLoader, Source, TensorImages
from project.data.limits import LIMITS
from project.data.sampling import BatchSampler
from project.data.splits import first_per_class, stratified_split
from project.errors import UserError


def epoch(sampler: BatchSampler, number: int = 0) -> list[list[int]]:
    sampler.set_epoch(number)
    batches = [batch.tolist() for batch in sampler]
    assert len(batches) == len(sampler)
    return batches


@pytest.mark.parametrize("num_images", [1, 23, 24, 25, 31])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_visits_each_image_once(num_images: int, training: bool, shuffle: bool) -> None:
    batches = epoch(BatchSampler(num_images, 8, training=training, shuffle=shuffle))
    assert sorted(sum(batches, [])) == list(range(num_images))


@given(
    num_images=st.integers(1, 200),
    batch_size=st.integers(1, 50),
    world_size=st.integers(1, 4),
    shuffle=st.booleans(),
    data=st.data(),
)
@settings(max_examples=200, deadline=None)
def test_no_rank_trains_on_a_single_image_unless_it_has_no_more(
    num_images: int, batch_size: int, world_size: int, shuffle: bool, data: st.DataObject
) -> None:
    """Batch norm can't: https://github.com/pytorch/pytorch/issues/7716."""
    samplers = [
        BatchSampler(
            num_images,
            batch_size,
            training=True,
            shuffle=shuffle,
            rank=rank,
            world_size=world_size,
        )
        for rank in range(world_size)
    ]
    ranks = [epoch(sampler, 3) for sampler in samplers]
    sizes = [[len(batch) for batch in rank] for rank in ranks]
    assert sizes == [sizes[0]] * world_size
    assert all(size == batch_size for size in sizes[0][:-1])
    assert max(sizes[0], default=0) <= batch_size + 1
    fewest = min(2, batch_size, num_images // world_size)
    assert min(sizes[0], default=0) >= fewest
    visited = sum(sum(ranks, []), [])
    assert len(set(visited)) == len(visited) > num_images - world_size
    position = data.draw(st.integers(0, len(sizes[0])))
    samplers[0].position = lambda: position
    assert [batch.tolist() for batch in samplers[0]] == ranks[0][position:]


def test_order_is_a_function_of_seed_and_epoch() -> None:
    first = BatchSampler(50, 8, shuffle=True, seed=1)
    assert epoch(first, 3) == epoch(BatchSampler(50, 8, shuffle=True, seed=1), 3)
    assert epoch(first, 3) != epoch(first, 4)
    assert epoch(first, 3) != epoch(BatchSampler(50, 8, shuffle=True, seed=2), 3)


@pytest.mark.parametrize("num_images", [32, 34, 38])
def test_two_ranks_share_the_batches_of_one(num_images: int) -> None:
    one = epoch(BatchSampler(num_images, 8, shuffle=True))
    ranks = [
        epoch(BatchSampler(num_images, 4, shuffle=True, rank=rank, world_size=2)) for rank in (0, 1)
    ]
    assert len(ranks[0]) == len(ranks[1])
    for whole, left, right in list(zip(one, *ranks))[:-1]:  # the last batch may be longer
        assert sorted(whole) == sorted(left + right)


def test_two_ranks_always_get_equally_many_images() -> None:
    ranks = [epoch(BatchSampler(37, 4, shuffle=True, rank=rank, world_size=2)) for rank in (0, 1)]
    assert [[len(batch) for batch in rank] for rank in ranks] == [[4, 4, 4, 4, 2]] * 2


def test_two_ranks_evaluate_each_image_once() -> None:
    ranks = [epoch(BatchSampler(33, 8, rank=rank, world_size=2)) for rank in (0, 1)]
    assert sorted(sum(ranks[0] + ranks[1], [])) == list(range(33))


@pytest.mark.parametrize(("num_images", "batch_size"), [(33, 8), (143, 71), (16, 8), (3, 8)])
def test_ranks_evaluate_equally_many_batches(num_images: int, batch_size: int) -> None:
    ranks = [epoch(BatchSampler(num_images, batch_size, rank=r, world_size=2)) for r in (0, 1)]
    assert len(ranks[0]) == len(ranks[1])
    assert max(len(batch) for rank in ranks for batch in rank) <= batch_size
    assert sorted(sum(ranks[0] + ranks[1], [])) == list(range(num_images))


def test_steps_go_through_the_images_as_often_as_it_takes() -> None:
    batches = epoch(BatchSampler(10, 4, shuffle=True, steps=7))
    assert [len(batch) for batch in batches] == [4] * 7
    visits = sum(batches, [])
    assert len(set(visits)) == 28  # each visit has a number of its own
    assert sorted(visit % 10 for visit in visits[:20]) == sorted([*range(10), *range(10)])


def test_split_keeps_the_share_of_each_class() -> None:
    labels = torch.tensor([0] * 100 + [1] * 50 + [2] * 3)
    kept, held_out = stratified_split(labels, 0.1, seed=0)
    assert labels[held_out].bincount().tolist() == [10, 5, 1]
    assert sorted(torch.cat([kept, held_out]).tolist()) == list(range(153))
    assert not torch.equal(held_out, stratified_split(labels, 0.1, seed=1)[1])


def test_split_leaves_a_class_at_least_one_training_image() -> None:
    labels = torch.tensor([0, 0, 1])
    kept, held_out = stratified_split(labels, 0.9, seed=0)
    assert set(labels[kept].tolist()) == {0, 1}
    assert len(kept) + len(held_out) == 3


def test_limit_per_class() -> None:
    labels = torch.tensor([0] * 5 + [1] * 2)
    chosen = first_per_class(labels, 3, fraction=1.0, seed=0)
    assert labels[chosen].tolist() == [0, 0, 0, 1, 1]


def test_limit_leaves_validation_and_test_whole() -> None:
    data, limited = Digits(), Digits(limit_per_class=10)
    for module in (data, limited):
        module.setup("fit")
    assert limited.train_images is not None and len(limited.train_images) == 100
    for split in ("val_images", "test_images"):
        assert len(getattr(limited, split)) == len(getattr(data, split))


def test_splits_do_not_overlap() -> None:
    data = Digits()
    data.setup("fit")
    splits = [data.train_images, data.val_images, data.test_images]
    assert [len(split) for split in splits if split] == [1295, 143, 359]
    pictures = [
        {image.numpy().tobytes() for image in split.images}  # type: ignore[attr-defined]
        for split in splits
    ]
    assert not pictures[0] & pictures[1] and not pictures[0] & pictures[2]


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.5), (0.0, 1.0), (0.1307, 0.3081)])
def test_normalization_is_that_of_torchvision(mean: float, std: float) -> None:
    from torchvision.transforms import v2

    images = torch.randint(256, (4, 1, 8, 8), dtype=torch.uint8)
    usual = v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean=[mean], std=[std])]
    )
    torch.testing.assert_close(Digits(mean=mean, std=std).normalize(images), usual(images))


def test_images_change_size_and_channels_on_request() -> None:
    data = Digits(image_size=28)
    data.setup("fit")
    assert data.image_shape == (1, 28, 28)
    assert data.train_images is not None
    batch = data.on_after_batch_transfer(data.train_images[torch.arange(5)], 0)
    assert batch.images.shape == (5, 1, 28, 28)
    assert to_channels(torch.zeros(2, 1, 4, 4), 3).shape == (2, 3, 4, 4)
    assert to_channels(torch.zeros(2, 3, 4, 4), 1).shape == (2, 1, 4, 4)


def test_sample_is_of_the_whole_training_split_as_the_network_gets_it() -> None:
    data = Digits(augment=Augment(cutout=4))
    data.setup("fit")
    assert data.train_images is not None
    everything = data.normalize(data.train_images[torch.arange(len(data.train_images))].images)
    assert torch.equal(data.sample(10**6), everything)
    places = [(everything == image).flatten(1).all(1).nonzero()[0, 0] for image in data.sample(4)]
    assert [round(4 * place.item() / len(everything)) for place in places] == [0, 1, 2, 3]
    large = Digits(image_size=64)
    large.setup("fit")
    assert large.sample(12).shape == (3, 1, 64, 64)


class BrokenImages(TensorImages):
    def __getitem__(self, index: Tensor) -> Batch:
        if 5 in index.tolist():
            raise UserError("image 5 is broken\nreplace it", key="data.root")
        return super().__getitem__(index)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_mistake_in_the_data_arrives_whole(num_workers: int) -> None:
    images = BrokenImages(torch.zeros(8, 1, 2, 2, dtype=torch.uint8), torch.zeros(8).long())
    loader = BatchLoader(Source(images), BatchSampler(8, 4), num_workers)
    batches = iter(loader)
    assert next(batches).indices.tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError) as error:
        next(batches)
    _shutdown_workers_and_reset_iterator(loader)
    assert str(error.value) == "data.root: image 5 is broken\nreplace it"
    assert error.value.key == "data.root"


class Own(ImageDataModule):
    """A data set of one's own that makes one mistake."""

    class_names = ("a", "b", "c")
    source_shape = (3, 8, 8)

    def load(self) -> Any:
        return TensorImages(PIXELS, LABELS), None, None


PIXELS, LABELS = torch.zeros(9, 3, 8, 8, dtype=torch.uint8), torch.arange(9) % 3


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        (lambda: (TensorImages(PIXELS, LABELS), None), "Own must return three splits"),
        (lambda: TensorImages(PIXELS, LABELS), "Own must return three splits"),
        (lambda: (TensorImages(PIXELS / 255, LABELS), None, None), "got float32 .9, 3, 8, 8. and"),
        (lambda: (TensorImages(PIXELS, LABELS.float()), None, None), "and float32 .9.$"),
        (lambda: (TensorImages(PIXELS, LABELS[:5]), None, None), "and int64 .5.$"),
        (lambda: (TensorImages(PIXELS, LABELS + 1), None, None), "labels from 1 to 3, and names"),
        (lambda: (TensorImages(PIXELS.mT.transpose(1, 3), LABELS), None, None), "of 8 channels"),
    ],
)
def test_what_a_data_set_of_ones_own_loads_is_checked(
    loaded: Callable[[], Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Floats in [0, 1] and channels at the end would train, and learn nothing."""
    monkeypatch.setattr(Own, "load", lambda self: loaded())
    with pytest.raises(UserError, match=message):
        Own(val_fraction=0).setup("fit")


@pytest.mark.parametrize("attribute", ["class_names", "source_shape"])
def test_what_a_data_set_of_ones_own_must_set_is_named(
    attribute: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Own, attribute, getattr(ImageDataModule, attribute))
    with pytest.raises(UserError, match=f"data: Own must set {attribute}"):
        print(Own().num_classes, Own().image_shape)


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("value", [-1, -(10**30), 1e20, 10**30, math.inf, -math.inf, math.nan])
def test_an_extreme_option_is_one_line(name: str, value: Any) -> None:
    with pytest.raises(
        UserError, match=rf"^data.{name}: {re.escape(str(value))} must be at (least|most) \d"
    ):
        ImageFolder(root="nowhere", **{name: value})


@pytest.mark.parametrize("name", ["mean", "std"])
@pytest.mark.parametrize("value", [1e20, -1e20, math.inf, math.nan, (1e300,), 1e-320])
def test_an_extreme_normalisation_is_one_line(name: str, value: Any) -> None:
    data = Digits(**{name: value})
    if name == "mean" and value == 1e-320:
        assert data.normalization
        return
    with pytest.raises(UserError, match=rf"^data.{name}: .* must be "):
        _ = data.normalization


@pytest.mark.parametrize("name", ["val_fraction", "train_fraction", "test_fraction"])
@pytest.mark.parametrize("value", [-1, 1e20, math.inf, math.nan])
def test_an_extreme_fraction_is_one_line(name: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"^data.{name}: {re.escape(str(value))} must be in"):
        ImageFolder(root="nowhere", **{name: value})


@pytest.mark.parametrize("name", [field.name for field in fields(Augment)])
@pytest.mark.parametrize("value", [-1, 1e20, 10**30, math.inf, math.nan])
def test_an_extreme_augmentation_is_one_line(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^data.augment.{name}: {re.escape(str(value))} "):
        Augment(**{name: value})


@pytest.mark.parametrize("seed", [-1, 10**30, -(10**30)])
def test_any_seed_splits(seed: int) -> None:
    data = Digits(split_seed=seed)
    data.setup("fit")
    assert data.val_images is not None and len(data.val_images) > 0
