"""What Lightning's callbacks do without a word is said, and a metric that isn't there is found."""

from collections.abc import Callable

import pytest
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.profilers import SimpleProfiler

from tests.conftest import Run

QUICK = (
    *("--data.limit_per_class=10", "--data.batch_size=16", "--trainer.max_epochs=3"),
    *("--trainer.logger=false", "--test_after_fit=false"),
)
STOPPING = ("--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/loss")
PLATEAU = (
    "--model.lr_scheduler.scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau",
    "--model.lr_scheduler.monitor=val/los",
)
AVERAGE = "--trainer.callbacks=EMAWeightAveraging"
BY_EPOCH = ("--trainer.callbacks.update_every_n_steps=0",)


def test_why_a_training_has_ended(run: Callable[..., Run]) -> None:
    impatient = ("--trainer.callbacks.patience=1", "--trainer.callbacks.min_delta=9")
    first = run("fit", *QUICK, *STOPPING, *impatient)
    said = "EarlyStopping: ended after step 14: Monitored metric val/loss did not improve in the"
    assert said in first.out
    assert "Signaling" not in first.out
    limit = ("--trainer.max_epochs=2", "--trainer.callbacks.patience=9")
    resumed = run("fit", "--ckpt_path", first.path, *limit, run_dir=first.path)
    assert "EarlyStopping" not in resumed.out  # that was the run before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--checkpoint.monitor=val/acc",), "checkpoint.monitor: there is no 'val/acc'; known are"),
        (PLATEAU, "model.lr_scheduler.monitor: there is no 'val/los'; known are"),
        (
            ("--trainer.callbacks=ModelCheckpoint", "--trainer.callbacks.monitor=val/f2"),
            "trainer.callbacks.ModelCheckpoint.monitor: there is no 'val/f2'; known are",
        ),
        (
            (*STOPPING, "--data.val_fraction=0"),
            "EarlyStopping.monitor: val/loss: nothing is validated; monitor train/loss",
        ),
        (
            (*STOPPING, "--trainer.limit_val_batches=0"),
            "EarlyStopping.monitor: val/loss: nothing is validated; monitor train/loss",
        ),
        (
            (*STOPPING, "--trainer.callbacks.monitor=val/los", "--trainer.num_sanity_val_steps=0"),
            "EarlyStopping.monitor: there is no 'val/los'; known are",
        ),
        (
            (AVERAGE, "--trainer.callbacks.update_every_n_steps=0"),
            "EMAWeightAveraging: update_every_n_steps: 0 must be at least 1, or 0 with",
        ),
    ],
)
def test_what_is_known_before_an_epoch(
    options: tuple[str, ...], message: str, fails: Callable[..., str]
) -> None:
    assert message in fails("fit", *QUICK, *options)


def test_a_lax_monitor_may_be_missing(run: Callable[..., Run]) -> None:
    lax = ("--trainer.callbacks.monitor=val/los", "--trainer.callbacks.strict=false")
    assert "epoch 3/3" in run("fit", *QUICK, *STOPPING, *lax).out


def test_what_never_came_to_it(run: Callable[..., Run]) -> None:
    callbacks = (
        "--trainer.callbacks=[{class_path: EarlyStopping, init_args: {monitor: val/loss}}, "
        "{class_path: ModelCheckpoint, init_args: {every_n_epochs: 9}}]"
    )
    out = run("fit", *QUICK, callbacks, "--trainer.check_val_every_n_epoch=9").out
    assert "EarlyStopping: had no val/loss to look at" in out
    assert "ModelCheckpoint: kept nothing, as the training was over before" in out


@pytest.mark.parametrize(
    "start",
    [
        ("--trainer.callbacks.update_starting_at_step=21",),
        (*BY_EPOCH, "--trainer.callbacks.update_starting_at_epoch=3"),
    ],
)
def test_an_average_that_begins_too_late(start: tuple[str, ...], run: Callable[..., Run]) -> None:
    said = "EMAWeightAveraging: begins after the end of the training, which has 21 steps in 3 epoc"
    assert said in run("fit", *QUICK, AVERAGE, *start).out


def test_an_average_of_nothing(run: Callable[..., Run]) -> None:
    late = "--trainer.callbacks.update_starting_at_step=100000"
    endless = ("--trainer.max_epochs=-1", "--trainer.max_time={milliseconds: 50}")
    begun = run("fit", *QUICK, AVERAGE, late, *endless)
    assert "EMAWeightAveraging: averaged nothing, as the training ended after step " in begun.out


def test_an_average_that_is_too_slow(run: Callable[..., Run]) -> None:
    slow = run("fit", *QUICK, AVERAGE)
    said = "EMAWeightAveraging: decay 0.999 is slow for 21 updates; 98% of the average will be the"
    assert said in slow.out
    late = ("--trainer.callbacks.update_starting_at_epoch=1", "--trainer.callbacks.decay=0.8")
    assert (
        "decay 0.8 is slow for 2 updates; 80%" in run("fit", *QUICK, AVERAGE, *BY_EPOCH, *late).out
    )
    assert "is slow" not in run("fit", *QUICK, AVERAGE, "--trainer.callbacks.decay=0.9").out


class OwnCheckpoint(ModelCheckpoint):
    """A callback without options."""

    def __init__(self) -> None:
        super().__init__(filename="own")


class OwnStopping(EarlyStopping):
    """Another one."""

    def __init__(self) -> None:
        super().__init__(monitor="val/loss")


class OwnProfiler(SimpleProfiler):
    """A profiler that takes no file."""

    def __init__(self) -> None:
        super().__init__()


def test_subclasses_may_have_other_options(run: Callable[..., Run]) -> None:
    callbacks = f"--trainer.callbacks=[{__name__}.OwnCheckpoint, {__name__}.OwnStopping]"
    finished = run("fit", *QUICK, callbacks, f"--trainer.profiler={__name__}.OwnProfiler")
    assert "FIT Profiler Report" in finished.out
    assert (finished.path / "checkpoints" / "own.ckpt").exists()


def test_weights_alone_cant_be_resumed(run: Callable[..., Run], fails: Callable[..., str]) -> None:
    keeps = ("--trainer.callbacks=ModelCheckpoint", "--trainer.callbacks.save_weights_only=true")
    (kept,) = (run("fit", *QUICK, *keeps).path / "more_checkpoints").iterdir()
    assert "test/accuracy" in run("test", "--ckpt_path", kept).summary
    message = fails("fit", "--ckpt_path", kept)
    assert message.startswith(f"ckpt_path: {kept} has no callbacks: it holds weights only")
