"""The feature cache: the same training, without the frozen layers."""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from project.approaches import FineTuning
from project.data import Batch, cache
from project.data.batches import CachedFeatures
from project.data.cache import check_length
from project.errors import UserError
from project.finetuning.features import CannotCacheError, FeatureCache, _load
from project.networks import Network
from project.networks.freezing import evaluate_frozen
from tests.conftest import Run
from tests.data.unequal import UNEQUAL
from tests.finetuning.schedules import RECORD, assert_same_end, check_resume, last, phases
from tests.ranks import Ranks

PLAIN = "--data.augment=null"
HEAD = "name: head, train: [head], epochs: 2"
TOP = "name: top, train: [head, stage2], steps: 6, norm: train"


def cached(*given: str, more: str = "") -> str:
    return phases(*(f"{{{phase}, cache_features: true{more}}}" for phase in given))


def uncached(*given: str) -> str:
    return phases(*(f"{{{phase}}}" for phase in given))


class Sum(nn.Module):
    """A backbone that is more than a sequence of its modules."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Conv2d(1, 4, 3, padding=1)
        self.stage2 = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        first: Tensor = self.stage1(images)
        return first + self.stage2(first)


class SumNetwork(Network):
    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(Sum(), nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes)))
        self(torch.zeros(1, *image_shape))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images went through the frozen layers, for each batch of them."""
    sizes: list[int] = []
    compute = FeatureCache._compute

    def counted(self: FeatureCache, batch: Any, view: int | None) -> Tensor:
        sizes.append(len(batch.labels))
        return compute(self, batch, view)

    monkeypatch.setattr(FeatureCache, "_compute", counted)
    return sizes


SCORES = f"{RECORD}Scores"


def epochs(run: Run) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run.path / "scores.txt").read_text().splitlines()]


def test_cached_and_uncached_training_are_the_same(
    run: Callable[..., Run], schedule: tuple[str, ...]
) -> None:
    """A head with dropout, then half of the backbone, in phases that begin inside of epochs."""
    given = ["name: first, train: [head], steps: 6", TOP, HEAD]
    with_cache = run(*schedule, cached(*given), PLAIN, SCORES)
    without = run(*schedule, uncached(*given), PLAIN, SCORES)
    assert with_cache.out.count("features computed") == 3  # the norm of stage2 has learnt
    for one, other in zip(epochs(with_cache), epochs(without), strict=True):
        for name in ("train/loss", "val/loss"):
            assert one[name] == pytest.approx(other[name], abs=1e-5)
    for name, value in last(without.path)["state_dict"].items():
        torch.testing.assert_close(last(with_cache.path)["state_dict"][name], value)


def test_images_that_are_sampled_again_take_their_features_again(
    run: Callable[..., Run], schedule: tuple[str, ...]
) -> None:
    options = ("--data.sampling=balanced", "--model.class_weights=effective", PLAIN)
    args = (*schedule[:3], UNEQUAL, "--data.batch_size=16", *schedule[3:], *options)
    ends = [last(run(*args, given(HEAD)).path) for given in (cached, uncached)]
    for name, value in ends[1]["state_dict"].items():
        torch.testing.assert_close(ends[0]["state_dict"][name], value)


def test_what_is_frozen_is_computed_once(
    run: Callable[..., Run], schedule: tuple[str, ...], computed: list[int]
) -> None:
    first = run(*schedule, cached(HEAD), PLAIN)
    assert sum(computed) == 60 + 143 + 8 + 8  # training, validation, and to look for old ones
    computed.clear()
    second = run(*schedule, cached(HEAD), PLAIN)
    assert sum(computed) == 8 + 8
    assert "features found" in second.out
    assert_same_end(last(first.path), last(second.path))


def test_validation_images_are_not_forwarded_before_there_are_features(
    run: Callable[..., Run], schedule: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even by Lightning's sanity check, which would keep a second fit from starting at once."""
    depths: list[int] = []
    validate = FineTuning.validation_step

    def watched(self: FineTuning, batch: Batch, batch_idx: int) -> None:
        depths.append(batch.depth)
        validate(self, batch, batch_idx)

    monkeypatch.setattr(FineTuning, "validation_step", watched)
    run(*schedule, cached(HEAD), PLAIN)
    assert depths and all(depths)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "change",
    [
        "--model.backbone={other}",
        "--data.mean=0.4",
        "--data.limit_per_class=5",
        "--data.split_seed=1",
    ],
)
def test_other_weights_or_data_have_other_features(
    change: str, run: Callable[..., Run], schedule: tuple[str, ...], backbone: Path, tmp_path: Path
) -> None:
    run(*schedule, cached(HEAD), PLAIN)
    checkpoint = torch.load(backbone / "checkpoints" / "best.ckpt", weights_only=True)
    checkpoint["state_dict"]["network.backbone.stage1.0.weight"][0, 0, 0, 0] += 1e-3
    torch.save(checkpoint, tmp_path / "other.ckpt")
    change = change.format(other=tmp_path / "other.ckpt")
    assert "features computed" in run(*schedule, cached(HEAD), PLAIN, change).out


