"""What is reported is what was measured, however often a training is stopped and resumed.

Each case is a training with random options that is stopped at random steps, in random ways. Every
part must report what ``validate`` finds in its checkpoint, and the end must be that of the same
training in one go. A case is a function of its number.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import yaml

from project.approaches import TrainFromScratch
from tests.conftest import Run
from tests.finetuning.schedules import equal, last

STEPS_PER_EPOCH = 7  # batches, before accumulation
OWN = f"{__name__}."
PLATEAU = "torch.optim.lr_scheduler.ReduceLROnPlateau"


class StopAfter(L.Callback):
    """Ends the training after a batch, as a time limit does, or as the machine does."""

    def __init__(self, batches: int, abruptly: bool = False) -> None:
        self.batches = batches
        self.abruptly = abruptly

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any, **__: Any
    ) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.batches:
            if self.abruptly:
                raise SystemExit(9)
            trainer.should_stop = True


def training(pick: random.Random) -> dict[str, Any]:
    """Return the config of a training."""
    callbacks: list[dict[str, Any]] = []
    average = pick.choice([None, None, "step", "epoch", "late"])
    if average:
        start = {
            "step": {"update_starting_at_step": pick.randrange(6)},
            "epoch": {"update_every_n_steps": 0, "update_starting_at_epoch": pick.randrange(2)},
            "late": {"update_starting_at_step": 5},
        }[average]
        callbacks.append({"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.6, **start}})
    if pick.random() < 0.3:
        patience = {"monitor": "val/loss", "patience": pick.randrange(1, 4)}
        callbacks.append({"class_path": "EarlyStopping", "init_args": patience})
    interval: dict[str, Any] = pick.choice(
        [
            {"val_check_interval": 1.0},
            {"val_check_interval": pick.choice([1, 2, 3, 7])},
            {"val_check_interval": pick.choice([0.3, 0.5])},
            {"val_check_interval": pick.choice([4, 5, 9]), "check_val_every_n_epoch": None},
            {"check_val_every_n_epoch": 2},
        ]
    )
    monitors = [("val/loss", "min"), ("val/accuracy", "max"), ("train/loss", "min")]
    monitor, mode = pick.choice(monitors)
    model: dict[str, Any] = {"class_path": "TrainFromScratch", "init_args": {}}
    epochs = pick.randrange(2, 4)
    if pick.random() < 0.3:
        restores = (
            not average and pick.random() < 0.5 and interval != {"check_val_every_n_epoch": 2}
        )
        phases = [
            {"name": "head", "train": ["head"], "epochs": 1, "lr_scale": 2.0},
            {"name": "all", "train": "all", "epochs": epochs - 1, "restore_best": restores},
        ]
        schedule = {"class_path": "FineTuningSchedule", "init_args": {"phases": phases}}
        callbacks = [c for c in callbacks if c["class_path"] != "EarlyStopping"] + [schedule]
        network = {"class_path": "MLP", "init_args": {"hidden": [16, 16]}}
        model = {"class_path": "FineTuning", "init_args": {"network": network}}
    return {
        "trainer": {
            "logger": False,
            "max_epochs": epochs,
            "accumulate_grad_batches": pick.choice([1, 1, 2, 3]),
            "callbacks": callbacks or None,
            **interval,
        },
        "model": {
            "class_path": model["class_path"],
            "init_args": {
                **model["init_args"],
                "optimizer": pick.choice(
                    [
                        {"class_path": "SGD", "init_args": {"lr": 0.5, "momentum": 0.9}},
                        {"class_path": "AdamW", "init_args": {"lr": 0.05}},
                    ]
                ),
                "lr_scheduler": pick.choice([None, SCHEDULER, plateau(pick, interval)]),
            },
        },
        "data": {
            "class_path": "Digits",
            "init_args": {"limit_per_class": 10, "batch_size": 15, "augment": {"shift": 1}},
        },
        "checkpoint": {
            "monitor": monitor,
            "mode": mode,
            "every_n_steps": pick.choice([None, 1, 2, 3]),
        },
        "test_after_fit": False,
    }


SCHEDULER = {
    "scheduler": {"class_path": "StepLR", "init_args": {"step_size": 3, "gamma": 0.5}},
    "interval": "step",
}


def plateau(pick: random.Random, validated: dict[str, Any]) -> dict[str, Any]:
    """Return a scheduler that looks at a metric, once that is measured.

    Args:
        pick: Chooses.
        validated: How often the training is validated.
    """
    options = {"patience": pick.randrange(2), "factor": 0.5, "threshold": 0.3}
    batches = validated.get("val_check_interval")
    by_steps = isinstance(batches, int) and pick.random() < 0.5
    epochs = validated.get("check_val_every_n_epoch", 1) or 2
    return {
        "scheduler": {"class_path": PLATEAU, "init_args": options},
        "monitor": pick.choice(["val/loss", "train/loss"]),
        "interval": "step" if by_steps else "epoch",
        "frequency": batches if by_steps else epochs,
    }


def stops(pick: random.Random, config: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the arguments of each part of the training but the last one."""
    accumulate = config["trainer"]["accumulate_grad_batches"]
    per_epoch = -(-STEPS_PER_EPOCH // accumulate)
    parts: list[tuple[str, ...]] = []
    batch = step = 0
    for _ in range(pick.randrange(1, 4)):
        batch += pick.randrange(1, 6)
        step = batch // STEPS_PER_EPOCH * per_epoch + batch % STEPS_PER_EPOCH // accumulate
        scheduled = config["model"]["class_path"] == "FineTuning"  # its phases are the limit
        kind = pick.choice(["stop" if scheduled else "steps", "stop", "abruptly"])
        if kind == "steps":
            parts.append((f"--trainer.max_steps={max(step, 1)}",))
            continue
        options = {"batches": batch, "abruptly": kind == "abruptly"}
        stop = yaml.safe_dump(
            {"class_path": f"{OWN}StopAfter", "init_args": options}, default_flow_style=True
        )
        parts.append((f"--trainer.callbacks+={stop}",))
    return parts


def check_agreement(run: Callable[..., Run], part: Run) -> None:
    """The summary, the best checkpoint and ``validate`` agree to the last digit."""
    best = part.path / "checkpoints" / "best.ckpt"
    idle = "nothing was trained" in part.out
    if idle and not best.is_file():
        return
    measured = run("validate", "--config=training.yaml", f"--ckpt_path={best}").summary
    reported = {name: value for name, value in part.summary.items() if name.startswith("val/")}
    for name, value in reported.items():
        assert value == measured[name], name
    state = part.best["callbacks"]["BestAndLast"]
    if state["score"] is None:  # nothing was validated
        assert equal(part.best["state_dict"], last(part.path)["state_dict"])
    else:
        assert idle or part.summary[state["monitor"]] == state["score"]
        assert idle or part.summary["train/loss"] > 0


def check(number: int, run: Callable[..., Run], tmp_path: Path) -> None:
    pick = random.Random(number)
    config = training(pick)
    Path("training.yaml").write_text(yaml.safe_dump(config))
    fit = ("fit", "--config=training.yaml")
    whole = run(*fit)
    check_agreement(run, whole)
    path, resume = tmp_path / "part0", ()
    for done, limit in enumerate(stops(pick, config), start=1):
        try:
            check_agreement(run, run(*fit, *limit, *resume, run_dir=path))
        except SystemExit as stopped:
            assert stopped.code == 9
        if (path / "checkpoints" / "last.ckpt").is_file():
            resume = (f"--ckpt_path={path}",)
            if pick.random() < 0.4:
                continue
            best = path / "checkpoints" / "best.ckpt"
            if pick.random() < 0.3 and best.is_file():
                resume = (f"--ckpt_path={best}",)
        path = tmp_path / f"part{done}"
    end = run(*fit, *resume, run_dir=path)
    check_agreement(run, end)
    one, other = last(end.path), last(whole.path)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert equal(one[key], other[key]), key
    best, usual = (x["callbacks"]["BestAndLast"] for x in (one, other))
    if best["step"] == usual["step"]:
        idle = "nothing was trained" in end.out  # no part of an epoch, whose metrics there are
        # where a part was stopped, the same weights may have been validated an epoch earlier
        other_epoch = end.best["epoch"] != whole.best["epoch"]
        names = ("val/loss", "val/accuracy", "val/f1", "train/loss", "train/accuracy")
        for name in names[:3] if idle or other_epoch else names:
            assert end.summary.get(name) == whole.summary.get(name), name
    else:  # where a part was stopped, there was one more validation, as good as the best
        sign = 1 if best["mode"] == "max" else -1
        assert sign * best["score"] >= sign * usual["score"]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("number", range(3))
def test_stopped_and_resumed(number: int, run: Callable[..., Run], tmp_path: Path) -> None:
    check(number, run, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("start", range(3, 203, 20))
def test_many_stopped_and_resumed(start: int, run: Callable[..., Run], tmp_path: Path) -> None:
    for number in range(start, start + 20):
        check(number, run, tmp_path / str(number))


class Ends(TrainFromScratch):
    """Ends the training itself, later than any callback could see it."""

    def on_train_batch_end(self, *_: Any) -> None:
        if self.global_step == 3 and self.trainer.max_epochs == 1:
            self.trainer.should_stop = True


@pytest.mark.slow
def test_a_model_may_end_the_training_inside_an_epoch(run: Callable[..., Run]) -> None:
    small = ("--data.limit_per_class=10", "--data.batch_size=15", "--data.val_fraction=0")
    args = ("fit", f"--model={OWN}Ends", *small, "--trainer.logger=false", "--config=none.yaml")
    Path("none.yaml").write_text("{}")
    ended = run(*args, "--trainer.max_epochs=1")
    assert last(ended.path)["global_step"] == 3
    more = "--trainer.max_epochs=2"
    resumed, whole = run(*args, more, f"--ckpt_path={ended.path}"), run(*args, more)
    assert equal(last(resumed.path)["state_dict"], last(whole.path)["state_dict"])
