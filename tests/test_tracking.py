"""What W&B and the other loggers have of a run."""

import csv
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import wandb
from PIL import Image
from torch import nn

from project import artifacts, trust
from project.approaches import TrainFromScratch
from project.callbacks import GradientNorms
from project.callbacks.artifacts import _source
from project.callbacks.learning_rates import names_of
from project.checkpoints import find_checkpoint
from project.cli import main
from project.errors import UserError
from project.networks import CNN
from project.resuming import with_config_of_run
from project.runs import run_of
from project.tracking import given_by_environment, wandb_mode
from project.wandb_logger import RunLogger
from tests.conftest import Run
from tests.finetuning.schedules import SCHEDULE
from tests.wandb_log import HEADER, Part, parts, records
from tests.wandb_server import serving

FIT = ("fit", "--data.limit_per_class=10", "--data.batch_size=15", "--trainer.log_every_n_steps=2")
FIT = (*FIT, "--pictures=0")  # which tests/callbacks/test_figures.py looks for
NO_DECAY = ("--model.optimizer=AdamW", "--model.decay_norm_and_bias=false")
ENVIRONMENT = {"ENTITY": "me", "PROJECT": "flowers", "RUN_GROUP": "a group", "TAGS": "one,two"}

EPOCH, STEP = "trainer/epoch", "trainer/global_step"
SCORES = ("accuracy", "balanced_accuracy", "f1", "loss", "precision", "recall")
COSTS = ("epoch_seconds", "fit_seconds", "images_per_second", "peak_memory_mb")
LOGGED = {  # the axis of each metric of a training
    **{f"train/{name}": EPOCH for name in ("accuracy", "loss")},
    **{f"val/{name}": EPOCH for name in SCORES},
    **{f"workload/{name}": EPOCH for name in COSTS},
    **dict.fromkeys(("train/loss_step", "weights/lr"), STEP),
}


@dataclass
class Tracked:
    """A training that has gone on, and was then tested by a command of its own."""

    path: Path
    logs: list[Part]
    tested: dict[str, Any]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracked]:
    folder = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("NETRC", str(folder / "no_netrc"))
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        for name, value in ENVIRONMENT.items():
            patch.setenv(f"WANDB_{name}", value)
        draw = "project.callbacks.figures.draw_confusion_matrix"
        patch.setattr(draw, lambda _, __, path: Image.new("RGB", (8, 8)).save(path))
        wandb.teardown()  # it keeps the variables and the folder in which it was started
        main([*FIT, *NO_DECAY, "--trainer.max_epochs=2", "--run_dir=run"])
        for name in ENVIRONMENT:
            patch.delenv(f"WANDB_{name}")
        main(["fit", "--resume=run", "--trainer.max_epochs=3"])
        main(["test", "--ckpt_path=run", "--run_dir=again"])
        main(["predict", "--ckpt_path=run", "--run_dir=predicted"])
        wandb.teardown()
    tested = json.loads((folder / "again" / "summary.json").read_text())
    yield Tracked(folder / "run", parts(folder / "run"), tested)


def test_charts(tracked: Tracked) -> None:
    """Each metric is there once at each step, with its axis, and train and val come first."""
    for log in tracked.logs[:2]:
        logged = {name for row in log.rows for name in row if not name.startswith("test/")}
        assert logged - {EPOCH, STEP, "trainer/images"} == LOGGED.keys()
        assert {name: log.axes[name] for name in LOGGED} == LOGGED
        assert log.hidden == {EPOCH, STEP, "trainer/images"}
        images = [name for name in sorted(logged) if name.startswith(("train/", "val/"))]
        assert sorted(logged - log.hidden)[: len(images)] == images
    every = Counter(
        (name, row[STEP])
        for log in tracked.logs
        for row in log.rows
        for name in LOGGED.keys() & row.keys()
    )
    assert set(every.values()) == {1}
    assert len([key for key in every if key[0] == "val/loss"]) == 3
    seen = [row["trainer/images"] for log in tracked.logs for row in log.rows if "val/loss" in row]
    assert seen == [seen[0], 2 * seen[0], 3 * seen[0]]


