"""What a run reports is what it has measured, and it measures what was asked for."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import pytest
from torch import Tensor, nn

from project.callbacks import BestAndLast
from project.checkpoints import WholeCheckpoints
from project.cli import main
from tests.conftest import Run
from tests.finetuning.schedules import equal, last, phases

STEPS = 21  # batches of an epoch of Digits
QUIET = ("--trainer.logger=false",)
DATA = ("--data.limit_per_class=10", "--data.batch_size=15")  # 7 batches an epoch
SGD = ("--model.optimizer=SGD", "--model.optimizer.lr=0.02")


def val(run: Run) -> dict[str, float]:
    return {name: value for name, value in run.summary.items() if name.startswith("val/")}


EMA = "--trainer.callbacks+={class_path: EMAWeightAveraging, init_args: {decay: 0.9, %s}}"
STOP = "--trainer.callbacks+={class_path: tests.test_stops.StopAfter, init_args: {batches: %d}}"
PLATEAU = "plateau: {max_epochs: 5, patience: 1, min_delta: 9, monitor: val/accuracy, mode: max}"


@pytest.mark.sampled(7)
@pytest.mark.parametrize(
    "options",
    [
        ["--trainer.val_check_interval=5"],  # the best is between two epochs
        ["--trainer.val_check_interval=2", "--trainer.accumulate_grad_batches=3"],
        ["--trainer.check_val_every_n_epoch=2"],
        ["--trainer.val_check_interval=10", "--trainer.check_val_every_n_epoch=null"],
        ["--trainer.max_steps=12", "--trainer.val_check_interval=3"],
        ["--trainer.limit_val_batches=1", "--data.eval_batch_size=50"],
        ["--checkpoint.monitor=val/f1", "--checkpoint.mode=max"],
        [EMA % "update_every_n_steps: 0, update_starting_at_epoch: 0"],
        ["--checkpoint.monitor=train/loss", "--trainer.val_check_interval=5"],
        ["--checkpoint.monitor=train/accuracy", EMA % "update_starting_at_epoch: 0"],
        [EMA % "update_starting_at_step: 10"],
        [EMA % "update_starting_at_step: 20"],
        ["--trainer.callbacks+={class_path: EarlyStopping, init_args: {monitor: val/loss}}"],
        ["--trainer.precision=bf16-mixed"],
        ["--model.optimizer.lr=3"],  # gets worse, but stays finite
    ],
)
def test_reported_is_measured(options: list[str], run: Callable[..., Run]) -> None:
    fitted = run("fit", *QUIET, *DATA, "--trainer.max_epochs=3", *SGD, *options)
    assert val(run("validate", "--ckpt_path", fitted.path)) == val(fitted) != {}
    for name, value in fitted.best["callbacks"]["BestAndLast"]["scores"].items():
        known = fitted.summary.get("best_epoch" if name == "epoch" else name)
        assert name.startswith("workload/") or known == value
    assert {"train/loss", "train/accuracy", "test/accuracy"} <= fitted.summary.keys()
    assert fitted.summary["best_epoch_seconds"] > 0


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "phase",
    [
        f"{{name: a, train: head, restore_best: true, {PLATEAU}}}",
        "{name: a, train: head, restore_best: true, epochs: 3, cache_features: true}",
        "{name: a, train: all, restore_best: true, steps: 6}",
    ],
)
def test_restored_weights_are_not_mistaken_for_the_best(
    phase: str, run: Callable[..., Run], schedule: tuple[str, ...]
) -> None:
    fitted = run(*schedule, phases(phase), "--model.optimizer.lr=0.3")
    assert val(run("validate", "--ckpt_path", fitted.path)) == val(fitted) != {}


@pytest.mark.slow
def test_an_average_that_has_not_begun_is_the_weights(run: Callable[..., Run]) -> None:
    args = ("fit", *QUIET, *DATA, "--trainer.max_epochs=2", STOP % 7)
    late, plain = run(*args, EMA % "update_starting_at_step: 10"), run(*args)
    for name in ("val/loss", "test/loss", "test/accuracy"):
        assert late.summary[name] == plain.summary[name]
    assert equal(last(late.path)["state_dict"], last(plain.path)["state_dict"])


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--data.val_fraction=0"], "there are no validation images"),
        (["--trainer.limit_val_batches=0"], "trainer.limit_val_batches: 0"),
        (["--trainer.check_val_every_n_epoch=5"], "trainer.check_val_every_n_epoch: 5"),
        (["--trainer.max_steps=3"], "the training was too short"),
        (["--trainer.val_check_interval=60", "--trainer.check_val_every_n_epoch=null"], "short"),
    ],
)
def test_without_validation_the_last_weights_are_tested(
    options: list[str], reason: str, run: Callable[..., Run]
) -> None:
    fitted = run("fit", *QUIET, *DATA, "--trainer.max_epochs=3", *options)
    line = next(x for x in fitted.out.splitlines() if x.startswith("nothing was validated"))
    assert reason in line
    assert equal(fitted.best["state_dict"], last(fitted.path)["state_dict"])
    assert "test/accuracy" in fitted.summary
    can_be_validated = "val_fraction" not in options[0] and "limit_val" not in options[0]
    assert bool(val(fitted)) == can_be_validated  # after the training
    if can_be_validated:
        assert val(run("validate", "--ckpt_path", fitted.path)) == val(fitted)
    assert fitted.summary["train/loss"] > 0


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("--trainer.max_epochs=0", "trainer.max_epochs: 0"),
        ("--trainer.max_steps=0", "trainer.max_steps: 0"),
    ],
)
def test_a_training_of_no_steps_says_so(option: str, reason: str, run: Callable[..., Run]) -> None:
    out = run("fit", *QUIET, *DATA, option).out
    assert re.search(f"^nothing was trained: .*{re.escape(reason)}", out, re.MULTILINE)


def test_a_finished_run_has_nothing_to_train(run: Callable[..., Run]) -> None:
    first = run("fit", *QUIET, *DATA, "--trainer.max_epochs=2")
    again = run("fit", "--ckpt_path", first.path)
    assert "nothing was trained: trainer.max_epochs: 2, and 2 are over" in again.out
    assert val(again) == val(first) and again.summary["test/f1"] == first.summary["test/f1"]
    assert equal(last(again.path), last(first.path))


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--checkpoint.monitor=val/accuracy", "--checkpoint.mode=max"], "val/accuracy"),
        (["--checkpoint.mode=max"], "val/loss (max)"),
        (["--trainer.limit_val_batches=1", "--data.eval_batch_size=20"], "limit_val_batches"),
        (["--data.val_fraction=0.3"], "images"),
        (["--data.mean=0.2"], "normalization"),
        (["--model.loss=MultiMarginLoss"], "loss"),
    ],
)
def test_the_best_is_forgotten_where_it_measures_something_else(
    options: list[str], said: str, run: Callable[..., Run]
) -> None:
    first = run("fit", *QUIET, *DATA, *SGD, "--trainer.max_epochs=2")
    resume = ("fit", "--ckpt_path", first.path, "--trainer.max_epochs=4", "--model.optimizer.lr=5")
    resumed = run(*resume, *options, run_dir=first.path if "images" in said else None)
    assert said in next(
        x for x in resumed.out.splitlines() if "the best is looked" in x or "is forg" in x
    )
    assert resumed.best["callbacks"]["BestAndLast"]["step"] > 14
    assert val(run("validate", "--ckpt_path", resumed.path)) == val(resumed) != {}


def test_the_best_of_another_branch_is_not_taken_over(run: Callable[..., Run]) -> None:
    """A copy of an early checkpoint doesn't know what came after it."""
    first = run("fit", *QUIET, *DATA, *SGD, "--trainer.max_epochs=1")
    early = (first.path / "checkpoints" / "last.ckpt").read_bytes()
    run("fit", "--ckpt_path", first.path, "--trainer.max_epochs=3", run_dir=first.path)
    (first.path / "checkpoints" / "last.ckpt").write_bytes(early)
    again = run("fit", "--ckpt_path", first.path, "--trainer.max_epochs=2")
    assert "is of step 21, and the run resumes at step 7" in again.out
    assert again.best["callbacks"]["BestAndLast"]["step"] == 14


