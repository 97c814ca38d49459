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
    assert fitted.summary["best_epoch"] == values.index(best) + 1
    assert f"best epoch ({values.index(best) + 1}), by {monitor}" in fitted.out


def test_without_validation_the_last_epoch_is_the_best(run: Callable[..., Run]) -> None:
    fitted = run("fit", "--data.val_fraction=0", "--trainer.max_epochs=2", "--trainer.logger=false")
    assert fitted.best["epoch"] == 1
    assert "val/loss" not in fitted.summary
    assert fitted.summary["best_epoch"] is None and "best epoch" not in fitted.out
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
    for name in ("best_epoch", "val/loss", "val/accuracy", "test/loss", "test/accuracy"):
        assert resumed.summary[name] == before[0][name]
    for name, value in resumed.best["state_dict"].items():
        assert torch.equal(value, before[1][name])


def test_the_scores_of_each_class_on_request(run: Callable[..., Run]) -> None:
    """The weakest first; a class without predictions has no precision."""
    few = ("--data.limit_per_class=2", "--trainer.max_epochs=1", "--trainer.logger=false")
    fitted = run("fit", *few, "--model.optimizer=SGD", "--per_class=true")
    found = fitted.summary["test_classes"]
    table = fitted.out.split("test, by F1")[1].split("validation")[0]
    rows = [line.strip("│┃ ").split("│") for line in table.splitlines() if line.startswith("│")]
    names = [row[0].strip() for row in rows]
    assert sorted(names) == sorted(found)
    assert names == sorted(names, key=lambda name: found[name]["f1"])
    for name, row in zip(names, rows):
        cells = [cell.strip() for cell in row[1:]]
        scores = [found[name][score] for score in ("precision", "recall", "f1")]
        assert cells == [
            str(found[name]["images"]),
            *("" if score is None else f"{score:.4f}" for score in scores),
        ]
    assert any(found[name]["precision"] is None for name in names)
    assert "weakest classes" not in fitted.out
