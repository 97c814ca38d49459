"""A training that is ended anywhere and goes on in its directory leaves what an unbroken one does.

Each case is a training and where it is ended. Compared are the checkpoints, ``metrics.csv``,
``summary.json``, the predictions of the test, and what W&B has kept.
"""

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from project import lightning_cli
from project.callbacks import BestAndLast
from project.cli import main
from project.environment import PACKAGE
from project.run_files import IDENTITY, SUMMARY
from tests.data.unequal import UNEQUAL
from tests.finetuning.schedules import equal
from tests.ranks import ROOT, Ranks
from tests.wandb_log import parts

TIMES = ("workload/", "fit_seconds", "best_epoch_seconds", "process_seconds", "peak_memory_mb")
TIMES += ("train_images_per_second", "best_checkpoint")
PICTURES = ("train/images", "train/schedule", "val/predictions")
PICTURES += tuple(f"test/{name}" for name in ("class_", "confusion", "mistakes", "pre", "reliab"))


@dataclass
class Stop:
    """Where a training is ended.

    Attributes:
        how: ``steps`` by ``trainer.max_steps``; ``stop`` by a callback, after a batch; ``exit``
            right after the first save that has this many batches; ``term`` by SIGTERM.
        count: How many optimizer steps, batches, or calls of the hook.
        hook: Where the signal comes.
    """

    how: str
    count: int
    hook: str = ""

    def __str__(self) -> str:
        return f"{self.how}{self.count}{self.hook.removeprefix('on_')}"


def steps(count: int) -> Stop:
    return Stop("steps", count)


def stop(count: int) -> Stop:
    return Stop("stop", count)


def exit_(count: int) -> Stop:
    return Stop("exit", count)


def term(count: int, hook: str = "train") -> Stop:
    return Stop("term", count, f"on_{hook}_batch_start")


