"""What class weights and the focal factor do to the loss, and where they do it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from project.approaches import FullTraining, TrainFromScratch
from project.approaches.losses import CrossEntropy, weights_of_classes
from project.errors import UserError
from project.networks import MLP
from tests.conftest import Run
from tests.data.unequal import UNEQUAL
from tests.finetuning.schedules import last

NAMES = ("cat", "dog", "owl")
SIZES = torch.tensor([900, 90, 10])
NATURAL = SIZES.double() / 1000


def loss(names: tuple[str, ...] = NAMES, weights: Tensor | None = None, **options: Any) -> Any:
    built = CrossEntropy(names, class_weights="none" if weights is None else "balanced", **options)
    if weights is not None:
        assert built.weights is not None
        built.weights.copy_(weights)
    return built


def test_weights_are_those_of_the_papers() -> None:
    balanced = weights_of_classes("balanced", NAMES, SIZES, NATURAL)
    torch.testing.assert_close(balanced, 1000 / (3 * SIZES.float()))  # as scikit-learn has it
    effective = weights_of_classes("effective", NAMES, SIZES, NATURAL)
    expected = torch.tensor([0.001 / (1 - 0.999**n) for n in (900, 90, 10)])
    torch.testing.assert_close(effective / effective[0], expected / expected[0])
    given = weights_of_classes({"owl": 5, "dog": 0}, NAMES, SIZES, NATURAL)
    torch.testing.assert_close(given, torch.tensor([1, 0, 5.0]) / 0.95)


@pytest.mark.parametrize("class_weights", ["balanced", "effective", {"owl": 7.0}])
@pytest.mark.parametrize("shares", [[0.9, 0.09, 0.01], [0.5, 0.3, 0.2], [0.3, 0.7, 0.0]])
def test_mean_weight_of_an_epoch_is_one(class_weights: Any, shares: list[float]) -> None:
    weights = weights_of_classes(class_weights, NAMES, SIZES, torch.tensor(shares).double())
    assert weights.isfinite().all()
    assert float(weights.double() @ torch.tensor(shares).double()) == pytest.approx(1)


@pytest.mark.parametrize("class_weights", ["balanced", "effective"])
def test_sampling_changes_how_often_a_class_counts_but_not_how_much(class_weights: str) -> None:
    shares = torch.tensor([0.4, 0.35, 0.25]).double()
    natural = weights_of_classes(class_weights, NAMES, SIZES, NATURAL) * NATURAL
    sampled = weights_of_classes(class_weights, NAMES, SIZES, shares) * shares
    torch.testing.assert_close(natural, sampled, check_dtype=False)


def test_weighted_loss_is_a_mean_over_images() -> None:
    """torch's own would divide by 5: two images would count as much as one."""
    logits, labels = torch.randn(3, 3), torch.tensor([0, 2, 2])
    weights = torch.tensor([1.0, 9.0, 2.0])
    built = loss(weights=weights)
    each = functional.cross_entropy(logits, labels, reduction="none")
    found = built(logits, labels, training=True)
    torch.testing.assert_close(found, (each * torch.tensor([1.0, 2, 2])).mean())
    parts = [built(logits[part], labels[part], training=True) for part in ([0], [1], [2])]
    torch.testing.assert_close(torch.stack(parts).mean(), found)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_factor_is_that_of_the_paper(gamma: float) -> None:
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    right = logits.softmax(1)[torch.arange(5), labels]
    expected = (-((1 - right) ** gamma) * right.log()).mean()
    built = loss(focal_gamma=gamma)
    torch.testing.assert_close(built(logits, labels, training=True), expected)
    torch.testing.assert_close(built(logits, labels), functional.cross_entropy(logits, labels))
    certain = torch.tensor([[200.0, 0, 0]], requires_grad=True)
    built(certain, torch.tensor([0]), training=True).backward()
    assert certain.grad is not None and certain.grad.isfinite().all()