def test_scores_are_values(tracked: Tracked) -> None:
    """W&B's last log of a run replaces the values of those before it."""
    begun, resumed, tested = tracked.logs
    scores = {name: value for name, value in tracked.tested.items() if name.startswith("test/")}
    assert len(scores) > len(SCORES)
    assert not (LOGGED.keys() | scores.keys()) & {name for row in tested.rows for name in row}
    summary = json.loads((tracked.path / "summary.json").read_text())
    best = {f"best/{name}": summary[name] for name in summary if name.startswith("val/")}
    assert len(best) == len(SCORES)
    assert {name: tested.summary[name] for name in scores} == pytest.approx(scores)
    assert {name: resumed.summary[name] for name in best} == pytest.approx(best)
    assert resumed.summary.keys() - {STEP, EPOCH, "trainer/images"} <= tested.summary.keys()
    last = ("train/loss", "val/loss", *best)
    assert [tested.summary[name] for name in last] == pytest.approx(
        [resumed.summary[name] for name in last]
    )
    assert begun.summary["val/loss"] != resumed.summary["val/loss"]


def test_one_run(tracked: Tracked) -> None:
    begun, resumed, tested = tracked.logs
    assert len({log.run.run_id for log in tracked.logs}) == 1
    assert {(log.run.display_name, log.run.project) for log in tracked.logs} == {
        (f"{TrainFromScratch.__name__}/run", "flowers")
    }
    assert (begun.run.entity, begun.run.run_group) == ("me", "a group")
    assert sorted(begun.run.tags) == ["one", "two"]
    assert (begun.config["trainer"]["max_epochs"], resumed.config["trainer"]["max_epochs"]) == (
        2,
        3,
    )
    summary = json.loads((tracked.path / "summary.json").read_text())
    assert begun.config["images"] == summary["data"]
    assert not tested.config  # that of the training stays
    assert list(tracked.path.parent.glob("*/wandb")) == [tracked.path / "wandb"]


def test_the_best_model_is_kept(tracked: Tracked) -> None:
    (kept,) = tracked.logs[1].artifacts
    assert kept.type == "model" and kept.name == f"model-{tracked.logs[1].run.run_id}"
    assert sorted(kept.aliases) == ["best", "latest"]
    files = {entry.path: Path(entry.local_path) for entry in kept.manifest.contents}
    best = tracked.path / "checkpoints" / "best.ckpt"
    assert files.keys() == {"checkpoints/best.ckpt", "config.yaml"}
    assert files["checkpoints/best.ckpt"].samefile(best)
    assert files["config.yaml"].read_text() == (tracked.path / "config.yaml").read_text()


def test_the_file_has_the_same_names(tracked: Tracked) -> None:
    with (tracked.path / "metrics.csv").open(newline="") as file:
        names = {*(next(csv.reader(file)))}
    tested = {name for name in names if name.startswith("test/")}
    assert names - tested == LOGGED.keys() | {"step", "epoch", "images"}
    assert tested


def test_groups(run: Callable[..., Run], backbone: Path, tmp_path: Path) -> None:
    """Each layer group has one learning rate, and its norms while it trains."""
    (tmp_path / "schedule.yaml").write_text(SCHEDULE)
    norms = "--trainer.callbacks+=GradientNorms"
    own = (norms, f"--model.backbone={backbone}", "--model.decay_norm_and_bias=false")
    logger = ("--trainer.logger=WandbLogger", "--trainer.log_every_n_steps=1")
    finished = run("fit", f"--config={tmp_path / 'schedule.yaml'}", *own, *logger)
    (log,) = parts(finished.path)
    groups = ("stage1", "stage2", "head")
    rates = {f"weights/lr/{group}" for group in groups}
    logged = {name for row in log.rows for name in row}
    assert {name for name in logged if name.startswith("weights/lr")} == rates
    phases = {row[STEP]: row["trainer/phase"] for row in log.rows if "trainer/phase" in row}
    assert sorted(set(phases.values())) == [0, 1, 2]
    trains = {0: {"head"}, 1: {"head", "stage2"}, 2: set(groups)}
    for row in log.rows:
        found = {name.rpartition("/")[2] for name in row if name.startswith("weights/grad_norm")}
        if found:
            phase = phases[max(step for step in phases if step <= row[STEP])]
            assert found == trains[phase]
            assert all(row[f"weights/update_ratio/{group}"] >= 0 for group in found)
    assert not log.artifacts  # log_model is Lightning's default where a config names the logger


