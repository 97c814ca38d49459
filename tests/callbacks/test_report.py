"""The summary belongs to the epoch that was kept."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from project.approaches.metrics import SCORES
from tests.conftest import Run


@pytest.mark.parametrize(
    ("monitor", "mode"), [("val/loss", "min"), ("val/balanced_accuracy", "max")]
)
def test_validation_scores_are_those_of_the_best_epoch(
    monitor: str, mode: str, run: Callable[..., Run]
) -> None:
    fitted = run(
        *("fit", "--trainer.max_epochs=4", "--model.optimizer=SGD", "--model.optimizer.lr=1.5"),
        *(f"--checkpoint.monitor={monitor}", f"--checkpoint.mode={mode}", "--trainer.logger=false"),
    )
    checked = run("validate", "--ckpt_path", fitted.path)
    for score in SCORES:
        assert checked.summary[f"val/{score}"] == pytest.approx(fitted.summary[f"val/{score}"])
    epochs = [line.split() for line in fitted.out.splitlines() if line.startswith("epoch ")]
    places = {"val/loss": ["val", "loss"]}.get(monitor, [monitor])
    values = [float(words[words.index(places[0]) + len(places)]) for words in epochs]
    best = (min if mode == "min" else max)(values)
    assert fitted.summary[monitor] == pytest.approx(best, abs=1e-4)


def test_without_validation_the_last_epoch_is_the_best(run: Callable[..., Run]) -> None:
    fitted = run("fit", "--data.val_fraction=0", "--trainer.max_epochs=2", "--trainer.logger=false")
    assert fitted.best["epoch"] == 1
    assert "val/loss" not in fitted.summary
    last = torch.load(fitted.path / "checkpoints" / "last.ckpt", weights_only=True)
    for key, value in last["state_dict"].items():
        assert torch.equal(value, fitted.best["state_dict"][key])


def test_last_checkpoint_is_of_the_last_epoch(run: Callable[..., Run]) -> None:
    fitted = run(
        *("fit", "--trainer.max_epochs=6", "--model.optimizer=SGD", "--model.optimizer.lr=1.5"),
        "--trainer.logger=false",
    )
    last = torch.load(fitted.path / "checkpoints" / "last.ckpt", weights_only=True)
    assert fitted.best["epoch"] < last["epoch"] == 5
    resumed = run("fit", "--ckpt_path", fitted.path, "--trainer.max_epochs=7")
    epochs = [line.split()[1] for line in resumed.out.splitlines() if line.startswith("epoch ")]
    assert epochs == ["7/7"]


def test_folder_without_test_images_is_not_tested(run: Callable[..., Run], pets: Path) -> None:
    import shutil

    shutil.rmtree(pets / "test")
    fitted = run(
        *("fit", "--data=ImageFolder", f"--data.root={pets}", "--data.image_size=16"),
        *("--trainer.max_epochs=1", "--trainer.logger=false"),
    )
    assert "val/accuracy" in fitted.summary and "test/accuracy" not in fitted.summary


@pytest.mark.parametrize("same_directory", [True, False])
def test_a_resumed_run_keeps_the_best_epoch_before(
    same_directory: bool, run: Callable[..., Run]
) -> None:
    args = ("fit", "--trainer.logger=false", "--model.optimizer=SGD")
    first = run(*args, "--trainer.max_epochs=2", "--model.optimizer.lr=0.1")
    before = (first.summary, first.best["state_dict"])
    worse = ("--trainer.max_epochs=3", "--model.optimizer.lr=50", f"--ckpt_path={first.path}")
    resumed = run(*args, *worse, run_dir=first.path if same_directory else None)
    assert "resumes in epoch 3, after step" in resumed.out
    for name in ("val/loss", "val/accuracy", "test/loss", "test/accuracy"):
        assert resumed.summary[name] == before[0][name]
    for name, value in resumed.best["state_dict"].items():
        assert torch.equal(value, before[1][name])
