"""The schedule of fine-tuning: what trains when, and after a resume."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from project.approaches import FineTuning
from project.cli import main
from project.finetuning import FineTuningSchedule, Phase
from project.finetuning.resolved import resolve
from project.networks.groups import matching
from tests.conftest import CONFIGS, Run
from tests.finetuning.schedules import (
    RECORD,
    STEPS_PER_EPOCH,
    States,
    assert_same_end,
    check_resume,
    equal,
    last,
    phases,
)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_resume_ends_where_the_uninterrupted_run_ends(
    run: Callable[..., Run], schedule: tuple[str, ...]
) -> None:
    """Also at the ends of epochs (4, 8, …), and in the middle of one where a phase begins (14)."""
    check_resume(run, schedule, every=2)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
def test_resume_at_every_step(
    run: Callable[..., Run], schedule: tuple[str, ...], accumulate: int, optimizer: str
) -> None:
    args = [f"--trainer.accumulate_grad_batches={accumulate}", f"--model.optimizer={optimizer}"]
    args += ["--model.optimizer.lr=0.01"]
    check_resume(run, (*schedule, *args))


EARLY = "{name: a, train: all, norm: train, plateau: {max_epochs: 9, patience: 1, min_delta: 9}}"


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ([EARLY], 8),  # ended before its cap of epochs
        ([EARLY, "{name: b, train: all, epochs: 2, shape: constant}"], 16),
        ([EARLY, "{name: b, train: all, steps: 6, shape: constant}"], 14),
    ],
)
def test_resume_of_a_finished_run_trains_no_more(
    given: list[str], steps: int, run: Callable[..., Run], schedule: tuple[str, ...]
) -> None:
    whole = run(*schedule, phases(*given)).path
    assert last(whole)["global_step"] == steps
    again = run(*schedule, phases(*given), f"--ckpt_path={whole}")
    assert not re.search(r"^(epoch|phase \d)", again.out, re.MULTILINE)


@pytest.mark.slow
def test_resume_with_an_average(run: Callable[..., Run], schedule: tuple[str, ...]) -> None:
    two = phases("{name: a, train: [head], epochs: 1}", "{name: b, train: all, epochs: 2}")
    average = "--trainer.callbacks+={class_path: EMAWeightAveraging, init_args: {decay: 0.9}}"
    args = (*schedule, two, average, "--checkpoint.every_n_steps=1")
    whole = run(*args, f"{RECORD}KeepAll").path
    for step in (2, 4, 6, 8, 10):
        resumed = run(*args, f"--ckpt_path={whole / f'step{step}.ckpt'}")
        for key in ("state_dict", "current_model_state", "averaging_state"):
            assert equal(last(resumed.path)[key], last(whole)[key]), (step, key)


def test_floor_of_a_plateau_is_in_epochs(
    run: Callable[..., Run], schedule: tuple[str, ...]
) -> None:
    floor = "plateau: {max_epochs: 6, min_epochs: 3, patience: 1, min_delta: 9}"
    often = run(
        *schedule, phases(f"{{name: a, train: all, {floor}}}"), "--trainer.val_check_interval=0.25"
    )
    assert last(often.path)["global_step"] == 3 * STEPS_PER_EPOCH


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "kill", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)]
)
def test_killed_run_goes_on(
    kill: signal.Signals, schedule: tuple[str, ...], tmp_path: Path, run: Callable[..., Run]
) -> None:
    every = 1 if kill == signal.SIGKILL else 10000  # SIGTERM has the time to save
    args = (*schedule, f"--checkpoint.every_n_steps={every}", "--data.steps_per_epoch=200")
    args = (*args, phases("{name: p, train: [head], epochs: 1}", "{name: a, train: 2, epochs: 2}"))
    path = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "project", *args, "--run_dir", str(path)],
        cwd=CONFIGS.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (path / "checkpoints" / "last.ckpt").exists():
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(kill)
    assert process.wait(30) == (143 if kill == signal.SIGTERM else -kill)
    assert 0 < last(path)["global_step"] < 600
    resumed = run(*args, f"--ckpt_path={path}")
    assert_same_end(last(resumed.path), last(run(*args).path))


def test_frozen_groups_stay_bit_for_bit(run: Callable[..., Run], schedule: tuple[str, ...]) -> None:
    """Weights and statistics, in a schedule that also freezes again."""
    given = (
        *("{name: probe, train: [head], epochs: 1}", "{name: low, train: [stage1], epochs: 1}"),
        "{name: all, train: all, norm: train, epochs: 1}",
        "{name: top, train: [head, stage2], norm: train, epochs: 1}",
    )
    run(*schedule, phases(*given), f"{RECORD}States")
    trained = [{"head"}, {"backbone.stage1"}, {"head", "backbone.stage1", "backbone.stage2"}]
    trained.append({"head", "backbone.stage2"})
    for step, (before, after) in enumerate(pairwise(States.states), start=1):
        changing = trained[step // STEPS_PER_EPOCH]
        for name, value in before["weights"].items():
            below = any(name.startswith(f"{group}.") for group in changing)
            norm_is_frozen = step < 2 * STEPS_PER_EPOCH and ".1." in name  # norm: eval
            moved = not torch.equal(value, after["weights"][name])
            assert moved == (below and not norm_is_frozen), (step, name)
        for name, frozen in after["frozen"].items():
            assert frozen or any(name.startswith(f"{group}.") for group in changing), name


def test_frozen_prefix_evaluates() -> None:
    """In train mode it computes what it computes in evaluation, statistics and dropout included."""
    model = FineTuning(5, (3, 32, 32), backbone="mobilenet_v3_small", dropout=0.5)
    images = torch.randn(4, 3, 32, 32)
    top = model.layer_groups.select(["head", "stage5"])
    head = model.layer_groups.select(["head"])
    for trained in (head, top, head):
        model.set_trained(trained, "train")
        backbone: Any = model.network.backbone
        model.train()
        state = {name: value.clone() for name, value in model.state_dict().items()}
        in_training = backbone.features[:9](images)
        model.eval()
        assert torch.equal(in_training, backbone.features[:9](images))
        model.train()
        assert backbone.features[9].training == (trained == top)
        assert backbone.classifier[2].training == (trained == top)  # dropout
        assert all(module.training for module in model.network.head.modules())
        assert equal(dict(model.state_dict()), state)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("norm", "affine", "statistics"),
    [("eval", False, False), ("affine_only", True, False), ("train", True, True)],
)
def test_norm_policy(
    norm: str,
    affine: bool,
    statistics: bool,
    run: Callable[..., Run],
    schedule: tuple[str, ...],
    backbone: Path,
) -> None:
    phase = f"{{name: all, train: all, epochs: 1, norm: {norm}}}"
    state = last(run(*schedule, phases(phase)).path)["state_dict"]
    before = last(backbone)["state_dict"]
    for stage in ("stage1", "stage2"):
        for name, moves in (("weight", affine), ("bias", affine), ("running_mean", statistics)):
            key = f"network.backbone.{stage}.1.{name}"
            assert torch.equal(state[key], before[key]) != moves, key
        key = f"network.backbone.{stage}.0.weight"
        assert not torch.equal(state[key], before[key])


def test_gradients_are_gone_when_a_group_is_frozen() -> None:
    """A stale gradient would go on moving it: momentum and weight decay need no new one."""
    model = FineTuning(5, (3, 32, 32), backbone="resnet18")
    model.set_trained(model.layer_groups.select("all"))
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    model.set_trained(model.layer_groups.select(["head"]))
    for name, parameter in model.network.named_parameters():
        assert (parameter.grad is None) != name.startswith("head."), name


def test_every_parameter_is_in_the_optimizer_once() -> None:
    """By identity: layers with equal values are different parameters."""
    model = FineTuning(5, (3, 32, 32), backbone="resnet18", decay_norm_and_bias=False)
    for parameter in model.network.parameters():
        torch.nn.init.ones_(parameter)
    phases = (
        Phase("a", ["head", "backbone.layer4.*.conv?"], epochs=1),
        Phase("b", ["backbone.layer4.0", "backbone.layer1.*.bn*"], epochs=1, norm="train"),
        Phase("c", "backbone.layer3.0", epochs=1),
    )
    resolve(phases, model).attach_to(model)
    groups = model.parameter_groups()
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in model.network.parameters())
    names = [group["name"] for group in groups]
    assert len(set(names)) == len(names)
    assert [name for name in names if name.startswith("layer4") and "decay" not in name] == [
        "layer4:backbone.layer4.*.conv?",
        "layer4:backbone.layer4.*.conv?:backbone.layer4.0",
        "layer4:backbone.layer4.0",
    ]
    assert {"layer3", "layer3:backbone.layer3.0"} < set(names)
    for group in groups:
        assert (group.get("weight_decay") == 0) == group["name"].endswith("/no_decay")
        assert all((p.ndim <= 1) == group["name"].endswith("/no_decay") for p in group["params"])


def test_globs_stop_at_module_boundaries() -> None:
    names = [f"backbone.layer{number}.{part}.weight" for number in (1, 10) for part in ("bn1", "c")]
    assert matching(names, "backbone.layer1") == {names[0], names[1]}
    assert matching(names, "backbone.layer1?") == {names[2], names[3]}
    assert matching(names, "backbone.*.bn?") == {names[0], names[2]}
    assert matching(names, "layer1") == set()


def test_plateau_ends_a_phase(run: Callable[..., Run], schedule: tuple[str, ...]) -> None:
    """After its floor of epochs, when it is out of patience, and at its cap."""
    never_better = "plateau: {max_epochs: 5, patience: 2, min_delta: 9"
    out = run(
        *schedule,
        phases(
            f"{{name: floor, train: [head], {never_better}, min_epochs: 4}}}}",
            f"{{name: patience, train: 2, {never_better}}}}}",
            "{name: cap, train: all, plateau: {max_epochs: 1}}",
        ),
    ).out
    assert "floor ended as val/loss didn't improve in 3 validations" in out
    assert "phase 3/3 cap: trains all" in out
    assert len(re.findall(r"^epoch ", out, re.MULTILINE)) == 4 + 3 + 1


def test_restore_best(run: Callable[..., Run], schedule: tuple[str, ...]) -> None:
    """Here the epoch of the largest loss is the best, which is not the last one."""
    two = (
        "{name: a, train: all, restore_best: true, "
        "plateau: {max_epochs: 3, patience: 3, mode: max}}",
        "{name: b, train: 1, epochs: 1}",
    )
    args = (*schedule, phases(*two), "--checkpoint.every_n_steps=1")
    whole = run(*args, f"{RECORD}KeepAll")
    losses = [float(loss) for loss in re.findall(r"val loss ([\d.]+)", whole.out)]
    best = losses.index(max(losses[:3]))
    assert best < 2  # or there is nothing to restore
    path = whole.path / f"step{STEPS_PER_EPOCH * (best + 1)}.ckpt"
    kept = torch.load(path, weights_only=True)["state_dict"]
    for name, value in last(whole.path)["state_dict"].items():
        assert torch.equal(value, kept[name]) == ("backbone" in name), name


def test_average_starts_again_with_each_phase(
    run: Callable[..., Run], schedule: tuple[str, ...]
) -> None:
    """An average over the phase before would hold the random head back."""
    two = ("{name: a, train: [head], epochs: 1}", "{name: b, train: all, epochs: 1}")
    average = "--trainer.callbacks+={class_path: EMAWeightAveraging, init_args: {decay: 0.5}}"
    path = run(*schedule, phases(*two), average).path
    assert last(path)["averaging_state"]["n_averaged"] == STEPS_PER_EPOCH


def test_presets_print_their_phases(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for preset, count in (("probe", 1), ("lp_ft", 2), ("gradual", 4), ("full", 1)):
        file = tmp_path / f"{preset}.yaml"
        file.write_text(
            "model: {class_path: FineTuning, init_args: {backbone: resnet18}}\ntrainer:\n  "
            "callbacks:\n    - class_path: FineTuningSchedule\n      init_args: "
            f"{{preset: {preset}, epochs: 9}}\n"
        )
        with pytest.raises(SystemExit):
            main(["fit", "--config", str(file), "--print_config"])
        printed = yaml.safe_load(capfd.readouterr().out)
        options = printed["trainer"]["callbacks"][0]["init_args"]
        assert options["preset"] is None and len(options["phases"]) == count
        assert sum(phase["epochs"] for phase in options["phases"]) == 9
        assert FineTuningSchedule(preset=preset, epochs=9).phases == tuple(  # type: ignore[arg-type]
            Phase(**phase) for phase in options["phases"]
        )


def test_changed_schedule_on_resume(
    run: Callable[..., Run], fails: Callable[..., str], schedule: tuple[str, ...]
) -> None:
    one = ("{name: a, train: [head], epochs: 1}", "{name: b, train: 2, epochs: 1}")
    other = ("{name: a, train: [head], epochs: 1}", "{name: b, train: all, epochs: 2}")
    whole = run(*schedule, phases(*one)).path
    error = fails(*schedule, phases(*other), f"--ckpt_path={whole}")
    assert "phases[1].train: 2 is now all; phases[1].epochs: 1 is now 2" in error
    allow = "--trainer.callbacks.init_args.allow_changes=true"
    again = run(*schedule, phases(*other), allow, f"--ckpt_path={whole}")
    assert last(again.path)["global_step"] == 3 * STEPS_PER_EPOCH
    shorter = ("{name: b, train: 2, epochs: 3}",)  # the phase that is over is gone
    again = run(*schedule, phases(*shorter), allow, f"--ckpt_path={whole}")
    assert last(again.path)["global_step"] == 4 * STEPS_PER_EPOCH
    gone = phases("{name: c, train: all, epochs: 3}")
    assert "'b', which is gone" in fails(*schedule, gone, allow, f"--ckpt_path={whole}")


def test_resume_with_other_parameter_groups(
    run: Callable[..., Run], fails: Callable[..., str], schedule: tuple[str, ...]
) -> None:
    """A frozen backbone's optimizer holds the head alone."""
    frozen = run(*schedule, "--trainer.callbacks=null", "--trainer.max_epochs=1").path
    error = fails(*schedule, f"--ckpt_path={frozen}")
    assert "the optimizer of the checkpoint has the groups head, head/no_decay, and not" in error
