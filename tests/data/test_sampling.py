"""How often each image is trained on, where the classes are of unequal size."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from project.data import Digits
from project.data.sampling import BatchSampler, ClassOrder, Sampling, class_shares
from project.errors import UserError
from tests.conftest import Run
from tests.data.test_base import epoch

SIZES = {
    "one large": [100, 9, 1],
    "none in a class": [0, 31, 0, 7, 0],
    "equal": [8, 8, 8],
    "two": [97, 6],
    "many": [1 + number % 13 for number in range(200)],
}
SAMPLINGS: tuple[Sampling, ...] = ("balanced", "sqrt")


def labels_of(name: str) -> Tensor:
    labels = torch.repeat_interleave(torch.tensor(SIZES[name]))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("name", SIZES)
def test_each_class_has_its_share_of_each_epoch_and_each_image_that_of_its_class(
    name: str, sampling: Sampling
) -> None:
    labels, sizes = labels_of(name), torch.tensor(SIZES[name])
    order = ClassOrder(labels, sampling, seed=1)
    images, epochs = len(labels) + 1, 12
    quotas = class_shares(sizes, sampling) * images
    expected = sizes.double().sqrt() if sampling == "sqrt" else (sizes > 0).double()
    torch.testing.assert_close(quotas, expected / expected.sum() * images, rtol=1e-3, atol=0)
    visits = torch.zeros(len(labels), dtype=torch.int64)
    for number in range(epochs):
        index = order.visits(number, images)
        assert len(index) == len(set(index.tolist())) == images  # a repetition has its own index
        found = labels[index % len(labels)].bincount(minlength=len(sizes))
        assert ((found - quotas).abs() < 1).all()
        of_epoch = (index % len(labels)).bincount(minlength=len(labels))
        assert index.max() < of_epoch.max() * len(labels)  # no more repetitions than it takes
        visits += of_epoch
        for label in labels.unique():  # equally often, or once more
            for counted in (of_epoch, visits):
                assert counted[labels == label].aminmax().max - counted[labels == label].min() <= 1
    total = torch.zeros_like(quotas).index_add_(0, labels, visits.double())
    assert ((total - epochs * quotas).abs() < 3).all()  # what is rounded up is rounded down later


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_order_is_a_function_of_seed_and_epoch(sampling: Sampling) -> None:
    labels = labels_of("one large")

    def visits(seed: int, number: int) -> list[int]:
        return ClassOrder(labels, sampling, seed).visits(number, 110).tolist()

    used = ClassOrder(labels, sampling, 1)
    later = used.visits(7, 110).tolist()
    assert used.visits(3, 110).tolist() == visits(1, 3) and later == visits(1, 7)
    assert visits(1, 3) != visits(1, 4)
    assert visits(1, 3) != visits(2, 3)
    shuffled = labels[torch.tensor(visits(1, 0)) % 110]
    assert not torch.equal(shuffled, shuffled.sort().values)  # classes don't follow each other


def sampler(batch_size: int, rank: int = 0, world_size: int = 1, **options: Any) -> BatchSampler:
    return BatchSampler(
        110,
        batch_size,
        shuffle=True,
        rank=rank,
        world_size=world_size,
        class_order=ClassOrder(labels_of("one large"), "balanced", seed=0),
        **options,
    )


@pytest.mark.parametrize("world_size", [2, 3])
def test_batches_of_the_ranks_are_those_of_one(world_size: int) -> None:
    for number in (0, 4):
        one = epoch(sampler(24), number)
        ranks = [
            epoch(sampler(24 // world_size, rank, world_size), number) for rank in range(world_size)
        ]
        for whole, *parts in zip(one[:-1], *ranks):
            assert sorted(whole) == sorted(sum(parts, []))


def test_steps_are_of_the_sampled_images_and_an_epoch_resumes_inside() -> None:
    batches = epoch(sampler(8, steps=30))
    assert [len(batch) for batch in batches] == [8] * 30
    assert len(set(sum(batches, []))) == 240
    visited = labels_of("one large")[torch.tensor(sum(batches, [])) % 110]
    assert visited.bincount().tolist() == [80, 80, 80]
    resumed = sampler(8, steps=30, position=lambda: 11)
    assert [batch.tolist() for batch in resumed] == batches[11:]


def test_overfitting_visits_the_first_images(run: Callable[..., Run]) -> None:
    """They are those that Lightning validates, too."""
    args = ("fit", "--trainer.overfit_batches=2", "--trainer.max_epochs=1")
    args += ("--trainer.logger=false",)
    balanced = run(*args, "--data.sampling=balanced").summary
    assert balanced["train/loss"] == run(*args).summary["train/loss"]


def test_an_unknown_sampling_is_refused() -> None:
    with pytest.raises(UserError, match="data.sampling: equal must be one of natural, sqrt, bal"):
        Digits(sampling="equal")  # type: ignore[arg-type]
