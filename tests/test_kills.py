"""A training that is killed at any moments ends as one that never was: ``kill -9``, many times.

``python -m tests.test_kills 200`` kills 200 times, and says how many of the kills hit what.
"""

import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from project.cli import main
from project.run_files import CONFIG, SUMMARY
from tests.finetuning.schedules import equal
from tests.test_resuming import rows, scores

TRAINING = (
    *("fit", "--data.limit_per_class=10", "--data.batch_size=15", "--trainer.max_epochs=4"),
    *("--checkpoint.every_n_steps=1", "--trainer.log_every_n_steps=1", "--data.augment.shift=1"),
    *("--trainer.logger=CSVLogger", "--model.optimizer=AdamW", "--model.optimizer.lr=0.01"),
)
ELSEWHERE = "/dev/shm"  # another file system, for temporary files


def start(run: Path, tmp: str | None) -> int:
    """Start or go on in a process of its own; return its number."""
    process = os.fork()
    if process:
        return process
    try:
        if tmp is not None:
            os.environ["TMPDIR"] = tmp
            tempfile.tempdir = None
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        if not os.environ.get("KILLS_SHOW"):
            os.dup2(silent, 2)
        main([*TRAINING, f"--run_dir={run}", "--resume=auto"])
        os._exit(0)
    except SystemExit as end:
        os._exit(int(end.code or 0))
    finally:
        os._exit(1)


def state(run: Path) -> str:
    """What a kill hit."""
    names = {path.name for path in run.rglob("*")}
    if not (run / CONFIG).exists():
        return "before the run began"
    if any(name.endswith(".partial") for name in names):
        return "a file that was being written"
    if (run / SUMMARY).exists():
        return "after the training"
    return "in the training" if "last.ckpt" in names else "before the first save"


def train_and_kill(run: Path, seconds: float, pick: random.Random, kills: int) -> Counter[str]:
    """Train to the end, and kill that often on the way; return what was hit."""
    hit: Counter[str] = Counter()
    while True:
        process = start(run, ELSEWHERE if pick.random() < 0.5 else None)
        kill = hit.total() < kills
        if kill:
            time.sleep(pick.uniform(0, seconds))
            os.kill(process, signal.SIGKILL)
        status = os.waitpid(process, 0)[1]
        if kill and os.WIFSIGNALED(status):
            hit[state(run)] += 1
        elif status == 0:
            return hit
        else:
            raise AssertionError(f"{run} could not go on: {os.waitstatus_to_exitcode(status)}")


def last(run: Path) -> dict:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def compare(run: Path, whole: Path) -> None:
    """Compare what two runs have left behind."""
    one, other = last(run), last(whole)
    for part in ("state_dict", "optimizer_states", "loops"):
        assert equal(one[part], other[part]), (run, part)
    assert rows(run) == rows(whole), run
    assert scores(run) == scores(whole), run
    assert not list(run.rglob("*.damaged")), run


@pytest.mark.slow
def test_kills(tmp_path: Path, kills: int = 200, seed: int = 0) -> None:
    torch.set_num_threads(1)  # threads don't survive a fork
    pick, hit = random.Random(seed), Counter[str]()
    begin = time.monotonic()
    assert train_and_kill(tmp_path / "whole", 0, pick, kills=0) == Counter()
    seconds = 1.2 * (time.monotonic() - begin)
    number = 0
    while hit.total() < kills:
        number += 1
        hit += train_and_kill(tmp_path / f"run{number}", seconds, pick, pick.randrange(1, 8))
        compare(tmp_path / f"run{number}", tmp_path / "whole")
        print(f"{number} trainings, {hit.total()} kills: {dict(hit)}", flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        test_kills(Path(folder), int(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else 0)