STOPPING = "{monitor: val/loss, min_delta: 9, patience: %d}"


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("patience", "epochs"), [(1, 2), (2, 3), (4, 5)])
def test_the_config_beats_the_state_of_a_callback(
    patience: int, epochs: int, run: Callable[..., Run]
) -> None:
    def stopping(patience: int) -> str:
        options = STOPPING % patience
        return f"--trainer.callbacks={{class_path: EarlyStopping, init_args: {options}}}"

    args = ("fit", *QUIET, *DATA, "--trainer.max_epochs=8")
    first = run(*args, stopping(1))
    assert last(first.path)["global_step"] == 2 * 7
    resumed = run(*args, stopping(patience), "--ckpt_path", first.path)
    assert last(resumed.path)["global_step"] == epochs * 7
    assert ("nothing was trained" in resumed.out) == (patience == 1)


@pytest.mark.slow
def test_a_validation_at_the_step_of_a_stop_is_not_skipped(run: Callable[..., Run]) -> None:
    stopping = (
        "{class_path: EarlyStopping, init_args: {monitor: val/loss, patience: 9, min_delta: 9}}"
    )
    args = ("fit", *QUIET, *DATA, "--trainer.max_epochs=2", "--trainer.val_check_interval=3")
    args = (*args, f"--trainer.callbacks={stopping}")
    stopped = run(*args, "--trainer.max_steps=3")
    resumed = run(*args, f"--ckpt_path={stopped.path}", "--trainer.max_steps=-1")
    one, other = (last(path)["callbacks"] for path in (resumed.path, run(*args).path))
    key = "EarlyStopping{'monitor': 'val/loss', 'mode': 'min'}"
    assert one[key]["wait_count"] == other[key]["wait_count"] > 0
    assert one["BestAndLast"]["step"] == other["BestAndLast"]["step"]


