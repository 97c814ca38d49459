"""Files are whole or absent, and a checkpoint that is damaged is never taken for whole."""

import math
import os
import random
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from project.checkpoints import DAMAGED, WholeCheckpoints, load_checkpoint, newest_checkpoint
from project.errors import UserError
from project.metrics_file import MetricsFile
from project.saving import whole, write

WEIGHTS = torch.arange(20_000.0)


@pytest.fixture
def at_most() -> Iterator[Callable[[int], None]]:
    """Let no file grow beyond a number of bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def checkpoint(step: int = 1) -> dict:
    return {"state_dict": {"weights": WEIGHTS * step}, "global_step": step, "note": {"a": [1, "b"]}}


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("background", [False, True])
def test_a_save_that_fails_leaves_the_one_before(tmp_path: Path, at_most, background: bool) -> None:
    saves, path = WholeCheckpoints(background), tmp_path / "checkpoints" / "last.ckpt"
    saves.save_checkpoint(checkpoint(), path)
    saves.teardown()
    at_most(30_000)
    with pytest.raises(UserError) as error:
        saves.save_checkpoint(checkpoint(2), path)
        saves.teardown()
    assert str(error.value).startswith(f"{path}: can't be written: File too large; it needs 0.1 MB")
    assert load_checkpoint(path)["global_step"] == 1
    assert names(path.parent) == ["last.ckpt"]


def test_a_background_save_holds_the_weights_of_its_moment(tmp_path: Path) -> None:
    saves, weights = WholeCheckpoints(background=True), WEIGHTS.clone()
    saves.save_checkpoint({"state_dict": {"weights": weights}}, tmp_path / "last.ckpt")
    weights.zero_()
    loaded = saves.load_checkpoint(tmp_path / "last.ckpt")
    assert torch.equal(loaded["state_dict"]["weights"], WEIGHTS)


@pytest.mark.parametrize("size", [0, 10_000])
def test_a_text_is_written_whole_or_not_at_all(tmp_path: Path, at_most, size: int) -> None:
    write(tmp_path / "summary.json", "before")
    at_most(size)
    with pytest.raises(UserError, match=r"summary.json: can't be written: File too large"):
        write(tmp_path / "summary.json", "x" * 20_000)
    assert (tmp_path / "summary.json").read_text() == "before"
    assert names(tmp_path) == ["summary.json"]


def test_an_interrupt_while_writing_leaves_the_one_before(tmp_path: Path) -> None:
    write(tmp_path / "a", "before")
    with pytest.raises(KeyboardInterrupt), whole(tmp_path / "a") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert (tmp_path / "a").read_text() == "before"
    assert names(tmp_path) == ["a"]


def save_forever(path: Path, report: int) -> None:
    saves, step = WholeCheckpoints(), 0
    while True:
        step += 1
        saves.save_checkpoint(checkpoint(step), path)
        os.write(report, f"{step}\n".encode())


def test_a_kill_at_any_moment_leaves_the_last_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/dev/shm")  # another device, where there is one
    path, (read, report) = tmp_path / "checkpoints" / "last.ckpt", os.pipe()
    process = os.fork()
    if not process:
        save_forever(path, report)
    os.close(report)
    with os.fdopen(read) as steps:
        for line in steps:
            if int(line) == 40:
                os.kill(process, signal.SIGKILL)
            saved = int(line)
    os.waitpid(process, 0)
    assert newest_checkpoint(tmp_path) == path
    assert load_checkpoint(path)["global_step"] in (saved, saved + 1)
    assert set(names(path.parent)) <= {"last.ckpt", ".last.ckpt.partial"}


def test_no_damage_gives_other_values(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    WholeCheckpoints().save_checkpoint(checkpoint(), path)
    content, pick = path.read_bytes(), random.Random(0)
    noticed = 0
    for _ in range(150):
        damaged = bytearray(content)
        if pick.random() < 0.2:
            damaged = damaged[: pick.randrange(len(content))]
        else:
            start, length = pick.randrange(len(content)), pick.choice([1, 1, 100, 3000])
            damaged[start : start + length] = pick.randbytes(length)
        path.write_bytes(damaged)
        try:
            loaded = load_checkpoint(path)
        except UserError as error:
            assert str(error).startswith(f"{path} can't be opened as a checkpoint: ")
            noticed += 1
        else:
            assert torch.equal(loaded.pop("state_dict")["weights"], WEIGHTS)
            assert loaded == {"global_step": 1, "note": {"a": [1, "b"]}}
    assert noticed > 130


def test_the_newest_whole_checkpoint_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best, last = (tmp_path / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    assert newest_checkpoint(tmp_path) is None
    for step, path in ((5, best), (4, last)):
        WholeCheckpoints().save_checkpoint(checkpoint(step), path)
    assert newest_checkpoint(tmp_path) == best
    WholeCheckpoints().save_checkpoint(checkpoint(5), last)
    assert newest_checkpoint(tmp_path) == last
    last.write_bytes(last.read_bytes()[:-100])
    assert newest_checkpoint(tmp_path) == best
    assert f"it is now last.ckpt{DAMAGED}" in capsys.readouterr().out
    assert last.with_name(f"last.ckpt{DAMAGED}").exists()
    shutil.rmtree(best.parent)
    assert newest_checkpoint(tmp_path) is None


def test_metrics_go_on_from_a_row(tmp_path: Path) -> None:
    file = MetricsFile(str(tmp_path))
    for step in range(4):
        file.log_metrics({"epoch": step // 2, "loss": 0.5}, step)
        file.save()
        assert file.rows == step + 1
    file.log_metrics({"epoch": 1, "seconds": 1.0}, 2)  # of an epoch that wasn't over
    file.save()
    path = tmp_path / "metrics.csv"
    path.write_text(path.read_text() + "1,0.")  # what a full disk may leave
    assert MetricsFile(str(tmp_path)).go_on(9, 9) == 5
    other = MetricsFile(str(tmp_path))
    assert other.go_on(2, 3) == 3
    other.log_metrics({"epoch": 1, "loss": 0.25}, 3)
    assert other.rows == 4
    other.save()
    assert path.read_text().split() == [
        "epoch,loss,step", "0,0.5,0", "0,0.5,1", "1,0.5,2", "1,0.25,3",
    ]  # fmt: skip
    MetricsFile(str(tmp_path)).save()  # nothing is logged, and nothing is lost
    assert len(path.read_text().split()) == 5


def test_a_row_is_written_whole_or_not_at_all(tmp_path: Path, at_most) -> None:
    file, path = MetricsFile(str(tmp_path)), tmp_path / "metrics.csv"
    file.log_metrics({"loss": 0.5}, 0)
    file.save()
    before = path.read_text()
    at_most(len(before) + 3)
    file.log_metrics({"loss": 0.25}, 1)
    with pytest.raises(UserError, match=r"metrics.csv: can't be written"):
        file.save()
    assert path.read_text() == before


@pytest.mark.parametrize(
    "part",
    [
        {"state_dict": {"weights": torch.tensor([1.0, math.nan])}},
        {"state_dict": {"weights": torch.tensor([math.inf, -math.inf])}},
        {"optimizer_states": [{"state": {0: {"exp_avg": torch.tensor([math.nan])}}}]},
        {"current_model_state": {"weights": torch.tensor(math.inf)}},
    ],
)
def test_what_is_not_finite_is_not_saved(tmp_path: Path, part: dict) -> None:
    saves, path = WholeCheckpoints(), tmp_path / "last.ckpt"
    saves.save_checkpoint(checkpoint(), path)
    with pytest.raises(UserError, match="isn't finite, and is not saved"):
        saves.save_checkpoint({**checkpoint(2), **part}, path)
    assert load_checkpoint(path)["global_step"] == 1
    large = {"weights": torch.full((9,), 3e38)}  # whose sum is infinite
    saves.infinite = {"mask"}
    saves.save_checkpoint({"state_dict": {**large, "mask": torch.tensor(-math.inf)}}, path)
    assert load_checkpoint(path)["state_dict"]["mask"] == -math.inf


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError()])
def test_what_cannot_be_read_now_is_not_put_aside(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    WholeCheckpoints().save_checkpoint(checkpoint(), path)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(UserError, match="can't be opened"):
        newest_checkpoint(tmp_path)
    assert names(path.parent) == ["last.ckpt"]


def test_one_damaged_checkpoint_after_another_is_kept(tmp_path: Path) -> None:
    best, last = (tmp_path / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    WholeCheckpoints().save_checkpoint(checkpoint(), best)
    for content in (b"one", b"other"):
        last.write_bytes(content)
        assert newest_checkpoint(tmp_path) == best
    kept = {path.read_bytes() for path in best.parent.glob(f"*{DAMAGED}*")}
    assert kept == {b"one", b"other"}


def test_a_damaged_table_keeps_its_whole_rows(tmp_path: Path) -> None:
    rows = b"epoch,loss,step\n0,0.5,0\n0,0.5,1,7,7\n,0.5,2\n\xff,x,\n0,0.5,3\n0,0.9"
    (tmp_path / "metrics.csv").write_bytes(rows)
    assert MetricsFile(str(tmp_path)).go_on(9, 9) == 3
