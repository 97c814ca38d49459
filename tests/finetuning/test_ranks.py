"""The ranks of a distributed run stay identical, whatever trains when."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import CONFIGS, Run
from tests.finetuning.schedules import RECORD, last, phases

THREE = phases(
    "{name: probe, train: [head], epochs: 1, norm: affine_only}",
    "{name: top, train: [head, stage2], steps: 6, warmup_steps: 2, norm: affine_only}",
    "{name: all, train: all, epochs: 1, norm: affine_only}",
)
FREEZE_AGAIN = phases(
    "{name: all, train: all, epochs: 1, norm: train}",
    "{name: low, train: [stage1], epochs: 1, norm: train, restore_best: true}",
    "{name: top, train: 2, norm: train, plateau: {max_epochs: 2, patience: 1}}",
)


def two_ranks(path: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run on two processes, in a process of its own: DDP starts the command again for each."""
    command = [sys.executable, "-m", "project", *args, "--run_dir", str(path)]
    options = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--data.batch_size=4"]
    return subprocess.run(
        [*command, *options], cwd=CONFIGS.parent, capture_output=True, text=True, timeout=100
    )


def differences(path: Path) -> list[float]:
    return [float(line) for line in (path / "differences.txt").read_text().splitlines()]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("strategy", "optimizer"),
    [
        ("ddp", "AdamW"),
        ("ddp_spawn", "SGD"),
        pytest.param("ddp", "SGD", marks=pytest.mark.slow),
        pytest.param("ddp_spawn", "AdamW", marks=pytest.mark.slow),
    ],
)
def test_two_ranks_of_four_equal_one_of_eight(
    strategy: str,
    optimizer: str,
    schedule: tuple[str, ...],
    tmp_path: Path,
    run: Callable[..., Run],
) -> None:
    args = (*schedule, THREE, f"--model.optimizer={optimizer}", "--model.optimizer.lr=0.01")
    args = (*args, "--model.dropout=0", "--model.optimizer.weight_decay=0.1")
    path = tmp_path / "two"
    done = two_ranks(path, *args, f"{RECORD}RankDifference", f"--trainer.strategy={strategy}")
    assert done.returncode == 0, done.stderr
    assert differences(path) == [0.0] * 3
    one = run(*args, "--data.batch_size=8", "--trainer.accelerator=cpu").path
    for name, value in last(one)["state_dict"].items():
        torch.testing.assert_close(last(path)["state_dict"][name], value, atol=1e-6, rtol=0)


@pytest.mark.timeout(120)
def test_ranks_stay_equal_when_groups_are_frozen_again(
    schedule: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "two"
    done = two_ranks(
        path, *schedule, FREEZE_AGAIN, f"{RECORD}RankDifference", "--trainer.strategy=ddp"
    )
    assert done.returncode == 0, done.stderr
    assert differences(path) == [0.0] * 4


@pytest.mark.timeout(120)
def test_drift_is_an_error(schedule: tuple[str, ...], tmp_path: Path) -> None:
    drift = (THREE, f"{RECORD}Drift", "--trainer.strategy=ddp")
    done = two_ranks(tmp_path / "two", *schedule, *drift)
    assert done.returncode != 0
    assert "the ranks have drifted apart in epoch 1: 1 parameters differ" in done.stderr
    assert "network.head.2.weight" in done.stderr
