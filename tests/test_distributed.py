"""Two processes learn exactly what one does, and evaluate each image once."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from project.environment import PACKAGE
from tests.conftest import CONFIGS, Run
from tests.data.unequal import UNEQUAL
from tests.finetuning.schedules import last
from tests.ranks import TWO, Ranks

AUGMENT = (
    "--data.augment=[RandomResizedCrop, {class_path: Augment, init_args: {shift: 1, flip: 0.3}}, "
    "TrivialAugment, RandomErasing]"
)
COMMON = (
    *("fit", "--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--model.optimizer=SGD"),
    *("--model.optimizer.lr=0.1", AUGMENT),
    *("--trainer.logger=CSVLogger", "--data.limit_per_class=33"),
)


@pytest.mark.timeout(120)
def test_two_ranks_of_half_the_batch_equal_one(tmp_path: Path, run: Callable[..., Run]) -> None:
    """Here the command starts the second process itself, as a person would have it."""
    one = run(*COMMON, "--trainer.devices=1", "--data.batch_size=32")
    path = tmp_path / "two"
    command = [sys.executable, "-m", PACKAGE, *COMMON, "--run_dir", str(path), *TWO]
    command += ["--data.batch_size=16"]
    done = subprocess.run(command, cwd=CONFIGS.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for key, value in last(one.path)["state_dict"].items():
        torch.testing.assert_close(last(path)["state_dict"][key], value, atol=2e-6, rtol=1e-5)
    summary = json.loads((path / "summary.json").read_text())
    for name in ("test/accuracy", "test/loss", "val/f1", "val/loss", "parameters_total"):
        assert summary[name] == pytest.approx(one.summary[name], abs=1e-5)
    assert done.stdout.count("epoch 1/2") == 1


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_two_ranks_sample_and_weigh_as_one(run: Callable[..., Run], ranks: Ranks) -> None:
    args = ("fit", UNEQUAL, *COMMON[1:-1], "--data.sampling=balanced", "--model.focal_gamma=1")
    args += ("--model.class_weights=effective", "--data.val_fraction=0", "--test_after_fit=false")
    one = run(*args, "--trainer.devices=1", "--data.batch_size=32")
    done = ranks(*args, "--run_dir=two", "--data.batch_size=16")
    assert done.code == 0, done.said
    for key, value in last(one.path)["state_dict"].items():
        torch.testing.assert_close(
            last(Path("two"))["state_dict"][key], value, atol=2e-6, rtol=1e-5
        )


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_two_ranks_resume_in_their_directory(tmp_path: Path, ranks: Ranks) -> None:
    args = (*COMMON, "--run_dir=two", "--data.batch_size=16")
    for more in ((), ("--ckpt_path=two", "--trainer.max_epochs=3")):
        done = ranks(*args, *more)
        assert done.code == 0, done.said
    assert last(tmp_path / "two")["epoch"] == 2
    assert done.said.count("epoch 3/3") == 1 and "epoch 2/3" not in done.said
    assert [path.name for path in tmp_path.iterdir()] == ["two"]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_average_with_an_optimizer_of_the_config(ranks: Ranks) -> None:
    """The average is a copy of the model, which holds a factory that can't be copied."""
    done = ranks(
        *("fit", "--trainer.max_epochs=1", "--model.optimizer=AdamW", "--trainer.logger=false"),
        *("--trainer.callbacks=EMAWeightAveraging", "--data.limit_per_class=10", "--run_dir=run"),
    )
    assert done.code == 0, done.said
    assert json.loads(Path("run/summary.json").read_text())["test/accuracy"] > 0


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_two_ranks_whiten_alike(ranks: Ranks) -> None:
    done = ranks(
        *("fit", "--trainer.max_epochs=2", "--trainer.logger=false", "--data.limit_per_class=10"),
        *("--model=FullTraining", "--model.network=Airbench", "--model.network.widths=[4,8]"),
        *("--trainer.callbacks=tests.finetuning.schedules.RankDifference", "--run_dir=run"),
    )
    assert done.code == 0, done.said
    assert Path("run/differences.txt").read_text() == "0.0\n0.0\n"
