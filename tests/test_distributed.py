"""Two processes learn exactly what one does, and evaluate each image once."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import CONFIGS


def train(run_dir: Path, *args: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "project", "fit", "--run_dir", str(run_dir), *args]
    done = subprocess.run(command, cwd=CONFIGS.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    last = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    summary = json.loads((run_dir / "summary.json").read_text())
    return {"state": last["state_dict"], "summary": summary, "out": done.stdout}


@pytest.mark.timeout(120)
def test_two_ranks_of_half_the_batch_equal_one(tmp_path: Path) -> None:
    args = [
        *("--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--model.optimizer=SGD"),
        *("--model.optimizer.lr=0.1", "--data.augment={shift: 1, flip: 0.3}"),
        *("--trainer.logger=CSVLogger", "--data.limit_per_class=33"),
    ]
    one = train(tmp_path / "one", *args, "--trainer.devices=1", "--data.batch_size=32")
    ddp = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=16"]
    two = train(tmp_path / "two", *args, *ddp)
    for key, value in one["state"].items():
        torch.testing.assert_close(two["state"][key], value, atol=2e-6, rtol=1e-5)
    for name in ("test/accuracy", "test/loss", "val/f1", "val/loss", "parameters_total"):
        assert two["summary"][name] == pytest.approx(one["summary"][name], abs=1e-5)
    again = train(tmp_path / "two", *args, *ddp, f"--ckpt_path={tmp_path / 'two'}")
    assert (tmp_path / "two" / "summary.json").is_file() and again
    assert two["out"].count("epoch 1/2") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


@pytest.mark.timeout(120)
def test_average_with_an_optimizer_of_the_config(tmp_path: Path) -> None:
    """The average is a copy of the model, which holds a factory that can't be copied."""
    found = train(
        tmp_path / "run",
        *("--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.devices=2"),
        *("--trainer.strategy=ddp", "--model.optimizer=AdamW", "--trainer.logger=false"),
        *("--trainer.callbacks=EMAWeightAveraging", "--data.limit_per_class=10"),
    )
    assert found["summary"]["test/accuracy"] > 0


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_two_ranks_whiten_alike(tmp_path: Path) -> None:
    args = [
        *("--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--trainer.devices=2"),
        *("--trainer.strategy=ddp", "--trainer.logger=false", "--data.limit_per_class=10"),
        *("--model=FullTraining", "--model.network=Airbench", "--model.network.widths=[4,8]"),
        *("--trainer.callbacks=tests.finetuning.schedules.RankDifference",),
    ]
    train(tmp_path / "run", *args)
    assert (tmp_path / "run" / "differences.txt").read_text() == "0.0\n0.0\n"