@pytest.mark.slow
def test_a_state_that_no_callback_takes_is_named(run: Callable[..., Run]) -> None:
    stopping = "{class_path: EarlyStopping, init_args: {monitor: val/loss}}"
    first = run("fit", *QUIET, *DATA, "--trainer.max_epochs=1", f"--trainer.callbacks={stopping}")
    resumed = run(
        *("fit", "--ckpt_path", first.path, "--trainer.max_epochs=2", "--trainer.callbacks=null")
    )
    assert "the checkpoint has a state of EarlyStopping" in resumed.out


@pytest.mark.slow
def test_without_its_average_a_run_goes_on_from_the_weights(run: Callable[..., Run]) -> None:
    args = ("fit", *QUIET, *DATA)
    first = run(*args, "--trainer.max_epochs=1", EMA % "update_starting_at_step: 0")
    Path("own.yaml").write_text("{}")
    resumed = run(*args, "--trainer.max_epochs=2", "--ckpt_path", first.path, "--config=own.yaml")
    assert "goes on from the weights alone" in resumed.out
    plain = run(*args, "--trainer.max_epochs=2")
    assert equal(last(resumed.path)["state_dict"], last(plain.path)["state_dict"])


SCHEDULERS = {
    "StepLR": "{class_path: StepLR, init_args: {step_size: 1, gamma: 0.1}}",
    "ExponentialLR": "{class_path: ExponentialLR, init_args: {gamma: 0.5}}",
    "ReduceLROnPlateau": "{class_path: torch.optim.lr_scheduler.ReduceLROnPlateau}",
}


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    ("before", "after", "lr"),
    [
        ("StepLR", "ExponentialLR", [0.02, 0.01]),
        (None, "StepLR", [0.02, 0.002]),
        ("StepLR", None, [0.02, 0.02]),
        ("StepLR", "StepLR", [0.0002, 0.00002]),
        ("StepLR", "ReduceLROnPlateau", [0.02, 0.02]),
    ],
)
def test_another_scheduler_begins_anew(
    before: str | None, after: str | None, lr: list[float], run: Callable[..., Run]
) -> None:
    def scheduler(name: str | None) -> str:
        value = f"{{scheduler: {SCHEDULERS[name]}}}" if name else "null"
        return f"--model.lr_scheduler={value}"

    args = ("fit", *QUIET, *DATA, *SGD)
    first = run(*args, scheduler(before), "--trainer.max_epochs=2")
    rates = "--trainer.callbacks=tests.callbacks.test_checkpoint.Rates"
    resume = ("--ckpt_path", first.path, "--trainer.max_epochs=4")
    Path("own.yaml").write_text("{}")
    again = run(*args, scheduler(after), *resume, rates, "--config=own.yaml")
    assert Rates.seen == pytest.approx(lr)
    assert ("begins anew" in again.out) == (before != after)


