"""What becomes of an image is a function of the image, its key and the epoch alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from project.data import Augment
from project.data.augment import (
    Affine,
    Augmentation,
    ColorJitter,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    Operation,
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
    Rotation,
    TrivialAugment,
    VerticalFlip,
    augmentation,
    colour,
    filters,
    operations,
    policies,
)
from project.errors import UserError
from tests.data.pictures import OPERATIONS, pictures

COUNT = 60
ALL = Augmentation(OPERATIONS)
each_operation = pytest.mark.parametrize(
    "operation", [*OPERATIONS, ALL], ids=lambda one: type(one).__name__
)


def test_all_operations_are_tried() -> None:
    assert {type(one) for one in OPERATIONS} == set(concrete(Operation))


def concrete(base: type) -> Sequence[type]:
    inner = [one for kind in base.__subclasses__() for one in (kind, *concrete(kind))]
    ours = [one for one in inner if one.__module__.startswith(Operation.__module__.split(".")[0])]
    return [one for one in ours if not getattr(one, "__abstractmethods__", None)]


@each_operation
def test_neither_batch_nor_place_matters(operation: Operation) -> None:
    images, keys = pictures(COUNT), torch.arange(COUNT) * 7
    before = images.clone()
    whole = operation(images, keys, seed=5)
    assert torch.equal(images, before)  # nothing is written into it
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))
    for part in (order[:1], order[1:20], order[20:]):
        found = operation(images[part], keys[part], seed=5)
        assert found.dtype == whole.dtype
        torch.testing.assert_close(found, whole[part], atol=1e-3, rtol=0)  # sums differ in order
    assert not torch.equal(operation(images, keys, seed=6), whole)  # another epoch
    alike = operation(images[:1].expand(COUNT, -1, -1, -1), keys, seed=5)
    assert len(alike.float().flatten(1).unique(dim=0)) > 1  # images differ


def test_a_batch_in_parts_is_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    images, keys = pictures(COUNT), torch.arange(COUNT)
    whole = ALL(images, keys, 3)
    monkeypatch.setattr(operations, "CACHED_VALUES", 7 * images[0].numel())
    torch.testing.assert_close(ALL(images, keys, 3), whole, atol=1e-3, rtol=0)
    assert ALL(images[:0], keys[:0], 3).shape == (0, 3, 32, 32)


@each_operation
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (3, 5, 17), (3, 1, 1), (1, 2, 2)])
def test_shape_and_range_stay(operation: Operation, shape: tuple[int, int, int]) -> None:
    images = pictures(COUNT, shape[1:])[:, : shape[0]]
    images[0], images[1] = 0, 255
    found = operation(images, torch.arange(COUNT), seed=0)
    assert found.shape == images.shape and found.dtype in (torch.uint8, torch.float32)
    assert found.isfinite().all() and found.min() >= -1e-3 and found.max() <= 255 + 1e-3


@each_operation
def test_no_value_is_read(operation: Operation) -> None:
    """That would make a GPU wait; tensors of this device have no values."""
    images = torch.empty(8, 3, 16, 16, dtype=torch.uint8, device="meta")
    found = operation(images, torch.arange(8, device="meta"), seed=0)
    assert found.shape == images.shape and found.device.type == "meta"


def test_other_devices_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """There, an operation is applied to all images, and the chosen results are taken."""

    def taken(images: Tensor, chosen: Tensor, change: Any, *parameters: Tensor) -> Tensor:
        return torch.where(chosen.view(-1, 1, 1, 1), change(images, *parameters), images)

    images, keys = pictures(COUNT), torch.arange(COUNT)
    expected = [operation(images, keys, 0) for operation in OPERATIONS]
    for module in (colour, filters, policies):
        monkeypatch.setattr(module, "replaced", taken)
    for operation, one in zip(OPERATIONS, expected):
        torch.testing.assert_close(operation(images, keys, 0), one, atol=1e-3, rtol=0)


def test_each_place_in_a_list_has_its_own_numbers() -> None:
    images, keys = pictures(200), torch.arange(200)
    twice = augmentation([HorizontalFlip(), HorizontalFlip()])
    assert twice is not None
    changed = (twice(images, keys, seed=0) != images).flatten(1).any(dim=1)
    assert 0.35 < changed.float().mean() < 0.65  # else no image, or all that one flip changes


def test_numbers_alone_are_a_list_of_one() -> None:
    usual = Augment(flip=0.5, shift=1)
    images, keys = pictures(20), torch.arange(20)
    alone, listed = augmentation(usual), augmentation([usual])
    assert alone == listed and alone is not None
    assert torch.equal(alone(images, keys, 3), usual(images, keys, 3))
    assert augmentation([]) is None and augmentation(None) is None


GOLDEN = {
    Augment(flip=0.5, shift=2, cutout=3): [102, 131, 29, 4, 227, 254],
    Augment(flip=0.5, min_scale=0.5, brightness=0.2, contrast=0.2): [
        *(66.186, 76.525, 153.458, 37.274, 84.6, 46.462),
    ],
}


@pytest.mark.parametrize("usual", GOLDEN, ids=str)
def test_usual_changes_are_those_of_the_measured_configs(usual: Augment) -> None:
    """The results in the headers of configs were measured with these pixels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (200, 3, 8, 8), dtype=torch.uint8, generator=generator)
    found = usual(images, torch.arange(200), 7).float()[::37, 1, 3, 5]
    torch.testing.assert_close(found, torch.tensor(GOLDEN[usual]).float(), atol=0.01, rtol=0)