def test_norms() -> None:
    """With plain SGD, an update is the gradient times the learning rate."""
    network = {"channels": [2], "hidden": [], "padding": 1}
    model = TrainFromScratch(3, (1, 8, 8), network=lambda *a: CNN(*a, **network))
    for parameter in model.network.head.parameters():
        parameter.requires_grad_(False)
    rows: list[dict[str, float]] = []
    logger = SimpleNamespace(log_metrics=lambda row, step: rows.append({**row, "step": step}))
    trainer: Any = SimpleNamespace(
        log_every_n_steps=2, global_step=0, current_epoch=5, loggers=[logger]
    )
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    norms = GradientNorms()
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.rand(4, 1, 8, 8)).square().sum().backward()
        norms.on_before_optimizer_step(trainer, model, optimizer)
        weights = torch.cat([p.detach().flatten() for p in model.network.backbone.parameters()])
        grads = [p.grad for p in model.network.backbone.parameters()]
        expected = torch.cat([grad.flatten() for grad in grads if grad is not None]).norm()
        optimizer.step()
        trainer.global_step += 1
        norms.on_train_batch_end(trainer, model, None, None, 0)
        if rows and rows[-1]["step"] == trainer.global_step - 1:
            (norm,) = (value for name, value in rows[-1].items() if "grad_norm" in name)
            (ratio,) = (value for name, value in rows[-1].items() if "update_ratio" in name)
            assert norm == pytest.approx(expected.item())
            assert ratio == pytest.approx(0.5 * norm / weights.norm().item(), rel=1e-4)
    assert [row["step"] for row in rows] == [1, 3]
    with pytest.raises(UserError, match="at least 1"):
        GradientNorms(every_n_steps=0)


@pytest.mark.parametrize(
    ("groups", "names"),
    [
        ([{}], ["lr"]),
        ([{}, {"weight_decay": 0}], ["lr", "lr"]),
        ([{}, {"lr": 0.5}], ["lr/1", "lr/2"]),
        ([{"group": "head"}, {"group": "head", "name": "head/no_decay"}], ["lr", "lr"]),
        ([{"group": "stem"}, {"group": "head"}], ["lr/stem", "lr/head"]),
        ([{"name": "a"}, {}], ["lr/a", "lr"]),
    ],
)
def test_names_of_learning_rates(groups: list[dict[str, Any]], names: list[str]) -> None:
    own = [{"params": [nn.Parameter(torch.zeros(1))], **group} for group in groups]
    assert names_of(torch.optim.SGD(own, lr=0.1)) == [f"weights/{name}" for name in names]


