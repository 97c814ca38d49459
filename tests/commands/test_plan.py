"""The preview of a schedule: what it says, and that it is true."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from project.cli import main
from tests.conftest import CONFIGS, Run
from tests.finetuning.schedules import RECORD, States, phases

SCHEDULE = "--trainer.callbacks=FineTuningSchedule"
PRESET = "--trainer.callbacks.init_args.preset"


@pytest.fixture
def plan(capfd: pytest.CaptureFixture[str]) -> Callable[..., list[list[str]]]:
    """Run ``plan`` and return the cells of its tables, row by row."""

    def run_it(*args: str) -> list[list[str]]:
        main(["plan", *args])
        rows = [line for line in capfd.readouterr().out.splitlines() if line.startswith("│")]
        return [[cell.strip() for cell in row.strip("│").split("│")] for row in rows]

    return run_it


def test_plan_of_the_reference_job(plan: Callable[..., list[list[str]]], tmp_path: Path) -> None:
    """Without its data and without its weights, and without leaving anything behind."""
    rows = plan("--config", str(CONFIGS / "finetune_folder.yaml"))
    assert rows[0] == ["head", "head", "", "2,097,665", "0.00839 (0%)", "10", "1,000"]
    assert rows[-1] == ["head", "0.001"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_plan_of_a_backbone_that_cannot_be_cut(plan: Callable[..., list[list[str]]]) -> None:
    """An assertion of ViT fails where its parts run one after the other."""
    phase = "{name: last, train: 2, epochs: 1, cache_features: %s}"
    args = ("--model=FineTuning", "--model.backbone=vit_b_16", "--data.image_size=224")
    rows = [
        plan(*args, SCHEDULE, f"--trainer.callbacks.init_args.phases=[{phase % cached}]")[0]
        for cached in ("true", "false")
    ]
    assert rows[0] == rows[1] and float(rows[0][4].split()[0]) > 30


@pytest.mark.slow
def test_plan_of_resnet50(plan: Callable[..., list[list[str]]]) -> None:
    """Cost and parameters of each phase, as counted by hand for 224×224 pixels.

    What comes before the head is cached: 2,048 × 10 products and sums are left, and their gradient.
    """
    rows = plan(
        *("--model=FineTuning", "--model.backbone=resnet50", "--data.image_size=224"),
        *("--model.lr_decay=0.5", SCHEDULE, f"{PRESET}=gradual"),
    )
    costs = [row[4] for row in rows[:4]]
    assert costs == ["8.19e-05 (0%)", "11 (45%)", "16.9 (69%)", "24.3 (100%)"]
    assert rows[3][3] == f"{25_557_032 - 1000 * 2049 + 10 * 2049:,}"
    assert [row[0] for row in rows[4:]] == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
    assert rows[4][1:4] == ["frozen"] * 3


def test_plan_counts_grouped_convolutions(plan: Callable[..., list[list[str]]]) -> None:
    """A depthwise convolution's backward pass costs twice its forward pass, like any other.

    Features of augmented images aren't cached, unless views are asked for.
    """
    args = ("--model=FineTuning", "--model.backbone=mobilenet_v2", "--data.image_size=224")
    mixup = ("--data.augment=null", "--model.mixup=1")
    (probe, share), (full, all_of_it), (_, mixed) = (
        plan(*args, SCHEDULE, *more)[0][4].split()
        for more in (
            (f"{PRESET}=probe", "--data.augment={flip: 0.5}"),
            (f"{PRESET}=full",),
            (f"{PRESET}=probe", *mixup),
        )
    )
    assert share == mixed == "(34%)" and all_of_it == "(100%)"
    assert 2.9 < float(full) / float(probe) < 3


def test_plan_says_what_fit_does(
    plan: Callable[..., list[list[str]]], schedule: tuple[str, ...], run: Callable[..., Run]
) -> None:
    three = phases(
        "{name: a, train: [head], epochs: 1}",
        "{name: b, train: 2, steps: 6, lr_scale: 0.5, warmup_steps: 2, norm: train}",
        "{name: c, train: all, plateau: {max_epochs: 2, min_epochs: 2}}",
    )
    _, *args = schedule
    rows = plan(*args, three)
    assert [row[-2:] for row in rows[:3]] == [["1", "4"], ["", "6"], ["2 to 2", "8"]]
    assert [row[2] for row in rows[:3]] == ["", "train", "eval"]
    fitted = run(*schedule, three, f"{RECORD}States")
    heading = [line for line in fitted.out.splitlines() if line.startswith("│ stage2")]
    assert [cell.strip() for cell in heading[0].strip("│").split("│")] == rows[4]
    rates = [f"{state['lr']['stage2']:.2g}" for state in States.states]
    peak = f"{max(state['lr']['stage2'] for state in States.states[4:10]):.2g}"
    assert rows[4] == [
        *("stage2", "frozen", f"{rates[4]} {peak} {rates[9]}"),
        f"{rates[10]} {rates[10]} {rates[17]}",
    ]


def test_plan_of_a_scheduler_over_phases_in_steps(
    plan: Callable[..., list[list[str]]], schedule: tuple[str, ...], run: Callable[..., Run]
) -> None:
    """Whose total is that of the phases, not of whole epochs."""
    two = phases("{name: a, train: [head], steps: 3}", "{name: b, train: all, steps: 3}")
    cosine = "{scheduler: {class_path: WarmupCosine, init_args: {warmup: 0}}, interval: step}"
    args = (*schedule[1:], two, f"--model.lr_scheduler={cosine}")
    rows = plan(*args)
    run("fit", *args, f"{RECORD}States")
    rates = [f"{state['lr']['head']:.2g}" for state in States.states]
    assert rows[-1][1:] == [
        " ".join(rates[i] for i in (0, 0, 2)),
        " ".join(rates[i] for i in (3, 3, 5)),
    ]


def test_plan_takes_the_config_of_a_run(
    plan: Callable[..., list[list[str]]], schedule: tuple[str, ...], run: Callable[..., Run]
) -> None:
    assert plan("--config", str(run(*schedule).path / "config.yaml")) == plan(*schedule[1:])


def test_plan_draws(
    plan: Callable[..., list[list[str]]], schedule: tuple[str, ...], tmp_path: Path
) -> None:
    plan(*schedule[1:], "--plot", str(tmp_path / "plan.png"))
    with Image.open(tmp_path / "plan.png") as picture:
        assert picture.width > 1000


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model=TrainFromScratch"], "plan: needs model FineTuning, not TrainFromScratch"),
        (["--plot=plan.jpg"], "--plot: plan.jpg must be a .png file in a folder that exists"),
        (["--plot=nowhere/plan.png"], "--plot: nowhere/plan.png must be a .png file"),
        (["--data.val_fraction=0"], "phases[1].restore_best: there are no validation images"),
        ([phases("{name: a, train: [haed], epochs: 1}")], "phases[0].train: 'haed' is no layer"),
        (
            [
                phases("{name: a, train: all, epochs: 1}"),
                "--model.lr_scheduler={interval: step, scheduler: {class_path: OneCycleLR, "
                "init_args: {max_lr: 0.1, total_steps: 3}}}",
            ],
            "model.lr_scheduler.scheduler: Tried to step 4 times",
        ),
    ],
)
def test_bad_plans(
    args: list[str], message: str, fails: Callable[..., str], schedule: tuple[str, ...]
) -> None:
    if args[0].startswith("--model="):
        assert message in fails("plan", *args)
    else:
        assert message in fails("plan", *schedule[1:], *args)


def test_help_of_plan(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    assert re.search(r"--plot PLOT\s+PNG file to draw phases", capfd.readouterr().out)


def test_a_phase_may_have_any_name(plan: Callable[..., list[list[str]]]) -> None:
    """Brackets are no markup of rich, and dollars no formula of matplotlib."""
    named = "{name: '[/x] $a_$ :smile:', train: [head], epochs: 1}"
    args = ("--model=FineTuning", "--model.backbone=resnet18", SCHEDULE, "--plot=plan.png")
    rows = plan(*args, f"--trainer.callbacks.init_args.phases=[{named}]")
    assert rows[0][0] == "[/x] $a_$ :smile:"
    assert Path("plan.png").is_file()