class Ends(L.Callback):
    """Ends a training in a way that its config doesn't show."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop
        self.left = stop.count
        if stop.hook:
            setattr(self, stop.hook, self._count)

    def _count(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        self.left -= not trainer.sanity_checking
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        if self.stop.how == "stop" and trainer.fit_loop.total_batch_idx + 1 == self.stop.count:
            trainer.should_stop = True


def ended(args: tuple[str, ...], path: Path, stop: Stop) -> None:
    """Begin a training, and end it."""
    begin = [*args, f"--run_dir={path}"]
    if stop.how == "steps":
        main([*begin, f"--trainer.max_steps={stop.count}"])
        return
    opens, saves = lightning_cli.open_run, BestAndLast._save_last

    def opened(*args: Any) -> Any:
        run = opens(*args)
        run.callbacks.append(Ends(stop))
        return run

    def saved(callback: BestAndLast, trainer: L.Trainer, model: L.LightningModule) -> None:
        saves(callback, trainer, model)
        if trainer.fit_loop.total_batch_idx + 1 >= stop.count:
            raise SystemExit(9)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lightning_cli, "open_run", opened)
        if stop.how == "exit":
            patch.setattr(BestAndLast, "_save_last", saved)
        if stop.how == "stop":
            main(begin)
            return
        with pytest.raises(SystemExit) as end:
            main(begin)
    assert end.value.code == {"exit": 9, "term": 128 + signal.SIGTERM}[stop.how]


def checkpoint(run: Path, name: str) -> dict[str, Any]:
    """What a checkpoint holds, but for times."""
    found = torch.load(run / "checkpoints" / name, weights_only=True)
    del found["callbacks"]["ResourceMonitor"]
    best = found["callbacks"]["BestAndLast"]
    best["scores"] = numbers(best["scores"])
    if found["logged"]["next"]:
        found["logged"]["next"]["metrics"] = numbers(found["logged"]["next"]["metrics"])
    return found


def numbers(values: dict[str, Any]) -> dict[str, Any]:
    """What is the same in each run that does the same."""
    return {
        name: "time" if name.startswith(TIMES) else value
        for name, value in values.items()
        if value != ""
    }


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [numbers(row) for row in csv.DictReader(file)]


def summary(run: Path) -> dict[str, Any]:
    found = json.loads((run / SUMMARY).read_text())
    return numbers(found) | {"epoch_seconds": len(found["epoch_seconds"])}


History = dict[tuple[str, int], list[float]]


def history(run: Path) -> History:
    """What W&B has of each metric at each step, in all parts of a run."""
    found: History = {}
    for part in parts(run):
        for row in part.rows:
            for name, value in row.items():
                if name.startswith(("workload/", *PICTURES)):
                    continue  # times, and what W&B says of a picture, such as its size
                if isinstance(value, int | float):
                    step = row.get("trainer/global_step", -1)
                    found.setdefault((name, step), []).append(value)
    return found


def same(one: Any, other: Any) -> bool:
    nan = isinstance(one, float) and isinstance(other, float) and math.isnan(one)
    return (nan and math.isnan(other)) or one == other


def compare(run: Path, whole: Path, stop: Stop, in_wandb: bool) -> None:
    """Compare what two runs have left behind."""
    one, other = checkpoint(run, "last.ckpt"), checkpoint(whole, "last.ckpt")
    best, usual = (found["callbacks"]["BestAndLast"] for found in (one, other))
    for part in other.keys() | one.keys():
        if part != "callbacks":
            assert equal(one.get(part), other.get(part)), part
    for name, state in other["callbacks"].items():
        if name != "BestAndLast":
            assert equal(one["callbacks"][name], state), name
    assert rows(run) == rows(whole)
    early = best["step"] != usual["step"]
    if early:  # a callback that ends a training lets it be validated there, as good as the best
        sign = 1 if best["mode"] == "max" else -1
        assert stop.how == "stop" and sign * best["score"] > sign * usual["score"]
    else:
        assert equal(best, usual)
        assert equal(checkpoint(run, "best.ckpt"), checkpoint(whole, "best.ckpt"))
        assert summary(run) == summary(whole)
        assert predictions(run) == predictions(whole)
    if in_wandb:
        compare_histories(history(run), history(whole), stop, early)
        # the folders of two parts that begin in the same second end in -1, too
        ids = {file.stem.removeprefix("run-") for file in run.glob("wandb/*run-*/*.wandb")}
        assert ids == {json.loads((run / IDENTITY).read_text())["wandb_id"]}


def predictions(run: Path) -> str | None:
    file = run / "test_predictions.csv"
    return file.read_text() if file.exists() else None


def compare_histories(logged: History, all_logged: History, stop: Stop, early: bool) -> None:
    """Compare what W&B has: the same values, and each once unless the end was logged, too."""
    assert len(all_logged) > 20
    for key, values in all_logged.items():
        if not (early and key[0].startswith("test/")):
            assert all(any(same(value, one) for one in logged[key]) for value in values), key
    if stop.how in ("exit", "term"):  # nothing was logged after the checkpoint
        assert {key: len(values) for key, values in logged.items()} == {
            key: len(values) for key, values in all_logged.items()
        }


SMALL = ("--data.limit_per_class=10", "--data.batch_size=15", "--trainer.log_every_n_steps=2")
AUGMENT = (
    "--data.augment=[RandomResizedCrop, {class_path: Augment, init_args: {shift: 1}}, "
    "TrivialAugment, GaussianBlur, RandomErasing]"
)
BASE = ("fit", *SMALL, "--trainer.max_epochs=3", AUGMENT)
SGD = ("--model.optimizer=SGD", "--model.optimizer.lr=0.2", "--model.optimizer.momentum=0.9")
ADAMW = (
    "--model.optimizer=AdamW",
    "--model.optimizer.lr=0.02",
    "--model.optimizer.weight_decay=0.1",
)
CNN = (
    *("--model=FullTraining", "--model.network=CNN", "--model.network.channels=[4,8]"),
    *("--model.network.padding=1", "--model.network.batch_norm=true", "--model.network.hidden=[]"),
)
OFTEN = ("--checkpoint.every_n_steps=1",)


def callback(name: str, **options: Any) -> str:
    return "--trainer.callbacks+=" + json.dumps({"class_path": name, "init_args": options})


def scheduler(
    name: str, interval: str, monitor: str = "", frequency: int = 1, **options: Any
) -> tuple[str, ...]:
    whole = {"scheduler": {"class_path": name, "init_args": options}, "interval": interval}
    whole |= {"monitor": monitor, "frequency": frequency} if monitor else {}
    return (f"--model.lr_scheduler={json.dumps(whole)}",)


def plateau(interval: str, monitor: str, frequency: int = 1) -> tuple[str, ...]:
    name = "torch.optim.lr_scheduler.ReduceLROnPlateau"
    return scheduler(name, interval, monitor, frequency, patience=0, factor=0.5, threshold=0.3)


def schedule(*phases: dict[str, Any]) -> str:
    return callback("FineTuningSchedule", phases=list(phases))


PROBE = {"name": "probe", "train": ["head"], "epochs": 2}
TOP = {"name": "top", "train": ["head", "stage2"], "epochs": 1, "lr_scale": 0.5, "warmup_steps": 2}
ALL = {"name": "all", "train": "all", "epochs": 1, "norm": "train"}
PLATEAU = {"name": "head", "train": ["head"], "plateau": {"max_epochs": 3, "patience": 1}}
TUNED = ("fit", *SMALL, "--model=FineTuning", "--model.backbone=BACKBONE", "--model.dropout=0.2")

TRAININGS: dict[str, tuple[str, ...]] = {
    "scratch": BASE,
    "scratch sgd": (*BASE, *SGD),
    "scratch adamw, each step logged": (*BASE, *ADAMW, "--trainer.log_every_n_steps=1", *OFTEN),
    "full, batch norm": (*BASE, *CNN, *SGD),
    "full, mixup and cutmix": (*BASE, *CNN, *ADAMW, "--model.mixup=0.4", "--model.cutmix=1.0"),
    "full, warm-up and cosine": (
        *BASE,
        *CNN,
        *ADAMW,
        *scheduler("WarmupCosine", "step", warmup=0.2),
    ),
    "steps of a scheduler": (*BASE, *SGD, *scheduler("StepLR", "step", step_size=3, gamma=0.5)),
    "epochs of a scheduler": (*BASE, *SGD, *scheduler("StepLR", "epoch", step_size=1, gamma=0.5)),
    "one cycle": (*BASE, *SGD, *scheduler("OneCycleLR", "step", max_lr=0.3, total_steps=21)),
    "cosine": (*BASE, *ADAMW, *scheduler("CosineAnnealingLR", "epoch", T_max=3)),
    "plateau of validation": (*BASE, *SGD, *plateau("epoch", "val/loss")),
    "plateau of training": (*BASE, *SGD, *plateau("epoch", "train/loss")),
    "plateau by step": (
        *(*BASE, *SGD, *plateau("step", "val/loss", 2), "--trainer.val_check_interval=2"),
        *OFTEN,
    ),
    "plateau by step of training": (*BASE, *SGD, *plateau("step", "train/loss_step")),
    "average by step": (*BASE, *SGD, callback("EMAWeightAveraging", decay=0.6)),
    "average by epoch": (
        *(*BASE, *SGD),
        callback(
            *("EMAWeightAveraging",),
            **{"decay": 0.6, "update_every_n_steps": 0, "update_starting_at_epoch": 1},
        ),
    ),
    "accumulated": (*BASE, *ADAMW, "--trainer.accumulate_grad_batches=3", *OFTEN),
    "accumulated, validated often": (
        *(*BASE, *SGD, "--trainer.accumulate_grad_batches=2", "--trainer.val_check_interval=3"),
    ),
    "validated often": (*BASE, *SGD, "--trainer.val_check_interval=3"),
    "validated by steps": (
        *(*BASE, *SGD, "--trainer.val_check_interval=5", "--trainer.check_val_every_n_epoch=null"),
    ),
    "validated rarely": (*BASE, *SGD, "--trainer.check_val_every_n_epoch=2"),
    "early stopping": (*BASE, *SGD, callback("EarlyStopping", monitor="val/loss", patience=1)),
    "workers": (*BASE, *SGD, "--data.num_workers=2"),
    "bf16": (*BASE, *CNN, *ADAMW, "--trainer.precision=bf16-mixed"),
    "clipped": (*BASE, *SGD, "--trainer.gradient_clip_val=0.5"),
    "clipped by value": (
        *(*BASE, *ADAMW, "--trainer.gradient_clip_val=0.01"),
        "--trainer.gradient_clip_algorithm=value",
    ),
    "steps may be left out": (*BASE, *SGD, "--max_skipped_steps=2", *OFTEN),
    "saved every other step": (*BASE, *ADAMW, "--checkpoint.every_n_steps=2"),
    "saved in the background": (
        *(*BASE, *ADAMW, "--checkpoint.every_n_steps=3", "--checkpoint.background=true"),
    ),
    "monitored training": (*BASE, *SGD, "--checkpoint.monitor=train/loss"),
    "monitored accuracy": (*BASE, *SGD, "--checkpoint.monitor=val/accuracy"),
    "unequal classes": (
        *("fit", UNEQUAL, *BASE[1:], *SGD, "--data.sampling=balanced", "--model.focal_gamma=2"),
        *("--model.class_weights={'1': 3, '8': 0.5}", "--checkpoint.monitor=val/balanced_accuracy"),
    ),
    "unequal classes, mixed": (
        *("fit", UNEQUAL, *BASE[1:], *CNN, *ADAMW, "--model.mixup=0.4", "--data.sampling=sqrt"),
        *("--model.class_weights=effective", "--trainer.accumulate_grad_batches=2", *OFTEN),
    ),
    "noise-aware": (*BASE, *SGD, "--checkpoint.selection=noise_aware", *OFTEN),
    "the last is the best": (*BASE, *SGD, "--checkpoint.selection=last"),
    "no validation": (*BASE, *SGD, "--data.val_fraction=0"),
    "fine-tuned": (*TUNED, *ADAMW, "--trainer.max_epochs=3", AUGMENT),
    "phases": (*TUNED, *ADAMW, schedule(PROBE, TOP, ALL), AUGMENT),
    "phases, saved often": (*TUNED, *SGD, schedule(PROBE, TOP, ALL), *OFTEN),
    "phases, restored": (*TUNED, *SGD, schedule({**PROBE, "restore_best": True}, TOP)),
    "phases, cached features": (
        *(*TUNED, *ADAMW, schedule({**PROBE, "cache_features": True}, ALL)),
    ),
    "a phase with a plateau": (
        *(*TUNED, *ADAMW),
        schedule(PLATEAU),
    ),
    "phases, noise-aware": (
        *(*TUNED, *SGD, "--checkpoint.selection=noise_aware"),
        schedule({**PLATEAU, "restore_best": True}, TOP),
    ),
    "phases and a scheduler": (
        *(*TUNED, *ADAMW, schedule(PROBE, ALL), *scheduler("WarmupCosine", "step", warmup=0.2)),
    ),
}
QUICK = {"steps of a scheduler term9train_batch_start", "unequal classes exit7"}
CASES: list[tuple[str, Stop]] = [
    *(("scratch", at) for at in (steps(5), steps(14), stop(9), exit_(7), term(10))),
    *(("scratch", at) for at in (term(2, "validation"), stop(14))),
    *(("scratch sgd", at) for at in (steps(7), stop(3), term(8))),
    *(("scratch adamw, each step logged", at) for at in map(exit_, (1, 6, 7, 8, 14))),
    *(("full, batch norm", at) for at in (steps(11), exit_(14), term(10), term(2, "validation"))),
    *(("full, mixup and cutmix", at) for at in (steps(9), exit_(7), term(12))),
    *(("full, warm-up and cosine", at) for at in (term(9), exit_(14), stop(4))),
    *(("steps of a scheduler", at) for at in (term(9), exit_(7))),
    *(("epochs of a scheduler", at) for at in (exit_(7), steps(9), term(7))),
    *(("one cycle", at) for at in (exit_(14), term(4))),
    *(("cosine", at) for at in (exit_(7), term(11))),
    *(("plateau of validation", at) for at in (exit_(14), steps(14), term(3), stop(9))),
    *(("plateau of training", at) for at in (exit_(14), term(10), steps(7))),
    *(("plateau by step", at) for at in (exit_(4), exit_(9), term(3, "validation"))),
    *(("plateau by step of training", at) for at in (exit_(7), term(10))),
    *(("average by step", at) for at in (exit_(7), term(9), term(3, "validation"))),
    *(("average by epoch", at) for at in (exit_(14), steps(9))),
    *(("accumulated", at) for at in (exit_(6), term(5), steps(4), stop(9))),
    *(("accumulated, validated often", at) for at in (exit_(7), term(4))),
    *(("validated often", at) for at in (term(5, "validation"), steps(6), exit_(14))),
    *(("validated by steps", at) for at in (term(8), steps(10))),
    *(("validated rarely", at) for at in (exit_(7), term(10))),
    *(("early stopping", at) for at in (exit_(7), term(10))),
    *(("workers", at) for at in (steps(9), term(10), exit_(7))),
    *(("bf16", at) for at in (steps(9), exit_(14))),
    *(("clipped", at) for at in (exit_(7), term(9))),
    *(("clipped by value", at) for at in (steps(9),)),
    *(("steps may be left out", at) for at in (exit_(5), term(9))),
    *(("saved every other step", at) for at in (exit_(4), exit_(11))),
    *(("saved in the background", at) for at in (exit_(3), term(10))),
    *(("monitored training", at) for at in (exit_(14), steps(9))),
    *(("monitored accuracy", at) for at in (exit_(7), stop(10))),
    *(("unequal classes", at) for at in (exit_(7), term(9))),
    *(("unequal classes, mixed", at) for at in (steps(4), exit_(7))),
    *(("noise-aware", at) for at in (exit_(7), exit_(15), term(10), term(3, "validation"))),
    *(("the last is the best", at) for at in (exit_(14), term(9))),
    *(("no validation", at) for at in (exit_(7), term(10))),
    *(("fine-tuned", at) for at in (steps(9), exit_(7), term(9))),
    *(("phases", at) for at in (term(10), exit_(14), exit_(21), stop(16))),
    *(("phases, saved often", at) for at in (exit_(13), exit_(15))),
    *(("phases, restored", at) for at in (exit_(14), term(16), exit_(7))),
    *(("phases, cached features", at) for at in (exit_(7), term(10), exit_(14))),
    *(("a phase with a plateau", at) for at in (exit_(7), term(10))),
    *(("phases, noise-aware", at) for at in (exit_(7), exit_(14), term(10))),
    *(("phases and a scheduler", at) for at in (exit_(14), term(17))),
]
PARAMETERS = [
    pytest.param(name, stop, id=(own := f"{name} {stop}"), marks=() if own in QUICK else SLOW)
    for SLOW in [pytest.mark.slow]
    for name, stop in CASES
]
IN_WANDB = {  # where W&B is looked at, and the test, which takes long
    *("scratch", "scratch adamw, each step logged", "full, batch norm", "validated often"),
    *("plateau of validation", "average by step", "phases"),
}
SWAPPED = {"workers exit7": ["--data.num_workers=0"], "scratch sgd stop3": ["--data.num_workers=2"]}
WHOLE: dict[str, Path] = {}


@pytest.fixture
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, tuple[str, ...]], Path]:
    """The training that isn't ended, once for all cases of it."""

    def train(name: str, args: tuple[str, ...]) -> Path:
        if name not in WHOLE:
            WHOLE[name] = tmp_path_factory.mktemp("whole") / "run"
            main([*args, f"--run_dir={WHOLE[name]}"])
        return WHOLE[name]

    return train


