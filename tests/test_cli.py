"""What LightningCLI gets wrong, and what a run leaves behind."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from project.approaches.metrics import SCORES
from project.cli import COMMANDS, main
from project.data import Augment
from project.environment import PACKAGE
from tests.conftest import CONFIGS, Run

QUICK = ("--trainer.max_epochs", 1, "--trainer.logger", "false")


def test_run_directory_holds_everything(run: Callable[..., Run]) -> None:
    finished = run("fit", "--trainer.max_epochs", 2)
    names = {path.name for path in finished.path.iterdir()}
    assert names >= {
        "config.yaml",
        "checkpoints",
        "metrics.csv",
        "wandb",
        "summary.json",
        "run.json",
        "per_class.csv",
        "test_predictions.csv",
    }
    assert {path.name for path in (finished.path / "checkpoints").iterdir()} == {
        "best.ckpt",
        "last.ckpt",
    }
    scores = {f"{s}/{m}" for s in ("val", "test") for m in SCORES} | {
        "train/loss",
        "train/accuracy",
    }
    costs = {
        *("best_checkpoint", "fit_seconds", "epoch_seconds", "train_images_per_second"),
        *("peak_memory_mb", "parameters_total", "parameters_trained", "versions", "device"),
        *("approach", "pretrained", "best_epoch", "best_epoch_seconds", "process_seconds"),
        *("data", "ended", "test_classes", "gflop_per_image"),
    }
    of_tests = {"top5_accuracy", "auroc", "average_precision", "calibration_error"}
    scores |= {f"test/{score}" for score in of_tests}
    assert set(finished.summary) == scores | costs
    assert set(finished.summary["test_classes"]) == {str(digit) for digit in range(10)}
    assert len(finished.summary["epoch_seconds"]) == 2
    assert finished.summary["test/accuracy"] > 0.5
    header = (finished.path / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/loss", "val/accuracy", "test/f1", "workload/epoch_seconds"} <= set(header)


def test_output_is_what_a_person_needs(run: Callable[..., Run]) -> None:
    finished = run("fit", "--trainer.max_epochs", 1)
    assert finished.err == ""
    for noise in ("Tip", "GPU available", "Seed set", "warn", "anonymous", "wandb:"):
        assert noise not in finished.out
    assert "epoch 1/1  train loss" in finished.out
    assert str(finished.path) in finished.out
    assert "offline, because nobody is logged in" in finished.out


def test_two_runs_of_a_config_never_meet(tmp_path: Path) -> None:
    for _ in range(2):
        main(["fit", "--config", str(CONFIGS / "quickstart.yaml"), *map(str, QUICK)])
    runs = list(Path("runs/quickstart").iterdir())
    assert len(runs) == 2
    assert all(re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", run.name) for run in runs)


def test_saved_config_runs_again(run: Callable[..., Run]) -> None:
    first = run("fit", "--config", CONFIGS / "quickstart.yaml", *QUICK)
    again = run("fit", "--config", first.path / "config.yaml")
    assert again.path != first.path
    assert (again.path / "config.yaml").read_text() == (first.path / "config.yaml").read_text()
    for key, value in first.best["state_dict"].items():
        assert torch.equal(value, again.best["state_dict"][key]), key


@dataclass(frozen=True)
class Darken(Augment):
    flip: float = 0.25
    share: float = 0.5

    def __call__(self, images: Tensor, keys: Tensor, seed: int) -> Tensor:
        return super().__call__(images, keys, seed) * self.share


@pytest.mark.slow
def test_augmentation_may_be_a_class_of_ones_own(run: Callable[..., Run]) -> None:
    own = ("--data.augment", f"{__name__}.Darken", "--data.augment.share", 0.0)
    first = run("fit", "--config", CONFIGS / "quickstart.yaml", *QUICK, *own)
    config = yaml.safe_load((first.path / "config.yaml").read_text())
    augment = config["data"]["init_args"]["augment"]
    assert augment["class_path"] == f"{__name__}.Darken"
    given = {name: augment["init_args"][name] for name in ("flip", "shift", "share")}
    assert given == {"flip": 0.25, "shift": 1, "share": 0.0}  # shift is the config's
    assert first.summary["train/accuracy"] < 0.3  # of black images
    again = run("fit", "--config", first.path / "config.yaml")
    assert (again.path / "config.yaml").read_text() == (first.path / "config.yaml").read_text()


def test_evaluation_needs_only_the_run_directory(run: Callable[..., Run]) -> None:
    fitted = run("fit", *QUICK)
    tested = run("test", "--ckpt_path", fitted.path)
    assert tested.summary["test/accuracy"] == fitted.summary["test/accuracy"]
    assert (tested.path / "confusion_matrix.png").exists() and "can't be drawn" not in tested.out
    validated = run("validate", "--ckpt_path", fitted.path / "checkpoints" / "best.ckpt")
    assert validated.summary["val/loss"] == pytest.approx(fitted.summary["val/loss"])
    predicted = run("predict", f"--ckpt_path={fitted.path}")
    lines = (predicted.path / "predictions.csv").read_text().splitlines()
    assert lines[0].startswith('"image","class","probability","probability_0"')
    assert len(lines) == 1 + 359
    assert [int(line.split(",")[0]) for line in lines[1:]] == list(range(359))


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_random_weights_are_not_evaluated(command: str, fails: Callable[..., str]) -> None:
    assert f"{command} needs --ckpt_path" in fails(command)


def test_command_line_beats_checkpoint(run: Callable[..., Run]) -> None:
    """Lightning lets the checkpoint win: Lightning-AI/pytorch-lightning#20801."""
    optimizer = ("--model.optimizer", "SGD", "--model.optimizer.lr")
    first = run("fit", *QUICK, *optimizer, 0.1)
    resumed = run(
        *("fit", "--ckpt_path", first.path, "--model.optimizer.lr", 0.025),
        *("--trainer.max_epochs", 2),
    )
    config = yaml.safe_load((resumed.path / "config.yaml").read_text())
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.025
    (state,) = resumed.best["optimizer_states"]
    assert state["param_groups"][0]["lr"] == pytest.approx(0.025)