class Rates(L.Callback):
    seen: ClassVar[list[float]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seen.clear()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.slow
@pytest.mark.parametrize("restore", [True, False])
def test_restoring_the_best_can_be_switched_while_resuming(
    restore: bool, run: Callable[..., Run], schedule: tuple[str, ...]
) -> None:
    def phase(restore: bool) -> str:
        plateau = "plateau: {max_epochs: 4, patience: 9, min_delta: 9}"
        return phases(f"{{name: a, train: head, restore_best: {str(restore).lower()}, {plateau}}}")

    first = run(*schedule, phase(not restore), STOP % 6).path
    change = "--trainer.callbacks.init_args.allow_changes=true"
    resumed = last(run(*schedule, phase(restore), change, f"--ckpt_path={first}").path)
    state = resumed["callbacks"]["FineTuningSchedule"]
    assert bool(state["best_weights"]) == restore
    straight = last(run(*schedule, phase(False)).path)["state_dict"]
    assert equal(resumed["state_dict"], straight) != restore


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("option", "said", "step"),
    [
        ("--data.batch_size=5", "continues at image 45", 3 + 11),
        ("--data.batch_size=30", "continues at image 30", 3 + 3),
        ("--seed_everything=3", "seed: 0 before, 3 now", 7),
        ("--data.sampling=sqrt", "sampling: natural before, sqrt now", 7),
        ("--data.limit_per_class=5", "images", 3 + 1),
        ("--trainer.log_every_n_steps=9", "", 7),
    ],
)
def test_an_epoch_whose_batches_change_says_so(
    option: str, said: str, step: int, run: Callable[..., Run]
) -> None:
    first = run("fit", *QUIET, *DATA, "--trainer.max_epochs=1", "--trainer.max_steps=3")
    resumed = run("fit", "--ckpt_path", first.path, "--trainer.max_steps=-1", option)
    line = next(x for x in resumed.out.splitlines() if x.startswith("resumes in epoch 1"))
    assert said in line and bool(said) == ("another order" in line)
    assert last(resumed.path)["global_step"] == step
    assert resumed.summary["val/loss"] > 0


def test_a_line_repeats_no_validation(run: Callable[..., Run]) -> None:
    out = run("fit", *QUIET, *DATA, "--trainer.max_epochs=4", "--trainer.check_val_every_n_epoch=2")
    lines = [line for line in out.out.splitlines() if line.startswith("epoch ")]
    assert ["val loss" in line for line in lines] == [False, True, False, True]


def test_accumulated_gradients_survive_a_stop(run: Callable[..., Run]) -> None:
    Path("own.yaml").write_text("{}")
    args = ("fit", *QUIET, *DATA, "--trainer.max_epochs=1", "--trainer.accumulate_grad_batches=3")
    stopped = run(*args, STOP % 4)
    assert last(stopped.path)["global_step"] == 1
    resumed = run(*args, "--config=own.yaml", f"--ckpt_path={stopped.path}")
    assert equal(last(resumed.path)["state_dict"], last(run(*args).path)["state_dict"])
    assert "gradients" not in last(resumed.path)


def test_a_minimum_that_is_cut_off_is_said(run: Callable[..., Run]) -> None:
    limits = ("--trainer.max_steps=9", "--trainer.min_epochs=5")
    assert "trainer.min_epochs: 5 is not reached" in run("fit", *QUIET, *DATA, *limits).out


def test_an_unknown_monitor_is_refused_before_the_training(fails: Callable[..., str]) -> None:
    message = fails("fit", *QUIET, *DATA, "--checkpoint.monitor=val/acc")
    assert message.startswith("checkpoint.monitor: there is no 'val/acc'; known are ")


@pytest.mark.slow
def test_limits_are_saved_as_they_were_asked_for(run: Callable[..., Any]) -> None:
    first = run("fit", *QUIET, *DATA, "--trainer.max_steps=5")
    more = run("fit", "--ckpt_path", first.path, "--trainer.max_steps=100")
    assert last(more.path)["global_step"] == 100


