"""Every shipped config runs through the command line, on small data in the real formats."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from project.cli import main
from tests.conftest import CONFIGS, Run

REFERENCE_JOBS = {  # parameters in total and trained
    "scratch_mnist": (109_386, 109_386),
    "scratch_mnist_fast": (109_386, 109_386),
    "full_cifar10": (122_570, 122_570),
    "finetune_folder": (16_812_353, 2_097_665),
}
COMPARISONS = {path.stem for path in CONFIGS.glob("compare*.yaml")}  # tests/commands/ has these
SMALL = "timm/test_efficientnet"  # 0.4 M parameters, for a backbone that only costs time here
EXPERIMENTS = sorted(
    {path.stem for path in CONFIGS.glob("*.yaml")} - COMPARISONS
    | {f"compare/{path.stem}" for path in (CONFIGS / "compare").glob("*.yaml")}
)
DRAWN = ("quickstart", "finetune_folder_best")  # from scratch, and in phases on files
SCHEDULES = sorted(path.stem for path in (CONFIGS / "schedules").glob("*.yaml"))
ON_TOP = sorted(
    path.relative_to(CONFIGS)
    for folder in ("callbacks", "loggers")
    for path in (CONFIGS / folder).glob("*.yaml")
)
DEBUG = sorted(path.stem for path in (CONFIGS / "debug").glob("*.yaml"))


def table_of(folder: Path) -> Path:
    """Write a table with the images of a folder that has splits."""
    path = folder / "images.csv"
    images = sorted(image for image in folder.rglob("*.*") if image != path)
    rows = [f"{image.relative_to(folder)},{image.parts[-2]},{image.parts[-3]}" for image in images]
    path.write_text("\n".join(["image,label,split", *rows]))
    return path


def tiny(name: str, mnist: Path, cifar10: Path, pets: Path, backbone: Path) -> list[Any]:
    """Arguments that point a config to small data and make it short."""
    roots = {"MNIST": mnist, "CIFAR10": cifar10, "ImageFolder": pets}
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    args: list[Any] = ["--config", CONFIGS / f"{name}.yaml"]
    if "preset" in str(config["trainer"]):  # lp_ft has two phases
        args += ["--trainer.max_epochs", 2]
    elif "phases" in str(config["trainer"]):
        head = "{name: head, train: [head], epochs: 1, cache_features: true}"
        args += [f"--trainer.callbacks.init_args.phases=[{head}]", "--data.limit_per_class=4"]
        args += ["--data.eval_batch_size=2", "--trainer.limit_test_batches=1"]  # VGG16 is slow
    else:
        args += ["--trainer.max_epochs", 1]
    if root := roots.get(config["data"]["class_path"]):
        args += ["--data.root", root]
    if config["data"]["class_path"] == "ImageTable":
        args += ["--data.table", table_of(pets)]
    if config["model"]["class_path"] == "FineTuning":
        args += ["--model.weights", "null"]
    of_config = config["model"]["init_args"].get("backbone", "")
    if of_config == "RUN":
        args += ["--model.backbone", backbone]
    elif of_config.startswith("timm/"):
        args += ["--model.backbone", SMALL]
    if "steps_per_epoch" in config["data"]["init_args"]:
        args += ["--data.steps_per_epoch", 2, "--data.batch_size", 2]
    return args


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.drawing] * (name in DRAWN)) for name in EXPERIMENTS],
)
def test_experiment(
    name: str,
    run: Callable[..., Run],
    mnist: Path,
    cifar10: Path,
    pets: Path,
    backbone: Path,
) -> None:
    finished = run("fit", *tiny(name, mnist, cifar10, pets, backbone))
    summary = finished.summary
    assert 0 <= summary["test/accuracy"] <= 1
    assert summary["best_checkpoint"] == "checkpoints/best.ckpt"
    assert (finished.path / "checkpoints" / "last.ckpt").is_file()
    assert "state_dict" in finished.best  # loads with weights_only
    if name in REFERENCE_JOBS:
        found = (summary["parameters_total"], summary["parameters_trained"])
        assert found == REFERENCE_JOBS[name]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_print_config_round_trips(
    name: str,
    mnist: Path,
    cifar10: Path,
    pets: Path,
    backbone: Path,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def printed(*args: Any) -> str:
        with pytest.raises(SystemExit) as exit_:
            main(["fit", *map(str, args), "--print_config"])
        assert exit_.value.code == 0
        return capfd.readouterr().out

    first = printed(*tiny(name, mnist, cifar10, pets, backbone))
    (tmp_path / "again.yaml").write_text(first)
    assert printed("--config", tmp_path / "again.yaml") == first


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_first_lines_say_how_to_run_it(name: str) -> None:
    first = (CONFIGS / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith(f"# python -m project fit --config configs/{name}.yaml")


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule(name: str, run: Callable[..., Run], pets: Path) -> None:
    first, schedule = CONFIGS / "finetune_folder_best.yaml", CONFIGS / "schedules" / f"{name}.yaml"
    finished = run(
        *("fit", "--config", first, "--config", schedule, "--data.root", pets),
        *("--model.weights", "null", "--data.image_size", 32, "--data.batch_size", 2),
        *("--model.backbone", "timm/mobilenetv2_035"),  # smaller, with the same names of stages
    )
    assert "phase 4/4 all: trains all" in finished.out


@pytest.mark.parametrize("name", DEBUG)
def test_debug_preset(name: str, run: Callable[..., Run]) -> None:
    quickstart, preset = CONFIGS / "quickstart.yaml", CONFIGS / "debug" / f"{name}.yaml"
    finished = run("fit", "--config", quickstart, "--config", preset, "--trainer.max_epochs", 2)
    assert (finished.path / "config.yaml").is_file()
    if name == "profile":
        assert list(finished.path.glob("fit-profile*.txt"))


LEAVES = {  # a line that is printed, or a file
    "early_stopping": "EarlyStopping: ended after step",
    "ema": "checkpoints/best.ckpt",
    "lr_finder": "LearningRateFinder: model.optimizer.lr",
    "batch_size_finder": "BatchSizeFinder: data.batch_size",
    "gradient_norms": "weights/update_ratio/head",
    "gradient_clipping": "checkpoints/best.ckpt",
    "accumulation": "checkpoints/best.ckpt",
    "profiler": "fit-profile.txt",
    "csv": "metrics.csv",
    "tensorboard": "tensorboard",
    "mlflow": "metrics.csv",
}
OPTIONS = {
    "early_stopping": ("--trainer.callbacks.stopping_threshold=100",),
    "lr_finder": ("--trainer.callbacks.num_training_steps=20",),
    "batch_size_finder": ("--trainer.callbacks.max_trials=1", "--data.batch_size=16"),
    "mlflow": ("--trainer.max_epochs=1",),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of SQLAlchemy, by mlflow
@pytest.mark.sampled(4)
@pytest.mark.parametrize("path", ON_TOP, ids=lambda path: path.stem)
def test_on_top_of_another(
    path: Path, run: Callable[..., Run], fails: Callable[..., str], quick_picture: None
) -> None:
    quickstart, name = CONFIGS / "quickstart.yaml", path.stem
    short = ("--data.limit_per_class=6", "--trainer.max_epochs=3", "--trainer.log_every_n_steps=1")
    logger = () if "loggers" in path.parts else ("--trainer.logger=CSVLogger",)
    args = ("fit", "--config", quickstart, "--config", CONFIGS / path, *short, *logger)
    if name == "mlflow" and find_spec("mlflow") is None:
        assert "pip install" in fails(*args)
        return
    finished = run(*args, *OPTIONS.get(name, ()))
    assert "experiment: quickstart" in (finished.path / "config.yaml").read_text()
    wanted = LEAVES[name]
    logged = (finished.path / "metrics.csv").read_text()
    assert (finished.path / wanted).exists() or wanted in finished.out or wanted in logged
    assert "train/loss" in logged and not list(finished.path.glob("wandb"))
    if name == "tensorboard":
        assert f"view: tensorboard --logdir {finished.path}" in finished.out
    if name == "mlflow":
        with closing(sqlite3.connect("mlflow.db")) as database:
            names = {name for (name,) in database.execute("select key from metrics")}
        assert {"train/loss", "val/loss", "test/loss", "weights/lr"} <= names


def test_overfitting_one_batch_learns_it(run: Callable[..., Run]) -> None:
    finished = run(
        *("fit", "--config", CONFIGS / "quickstart.yaml"),
        *("--config", CONFIGS / "debug" / "overfit.yaml"),
    )
    losses = [
        float(line.split("train loss ")[1].split()[0])
        for line in finished.out.splitlines()
        if "train loss " in line
    ]
    assert losses[-1] < 0.1 < losses[0]