@pytest.mark.parametrize(("name", "stop"), PARAMETERS)
def test_goes_on_exactly(
    name: str, stop: Stop, whole: Callable[..., Path], backbone: Path, tmp_path: Path
) -> None:
    args = tuple(arg.replace("BACKBONE", str(backbone)) for arg in TRAININGS[name])
    if name not in IN_WANDB:
        args = (*args, "--trainer.logger=CSVLogger", "--test_after_fit=false")
    begun = tmp_path / "begun"
    ended(args, begun, stop)
    (begun / SUMMARY).unlink(missing_ok=True)  # which a kill would have prevented
    moved = Path(shutil.move(begun, tmp_path / "moved"))
    more = ["--trainer.max_steps=-1"] if stop.how == "steps" else []
    other = SWAPPED.get(f"{name} {stop}", [])
    if stop.count % 2:
        main(["fit", f"--resume={moved}", "--trust=tests", *more, *other])
    else:
        main([*args, "--resume=auto", f"--run_dir={moved}", *more, *other])
    compare(moved, whole(name, args), stop, name in IN_WANDB)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", [2, 8])  # 4 in an epoch
def test_two_ranks_go_on_exactly(count: int, ranks: Ranks, tmp_path: Path) -> None:
    args = (*BASE, *CNN, *SGD, callback("EMAWeightAveraging", decay=0.6))
    for folder, more in (("whole", ()), ("begun", (f"--trainer.max_steps={count}",))):
        done = ranks(*args, *more, f"--run_dir={tmp_path / folder}")
        assert done.code == 0, done.said
    (tmp_path / "begun" / SUMMARY).unlink()
    moved = Path(shutil.move(tmp_path / "begun", tmp_path / "moved"))
    done = ranks(*args, "--resume=auto", f"--run_dir={moved}", "--trainer.max_steps=-1")
    assert done.code == 0, done.said
    assert checkpoint(moved, "last.ckpt")["global_step"] == 12
    compare(moved, tmp_path / "whole", steps(count), in_wandb=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_that_slurm_starts_four_times(tmp_path: Path) -> None:
    """Each time but the last, SIGUSR1 comes in the sixth batch."""
    kill = "--trainer.callbacks+=" + json.dumps(
        {
            "class_path": "tests.test_signals.Kill",
            "init_args": {"hook": "on_train_batch_start", "times": 6, "signum": 10},
        }
    )
    stand_in = tmp_path / "bin" / "scontrol"
    stand_in.parent.mkdir()
    asked = tmp_path / "asked"
    stand_in.write_text(f'#!/bin/sh\necho "$@" $(ls runs/*/*/checkpoints) >> {asked}\n')
    stand_in.chmod(0o755)
    job = {"JOB_ID": "7", "JOBID": "7", "JOB_NAME": "train", "NTASKS": "1", "NPROCS": "1"}
    job |= {"PROCID": "0", "LOCALID": "0", "NODEID": "0", "NNODES": "1", "JOB_NUM_NODES": "1"}
    job |= {"NODELIST": "localhost", "JOB_NODELIST": "localhost", "STEP_ID": "0", "GTIDS": "0"}
    job |= {"TASKS_PER_NODE": "1", "CPUS_ON_NODE": "2", "TASK_PID": "1", "STEP_NUM_TASKS": "1"}
    environment = {**os.environ, "PATH": f"{stand_in.parent}:{os.environ['PATH']}"}
    environment |= {"PYTHONPATH": str(ROOT)} | {f"SLURM_{name}": job[name] for name in job}
    command = [sys.executable, "-m", PACKAGE, *BASE, *CNN, *ADAMW]
    for restarts in range(4):
        again = {"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}
        done = subprocess.run(
            [*command, kill],
            cwd=tmp_path,
            env=environment | again,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == (0 if restarts == 3 else 128 + 10), done.stderr
        if restarts < 3:
            assert f"at step {6 * restarts + 6}; " in done.stderr
            assert "SLURM job 7 goes into the queue again" in done.stderr
    saved = ["last.ckpt", *["best.ckpt last.ckpt"] * 2]  # all is written before
    assert asked.read_text().splitlines() == [f"requeue 7 {names}" for names in saved]
    (run,) = (tmp_path / "runs").glob("*/*")
    assert len(list(run.glob("wandb/offline-run-*"))) == 4
    main([*BASE, *CNN, *ADAMW, f"--run_dir={tmp_path / 'whole'}"])
    compare(run, tmp_path / "whole", term(6), in_wandb=True)