def test_features_of_changed_code_are_not_used(
    run: Callable[..., Run], schedule: tuple[str, ...], tmp_path: Path
) -> None:
    first = run(*schedule, cached(HEAD), PLAIN)
    for file in (tmp_path / "cache").glob("[!.]*.npy"):
        features = np.load(file, mmap_mode="r+")
        features[:] = np.maximum(features, 0.5)
        features.flush()
    second = run(*schedule, cached(HEAD), PLAIN)
    assert "features computed" in second.out
    assert_same_end(last(first.path), last(second.path))


def test_damaged_features_are_not_used(
    run: Callable[..., Run], schedule: tuple[str, ...], tmp_path: Path
) -> None:
    """Beyond the images that are computed again to compare them."""
    first = run(*schedule, cached(HEAD), PLAIN)
    for file in (tmp_path / "cache").glob("[!.]*.npy"):
        features = np.load(file, mmap_mode="r+")
        features[-1] = 0
        features.flush()
    cache._whole.clear()  # as another process
    second = run(*schedule, cached(HEAD), PLAIN)
    assert second.out.count("is damaged, as its checksum says, and is made again") == 2
    assert "features computed" in second.out
    assert_same_end(last(first.path), last(second.path))


def test_features_cut_in_use_are_an_error() -> None:
    np.save("a.npy", np.ones((4, 8), np.float32))
    array = _load(Path("a.npy"))
    images = CachedFeatures(
        torch.from_numpy(array), torch.zeros(4).long(), 1, partial(check_length, array)
    )
    assert images.batch(torch.arange(4), 0).images.sum() == 32
    os.truncate("a.npy", 20)
    with pytest.raises(UserError, match="a.npy was cut while it was in use"):
        images.batch(torch.arange(4), 0)


def test_augmented_images_need_views(run: Callable[..., Run], schedule: tuple[str, ...]) -> None:
    refused = run(*schedule, cached(HEAD))
    assert "features not cached: the training images are augmented; set views" in refused.out
    assert_weights_equal(refused, run(*schedule, uncached(HEAD)))


def assert_weights_equal(one: Run, other: Run) -> None:
    for name, value in last(other.path)["state_dict"].items():
        assert torch.equal(last(one.path)["state_dict"][name], value), name


def test_views_take_turns(run: Callable[..., Run], schedule: tuple[str, ...]) -> None:
    head = HEAD.replace("2", "4")
    augment = "--data.augment=[{class_path: Augment, init_args: {shift: 1}}, TrivialAugment]"
    result = run(*schedule, augment, cached(head, more=", views: 2"), f"{RECORD}Inputs")
    inputs = torch.load(result.path / "inputs.pt", weights_only=True)
    seen = [{index: tuple(row.tolist()) for index, row in epoch} for epoch in inputs]
    assert seen[0] == seen[2]
    assert seen[1] == seen[3]
    assert sum(seen[0][index] != seen[1][index] for index in seen[0]) > 50  # shifted, of 60


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (
            [cached("name: all, train: all, epochs: 1"), PLAIN],
            "nothing is frozen before what trains",
        ),
        ([cached(HEAD), PLAIN, "--data.cache_gb=0"], "data.cache_dir: [Errno 28]"),
        ([cached(HEAD), PLAIN, "--trainer.limit_train_batches=1"], "only a part of the images"),
        ([cached(HEAD), PLAIN, "--model.flip_tta=true"], "model.flip_tta evaluates mirror images"),
        ([cached(HEAD), PLAIN, "--model.mixup=0.2"], "model.mixup and cutmix mix the images"),
    ],
)
def test_where_it_cannot_apply_the_training_goes_on(
    args: list[str], reason: str, run: Callable[..., Run], schedule: tuple[str, ...]
) -> None:
    out = run(*schedule, *args).out
    assert f"features not cached: {reason}" in out
    assert out.count("features not cached") == 1


