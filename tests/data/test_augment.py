"""Each augmentation does what it says, to each image on its own, and again the same."""

import pytest
import torch
from torch import Tensor

from project.data import Augment
from project.randomness import mix, uniform

ALL = Augment(flip=0.5, shift=2, min_scale=0.5, brightness=0.3, contrast=0.3, cutout=3)


def batch(count: int = 200, size: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (count, 3, size, size)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    return images, torch.arange(count)


def test_uniform_numbers_are_uniform_and_independent() -> None:
    numbers = uniform(torch.arange(20_000), 5, seed=mix(3, 4))
    assert numbers.min() >= 0 and numbers.max() < 1
    torch.testing.assert_close(numbers.mean(0), torch.full((5,), 0.5), atol=0.01, rtol=0)
    torch.testing.assert_close(numbers.std(0), torch.full((5,), 12**-0.5), atol=0.01, rtol=0)
    correlation = torch.corrcoef(numbers.T) - torch.eye(5)
    assert correlation.abs().max() < 0.03


def test_result_depends_on_image_and_seed_alone() -> None:
    images, keys = batch()
    whole = ALL(images, keys, seed=7)
    part = ALL(images[50:60], keys[50:60], seed=7)
    torch.testing.assert_close(whole[50:60], part)
    assert not torch.equal(whole, ALL(images, keys, seed=8))


def test_nothing_is_changed_by_default() -> None:
    images, keys = batch()
    assert torch.equal(Augment()(images, keys, seed=0), images)


def test_flip_mirrors_the_given_share() -> None:
    images, keys = batch(2000)
    changed = Augment(flip=0.3)(images, keys, seed=0)
    flipped = (changed == images.flip(3)).flatten(1).all(1)
    same = (changed == images).flatten(1).all(1)
    assert (flipped | same).all()
    assert flipped.float().mean().item() == pytest.approx(0.3, abs=0.04)


def test_shift_moves_each_image_and_mirrors_the_border() -> None:
    images, keys = batch(500)
    changed = Augment(shift=2)(images, keys, seed=0)
    padded = torch.nn.functional.pad(images.float(), (2, 2, 2, 2), mode="reflect").byte()
    windows = torch.stack([padded[:, :, y : y + 8, x : x + 8] for y in range(5) for x in range(5)])
    matches = (windows == changed).flatten(2).all(2)
    assert matches.any(0).all()
    assert matches.any(1).all()  # all 25 shifts occur


def test_crop_keeps_a_smooth_image_smooth_and_inside() -> None:
    ramp = torch.linspace(0, 255, 16).expand(100, 3, 16, 16).to(torch.uint8)
    changed = Augment(min_scale=0.25)(ramp, torch.arange(100), seed=0)
    assert changed.min() >= 0 and changed.max() <= 255
    width = changed[:, 0, 0, -1] - changed[:, 0, 0, 0]
    assert width.min() < 170 and width.max() > 200  # some see less of the ramp
    assert (changed.diff(dim=3) >= -1e-3).all()


def test_colour_changes_stay_in_range() -> None:
    images, keys = batch()
    changed = Augment(brightness=0.5, contrast=0.5)(images, keys, seed=0)
    assert changed.min() >= 0 and changed.max() <= 255
    ratio = changed.mean((1, 2, 3)) / images.float().mean((1, 2, 3))
    assert ratio.min() < 0.7 and ratio.max() > 1.3


def test_cutout_paints_one_square_with_the_mean() -> None:
    images, keys = batch(300)
    changed = Augment(cutout=4)(images, keys, seed=0)
    mean = images.float().mean((2, 3)).byte()
    hidden = (changed == mean[:, :, None, None]).all(1)
    assert (changed == images).all(1)[~hidden].all()
    assert hidden.sum((1, 2)).float().mean() > 8
    assert hidden.sum((1, 2)).max() <= 18  # 16, and pixels that had the mean already