RESUMED: list[tuple[str, list[str], list[str], str]] = [
    (
        "argument of a loss",
        ["--model.loss=CrossEntropyLoss"],
        ["--model.loss.label_smoothing=0.5"],
        "the validation is another one",
    ),
    ("precision", [], ["--trainer.precision=bf16-mixed"], "the validation is another one"),
    (
        "delta of EarlyStopping",
        ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/loss"],
        ["--trainer.callbacks.min_delta=0.5"],
        "the options of EarlyStopping",
    ),
    (
        "monitor of a scheduler",
        [
            "--model.lr_scheduler.scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau",
            "--model.lr_scheduler.monitor=train/loss",
        ],
        ["--model.lr_scheduler.monitor=val/loss"],
        "the options of model.lr_scheduler",
    ),
    ("batches", ["--trainer.max_steps=3"], ["--trainer.limit_train_batches=2"], "image 15"),
]


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    ("before", "after", "said"), [pytest.param(*case[1:], id=case[0]) for case in RESUMED]
)
def test_what_no_longer_fits_is_said(
    before: list[str], after: list[str], said: str, run: Callable[..., Run]
) -> None:
    first = run("fit", *QUIET, *DATA, *SGD, "--trainer.max_epochs=1", *before)
    more = ("--trainer.max_epochs=2", "--trainer.max_steps=-1")
    resumed = run("fit", "--ckpt_path", first.path, *more, *after)
    assert said in resumed.out
    assert val(run("validate", "--ckpt_path", resumed.path)) == val(resumed) != {}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("option", ["stopping_threshold=9", "patience=0", "patience=1"])
def test_a_run_that_early_stopping_has_ended_stays_so(option: str, run: Callable[..., Run]) -> None:
    stopping = ("--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/loss")
    args = ("fit", *QUIET, *DATA, "--trainer.max_epochs=9", *stopping)
    first = run(*args, f"--trainer.callbacks.{option}", "--trainer.callbacks.min_delta=0.2")
    again = run("fit", "--ckpt_path", first.path, "--trainer.max_epochs=12")
    assert "nothing was trained: EarlyStopping has ended the training before" in again.out
    assert last(again.path)["global_step"] == last(first.path)["global_step"] < 9 * 7


def test_early_stopping_by_a_training_metric_looks_after_every_epoch(
    run: Callable[..., Run],
) -> None:
    stopping = "{class_path: EarlyStopping, init_args: {monitor: train/loss, min_delta: 9}}"
    rarely = "--trainer.check_val_every_n_epoch=9"
    args = ("fit", *QUIET, *DATA, "--trainer.max_epochs=9", rarely)
    ended = run(*args, f"--trainer.callbacks={stopping}")
    assert last(ended.path)["global_step"] == 4 * 7  # with a patience of 3