def test_resumed_schedule_follows_the_new_config(run: Callable[..., Run]) -> None:
    args = ("fit", "--config", CONFIGS / "quickstart.yaml")
    first = run(*args, "--trainer.max_epochs=1", "--trainer.logger=false")
    last = torch.load(first.path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0, abs=1e-5)
    resumed = run(
        *(*args, "--ckpt_path", first.path, "--trainer.max_epochs=4"),
        *("--model.optimizer.lr=0.03", "--trainer.logger=CSVLogger"),
    )
    (path,) = resumed.path.rglob("metrics.csv")
    with path.open() as file:
        rates = [float(row["weights/lr"]) for row in csv.DictReader(file) if row["weights/lr"]]
    assert 0.02 < max(rates) < 0.03
    assert rates[1:] == sorted(rates[1:], reverse=True)


def test_resume_with_another_optimizer_is_refused(
    run: Callable[..., Run], fails: Callable[..., str]
) -> None:
    first = run("fit", *QUICK, "--model.optimizer=SGD")
    message = fails(
        "fit", "--ckpt_path", first.path, "--model.optimizer=Adam", "--trainer.max_epochs=2"
    )
    assert "the checkpoint is from SGD" in message


def test_checkpoint_imports_nothing(run: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("from pathlib import Path; Path('ran').touch()")
    fitted = run("fit", *QUICK)
    path = fitted.path / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["hyper_parameters"]["network"] = {"class_path": "evil.Network", "init_args": {}}
    torch.save(checkpoint, path)
    sys.path.insert(0, str(tmp_path))
    try:
        run("test", "--ckpt_path", fitted.path)
        with pytest.raises(SystemExit):
            run("fit", "--model", "FineTuning", "--model.backbone", fitted.path, *QUICK)
    finally:
        sys.path.remove(str(tmp_path))
    assert not Path("ran").exists()


class _Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


def test_checkpoint_runs_nothing(fails: Callable[..., str], tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "evil": _Evil()}, tmp_path / "evil.ckpt")
    quickstart = CONFIGS / "quickstart.yaml"
    message = fails("test", "--config", quickstart, "--ckpt_path", tmp_path / "evil.ckpt")
    assert "can't be opened as a checkpoint" in message
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, {"weight_decay": 0.0, "lr": 0.001}),
        ({"lr": 0.3}, {"weight_decay": 0.0, "lr": 0.3}),
    ],
)
def test_optimizer_has_exactly_its_own_arguments(
    given: dict[str, float], kept: dict[str, float], run: Callable[..., Run], tmp_path: Path
) -> None:
    adamw = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.1, "weight_decay": 0.05}}
    config = {"model": {"class_path": "TrainFromScratch", "init_args": {"optimizer": adamw}}}
    (tmp_path / "adamw.yaml").write_text(yaml.safe_dump(config))
    args = [f"--model.optimizer.{name}={value}" for name, value in given.items()]
    finished = run(
        *("fit", "--config", tmp_path / "adamw.yaml", "--model.optimizer", "SGD", *args, *QUICK)
    )
    group = finished.best["optimizer_states"][0]["param_groups"][0]
    assert {name: group[name] for name in kept} == kept


