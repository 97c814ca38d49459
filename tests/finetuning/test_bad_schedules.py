"""Schedules that can't work, and what a person is told."""

from collections.abc import Callable
from pathlib import Path

import pytest
from lightning import Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy

from project.approaches import FineTuning
from project.cli import main
from project.errors import UserError
from project.finetuning import FineTuningSchedule
from tests.finetuning.schedules import SCHEDULE, phases

HEAD = "{name: head, train: [head], epochs: 1}"
OPTION = "--trainer.callbacks.init_args"


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([phases()], "phases: there are none; give at least one, or a preset"),
        (
            [phases("{name: a, train: [haed], epochs: 1}")],
            "phases[0].train: 'haed' is no layer group and matches no module; did you mean head?",
        ),
        (
            [phases(HEAD, "{name: b, train: [backbone.stage9.*], epochs: 1}")],
            "phases[1].train: 'backbone.stage9.*' is no layer group and matches no module; "
            "known are stage1, stage2, head",
        ),
        (
            [phases("{name: a, train: 4, epochs: 1}")],
            "phases[0].train: 4 is not in 1 to 3 layer groups: stage1, stage2, head",
        ),
        (
            [phases("{name: a, train: 0, epochs: 1}")],
            "phases[0].train: 0 is not in 1 to 3 layer groups",
        ),
        (
            [phases("{name: a, train: [], epochs: 1}")],
            "phases[0].train: nothing; name layer groups",
        ),
        (
            [phases("{name: a, train: [stage1], epochs: 1}")],
            "phases: no phase trains head.2.bias, head.2.weight of the new head",
        ),
        (
            [phases(HEAD, "{name: b, train: [backbone.*.1], epochs: 1}")],
            "phases[1].train: nothing but norm layers, which norm: eval leaves as they are",
        ),
        (
            [phases("{name: a, train: all}")],
            "phases[0]: needs one of epochs, steps and plateau; given is none",
        ),
        (
            [phases("{name: a, train: all, epochs: 1, steps: 5}")],
            "phases[0]: needs one of epochs, steps and plateau; given is epochs and steps",
        ),
        ([phases("{name: a, train: all, epochs: 0}")], "phases[0].epochs: 0 must be at least 1"),
        ([phases("{name: a, train: all, steps: -5}")], "phases[0].steps: -5 must be at least 1"),
        (
            [phases("{name: a, train: all, epochs: 1.5}")],
            "phases[0].epochs: expected int, got '1.5'",
        ),
        (
            [phases("{name: a, train: all, plateau: {max_epochs: 2, min_epochs: 3}}")],
            "phases[0].plateau.max_epochs: 2 is less than min_epochs 3",
        ),
        (
            [phases("{name: a, train: all, plateau: {patience: 3}}")],
            "Plateau needs max_epochs",
        ),
        (
            [phases("{name: a, train: all, plateau: {max_epochs: 2, patience: 0}}")],
            "phases[0].plateau.patience: 0 must be at least 1",
        ),
        (
            [phases("{name: a, train: all, plateau: {max_epochs: 2, monitor: val/acuracy}}")],
            "phases[0].plateau.monitor: there is no 'val/acuracy'; known are ",
        ),
        (
            [
                phases("{name: a, train: all, plateau: {max_epochs: 2, monitor: val/acuracy}}"),
                "--trainer.num_sanity_val_steps=0",
            ],
            "phases[0].plateau.monitor: there is no 'val/acuracy'; known are ",
        ),
        (
            [
                phases("{name: a, train: all, epochs: 2, restore_best: true}"),
                "--data.val_fraction=0",
            ],
            "phases[0].restore_best: there are no validation images",
        ),
        (
            [phases(HEAD, "{name: head, train: all, epochs: 1}")],
            "phases[1].name: 'head' is the name of another phase, too",
        ),
        (
            [phases("{name: a, train: all, epochs: 1, lr_scale: 0}")],
            "phases[0].lr_scale: 0.0 must be greater than 0",
        ),
        (
            [phases("{name: a, train: all, epochs: 1, warmup_steps: -1}")],
            "phases[0].warmup_steps: -1 must be at least 0",
        ),
        (
            [phases("{name: a, train: all, steps: 5, warmup_steps: 5}")],
            "phases[0].warmup_steps: 5 of only 5 steps",
        ),
        (
            [phases("{name: a, train: all, epochs: 1, norm: frozen}")],
            "expected one of 'eval', 'train', 'affine_only', got frozen",
        ),
        (
            [phases("{name: a, train: all, epochs: 1, shape: cubic}")],
            "expected one of 'constant', 'cosine', 'linear', got cubic",
        ),
        (
            [phases("{name: a, train: [head], epochs: 1, views: 3}")],
            "phases[0].views: are of cached features; set cache_features: true",
        ),
        (
            [phases("{name: a, train: [head], epochs: 1, cache_features: true, views: 0}")],
            "phases[0].views: 0 must be at least 1",
        ),
        (
            [phases("{name: a, train: all, epcohs: 1}")],
            "Phase has no option 'epcohs'; did you mean",
        ),
        ([f"{OPTION}.preset=probe"], "callbacks.phases: are given, and a preset; set preset: null"),
        ([f"{OPTION}.epochs=3"], "callbacks.phases: are given, and a preset; set preset: null"),
        (
            [f"{OPTION}.phases=null"],
            "trainer.callbacks.phases: are missing; give them, or a preset",
        ),
        (
            ["--trainer.callbacks=FineTuneSchedule"],
            "trainer.callbacks: no class 'FineTuneSchedule'; did you mean FineTuningSchedule?",
        ),
        (
            [f"{OPTION}.phases=null", f"{OPTION}.preset=gradual", f"{OPTION}.epochs=3"],
            "trainer.callbacks.epochs: 3 is too few for the 4 phases of gradual",
        ),
        (
            [f"{OPTION}.phases=null", f"{OPTION}.preset=lp_ft", f"{OPTION}.epochs=0"],
            "trainer.callbacks.epochs: 0 is too few for the 2 phases of lp_ft",
        ),
        (
            [f"{OPTION}.phases=null", f"{OPTION}.preset=lp_ft", "--trainer.max_epochs=1"],
            "trainer.max_epochs: 1 is too few for the 2 phases of lp_ft",
        ),
        (
            [phases("{train: all, plateau: {max_epochs: 2}}")],
            "phases[0]: Phase needs name",
        ),
        (
            [phases("{name: a, train: all, epcohs: 1, plateau: {max_epochs: 2}}")],
            "Phase has no option 'epcohs'; did you mean",
        ),
        (
            [f"{OPTION}.phases=null", f"{OPTION}.preset=lpft"],
            "expected one of 'probe', 'lp_ft', 'gradual', 'full', got lpft",
        ),
        (
            [phases(HEAD), "--trainer.max_epochs=7"],
            "trainer.max_epochs: 7, but the phases take 1 epoch; remove it, or change the phases",
        ),
        (
            [phases(HEAD), "--trainer.max_steps=7"],
            "trainer.max_steps: the phases say how long it takes; remove it",
        ),
        (
            [
                phases("{name: a, train: all, epochs: 1, shape: linear}"),
                "--model.lr_scheduler={scheduler: {class_path: StepLR, init_args: {step_size: 1}}}",
            ],
            "phases[0].shape: linear, but model.lr_scheduler shapes the learning rates already",
        ),
        (
            [
                phases(HEAD),
                "--trainer.callbacks+={class_path: StochasticWeightAveraging, "
                "init_args: {swa_lrs: 0.1, device: null}}",
            ],
            "trainer.callbacks[1]: StochasticWeightAveraging: its average is neither",
        ),
        (
            [
                phases(HEAD),
                "--trainer.callbacks+={class_path: GradientAccumulationScheduler, "
                "init_args: {scheduling: {0: 1, 1: 4}}}",
            ],
            "GradientAccumulationScheduler: its factor is lost where a run resumes within an epoch",
        ),
        (
            [
                phases("{name: a, train: all, epochs: 1, restore_best: true}"),
                "--trainer.callbacks+=EMAWeightAveraging",
            ],
            "EMAWeightAveraging validates its average; leave restore_best false with it",
        ),
        (
            [phases(HEAD), "--trainer.callbacks+=FineTuningSchedule"],
            "trainer.callbacks: there are two FineTuningSchedules; leave one",
        ),
        ([phases(HEAD), "--trainer.min_epochs=2"], "trainer.min_epochs: the phases say how long"),
        (
            [phases(HEAD), "--trainer.limit_train_batches=0"],
            "trainer.limit_train_batches: leaves no batch to train on",
        ),
        (
            [phases(HEAD, "{name: b, train: all, steps: 20}"), "--trainer.max_epochs=3"],
            "trainer.max_epochs: 3, but the phases take 6 epochs; remove it",
        ),
        (
            [
                phases("{name: a, train: all, epochs: 1, restore_best: true}"),
                "--trainer.check_val_every_n_epoch=5",
            ],
            "phases[0].restore_best: the phase is over before it is validated; make it longer",
        ),
        (
            [phases("{name: a, train: all, plateau: 3}")],
            "phases[0].plateau: can't be 3",
        ),
        (
            [phases(HEAD), "--model.optimizer.lr=0", "--model.group_lr={head: 0.1}"],
            "model.group_lr: needs an optimizer with lr greater than 0",
        ),
        (
            [phases(HEAD), "--model.lr_scheduler=StepLR"],
            "model.lr_scheduler: no class 'StepLR'; give it as model.lr_scheduler.scheduler",
        ),
        ([phases(HEAD), "--model.lr_decay=1.5"], "model.lr_decay: 1.5 must be in (0, 1]"),
        (
            [phases(HEAD), "--model.group_lr={stage3: 0.1}"],
            "model.group_lr: no layer group 'stage3'; known are stage1, stage2, head",
        ),
    ],
)
def test_bad_schedules(
    args: list[str], message: str, fails: Callable[..., str], schedule: tuple[str, ...]
) -> None:
    error = fails(*schedule, *args)
    assert message in error
    assert len(error) < 400, error