def test_settings_of_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the folder beat those of the user, and the environment beats both."""
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "user"))
    assert given_by_environment() == {}
    for folder, value in (("user", "of the user"), ("wandb", "of the folder")):
        (tmp_path / folder).mkdir()
        text = f"[default]\nproject={value}\nmode = disabled\nbase_url = ftp://x\n"
        (tmp_path / folder / "settings").write_text(text)
        assert given_by_environment() == {"project": value}
    assert wandb_mode() == ("disabled", "disabled, by the settings file of W&B")
    monkeypatch.setenv("WANDB_PROJECT", "of the environment")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_LOG_MODEL", "false")
    assert given_by_environment() == {"project": "of the environment", "log_model": False}
    assert wandb_mode() == ("offline", "offline, by WANDB_MODE")
    monkeypatch.delenv("WANDB_MODE")
    text = (tmp_path / "wandb" / "settings").read_text()
    (tmp_path / "wandb" / "settings").write_text(text.replace("mode = disabled\n", ""))
    (tmp_path / "user" / "settings").write_text("broken")
    with pytest.raises(UserError, match="ftp://x must be https://"):
        wandb_mode()


@pytest.mark.parametrize(
    "url", ["localhost", "http://", "https://h:port", "https://h:99999", "http://[::1", "http://.x"]
)
def test_an_address_that_is_none(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", url)
    with pytest.raises(UserError, match=r"WANDB_BASE_URL: .* must be https:// and the name of"):
        wandb_mode()


def test_a_folder_that_wandb_cannot_write_to(
    monkeypatch: pytest.MonkeyPatch, fails: Callable[..., str]
) -> None:
    Path("file").touch()
    given = fails("fit", "--data=Digits", "--trainer.logger.init_args.save_dir=file/there")
    assert given == "trainer.logger: file/there is no folder that can be written to"
    monkeypatch.setenv("WANDB_DIR", "file/here")
    said = fails("fit", "--data=Digits")
    assert said == "WANDB_DIR: file/here is no folder that can be written to"


def test_a_model_that_wandb_keeps(
    tracked: Tracked, monkeypatch: pytest.MonkeyPatch, fails: Callable[..., str]
) -> None:
    artifacts.fetched.cache_clear()

    def download(root: str) -> str:
        shutil.copytree(tracked.path / "checkpoints", Path(root, "checkpoints"))
        shutil.copy(tracked.path / "config.yaml", root)
        return root

    def artifact(name: str) -> Any:
        if name != "me/flowers/model-x:best":
            raise wandb.errors.CommError("there is none\nof this name")
        return SimpleNamespace(name="model-x:v3", download=download)

    monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(artifact=artifact))
    name = "wandb:me/flowers/model-x:best"
    folder = Path("artifacts/model-x-v3")
    assert find_checkpoint(name) == folder / "checkpoints" / "best.ckpt"
    with trust.command():
        command = with_config_of_run(["test", f"--ckpt_path={name}"])
    assert command[1] == f"--config={folder / 'config.yaml'}"
    assert _source(name) == "me/flowers/model-x:best"
    message = fails("test", "--ckpt_path=wandb:me/flowers/model-y:best")
    assert message == "wandb:me/flowers/model-y:best can't be fetched: there is none"


def test_what_a_training_uses(tracked: Tracked) -> None:
    """W&B takes links of a run to what it uses online only."""
    used: list[Any] = []
    online = SimpleNamespace(offline=False, disabled=False, use_artifact=used.append)
    logger = RunLogger(experiment=online)
    logger.uses(source := _source(str(tracked.path)))
    logger.uses_images("Digits", tracked.path, {"train": {"images": 80, "sha256": "ab"}})
    assert source == f"flowers/model-{tracked.logs[0].run.run_id}:best"
    assert used[0] == source and used[1].type == "dataset"
    assert used[1].metadata["train"] == {"images": 80, "sha256": "ab"}
    assert used[1].metadata["place"] == tracked.path.resolve().as_uri()
    assert list(used[1].manifest.entries) == ["images.json"]
    for nothing in ("", "vgg16", "timm/vit_small_patch14_dinov2"):
        assert _source(nothing) is None


def test_a_link_that_cant_be_made(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: Any) -> None:
        raise ValueError("no such model\nand more")

    RunLogger(
        experiment=SimpleNamespace(offline=False, disabled=False, use_artifact=fail)  # type: ignore[arg-type]
    ).uses("me/model-x:best")
    assert capsys.readouterr().out == "W&B: me/model-x:best isn't linked: no such model\n"


def test_a_running_training_is_not_added_to(tracked: Tracked) -> None:
    best = tracked.path / "checkpoints" / "best.ckpt"
    assert run_of(best) == tracked.path
    assert run_of(tracked.path / "config.yaml") is None
    with (tracked.path / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run_of(best) is None


def test_a_name_that_wandb_takes_for_a_pattern() -> None:
    """A layer group that the globs of a schedule cut is named by them."""
    logged: list[dict[str, Any]] = []
    run: Any = SimpleNamespace(log=logged.append, define_metric=lambda name, **_: defined.add(name))
    defined: set[str] = set()
    name = "weights/lr/stage1:backbone.*.bn*"
    RunLogger(experiment=run).log_metrics({name: 0.1}, step=3)
    assert logged == [{name: 0.1, STEP: 3}] and defined == {STEP}


def test_validated_often(run: Callable[..., Run]) -> None:
    """Several validations of an epoch would be at one place of a chart over epochs."""
    finished = run(*FIT, "--trainer.max_epochs=1", "--trainer.val_check_interval=0.5")
    (log,) = parts(finished.path)
    assert log.axes["val/loss"] == STEP
    steps = [row[STEP] for row in log.rows if "val/loss" in row]
    assert len(set(steps)) == 2


@pytest.mark.slow
def test_all_logs_are_uploaded_as_one_run(tracked: Tracked, tmp_path: Path) -> None:
    """Also the first, as if its process had been killed: it doesn't say that it has ended."""
    run = shutil.copytree(tracked.path, tmp_path / "run", symlinks=True)
    first = min(run.glob("wandb/offline-run-*/*.wandb"))
    *_, end = records(first)
    content = first.read_bytes()
    first.write_bytes(content[: content.rindex(end) - HEADER])
    with serving() as server:
        own = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0" * 40}
        command = [Path(sys.executable).parent / "wandb", "sync", *run.glob("wandb/*run-*")]
        subprocess.run(command, env=os.environ | own, check=True, timeout=100, capture_output=True)
        losses = [row["val/loss"] for row in server.rows.values() if "val/loss" in row]
        assert len(losses) == 3
        assert [row["_step"] for row in server.rows.values()] == list(range(len(server.rows)))
        whole = (tracked.logs[1].summary | tracked.logs[2].summary).items()
        known = {name: value for name, value in whole if isinstance(value, float)}
        assert known.keys() > {"train/loss", "val/loss", "best/val/loss", "test/loss"}
        assert {name: server.summary[name] for name in known} == pytest.approx(known)
        assert server.config["trainer"]["value"]["max_epochs"] == 3
        assert set(server.aliases) == {"best", "latest"}
        best = tracked.path / "checkpoints" / "best.ckpt"
        assert server.files["checkpoints/best.ckpt"] == best.stat().st_size
