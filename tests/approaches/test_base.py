"""Losses, metrics, optimizers and schedules, against what the libraries compute."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import classification as classification_metrics
from torchmetrics.functional import classification

from project.approaches import FineTuning, FullTraining, TrainFromScratch, WarmupCosine
from project.approaches import metrics as metrics_module
from project.approaches.metrics import EpochMetrics
from project.data import Batch, Digits
from project.errors import UserError
from project.networks import CNN, MLP
from tests.conftest import CONFIGS, Run


@pytest.mark.parametrize("most", [1000, 1])
@pytest.mark.parametrize("num_classes", [2, 5])
def test_metrics_are_those_of_torchmetrics(
    num_classes: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_module, "MAX_CONFUSION", most)
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(70, num_classes, generator=generator)
    labels = torch.randint(num_classes, (70,), generator=generator)
    labels[labels == 3] = 2  # a class that occurs among predictions only
    metrics = EpochMetrics(num_classes)
    for part in (slice(0, 32), slice(32, 64), slice(64, 70)):
        loss = functional.cross_entropy(scores[part], labels[part])
        metrics.update(loss, scores[part], labels[part])
        so_far = {name: value.clone() for name, value in metrics.sums().items()}
        metrics.reset()
        metrics.restore(so_far)
    found = metrics.compute()
    macro: dict[str, Any] = {"num_classes": num_classes, "average": "macro"}
    expected = {
        "loss": functional.cross_entropy(scores, labels),
        "accuracy": (scores.argmax(1) == labels).float().mean(),
        "balanced_accuracy": classification.multiclass_recall(
            scores, labels, num_classes, average="none"
        )[labels.unique()].mean(),
        "precision": classification.multiclass_precision(scores, labels, **macro),
        "recall": classification.multiclass_recall(scores, labels, **macro),
        "f1": classification.multiclass_f1_score(scores, labels, **macro),
    }
    torch.testing.assert_close(found, expected)
    if most == 1:
        assert metrics.total_confusion is None
        return
    confusion = classification.multiclass_confusion_matrix(scores, labels, num_classes)
    assert metrics.total_confusion is not None
    assert torch.equal(metrics.total_confusion, confusion)


def test_metrics_of_unequal_classes_are_those_of_scikit_learn() -> None:
    """The examples of its documentation, of balanced_accuracy_score and of f1_score (macro)."""
    for labels, predictions, name, expected in (
        ([0, 1, 0, 0, 1, 0], [0, 1, 0, 0, 0, 1], "balanced_accuracy", 0.625),
        ([0, 1, 2, 0, 1, 2], [0, 2, 1, 0, 0, 1], "f1", 0.26667),
        ([0] * 9 + [1], [0] * 10, "accuracy", 0.9),  # always the large class
        ([0] * 9 + [1], [0] * 10, "balanced_accuracy", 0.5),
        ([0] * 9 + [1], [0] * 10, "f1", 0.47368),
        ([0, 0], [0, 2], "balanced_accuracy", 0.5),  # 2 occurs among predictions only
        ([0, 0], [0, 2], "recall", 0.25),
    ):
        metrics = EpochMetrics(3)
        scores = functional.one_hot(torch.tensor(predictions), 3).float()
        metrics.update(torch.zeros(()), scores, torch.tensor(labels))
        assert metrics.compute()[name].item() == pytest.approx(expected, abs=1e-4)


def test_metrics_of_very_many_classes_are_small() -> None:
    """A matrix of them would take 80 GB."""
    metrics = EpochMetrics(100_000)
    labels = torch.arange(100_000)[:20]
    metrics.update(torch.zeros(()), functional.one_hot(labels, 100_000), labels)
    assert metrics.compute()["accuracy"] == 1 and metrics.total_confusion is None
    assert sum(value.nbytes for value in metrics.sums().values()) < 3e6


def test_one_logit_is_two_class_cross_entropy() -> None:
    model = TrainFromScratch(2, (1, 4, 4), one_logit=True, label_smoothing=0.1)
    logits, labels = torch.randn(9, 1), torch.randint(2, (9,))
    two = model.class_logits(logits)
    for smoothing in (0.0, 0.1):
        torch.testing.assert_close(
            model.compute_loss(logits, labels, training=smoothing > 0),
            functional.cross_entropy(two, labels, label_smoothing=smoothing),
        )
    soft = torch.rand(9, 2).softmax(1)
    torch.testing.assert_close(
        model.compute_loss(logits, soft), functional.cross_entropy(two, soft)
    )


@pytest.mark.parametrize(
    ("change", "given"),
    [
        (lambda logits: (logits, logits), "tuple"),
        (lambda logits: {"logits": logits}, "dict"),
        (lambda logits: logits[:, :2], r"\[5, 2\]"),
        (lambda logits: logits[..., None], r"\[5, 3, 1\]"),
    ],
)
def test_a_network_must_return_logits(change: Callable[..., Any], given: str) -> None:
    model = TrainFromScratch(3, (1, 4, 4))
    model.network.head.register_forward_hook(lambda module, inputs, logits: change(logits))
    message = rf"model.network: MLP returns {given}, and not logits \[5, 3\]"
    with pytest.raises(UserError, match=message):
        model(torch.zeros(5, 1, 4, 4))


def test_one_logit_needs_two_classes() -> None:
    with pytest.raises(UserError, match="the data has 3"):
        TrainFromScratch(3, (1, 4, 4), one_logit=True)


class Weighted(nn.Module):
    """Cross entropy with a weight for each class, which can be trained or not."""

    def __init__(self, trained: bool = False) -> None:
        super().__init__()
        weight = torch.linspace(1, 2, 10)
        self.weight = nn.Parameter(weight) if trained else nn.Buffer(weight)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        assert logits.shape[1:] == self.weight.shape
        return functional.cross_entropy(logits * self.weight, targets)


def test_loss_of_the_config_is_used_everywhere(run: Callable[..., Run]) -> None:
    loss = f"--model.loss={__name__}.Weighted"
    args = (
        "fit",
        "--trainer.max_epochs=1",
        "--trainer.logger=false",
        "--trainer.limit_train_batches=2",
    )
    plain, fitted = run(*args), run(*args, loss)
    for name in ("train/loss", "val/loss", "test/loss"):
        assert fitted.summary[name] != pytest.approx(plain.summary[name], abs=1e-4)
    assert "loss" not in fitted.best["hyper_parameters"]  # loads with weights_only
    assert f"{__name__}.Weighted" in (fitted.path / "config.yaml").read_text()
    assert "loss.weight" in fitted.best["state_dict"]


def test_loss_gets_a_logit_for_each_class_and_probabilities() -> None:
    model = FullTraining(2, (1, 4, 4), network=MLP, one_logit=True, loss=nn.CrossEntropyLoss())
    logits, labels = torch.randn(9, 1), torch.randint(2, (9,))
    expected = functional.cross_entropy(model.class_logits(logits), labels)
    torch.testing.assert_close(model.compute_loss(logits, labels), expected)
    soft = torch.rand(9, 2).softmax(1)
    expected = functional.cross_entropy(model.class_logits(logits), soft)
    torch.testing.assert_close(model.compute_loss(logits, soft), expected)


def test_loss_must_be_a_scalar_and_brings_its_own_smoothing() -> None:
    each = nn.CrossEntropyLoss(reduction="none")
    model = TrainFromScratch(3, (1, 4, 4), loss=each)
    with pytest.raises(UserError, match=r"model.loss: returns a tensor of shape \[2\]"):
        model.compute_loss(torch.zeros(2, 3), torch.tensor([0, 1]))
    with pytest.raises(UserError, match=r"^model.label_smoothing: "):
        TrainFromScratch(3, (1, 4, 4), loss=each, label_smoothing=0.1)


def test_parameters_of_a_loss_train_or_are_refused() -> None:
    loss = Weighted(trained=True)
    model = TrainFromScratch(10, (1, 8, 8), loss=loss)
    (group,) = model.configure_optimizers().param_groups  # type: ignore[union-attr]
    assert any(parameter is loss.weight for parameter in group["params"])
    tuned = FineTuning(10, (3, 32, 32), backbone="resnet18", loss=loss)
    with pytest.raises(UserError, match=r"model.loss: Weighted has parameters of its own"):
        tuned.configure_optimizers()


def test_metrics_of_the_config_are_those_of_torchmetrics(run: Callable[..., Run]) -> None:
    auroc = "{class_path: torchmetrics.classification.MulticlassAUROC, init_args: {thresholds: 9}}"
    best = ("--checkpoint.monitor=val/auroc", "--checkpoint.mode=max", "--trainer.max_epochs=2")
    metrics = f"--model.metrics={{auroc: {auroc}}}"
    finished = run("fit", metrics, *best, "--trainer.logger=false")
    data = Digits()
    data.setup("fit")
    best_one = finished.path / finished.summary["best_checkpoint"]
    model = TrainFromScratch.load_from_checkpoint(best_one).eval()
    for split, images in {"val": data.val_images, "test": data.test_images}.items():
        assert images is not None
        batch = images[torch.arange(len(images))]
        with torch.no_grad():
            scores = model(data.transform(batch.images, batch.indices, None)).softmax(1)
        expected = classification.multiclass_auroc(scores, batch.labels, 10, thresholds=9)
        assert finished.summary[f"{split}/auroc"] == pytest.approx(expected.item(), abs=1e-5)
    assert "auroc" in finished.out
    checkpoint = finished.best["callbacks"]["BestAndLast"]
    assert checkpoint["monitor"] == "val/auroc"
    tested = run("test", "--ckpt_path", finished.path)
    assert tested.summary["test/auroc"] == pytest.approx(finished.summary["test/auroc"])


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"f1": classification_metrics.MulticlassAUROC}, "model.metrics: 'f1' is the name of a"),
        ({"a": partial(classification_metrics.MulticlassAUROC, thresholds="x")}, "model.metrics.a"),
    ],
)
def test_bad_metrics_are_refused(metrics: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainFromScratch(3, (1, 4, 4), metrics=metrics)


def test_metric_must_be_one_number(fails: Callable[..., str]) -> None:
    auroc = "torchmetrics.classification.MulticlassAUROC"
    each = f"{{each: {{class_path: {auroc}, init_args: {{average: none}}}}}}"
    message = fails("fit", f"--model.metrics={each}", "--trainer.logger=false")
    assert message.startswith("model.metrics.each: its result must be one number")


def test_mirrored_images_are_evaluated_alike_on_request() -> None:
    model = TrainFromScratch(3, (1, 4, 4), flip_tta=True)
    images = torch.randn(5, 1, 4, 4)
    batch = Batch(images, torch.arange(5) % 3, torch.arange(5))
    found = model.predict_step(batch, 0)["probabilities"]
    logits = (model(images) + model(images.flip(3))) / 2
    torch.testing.assert_close(found, logits.softmax(1))
    model.validation_step(batch, 0)
    torch.testing.assert_close(
        model.val_metrics.compute()["loss"], functional.cross_entropy(logits, batch.labels)
    )


def test_norm_and_bias_are_spared_weight_decay_on_request() -> None:
    network = partial(CNN, batch_norm=True)
    adamw = partial(torch.optim.AdamW, lr=0.1, weight_decay=0.3)
    model = FullTraining(
        10, (3, 32, 32), network=network, optimizer=adamw, decay_norm_and_bias=False
    )
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, torch.optim.AdamW)
    decayed, spared = optimizer.param_groups
    assert decayed["weight_decay"] == 0.3 and spared["weight_decay"] == 0
    assert {parameter.ndim for parameter in decayed["params"]} == {2, 4}
    assert {parameter.ndim for parameter in spared["params"]} == {1}
    count = len(decayed["params"]) + len(spared["params"])
    assert count == len(list(model.parameters()))


def test_warmup_cosine_has_its_closed_form() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    scheduler = WarmupCosine(optimizer, warmup=0.2, end=0.1)
    scheduler.set_total_steps(100)
    rates = []
    for _ in range(101):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(0.5 / 21)
    assert rates[:21] == sorted(rates[:21]) and max(rates) == pytest.approx(0.5)
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[60] == pytest.approx(0.5 * (0.1 + 0.9 * (1 + math.cos(math.pi * 0.5)) / 2))
    assert rates[100] == pytest.approx(0.05)


def test_plateau_scheduler_gets_its_metric(run: Callable[..., Run]) -> None:
    scheduler = "--model.lr_scheduler"
    finished = run(
        *("fit", "--trainer.max_epochs=3", "--trainer.logger=false"),
        f"{scheduler}.scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau",
        *(f"{scheduler}.scheduler.patience=0", f"{scheduler}.scheduler.threshold=0.999"),
        *(f"{scheduler}.scheduler.factor=0.5", f"{scheduler}.monitor=val/accuracy"),
        f"{scheduler}.scheduler.mode=max",
    )
    last = torch.load(finished.path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["optimizer_states"][0]["param_groups"][0]["lr"] < 0.001


@pytest.mark.parametrize("mixing", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixing_blends_images_and_targets(mixing: dict[str, float]) -> None:
    model = FullTraining(10, (3, 32, 32), label_smoothing=0.1, **mixing)
    batch = Batch(torch.randn(8, 3, 32, 32), torch.arange(8), torch.arange(8))
    torch.manual_seed(0)
    images, targets = model.training_batch(batch)
    assert targets.shape == (8, 10)
    torch.testing.assert_close(targets.sum(1), torch.ones(8))
    assert not torch.equal(images, batch.images)
    assert model.compute_loss(model(images), targets, training=True).isfinite()


def test_training_stops_when_the_loss_is_not_finite(
    fails: Callable[..., str], tmp_path: Any
) -> None:
    message = fails(
        *("fit", "--model.optimizer=SGD", "--model.optimizer.lr=1e30", "--trainer.logger=false"),
        *("--trainer.max_epochs=3", "--run_dir", tmp_path / "nan"),
    )
    assert message.startswith("the training loss became nan in epoch 1, batch ")
    assert "try a lower learning rate" in message
    assert not list((tmp_path / "nan").rglob("*.ckpt"))


def test_checkpoint_of_a_module_made_in_python_loads(run: Callable[..., Run]) -> None:
    finished = run("fit", "--config", CONFIGS / "quickstart.yaml", "--trainer.max_epochs=1")
    path = finished.path / "checkpoints" / "best.ckpt"
    model = TrainFromScratch.load_from_checkpoint(path, map_location="cpu")
    assert isinstance(model.network, CNN)
    assert model.hparams["class_names"] == tuple("0123456789")


NORMED = (
    *("fit", "--trainer.logger=false", "--trainer.max_epochs=1", "--model=FullTraining"),
    *("--model.network=LibraryNetwork", "--model.network.name=resnet18", "--data.image_size=32"),
    *("--test_after_fit=false", "--trainer.limit_val_batches=1", "--data.eval_batch_size=4"),
)


def test_a_rest_of_one_image_trains_batch_norm(run: Callable[..., Run]) -> None:
    """130 images in batches of 43: https://github.com/pytorch/pytorch/issues/7716."""
    run(*NORMED, "--data.limit_per_class=13", "--data.batch_size=43")


def test_batch_norm_on_one_image_is_explained(fails: Callable[..., str]) -> None:
    said = fails(*NORMED, "--data.limit_per_class=1", "--data.batch_size=1")
    assert said.startswith("data.batch_size: batch norm can't be trained on one image")