def test_crops_have_the_sizes_that_are_asked_for() -> None:
    crop = RandomResizedCrop(scale=(0.2, 0.6), ratio=(0.5, 2.0))
    for aspect in (0.7, 1.0, 1.7):
        boxes = crop.boxes(torch.full((4000,), aspect), torch.arange(4000), seed=3)
        left, top, width, height = boxes.unbind(dim=1)
        assert min(left.min(), top.min()) >= 0
        assert max((left + width).max(), (top + height).max()) <= 1 + 1e-6
        area, ratio = width * height, width / height * aspect
        assert area.min() >= 0.2 - 1e-5 and area.max() <= 0.6 + 1e-5
        assert ratio.min() >= 0.5 - 1e-5 and ratio.max() <= 2 + 1e-5
        assert left.min() < 0.02 and (left + width).max() > 0.98


def test_crops_that_fit_nowhere_are_as_large_as_they_can_be() -> None:
    crop = RandomResizedCrop(scale=(1.0, 1.0), ratio=(3 / 4, 4 / 3))
    (box,) = crop.boxes(torch.tensor([2.0]), torch.tensor([0]), seed=0)
    torch.testing.assert_close(box, torch.tensor([1 / 6, 0, 2 / 3, 1]))


def test_probabilities_are_kept() -> None:
    images, keys = pictures(1).expand(2000, -1, -1, -1), torch.arange(2000)
    for operation in (
        HorizontalFlip(0.3), VerticalFlip(0.3), Grayscale(0.3), RandomErasing(0.3),
        GaussianBlur((1.0, 2.0), 0.3),
    ):  # fmt: skip
        changed = (operation(images, keys, 0) != images).flatten(1).any(dim=1)
        assert changed.float().mean().item() == pytest.approx(0.3, abs=0.04), operation


def test_erasing_fills_a_rectangle_with_the_mean() -> None:
    images = pictures(300)
    found = RandomErasing(1.0, scale=(0.1, 0.2))(images, torch.arange(300), 0)
    mean = images.float().mean((2, 3)).byte()[:, :, None, None]
    hidden = ((found != images) | (found == mean)).all(dim=1)
    assert (found == mean).all(dim=1)[hidden].all()
    share = hidden.float().mean(dim=(1, 2))
    assert share.mean().item() == pytest.approx(0.15, abs=0.02)
    assert share.min() > 0.07 and share.max() < 0.24


@dataclass(frozen=True)
class Own(Operation):
    """An operation with options of its own."""

    part: float = 0.5

    def __call__(self, images: Tensor, keys: Tensor, seed: int) -> Tensor:
        return images * self.part


class Plain(Operation):
    """An operation that isn't a dataclass."""

    def __init__(self, part: float = 0.5) -> None:
        self.part = part

    def __call__(self, images: Tensor, keys: Tensor, seed: int) -> Tensor:
        return images * self.part


def test_operations_are_known_by_their_options() -> None:
    """A cache of features, and ranks, compare them."""
    assert repr(augmentation([Own(0.1)])) == "Augmentation(operations=(Own(part=0.1),))"
    assert repr(augmentation([Plain(0.1)])) == "Augmentation(operations=(Plain(part=0.1),))"


@pytest.mark.parametrize(
    ("kind", "option", "value"),
    [
        (HorizontalFlip, "probability", 3), (HorizontalFlip, "probability", float("nan")),
        (RandomResizedCrop, "scale", (1, 0.5)), (RandomResizedCrop, "ratio", (0, 1)),
        (Rotation, "degrees", -1), (Affine, "shear", 90), (Affine, "scale", (0, 1)),
        (Affine, "fill", 256), (ColorJitter, "hue", 0.6), (GaussianBlur, "sigma", (1, 1e9)),
        (TrivialAugment, "num_bins", 1), (RandAugment, "magnitude", 31),
        (RandAugment, "num_ops", 0),
        (RandomErasing, "scale", (0.5, float("inf"))),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_by_their_key(kind: type, option: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"^data\.augment\.{kind.__name__}\.{option}: .* must be "):
        kind(**{option: value})