def test_network_has_exactly_its_own_arguments(run: Callable[..., Run]) -> None:
    finished = run(
        "fit",
        "--model.network.hidden=[7]",
        "--model.network=CNN",
        *QUICK,
        "--model.network.padding=1",
        "--model.network.channels=[4]",
    )
    assert finished.best["hyper_parameters"]["network"]["init_args"]["hidden"] == [64]


def test_all_loggers_can_be_left_out(run: Callable[..., Run]) -> None:
    finished = run("fit", *QUICK)
    assert finished.summary["test/accuracy"] > 0
    assert not (finished.path / "metrics.csv").exists()
    assert not (finished.path / "wandb").exists()


@pytest.mark.parametrize("logger", ["CSVLogger", "TensorBoardLogger"])
def test_other_loggers_write_into_the_run_directory(logger: str, run: Callable[..., Run]) -> None:
    if logger == "TensorBoardLogger":
        pytest.importorskip("tensorboard")
    finished = run("fit", "--trainer.max_epochs", 1, "--trainer.logger", logger)
    assert list(finished.path.rglob("metrics.csv"))
    assert bool(list(finished.path.rglob("events.out*"))) == (logger == "TensorBoardLogger")
    assert not (finished.path / "wandb").exists()
    assert {path.name for path in Path().iterdir()} <= {finished.path.name}


def test_resume_in_the_same_directory_loses_nothing(run: Callable[..., Run]) -> None:
    args = ("--trainer.logger", "CSVLogger")
    first = run("fit", "--trainer.max_epochs", 1, *args)
    run(
        *("fit", "--ckpt_path", first.path, "--trainer.max_epochs", 2, *args),
        run_dir=first.path,
    )
    kept = [path.name for path in first.path.iterdir()]
    assert sum(name.startswith("config") for name in kept) == 2
    assert torch.load(first.path / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1


def test_resumed_run_equals_uninterrupted_run(run: Callable[..., Run]) -> None:
    args = (
        *("fit", "--config", CONFIGS / "quickstart.yaml", "--trainer.logger", "false"),
        *("--model.network.dropout", 0.2, "--model.lr_scheduler.scheduler.total_steps", 63),
    )
    straight = run(*args, "--trainer.max_epochs", 3)
    first = run(*args, "--trainer.max_epochs", 1)
    resumed = run(*args, "--trainer.max_epochs", 3, "--ckpt_path", first.path)
    expected = torch.load(straight.path / "checkpoints" / "last.ckpt", weights_only=True)
    found = torch.load(resumed.path / "checkpoints" / "last.ckpt", weights_only=True)
    for key, value in expected["state_dict"].items():
        assert torch.equal(value, found["state_dict"][key]), key


@pytest.mark.slow
def test_resume_changes_weight_decay_only_where_there_was_one(run: Callable[..., Run]) -> None:
    args = (*QUICK, "--model.decay_norm_and_bias=false")
    decay = "--model.optimizer.weight_decay"
    first = run("fit", *args, "--model.optimizer=AdamW", f"{decay}=0.2")
    resumed = run("fit", "--ckpt_path", first.path, "--trainer.max_epochs=2", f"{decay}=0.1")
    last = torch.load(resumed.path / "checkpoints" / "last.ckpt", weights_only=True)
    groups = last["optimizer_states"][0]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]


def test_average_of_the_weights_is_what_is_tested(run: Callable[..., Run]) -> None:
    fitted = run(
        *("fit", "--trainer.max_epochs=2", "--trainer.logger=false"),
        *("--trainer.callbacks=EMAWeightAveraging", "--trainer.callbacks.decay=0.98"),
    )
    assert "current_model_state" in fitted.best
    tested = run("test", "--ckpt_path", fitted.path)
    assert tested.summary["test/loss"] == pytest.approx(fitted.summary["test/loss"])
    validated = run("validate", "--ckpt_path", fitted.path)
    assert validated.summary["val/loss"] == pytest.approx(fitted.summary["val/loss"])


def test_other_callbacks_may_be_added(run: Callable[..., Run]) -> None:
    fitted = run(
        *("fit", *QUICK, "--trainer.callbacks=ModelCheckpoint"),
        *("--trainer.callbacks.every_n_train_steps=5", "--trainer.callbacks+=RichProgressBar"),
    )
    assert fitted.summary["best_checkpoint"].endswith("best.ckpt")
    assert "test/accuracy" in fitted.summary


