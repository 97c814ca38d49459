"""A signal ends a command in good order: saved, one line, an exit code of its own."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from project import signals
from project.cli import main
from project.data.files import ImageFiles
from project.environment import PACKAGE
from project.finetuning.features import FeatureCache
from project.lightning_cli import ProjectCLI
from project.signals import Listening, Stopped
from tests.conftest import CONFIGS, Run
from tests.finetuning.schedules import equal, last
from tests.ranks import Ranks

OWN = f"{__name__}."
AGAIN = f"python -m {PACKAGE} fit --resume"
TEST = f"python -m {PACKAGE} test --ckpt_path"
SMALL = (
    *("--config=none.yaml", "--data.limit_per_class=12", "--data.batch_size=15"),
    *("--data.eval_batch_size=8", "--trainer.logger=CSVLogger", "--trainer.log_every_n_steps=1"),
    *("--model.optimizer=SGD", "--model.optimizer.lr=0.5", "--model.optimizer.momentum=0.9"),
    "--trainer.max_epochs=2",
)
AVERAGE = "--trainer.callbacks+={class_path: EMAWeightAveraging, init_args: {decay: 0.6}}"
EARLY_STOPPING = (
    "--trainer.callbacks+={class_path: EarlyStopping, init_args: {monitor: val/loss, patience: 9}}"
)


class Kill(L.Callback):
    """Sends a signal to its own process.

    Args:
        hook: Where.
        times: How often that place is passed until then.
        signum: The signal.
        rank: The rank that gets it.
    """

    def __init__(self, hook: str, times: int = 1, signum: int = 15, rank: int = 0) -> None:
        self.left = times
        self.signum = signum
        self.rank = rank
        setattr(self, hook, self._count)

    def _count(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        if not trainer.sanity_checking:
            self.left -= 1
            if self.left == 0 and trainer.global_rank == self.rank:
                os.kill(os.getpid(), self.signum)


def kill(hook: str, times: int = 1, signum: int = signal.SIGTERM, rank: int = 0) -> str:
    options = f"{{hook: {hook}, times: {times}, signum: {int(signum)}, rank: {rank}}}"
    return f"--trainer.callbacks+={{class_path: {OWN}Kill, init_args: {options}}}"


@pytest.fixture(autouse=True)
def no_config() -> None:
    """A resumed run would refuse the classes of this file in the config of the stopped one."""
    Path("none.yaml").write_text("{}")


@pytest.fixture
def stop(run: Callable[..., Run], capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a command line that a signal ends; return exit code and output to stderr."""

    def run_it(*args: Any, run_dir: Path | None = None) -> tuple[Any, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            run(*args, run_dir=run_dir)
        return stopped.value.code, capfd.readouterr().err

    return run_it


def logged(*runs: Path) -> dict[tuple[str, str], list[str]]:
    """Return what was logged of each metric at each step."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in runs:
        with next(path.rglob("metrics.csv")).open() as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if value and name != "step" and not name.startswith("workload/"):
                        found.setdefault((row["step"], name), []).append(value)
    return found


def check_resumed(
    places: list[tuple[str, int]],
    options: tuple[str, ...],
    run: Callable[..., Run],
    stop: Callable[..., Any],
    tmp_path: Path,
) -> None:
    args = ("fit", *SMALL, *options)
    whole = run(*args)
    for number, (hook, times) in enumerate(places):
        path = tmp_path / f"stopped{number}"
        code, said = stop(*args, kill(hook, times), run_dir=path)
        step = last(path)["global_step"]
        assert said == f"terminated: at step {step}; go on with: {AGAIN} {path}\n"
        assert code == 143
        end = run(*args, f"--ckpt_path={path}")
        one, other = last(end.path), last(whole.path)
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
            assert equal(one[key], other[key]), (hook, times, key)
        assert logged(path, end.path) == logged(whole.path), (hook, times)


def test_resumed_exactly(run: Callable[..., Run], stop: Callable[..., Any], tmp_path: Path) -> None:
    """Also from inside a validation, while an average is in place of the weights."""
    check_resumed(
        [("on_validation_batch_start", 2)],
        (AVERAGE, "--trainer.val_check_interval=3"),
        run,
        stop,
        tmp_path,
    )


EVERYWHERE = [
    *(("on_train_batch_start", times) for times in (2, 7, 8)),
    *(("on_train_batch_end", times) for times in (3, 7)),
    *(("on_validation_start", times) for times in (1, 2)),
    *(("on_validation_batch_start", times) for times in (1, 4)),
    *(("on_validation_batch_end", times) for times in (2, 3, 5)),
    *(("on_validation_end", times) for times in (1, 2)),
    *(("on_train_epoch_end", 1), ("on_train_epoch_start", 2)),
]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--trainer.val_check_interval=3",),
        ("--trainer.val_check_interval=1",),
        ("--trainer.accumulate_grad_batches=3", "--trainer.val_check_interval=2"),
        (AVERAGE, "--trainer.val_check_interval=3"),
        (EARLY_STOPPING, "--trainer.val_check_interval=4"),
    ],
)
def test_resumed_exactly_from_everywhere(
    options: tuple[str, ...], run: Callable[..., Run], stop: Callable[..., Any], tmp_path: Path
) -> None:
    check_resumed(EVERYWHERE, options, run, stop, tmp_path)


@pytest.mark.slow
def test_before_the_first_step(stop: Callable[..., Any]) -> None:
    kills = kill("on_fit_start", signum=signal.SIGINT)
    code, said = stop("fit", *SMALL, kills, run_dir=Path("unused"))
    assert (code, said) == (130, f"interrupted: before step 1; {signals.ANEW}\n")
    assert not Path("unused").exists()


@pytest.mark.parametrize(
    ("signum", "said"),
    [
        (signal.SIGINT, "interrupted: "),
        (signal.SIGTERM, "terminated: "),
        (signal.SIGHUP, "ended by SIGHUP: "),
        (signal.SIGUSR1, "ended by SIGUSR1: "),
    ],
)
def test_every_signal_has_its_code(
    signum: int,
    said: str,
    stop: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ProjectCLI, "__init__", lambda *_, **__: os.kill(os.getpid(), signum))
    assert stop("fit") == (128 + signum, f"{said}{signals.ANEW}\n")


@pytest.mark.slow
def test_predict_and_the_test_of_a_training(
    run: Callable[..., Run], stop: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "fitted"
    code, said = stop("fit", *SMALL, kill("on_test_batch_start"), run_dir=path)
    assert code == 143
    assert said == f"terminated: the training is saved; test it with: {TEST} {path}\n"
    args = ("predict", *SMALL[:3], f"--ckpt_path={path}", kill("on_predict_batch_start"))
    assert stop(*args) == (143, f"terminated: {signals.ANEW}\n")


@pytest.mark.parametrize(
    ("job", "answer", "ids"),
    [
        pytest.param("7", "exit 0", {}, marks=pytest.mark.slow),
        ("5_3", "exit 0", {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "3"}),
        pytest.param("7", "echo not allowed >&2; exit 1", {}, marks=pytest.mark.slow),
    ],
)
def test_slurm_runs_a_job_again(
    job: str,
    answer: str,
    ids: dict[str, str],
    stop: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    slurm = {"JOB_ID": "7", "JOB_NAME": "train", "NTASKS": "1", "PROCID": "0", "LOCALID": "0"}
    slurm |= {"NODEID": "0", "NODELIST": "localhost"}
    for name, value in ({f"SLURM_{name}": slurm[name] for name in slurm} | ids).items():
        monkeypatch.setenv(name, value)
    stand_in = tmp_path / "bin" / "scontrol"
    stand_in.parent.mkdir()
    stand_in.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n{answer}\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:{os.environ['PATH']}")
    path = tmp_path / "run"
    code, said = stop("fit", *SMALL, kill("on_train_batch_start", 2, signal.SIGUSR1), run_dir=path)
    lines = said.splitlines()
    assert code == 138
    assert lines[0] == (
        f"ended by SIGUSR1: at step 2; go on with: {AGAIN} {path}; "
        f"SLURM job {job} goes into the queue again"
    )
    failed = [f"scontrol requeue {job} failed: not allowed"] if "not" in answer else []
    assert lines[1:] == failed
    assert (tmp_path / "asked").read_text() == f"requeue {job}\n"
    assert last(path)["global_step"] == 2


@pytest.mark.timeout(120)
@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_stop_together(rank: int, ranks: Ranks, tmp_path: Path) -> None:
    """Whichever of them gets the signal."""
    args = ("fit", *SMALL, f"--run_dir={tmp_path / 'run'}")
    done = ranks(*args, kill("on_train_batch_start", 2, rank=rank))
    assert done.code == 143
    assert last(tmp_path / "run")["global_step"] == 2
    assert done.said.splitlines()[-1].startswith("terminated: at step 2; go on with: ")


def test_features_are_not_computed_to_the_end(
    stop: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, seen = FeatureCache._compute, []

    def count(self: FeatureCache, *args: Any) -> Any:
        seen.append(args)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return compute(self, *args)

    monkeypatch.setattr(FeatureCache, "_compute", count)
    phase = "{name: probe, train: [head], epochs: 1, cache_features: true}"
    code, said = stop(
        *("fit", *SMALL[:4], "--model=FineTuning", "--model.network=MLP"),
        *("--trainer.callbacks+=FineTuningSchedule", "--data.cache_dir=cache"),
        f"--trainer.callbacks.phases=[{phase}]",
    )
    assert (code, said) == (143, f"terminated: before step 1; {signals.ANEW}\n")
    assert len(seen) == 2
    assert not list(Path("cache").rglob("*.npy"))


@contextmanager
def stopped(signum: int = signal.SIGTERM) -> Iterator[None]:
    with pytest.raises(Stopped) as reason, Listening():
        yield
    assert reason.value.code == 128 + signum


def test_images_are_not_decoded_to_the_end() -> None:
    seen = []

    class Decoder:
        shape = (1, 1, 1)

        def __call__(self, path: Path) -> Any:
            seen.append(path)
            if len(seen) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            return torch.zeros(1, 1, 1, dtype=torch.uint8).numpy()

    files = ImageFiles([Path(str(number)) for number in range(1000)], Decoder())  # type: ignore[arg-type]
    with stopped():
        files.decode_all(lambda place, pixels: None, progress=False)
    assert len(seen) < 200


def test_a_signal_inside_a_finalizer_is_not_lost() -> None:
    """Python drops what is raised there."""

    class Finalized:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    with stopped():
        Finalized()
        time.sleep(5)


def test_one_signal_that_comes_twice_is_one() -> None:
    """A terminal and a launcher both send theirs."""
    with Listening() as listening:
        listening.wait()
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        assert listening.received == signal.SIGINT
        with pytest.raises(Stopped):
            listening.act()


def test_nested_handlers_are_put_back_and_nohup_holds() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        before = [signal.getsignal(signum) for signum in signals.WORDS]
        with Listening(), Listening():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGTERM) != before[1]
        assert [signal.getsignal(signum) for signum in signals.WORDS] == before
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


BLOCKED = """
import hashlib, subprocess, sys
from project.signals import Listening
with Listening() as listening:
    listening.wait()
    print(subprocess.Popen(["sleep", "60"]).pid, flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # for minutes, without a Python instruction
"""


def test_a_second_signal_ends_everything_at_once() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKED], cwd=CONFIGS.parent, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(signals.SECOND + 0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 130
    process.stdout.close()
    state = Path(f"/proc/{child}/stat")
    assert not state.is_file() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_while_the_program_starts() -> None:
    """No trace of what was just imported."""
    process = subprocess.Popen(
        [sys.executable, "-m", PACKAGE, "fit"],
        cwd=CONFIGS.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=10)
    assert (process.returncode, said) == (130, f"interrupted: {signals.ANEW}\n")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_ranks_that_the_command_starts(signum: int, tmp_path: Path) -> None:
    """A terminal, ``timeout`` and containers send it to the group of all processes."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", PACKAGE, "fit", "--trainer.max_epochs=1000"),
            *("--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"),
            *("--data.num_workers=1", f"--run_dir={tmp_path / 'run'}"),
        ],
        cwd=CONFIGS.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    while not checkpoint.exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signum)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    assert f"{AGAIN} {tmp_path / 'run'}" in said and "Traceback" not in said
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_a_mistake_after_a_signal_is_still_told(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Only of several ranks may an error be that another one has left."""

    def fail(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("of the model")

    monkeypatch.setattr("project.approaches.ImageClassifier.training_step", fail)
    with pytest.raises(RuntimeError, match="of the model"):
        main(["fit", *SMALL])
