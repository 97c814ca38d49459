"""The same command goes on: ``fit --resume``."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from jsonargparse import Namespace
from PIL import Image

from project import config_text, trust
from project.cli import main
from project.errors import UserError
from project.resuming import resume, with_config_of_run
from project.run_files import CONFIG, IDENTITY, SUMMARY
from tests.conftest import Run
from tests.finetuning.schedules import equal

FIT = ["fit", "--data.limit_per_class=10", "--data.batch_size=15", "--trainer.log_every_n_steps=2"]
AUTO = ["--resume", "auto"]


def rows(run: Path) -> list[dict[str, str]]:
    """What metrics.csv holds, but for times and for learning rates, which are logged anew."""
    with (run / "metrics.csv").open(newline="") as file:
        found = [
            {name: value for name, value in row.items() if value and "workload/" not in name}
            for row in csv.DictReader(file)
        ]
    return [row for row in found if row.keys() - {"step", "epoch"} - {"weights/lr"}]


def scores(run: Path) -> dict[str, object]:
    summary = json.loads((run / SUMMARY).read_text())
    return {name: value for name, value in summary.items() if "/" in name or name == "ended"}


@pytest.mark.parametrize("stop", [5, pytest.param(14, marks=pytest.mark.slow)])
def test_the_same_command_goes_on(run: Callable[..., Run], tmp_path: Path, stop: int) -> None:
    whole = run(*FIT, "--trainer.max_epochs=3")
    begun = tmp_path / "begun"
    run(*FIT, "--trainer.max_epochs=3", f"--trainer.max_steps={stop}", run_dir=begun)
    (begun / SUMMARY).unlink()  # as if it had been killed
    moved = shutil.move(begun, tmp_path / "moved")
    ended = run(*FIT, "--trainer.max_epochs=3", "--trainer.max_steps=-1", *AUTO, run_dir=moved)
    assert f"trainer.max_steps: {stop} before, -1 now" in ended.out
    assert rows(ended.path) == rows(whole.path)
    assert scores(ended.path) == scores(whole.path)
    assert len(ended.summary["epoch_seconds"]) == 3
    assert equal(ended.best["state_dict"], whole.best["state_dict"])
    folders = sorted(path.name for path in (ended.path / "wandb").glob("offline-run-*"))
    ids = {name.split("-")[3] for name in folders}  # -1 follows in the same second
    assert ids == {json.loads((ended.path / IDENTITY).read_text())["wandb_id"]}


def test_images_may_lie_elsewhere_afterwards(run: Callable[..., Run], pets: Path) -> None:
    """As on another machine, where they have other dates: what was best still is."""
    folder = ("fit", "--data=ImageFolder", "--data.image_size=16", "--data.batch_size=8")
    args = (*folder, "--trainer.logger=false", "--data.val_fraction=0.3")
    begun = run(*args, f"--data.root={pets}", "--trainer.max_epochs=2")
    before = begun.summary["data"]
    copied = shutil.copytree(pets, pets.with_name("copied"), copy_function=shutil.copyfile)
    shutil.rmtree(pets)
    rest = (f"--resume={begun.path}", "--trainer.max_epochs=3", f"--data.root={copied}")
    ended = run(*args, *rest, run_dir=begun.path)
    assert "forgotten" not in ended.out and "anew" not in ended.out
    assert ended.summary["data"] == before
    Image.new("RGB", (20, 20)).save(copied / "train" / "cat" / "0.jpg")  # another picture
    changed = run(*args, *rest[::2], "--trainer.max_epochs=4", run_dir=begun.path)
    assert changed.summary["data"] != before


def test_what_has_ended_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    command = [*FIT, "--trainer.max_epochs=1", "--trainer.logger=false", *AUTO]
    main(command)
    (path,) = Path("runs").glob("*/*")
    before = (path / SUMMARY).stat().st_mtime_ns
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(command)
    assert not end.value.code
    assert f"{path} has ended" in capsys.readouterr().out
    assert (path / SUMMARY).stat().st_mtime_ns == before
    main([*command, "--trainer.max_epochs=2"])
    assert "trainer.max_epochs: 1 before, 2 now" in capsys.readouterr().out
    main(["fit", "--resume", str(path), "--trainer.max_epochs=3"])
    assert [path] == list(Path("runs").glob("*/*"))
    last = torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["epoch"] == 2
    main([*command, "--model.label_smoothing=0.1"])  # another experiment: a new run
    assert "TrainFromScratch has model.label_smoothing" in capsys.readouterr().out.replace(
        f"/{path.name}", ""
    )
    assert len(list(Path("runs").glob("*/*"))) == 2


def test_a_damaged_checkpoint_is_put_aside(run: Callable[..., Run], tmp_path: Path) -> None:
    whole = run(*FIT, "--trainer.max_epochs=3", "--trainer.logger=false")
    path = tmp_path / "begun"
    run(*FIT, "--trainer.max_epochs=2", "--trainer.logger=false", run_dir=path)
    last = path / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes().replace(b"PK\x01\x02", b"PK\x01\x03"))
    ended = run("fit", "--trainer.max_epochs=3", f"--resume={path}", run_dir=path)
    assert "last.ckpt can't be opened as a checkpoint" in ended.out
    assert equal(ended.best["state_dict"], whole.best["state_dict"])


def made_up(
    folder: str, trainer: dict[str, object], job: str | None = None, **more: object
) -> Path:
    path = Path("runs", "mlp", folder)
    (path / "checkpoints").mkdir(parents=True)
    config = {"seed_everything": 0, "trainer": trainer, "model": {"class_path": "A"}, **more}
    (path / CONFIG).write_text(config_text.dump(config))
    (path / IDENTITY).write_text(json.dumps({"wandb_id": "a", "slurm_job": job}))
    return path


def config(**options: object) -> Namespace:
    trainer = Namespace(fast_dev_run=False, callbacks=None)
    paths = {"run_dir": None, "ckpt_path": None, "resume": "auto", "experiment": "mlp"}
    paths["trainer"] = trainer
    return Namespace(**(paths | options))


NOW = {"seed_everything": 0, "trainer": {"max_epochs": 2}, "model": {"class_path": "A"}}


@pytest.mark.parametrize(
    "before, arguments, found",
    [
        ({}, [], True),
        ({"trainer": {"max_epochs": 1}}, [], False),
        ({"trainer": {"max_epochs": 1}}, ["--trainer.max_epochs=2"], True),
        ({"trainer": {"max_epochs": 1}}, ["--trainer.max_epochs", "2"], True),
        ({"trainer": {"max_epochs": 1}}, ["--trainer", "{max_epochs: 2}"], True),
        ({"trainer": {"max_epochs": 1}}, ["--trainer.max_steps=2"], False),
        ({"seed_everything": 1}, ["--seed_everything=0"], False),
        ({"model": {"class_path": "B"}}, ["--model=A"], False),
    ],
)
def test_which_run_auto_goes_on_with(
    before: dict, arguments: list[str], found: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path = made_up("1", **({"trainer": {"max_epochs": 2}} | before))
    options = config()
    assert resume(options, lambda: NOW, arguments)
    assert (options.run_dir == str(path)) == found
    assert ("a new one begins" in capsys.readouterr().out) == (not found)


def test_a_named_run_may_differ_in_what_is_said() -> None:
    path = made_up("1", {"max_epochs": 2}, seed_everything=1)
    with pytest.raises(UserError, match="resume: .*has seed_everything: 1, and the config says 0"):
        resume(config(resume=str(path)), lambda: NOW, [])
    options = config(resume=str(path))
    assert resume(options, lambda: NOW, ["--seed_everything=0"])
    assert options.run_dir == str(path)
    with pytest.raises(UserError, match=r"run_dir: is not .*, which --resume names"):
        resume(config(resume=str(path), run_dir="other"), lambda: NOW, [])
    with pytest.raises(UserError, match="ckpt_path: is found by --resume"):
        resume(config(ckpt_path="a.ckpt"), lambda: NOW, [])


def test_a_job_that_slurm_runs_again_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    own, _ = made_up("1", {"max_epochs": 2}, job="7"), made_up("2", {"max_epochs": 2}, job="8")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    options = config(resume=None)
    assert resume(options, lambda: NOW, [])
    assert options.run_dir is None  # the job's first start
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert resume(options, lambda: NOW, [])
    assert options.run_dir == str(own)


def test_the_job_goes_on_with_its_own_run_not_with_what_it_began_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = made_up("1", {"max_epochs": 2}, job="7")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    options = config(resume=None, ckpt_path="old.ckpt")
    assert resume(options, lambda: NOW, [])
    assert (options.run_dir, options.ckpt_path) == (str(own), None)


def test_what_is_not_to_be_gone_on_with(capsys: pytest.CaptureFixture[str]) -> None:
    broken, path = made_up("1", {"max_epochs": 2}), made_up("2", {"max_epochs": 2})
    (broken / CONFIG).write_text("a: [1")
    (path / SUMMARY).write_text('{"ended": tr')
    (path / IDENTITY).write_text("[" * 100_000)
    now = {**NOW, "max_skipped_steps": 0, "experiment": "other"}  # the run lacked the option
    options = config()
    assert resume(options, lambda: now, [])
    assert options.run_dir == str(path)
    assert "1/config.yaml" in capsys.readouterr().out
    with pytest.raises(UserError, match="fast_dev_run: would make a test run"):
        resume(config(trainer=Namespace(fast_dev_run=True, callbacks=None)), lambda: now, [])


def test_a_resume_that_fails_changes_nothing(
    run: Callable[..., Run], fails: Callable[..., str]
) -> None:
    first = run(*FIT, "--trainer.max_epochs=1", "--trainer.logger=false")
    names = (CONFIG, SUMMARY)
    before = [(first.path / name).read_text() for name in names]
    other = ("--model.optimizer=SGD", "--model.optimizer.lr=0.1", "--trainer.max_epochs=2")
    assert "can't continue with SGD" in fails("fit", f"--resume={first.path}", *other)
    assert [(first.path / name).read_text() for name in names] == before
    best, last = (first.path / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    best.write_bytes(best.read_bytes()[:-100])
    elsewhere = run("fit", f"--ckpt_path={first.path}", "--trainer.max_epochs=2")
    assert "the best checkpoint is gone; the best is looked for anew" in elsewhere.out
    last.write_bytes(last.read_bytes()[:-100])
    message = fails("fit", f"--resume={first.path}", "--trainer.max_epochs=2")
    assert "no checkpoint is left that is whole" in message
    assert [(first.path / name).read_text() for name in names] == before


def test_a_run_with_a_finder_goes_on_with_what_it_found(run: Callable[..., Run]) -> None:
    command = (*FIT, "--trainer.max_epochs=1", "--trainer.logger=false", *AUTO)
    finder = "{class_path: BatchSizeFinder, init_args: {max_trials: 1}}"
    search = (*command, f"--trainer.callbacks=[{finder}]")
    first = run(*search)
    found = config_text.mapping(first.path / CONFIG)["data"]["init_args"]["batch_size"]
    again = run(*search, "--trainer.max_epochs=2", run_dir=first.path)
    assert "resumes in epoch 2" in again.out
    assert config_text.mapping(first.path / CONFIG)["data"]["init_args"]["batch_size"] == found


def test_plan_takes_the_config_of_a_run() -> None:
    path = made_up("1", {"max_epochs": 2})
    for given in (["--resume", str(path)], ["fit", "--a=1", f"--resume={path}"]):
        with trust.command():
            args = with_config_of_run(given)
        assert args.index(f"--config={path}/{CONFIG}") == (given[0] == "fit")