@pytest.mark.parametrize(("train", "works"), [("[head]", True), ("[head, stage2]", False)])
def test_a_backbone_that_is_no_sequence_is_cached_whole(
    train: str,
    works: bool,
    run: Callable[..., Run],
    schedule: tuple[str, ...],
) -> None:
    network = f"{SumNetwork.__module__}.SumNetwork"
    source = run(
        *("fit", "--model=FullTraining", f"--model.network={network}", "--data=Digits"),
        *("--data.limit_per_class=5", "--trainer.max_epochs=1", "--trainer.logger=false"),
    )
    phase = f"name: a, train: {train}, epochs: 1"
    trusted = (f"--model.backbone={source.path}", "--trust=tests")
    result = run(*schedule, cached(phase), PLAIN, *trusted)
    assert ("Sum does more than" in result.out) != works
    assert_weights_equal(result, run(*schedule, uncached(phase), PLAIN, *trusted))


class Gated(Sum):
    """Has a parameter that is in none of its modules, and does nothing yet."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        first: Tensor = self.stage1(images)
        result: Tensor = self.stage2(first + self.gate)
        return result


def test_a_parameter_outside_of_all_modules_is_not_skipped() -> None:
    network = Network(Gated(), nn.Flatten())
    network.backbone.get_submodule("stage1").requires_grad_(False)
    model: Any = SimpleNamespace(network=network)
    with pytest.raises(CannotCacheError, match="nothing is frozen"):
        FeatureCache(SimpleNamespace(datamodule=None), model, None)._depth()


def test_dropout_before_what_trains_is_not_cached() -> None:
    parts = [
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()),
        nn.Sequential(nn.Dropout(), nn.Conv2d(4, 4, 3)),
    ]
    network = Network(nn.Sequential(*parts), nn.Flatten())
    parts[0].requires_grad_(False)
    network.train()
    evaluate_frozen(network)
    assert network.frozen_depth() == 2


def test_nothing_is_left_of_features_that_failed(
    run: Callable[..., Run],
    schedule: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(FeatureCache, "_write", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        run(*schedule, cached(HEAD), PLAIN)
    assert not list((tmp_path / "cache").glob("*.npy"))
    assert not list((tmp_path / "cache").glob(".*.npy"))


@pytest.mark.slow
def test_resume_inside_of_cached_phases(run: Callable[..., Run], schedule: tuple[str, ...]) -> None:
    given = cached("name: head, train: [head], steps: 6", TOP, more=", views: 3")
    check_resume(run, (*schedule, given), every=3)


def test_features_have_the_precision_of_the_training(
    run: Callable[..., Run], schedule: tuple[str, ...], tmp_path: Path
) -> None:
    args = (*schedule, PLAIN, "--trainer.precision=bf16-mixed")
    result = run(*args, cached(HEAD), SCORES)
    assert {np.load(file).dtype for file in (tmp_path / "cache").glob("[!.]*.npy")} == {
        np.dtype("int16")
    }
    without = run(*args, uncached(HEAD), SCORES)
    for one, other in zip(epochs(result), epochs(without), strict=True):
        assert one["train/loss"] == pytest.approx(other["train/loss"], abs=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_each_rank_computes_its_share(
    run: Callable[..., Run], schedule: tuple[str, ...], tmp_path: Path, ranks: Ranks
) -> None:
    top = TOP.replace("norm: train", "norm: affine_only")  # statistics are of each rank alone
    args = (*schedule, PLAIN, cached(HEAD, top), "--model.dropout=0", f"{RECORD}CountComputed")
    cache = f"--data.cache_dir={tmp_path / 'cache'}"
    done = ranks(*args, cache, "--run_dir", tmp_path / "two", "--data.batch_size=4")
    assert done.code == 0, done.said
    for rank in range(2):
        images = [int(line) for line in (tmp_path / "two" / f"rank{rank}.txt").read_text().split()]
        assert sum(images) == 2 * (30 + 8 + (71 if rank else 72) + 8)
    one = run(*args, "--data.batch_size=8", f"--data.cache_dir={tmp_path / 'other'}").path
    for name, value in last(one)["state_dict"].items():
        torch.testing.assert_close(
            last(tmp_path / "two")["state_dict"][name], value, atol=1e-6, rtol=0
        )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_compiled_network_goes_through_the_phases(
    run: Callable[..., Run], schedule: tuple[str, ...]
) -> None:
    args = (*schedule, cached(HEAD, TOP), PLAIN, "--model.dropout=0")
    result = run(*args, "--model.compile_network=true")
    assert result.out.count("features computed") == 2
    compiled = result.path
    for name, value in last(run(*args).path)["state_dict"].items():
        torch.testing.assert_close(last(compiled)["state_dict"][name], value, atol=1e-4, rtol=1e-3)