def test_schedule_needs_fine_tuning(fails: Callable[..., str]) -> None:
    args = ("fit", "--trainer.callbacks=FineTuningSchedule", f"{OPTION}.preset=probe")
    assert "the model is TrainFromScratch; it needs FineTuning" in fails(*args)


def test_one_callback_needs_no_list(
    schedule: tuple[str, ...], fails: Callable[..., str], tmp_path: Path
) -> None:
    one = SCHEDULE.replace("    - class_path: FineT", "    class_path: FineT")
    one = one.replace("      init_args:\n        phases:", "    init_args:\n        phases:")
    (tmp_path / "schedule.yaml").write_text(one.replace("warmup_steps: 2", "warmup_steps: -1"))
    message = "trainer.callbacks.phases[1].warmup_steps: -1 must be at least 0"
    assert fails(*schedule) == message


def test_a_wrong_metric_is_found_before_training(
    schedule: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = "{name: b, train: all, plateau: {max_epochs: 2, monitor: val/acc}}"
    with pytest.raises(SystemExit):
        main([*schedule, phases(HEAD, wrong)])
    said = capfd.readouterr()
    assert "phases[1].plateau.monitor: there is no 'val/acc'; known are" in said.err
    assert "epoch 1" not in said.out


@pytest.mark.parametrize("strategy", [FSDPStrategy, DeepSpeedStrategy])
def test_sharded_strategies_are_refused(strategy: type) -> None:
    model = FineTuning(5, (3, 32, 32), backbone="resnet18")
    trainer = Trainer(max_epochs=1, logger=False, accelerator="cpu")
    trainer._accelerator_connector.strategy = strategy.__new__(strategy)
    with pytest.raises(UserError, match="Strategy shards parameters, and what trains can't"):
        FineTuningSchedule(preset="probe", epochs=1).check(trainer, model)