def test_config_beside_a_checkpoint_imports_nothing_foreign(
    run: Callable[..., Run], fails: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "evil.py").write_text("from pathlib import Path; Path('ran').touch()")
    fitted = run("fit", *QUICK)
    config = fitted.path / "config.yaml"
    config.write_text(config.read_text().replace("project.data.Digits", "evil.Digits"))
    sys.path.insert(0, str(tmp_path))
    try:
        assert "names evil.Digits" in fails("test", "--ckpt_path", fitted.path)
    finally:
        sys.path.remove(str(tmp_path))
    assert not Path("ran").exists()


def test_terminated_run_exits_with_143(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    def terminate(self: Any) -> None:
        raise SIGTERMException

    monkeypatch.setattr("project.approaches.ImageClassifier.on_train_end", terminate)
    with pytest.raises(SystemExit) as exit_:
        main(["fit", *map(str, QUICK)])
    assert exit_.value.code == 143


def test_module_is_a_command_that_lists_all_others() -> None:
    found = subprocess.run(
        [sys.executable, "-m", PACKAGE, "--help"],
        cwd=CONFIGS.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    for command in ("fit", "validate", "test", "predict", *COMMANDS):
        assert re.search(rf"^    {command} +[A-Z]", found.stdout, re.MULTILINE), command


def test_a_wrong_command_is_answered_with_all_there_are(fails: Callable[..., str]) -> None:
    assert "fit --config FILE" in fails()
    message = fails("fitt")
    assert all(repr(command) in message for command in ("fit", "predict", *COMMANDS))


@pytest.mark.parametrize(
    ("option", "linked"),
    [
        ("--model.help=FineTuning", ("num_classes", "image_shape", "class_names")),
        ("--model.help=TrainFromScratch", ("num_classes", "image_shape", "normalization")),
        ("--data.help=ImageFolder", ("input_spec",)),
    ],
)
def test_help_of_a_class_shows_only_what_may_be_given(
    option: str, linked: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    """What data and model take from each other was shown, some of it as required."""
    with pytest.raises(SystemExit):
        main(["fit", option])
    shown = capfd.readouterr().out
    assert shown.startswith(f"usage: python -m {PACKAGE} ")
    assert "required" not in shown
    assert not any(name in shown for name in linked)
    assert len(shown.splitlines()) < 250  # torch alone has hundreds of classes for model.loss


def test_help_of_a_command_is_in_our_words(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    shown = capfd.readouterr().out
    assert "predict RUN PICTURES" in "".join(shown.splitlines(keepends=True)[:4])
    assert "wandb:" in shown.partition("--ckpt_path CKPT_PATH")[2]
    assert not re.search(r":\w+:`|barebones|default_root_dir", shown)


def test_wandb_run_is_complete(run: Callable[..., Run]) -> None:
    finished = run("fit", "--config", CONFIGS / "quickstart.yaml", "--trainer.max_epochs", 2)
    (log,) = finished.path.glob("wandb/offline-run-*/*.wandb")
    shown = subprocess.run(
        [
            str(Path(sys.executable).parent / "wandb"),
            *("leet", "inspect", "--summary", "--json", log),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    record = json.loads(shown.stdout)
    config = record["config"]
    assert config["data"]["class_path"] == "project.data.Digits"
    assert config["data"]["init_args"]["augment"]["init_args"]["shift"] == 1
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.003
    assert config["trainer"]["max_epochs"] == 2
    assert config["seed_everything"] == 0
    assert config["versions"]["torch"] == torch.__version__.split("+")[0]
    assert config["git"]
    assert config["parameters"]["total"] == finished.summary["parameters_total"]
    summary = record["summary"]
    assert summary["test/accuracy"] == pytest.approx(finished.summary["test/accuracy"])
    assert summary["best/val/loss"] == pytest.approx(finished.summary["val/loss"])
    assert {"train/loss", "weights/lr", "workload/images_per_second"} <= set(summary)
    assert list(finished.path.glob("wandb/*/files/media/images/test/confusion_matrix*.png"))


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_wandb_mode_of_the_environment_wins(
    mode: str, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    finished = run("fit", "--trainer.max_epochs", 1)
    assert f"{mode}, by WANDB_MODE" in finished.out
    assert bool(list(finished.path.glob("wandb/offline-run-*"))) == (mode == "offline")


def test_wandb_with_key_and_no_network_goes_offline(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    finished = run("fit", "--trainer.max_epochs", 1)
    assert "offline, because 127.0.0.1 can't be reached" in finished.out
    assert list(finished.path.glob("wandb/offline-run-*"))