OPTIONS: list[dict[str, Any]] = [
    {"focal_gamma": 1.5},
    {"weights": torch.tensor([0.5, 3.0, 1.0])},
    {"focal_gamma": 2.0, "weights": torch.tensor([0.5, 3.0, 1.0]), "label_smoothing": 0.1},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_certain_targets_are_labels(options: dict[str, Any]) -> None:
    logits, labels = torch.randn(7, 3), torch.arange(7) % 3
    soft = functional.one_hot(labels, 3).float()
    built = loss(**options)
    torch.testing.assert_close(
        built(logits, soft, training=True), built(logits, labels, training=True)
    )


@pytest.mark.parametrize("options", OPTIONS)
def test_one_logit_is_two_classes(options: dict[str, Any]) -> None:
    if "weights" in options:
        options = options | {"weights": options["weights"][:2]}
    logits, labels, soft = torch.randn(9, 1), torch.randint(2, (9,)), torch.rand(9, 2).softmax(1)
    both = torch.cat([torch.zeros(9, 1), logits], 1)
    one, two = loss(("a", "b"), one_logit=True, **options), loss(("a", "b"), **options)
    for targets in (labels, soft):
        for training in (True, False):
            torch.testing.assert_close(
                one(logits, targets, training=training), two(both, targets, training=training)
            )


def test_half_of_a_class_has_half_of_its_weight() -> None:
    """And with two classes, the focal factor is that of Li et al. (2020), |y - p|."""
    logits, soft = torch.tensor([[0.3, -0.2]]), torch.tensor([[0.25, 0.75]])
    plain = functional.cross_entropy(logits, soft)
    built = loss(("a", "b"), weights=torch.tensor([4.0, 8.0]))
    torch.testing.assert_close(built(logits, soft, training=True), 7 * plain)
    factor = (0.75 - logits.softmax(1)[0, 1]).abs() ** 2
    built = loss(("a", "b"), focal_gamma=2.0)
    torch.testing.assert_close(built(logits, soft, training=True), factor * plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_any_precision(dtype: torch.dtype) -> None:
    built = loss(**OPTIONS[2]).to(dtype)
    logits, soft = torch.randn(4, 3, dtype=dtype), torch.rand(4, 3).softmax(1).to(dtype)
    for targets in (soft, torch.arange(4) % 3):
        found = built(logits, targets, training=True)
        assert found.isfinite() and found.dtype == torch.promote_types(dtype, torch.float32)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"class_weights": {"cow": 2}}, "class_weights: there is no class 'cow'; known are cat, dog, "),
    ({"class_weights": {"cat": -1}}, r"class_weights: -1 of cat must be in \[0, 1,000,000\]"),
    ({"class_weights": {"cat": float("nan")}}, "class_weights: nan of cat must be in "),
    ({"focal_gamma": -1}, r"focal_gamma: -1 must be in \[0, 100\]"),
    ({"focal_gamma": float("nan")}, "focal_gamma: nan must be in "),
    ({"loss": nn.CrossEntropyLoss(), "focal_gamma": 2}, "focal_gamma: belongs to the built-in"),
    (
        {"loss": nn.CrossEntropyLoss(), "class_weights": {"cat": 2}},
        "class_weights: belongs to the built-in .* set it to none, and give CrossEntropyLoss one",
    ),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^model.{message}"):
        TrainFromScratch(3, (1, 4, 4), class_names=NAMES, **options)


def test_some_class_must_count() -> None:
    with pytest.raises(UserError, match=r"^model.class_weights: leaves no class to train on"):
        weights_of_classes(
            {"cat": 0, "dog": 0}, NAMES, torch.tensor([5, 5, 0]), NATURAL.new([1, 1, 0])
        )


BOTH = ("--model.class_weights=balanced", "--model.focal_gamma=1")
APPROACHES = {
    "scratch": ("--data.sampling=sqrt", "--trainer.accumulate_grad_batches=2"),
    "mixed": (
        *("--model=FullTraining", "--model.network=MLP", "--model.mixup=0.4"),
        *("--model.cutmix=1", "--model.label_smoothing=0.1", "--model.class_weights.3=2"),
    ),
    "averaged": ("--trainer.callbacks=EMAWeightAveraging", "--trainer.precision=bf16-mixed"),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", APPROACHES)
def test_only_the_training_loss_is_weighted(name: str, run: Callable[..., Run]) -> None:
    """The weights are nowhere in the checkpoint, so that any can be resumed or tested."""
    options = (*APPROACHES[name], *(BOTH[1:] if name == "mixed" else BOTH))
    found = run("fit", UNEQUAL, "--trainer.max_epochs=1", "--trainer.logger=false", *options)
    assert not any("weights" in key for key in last(found.path)["state_dict"])
    model = (FullTraining if name == "mixed" else TrainFromScratch).load_from_checkpoint(
        found.path / found.summary["best_checkpoint"]
    )
    assert model.cross_entropy.focal_gamma == 1
    tested = run("test", "--ckpt_path", found.path, "--trust=tests")
    assert tested.summary["test/loss"] == pytest.approx(found.summary["test/loss"])
    # a little trained network is as good as none: its plain loss is about that of 10 classes
    assert found.summary["val/loss"] == pytest.approx(2.3, abs=0.5)
    assert 0 < found.summary["train/loss"] < found.summary["val/loss"]


def test_small_classes_are_learned_with_the_weights_of_the_data(run: Callable[..., Run]) -> None:
    model = TrainFromScratch(10, (1, 8, 8), network=MLP, class_weights="balanced")
    assert model.cross_entropy.weights is not None
    seen = {}

    def weigh(self: CrossEntropy, sizes: Tensor, shares: Tensor) -> None:
        seen.update(sizes=sizes, shares=shares)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CrossEntropy, "weigh", weigh)
        run("fit", UNEQUAL, "--trainer.fast_dev_run=true", BOTH[0], "--data.sampling=balanced")
    assert seen["sizes"].tolist() == [3, 7, 11, 14, 18, 22, 25, 29, 32, 36]
    torch.testing.assert_close(seen["shares"], torch.full((10,), 0.1).double())