class NaNLoss(nn.Module):
    """Is no number in validation and test."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(logits, targets)
        return loss if logits.requires_grad else loss * float("nan")


def test_a_validation_without_a_number_is_said(run: Callable[..., Run]) -> None:
    loss = "--model.loss=tests.callbacks.test_checkpoint.NaNLoss"
    fitted = run("fit", *QUIET, *DATA, "--trainer.max_epochs=1", loss)
    assert "val/loss was never a number: the last weights count as the best" in fitted.out
    text = (fitted.path / "summary.json").read_text()
    assert "NaN" not in text and fitted.summary["val/loss"] is None
    assert fitted.summary["val/accuracy"] > 0


def test_mode_follows_from_a_built_in_metric(run: Callable[..., Run]) -> None:
    args = ("fit", *QUIET, *DATA, *SGD, "--trainer.max_epochs=3")
    given = run(*args, "--checkpoint.monitor=val/accuracy", "--checkpoint.mode=max")
    assert val(run(*args, "--checkpoint.monitor=val/accuracy")) == val(given)


ACCURACY = "monitor=val/accuracy"


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            [
                "--model.metrics={own: torchmetrics.classification.MulticlassAUROC}",
                "--checkpoint.monitor=val/own",
            ],
            "^checkpoint.mode: say whether small or large values of val/own are good",
        ),
        (
            ["--trainer.callbacks=EarlyStopping", f"--trainer.callbacks.{ACCURACY}"],
            "^trainer.callbacks: EarlyStopping: mode: min takes the worst val/accuracy",
        ),
        (
            [
                "--model.lr_scheduler.scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau",
                f"--model.lr_scheduler.{ACCURACY}",
            ],
            "^model.lr_scheduler: mode: min takes the worst val/accuracy",
        ),
    ],
)
def test_the_worst_is_not_taken_for_the_best(
    options: list[str], message: str, fails: Callable[..., str]
) -> None:
    assert re.search(message, fails("fit", *QUIET, *DATA, *options))


def test_a_text_in_quotes_does_not_make_a_checkpoint_unreadable(run: Callable[..., Run]) -> None:
    """Nothing but plain values of the config goes into it."""
    monitor = "--model.lr_scheduler.monitor=0.5"
    scheduler = "--model.lr_scheduler.scheduler={class_path: StepLR, init_args: {step_size: 1}}"
    fitted = run("fit", *QUIET, *DATA, *SGD, "--trainer.max_epochs=1", scheduler, monitor)
    assert fitted.best["compared"]["model.lr_scheduler"]["monitor"] == "0.5"


@pytest.mark.slow
def test_what_is_not_tested_is_said(run: Callable[..., Run], fails: Callable[..., str]) -> None:
    fitted = run("fit", *QUIET, *DATA, "--trainer.max_epochs=1", "--trainer.limit_test_batches=0")
    assert "nothing was tested: trainer.limit_test_batches: 0" in fitted.out
    for command, limit in {"test": "test", "validate": "val", "predict": "predict"}.items():
        option = f"trainer.limit_{limit}_batches"
        message = fails(command, "--ckpt_path", fitted.path, f"--{option}=0")
        assert message == f"{option}: 0 leaves nothing to {command}"


@pytest.mark.sampled(2)
@pytest.mark.parametrize("command", ["fit", "validate"])
def test_config_of_a_run_may_follow_its_checkpoint(command: str, run: Callable[..., Run]) -> None:
    first = run("fit", *QUIET, *DATA, "--trainer.max_epochs=1").path
    again = Path("again")
    config = ("--config", first / "config.yaml", "--trainer.max_epochs=2")
    main([command, "--ckpt_path", str(first), "--run_dir", str(again), *map(str, config)])
    assert (again / "summary.json").is_file()
    if command == "fit":
        assert last(again)["global_step"] == 14


@pytest.mark.slow
def test_another_batch_size_cuts_no_phase_short(
    run: Callable[..., Run], schedule: tuple[str, ...]
) -> None:
    two = phases(
        "{name: a, train: [head], epochs: 2}", "{name: b, train: all, epochs: 2, norm: eval}"
    )
    first = run(*schedule, two, STOP % 11).path
    resumed = run(*schedule, two, f"--ckpt_path={first}", "--data.batch_size=8")
    assert "epoch 4/4" in resumed.out and last(resumed.path)["epoch"] == 3


def test_saves_by_time_and_in_the_background(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ("fit", "--data.limit_per_class=10", "--data.batch_size=15", "--trainer.logger=false")
    usual = run(*small, "--trainer.max_epochs=2")
    steps, save = [], BestAndLast._save_last

    def remember(self: BestAndLast, trainer: L.Trainer, model: L.LightningModule) -> None:
        steps.append(trainer.global_step)
        save(self, trainer, model)

    monkeypatch.setattr(BestAndLast, "_save_last", remember)
    saves, kinds = WholeCheckpoints.__init__, []

    def make(self: WholeCheckpoints, background: bool = False) -> None:
        kinds.append(background)
        saves(self, background)

    monkeypatch.setattr(WholeCheckpoints, "__init__", make)
    ticks = itertools.count(step=20)
    monkeypatch.setattr("project.callbacks.checkpoint.time.monotonic", lambda: next(ticks))
    timed = run(
        *small, "--trainer.max_epochs=2", "--checkpoint.every=1m", "--checkpoint.background=true"
    )
    assert kinds == [True]
    assert len(steps) > 4 and {7, 14} < set(steps)
    assert equal(timed.best["state_dict"], usual.best["state_dict"])
    assert not list(timed.path.rglob("*.partial"))


@pytest.mark.parametrize("every", ["5", "0m", "m", "1 week"])
def test_a_time_has_a_unit(every: str, fails: Callable[..., str]) -> None:
    message = fails("fit", f"--checkpoint.every={every}")
    assert (
        message
        == f"checkpoint.every: {every!r} must be a length of time, such as 45s, 30m or 1h30m"
    )
