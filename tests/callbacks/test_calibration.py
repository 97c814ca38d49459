"""A temperature makes probabilities as sure as they are right, and changes no prediction."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from project.callbacks.calibration import temperature
from project.csv_text import read_table
from tests.conftest import Run
from tests.ranks import Ranks

UNSURE = ("fit", "--trainer.logger=false", "--model.optimizer=Adam", "--trainer.max_epochs=4")
UNSURE += ("--model.label_smoothing=0.4", "--test_after_fit=false")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("classes", [2, 10, 300])
@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_the_temperature_is_what_logits_were_multiplied_by(classes: int, factor: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, classes, generator=generator)
    labels = logits.softmax(1).multinomial(1, generator=generator).flatten()
    assert temperature(factor * logits, labels) == pytest.approx(factor, rel=0.05)


def test_without_a_minimum_the_probabilities_stay() -> None:
    logits = torch.eye(3).repeat(5, 1)
    assert temperature(logits, logits.argmax(1)) == 1  # all are right: the surer the better
    assert temperature(-logits, logits.argmax(1)) == 1
    assert temperature(torch.zeros(4, 3), torch.arange(4) % 3) == 1


@pytest.fixture
def trained(run: Callable[..., Run]) -> Run:
    return run(*UNSURE)


def test_a_test_and_a_prediction_are_calibrated(trained: Run, run: Callable[..., Run]) -> None:
    plain = run("test", "--ckpt_path", trained.path)
    done = run("test", "--ckpt_path", trained.path, "--calibrate=true")
    assert done.summary["test/temperature"] != 1
    for name in ("loss", "calibration_error"):
        before = plain.summary[f"test/{name}"]
        assert done.summary[f"test/uncalibrated_{name}"] == pytest.approx(before, abs=1e-5)
        assert done.summary[f"test/{name}"] != pytest.approx(before, abs=1e-5)
    assert done.summary["test/accuracy"] == plain.summary["test/accuracy"]
    rows, other = (list(read_table(one.path / "test_predictions.csv")) for one in (done, plain))
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in other]
    losses = [-math.log(max(float(row[f"probability_{row['label']}"]), 1e-6)) for row in rows]
    assert sum(losses) / len(rows) == pytest.approx(done.summary["test/loss"], abs=1e-3)

    predicted = run("predict", "--ckpt_path", trained.path, "--calibrate=true")
    found = list(read_table(predicted.path / "predictions.csv"))
    assert [row["probability"] for row in found] == [row["probability"] for row in rows]
    assert "calibrate: temperature" in predicted.out


def test_it_needs_validation_images(trained: Run, fails: Callable[..., str]) -> None:
    message = fails(
        "test", "--ckpt_path", trained.path, "--calibrate=true", "--data.val_fraction=0"
    )
    assert message.startswith("calibrate: needs validation images")
    message = fails("validate", "--ckpt_path", trained.path, "--calibrate=true")
    assert message.startswith("calibrate: is for test and predict")


def test_images_without_labels_are_calibrated_by_those_with(
    pets: Path, run: Callable[..., Run]
) -> None:
    options = ("--data=ImageFolder", f"--data.root={pets}", "--data.image_size=16")
    trained = run("fit", *options, "--model.one_logit=true", *UNSURE[1:])
    predict = ("predict", "--ckpt_path", trained.path, f"--data.predict_dir={pets}/test")
    plain, done = run(*predict), run(*predict, "--calibrate=true")
    found = [list(read_table(one.path / "predictions.csv")) for one in (plain, done)]
    assert len(found[0]) == len(found[1]) == 8
    assert [row["class"] for row in found[0]] == [row["class"] for row in found[1]]
    assert "calibrate: " in done.out and "validation images" in done.out


@pytest.mark.timeout(120)
@pytest.mark.slow
def test_two_ranks_find_one_temperature(
    trained: Run, run: Callable[..., Run], ranks: Ranks
) -> None:
    args = ("test", "--ckpt_path", trained.path, "--calibrate=true")
    one = run(*args)
    done = ranks(*args, "--run_dir=two")
    assert done.code == 0, done.said
    two = Run(Path("two"), "", "")
    for name, value in one.summary.items():
        if name.startswith("test/"):
            assert two.summary[name] == pytest.approx(value, abs=1e-5), name
    tables = [(one.path / name, two.path / name) for name in ("per_class.csv",)]
    assert all(first.read_bytes() == second.read_bytes() for first, second in tables)
