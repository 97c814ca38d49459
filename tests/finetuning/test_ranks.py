"""The ranks of a distributed run stay identical, whatever trains when."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import Run
from tests.finetuning.schedules import RECORD, last, phases
from tests.ranks import Ranks

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


def differences(path: Path) -> list[float]:
    return [float(line) for line in (path / "differences.txt").read_text().splitlines()]


def three_phases(schedule: tuple[str, ...], optimizer: str) -> tuple[str, ...]:
    args = (*schedule, THREE, f"--model.optimizer={optimizer}", "--model.optimizer.lr=0.01")
    return (*args, "--model.dropout=0", "--model.optimizer.weight_decay=0.1")


def check_against_one_rank(run: Callable[..., Run], args: tuple[str, ...], path: Path) -> None:
    assert differences(path) == [0.0] * 3
    one = run(*args, "--data.batch_size=8", "--trainer.accelerator=cpu").path
    for name, value in last(one)["state_dict"].items():
        torch.testing.assert_close(last(path)["state_dict"][name], value, atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
def test_two_ranks_of_four_equal_one_of_eight(
    optimizer: str,
    schedule: tuple[str, ...],
    tmp_path: Path,
    run: Callable[..., Run],
    ranks: Ranks,
) -> None:
    args, path = three_phases(schedule, optimizer), tmp_path / "two"
    record = f"{RECORD}RankDifference"
    done = ranks(*args, record, "--run_dir", path, "--data.batch_size=4")
    assert done.code == 0, done.said
    check_against_one_rank(run, args, path)


@pytest.mark.timeout(120)
def test_ranks_stay_equal_when_groups_are_frozen_again(
    schedule: tuple[str, ...], tmp_path: Path, ranks: Ranks
) -> None:
    path = tmp_path / "two"
    record = f"{RECORD}RankDifference"
    done = ranks(*schedule, FREEZE_AGAIN, record, "--run_dir", path, "--data.batch_size=4")
    assert done.code == 0, done.said
    assert differences(path) == [0.0] * 4


@pytest.mark.timeout(120)
def test_drift_is_an_error(schedule: tuple[str, ...], tmp_path: Path, ranks: Ranks) -> None:
    drift = (THREE, f"{RECORD}Drift", "--data.batch_size=4")
    done = ranks(*schedule, *drift, "--run_dir", tmp_path / "two")
    assert done.code == 2
    assert "the ranks have drifted apart in epoch 1: 1 parameters differ" in done.said
    assert "network.head.2.weight" in done.said
