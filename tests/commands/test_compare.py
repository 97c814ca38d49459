"""Comparisons: what runs, what is run again, and what is refused before anything runs."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest

from project.cli import main
from project.commands import child_runs
from project.commands.compare import command, gallery
from project.commands.compare.forecast import Forecast, forecast
from project.commands.compare.metrics import Metric
from project.commands.compare.read import results_of
from project.commands.compare.runs import Runs
from project.commands.compare.settings import Cell, Contender, Settings, cells_of
from tests.conftest import CONFIGS, folder_of

NETWORK = """
model:
  class_path: {model}
  init_args:
    network:
      class_path: CNN
      init_args: {{channels: [8], padding: 1, hidden: []}}
trainer: {{logger: {{class_path: CSVLogger, init_args: {{name: "", version: ""}}}}}}
"""
TUNED = """
model: {class_path: FineTuning, init_args: {backbone: RUN}}
trainer:
  logger: {class_path: CSVLogger, init_args: {name: "", version: ""}}
  callbacks: [{class_path: FineTuningSchedule, init_args: {preset: probe}}]
"""
COMPARISON = """
data: {class_path: Digits, init_args: {batch_size: 100}}
epochs: 2
seeds: [1]
images_per_class: [20]
sources:
  digits:
    config: full.yaml
    options: {trainer.max_epochs: 1}
contenders:
  scratch: {config: scratch.yaml}
  tuned: {config: tuned.yaml, source: digits}
  diverging: {config: scratch.yaml, options: {model.optimizer: SGD, model.optimizer.lr: 1.0e+30}}
"""
PETS = """
data: {class_path: ImageFolder, init_args: {root: pets, image_size: 16, batch_size: 8}}
epochs: 1
seeds: [1]
contenders: {scratch: {config: scratch.yaml}}
"""


@pytest.fixture
def comparison(tmp_path: Path) -> Path:
    """A comparison of three contenders, one of which fails."""
    for name, model in (("scratch", "TrainFromScratch"), ("full", "FullTraining")):
        (tmp_path / f"{name}.yaml").write_text(NETWORK.format(model=model))
    (tmp_path / "tuned.yaml").write_text(TUNED)
    (tmp_path / "three.yaml").write_text(COMPARISON)
    return tmp_path / "three.yaml"


def found(folder: Path) -> dict[str, dict[str, str]]:
    """Return the runs in ``results.csv`` by contender."""
    with (folder / "results.csv").open() as file:
        return {row["contender"]: row for row in csv.DictReader(file)}


class InProcess:
    """Stands for the process of a run: ``fit`` runs in this one, and is over at once."""

    pid = 0

    def __init__(self, arguments: list[str], stdout: IO[bytes], **_: Any) -> None:
        text = io.TextIOWrapper(stdout, write_through=True)
        with redirect_stdout(text), redirect_stderr(text), suppress(SystemExit):
            main(arguments[3:])
        text.detach()

    def wait(self) -> int:
        return 0


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start no processes, which takes most of the time of small runs."""
    changed = SimpleNamespace(**{**vars(subprocess), "Popen": InProcess})
    monkeypatch.setattr(child_runs, "subprocess", changed)


def test_compare(comparison: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Two processes at the same time, one of which fails, and a report."""
    options = ("--jobs=2", "--only=[scratch,diverging]", "--metric=macro_f1")
    main(["compare", "--config", str(comparison), *options])
    out = capfd.readouterr().out
    folder = Path("runs/compare/three")
    first = found(folder)
    assert "2 runs in runs/compare/three" in out
    assert "about" in out and "left" in out
    assert "the training loss became" in first["diverging"]["error"]
    assert "diverging 20 seed 1: failed: the training loss became" in out
    assert 0 < float(first["scratch"]["accuracy"]) <= 1 and not first["scratch"]["error"]
    assert f"scratch 20 seed 1: macro F1 {float(first['scratch']['f1']):.4f} in " in out
    for name in ("report.html", "report.md", "results.json"):
        assert "diverging" in (folder / name).read_text()
    assert not list((folder / "runs").glob("*/cache"))


@pytest.mark.usefixtures("in_process")
def test_only_what_is_missing_runs_again(
    comparison: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "write_report", lambda *_: None)  # its plots take seconds
    main(["compare", "--config", str(comparison)])
    assert "3 runs in runs/compare/three" in capfd.readouterr().out
    folder = Path("runs/compare/three")
    first = found(folder)
    for name in ("scratch", "tuned"):
        assert 0 < float(first[name]["accuracy"]) <= 1 and not first[name]["error"]
        assert first[name]["images"] == "200"
        assert float(first[name]["process_seconds"]) > float(first[name]["fit_seconds"]) > 0
    assert float(first["tuned"]["source_seconds"]) > 0 == float(first["scratch"]["source_seconds"])
    content = json.loads((folder / "results.json").read_text())
    pretrained = {run["contender"]: run["pretrained"] for run in content["runs"]}
    assert pretrained == {"scratch": False, "tuned": True, "diverging": False}
    runs = {path.name.rpartition("-")[0]: path for path in (folder / "runs").iterdir()}
    names = {f"{name}-20-seed-1" for name in ("scratch", "tuned", "diverging")}
    assert set(runs) == {"source-digits", *names}

    def finished() -> dict[str, int]:
        return {name: (path / "config.yaml").stat().st_mtime_ns for name, path in runs.items()}

    before = finished()
    summary = json.loads((runs["scratch-20-seed-1"] / "summary.json").read_text())
    (runs["scratch-20-seed-1"] / "summary.json").write_text('{"test/accu')  # killed while writing
    main(["compare", "--config", str(comparison)])
    assert "2 of 4 runs are finished already" in capfd.readouterr().out
    changed = {name for name, moment in finished().items() if moment != before[name]}
    assert changed == {"scratch-20-seed-1", "diverging-20-seed-1"}  # what failed is tried again
    again = json.loads((runs["scratch-20-seed-1"] / "summary.json").read_text())
    assert again["test/accuracy"] == summary["test/accuracy"] and again["data"] == summary["data"]


@pytest.mark.usefixtures("in_process")
def test_a_comparison_may_move_with_its_images(
    pets: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "write_report", lambda *_: None)  # its plots take seconds
    here = pets.parent / "here"
    shutil.copytree(pets, here / "pets")
    (here / "scratch.yaml").write_text(NETWORK.format(model="TrainFromScratch"))
    (here / "pets.yaml").write_text(PETS)
    monkeypatch.chdir(here)
    main(["compare", "--config=pets.yaml"])
    before = found(Path("runs/compare/pets"))["scratch"]
    there = shutil.copytree(here, pets.parent / "there", copy_function=shutil.copyfile)
    monkeypatch.chdir(there)
    main(["compare", "--config=pets.yaml"])
    assert "1 of 1 runs are finished already" in capfd.readouterr().out
    after = found(Path("runs/compare/pets"))["scratch"]
    assert not after["error"] and after["accuracy"] == before["accuracy"]


@pytest.mark.usefixtures("in_process")
def test_other_images_leave_the_report_alone(
    pets: Path, monkeypatch: pytest.MonkeyPatch, fails: Callable[..., str]
) -> None:
    """Whichever split has changed, and however many sizes and runs there are."""
    monkeypatch.setattr(command, "write_report", lambda *_: None)  # its plots take seconds
    (pets.parent / "scratch.yaml").write_text(NETWORK.format(model="TrainFromScratch"))
    (pets.parent / "pets.yaml").write_text(PETS)
    (pets.parent / "some.txt").write_text("train/cat/3.png\n")
    own = ["--train_fractions=[0.5,1.0]", "--options={data.exclude: some.txt}"]
    main(["compare", "--config=pets.yaml", *own])
    folder = Path("runs/compare/pets")
    before = (folder / "results.csv").read_bytes()
    assert found(folder)["scratch"]["error"] == ""  # an option may leave images out
    for split in ("train", "test"):
        image = next((pets / split / "cat").iterdir())
        moved = image.rename(pets / split / "dog" / f"was_a_cat{image.suffix}")
        for changed in (own, [*own, "--dry_run=true"], ["--only=[scratch]"]):
            message = fails("compare", "--config=pets.yaml", *changed)
            assert "data: the images are not those of the finished runs in runs/comp" in message
            assert "--output" in message
        moved.rename(image)
    assert (folder / "results.csv").read_bytes() == before
    main(["compare", "--config=pets.yaml", *own])
    assert found(folder)["scratch"]["error"] == ""


class FailsAtItsEnd(InProcess):
    """A process that has trained and tested, and then fails."""

    def wait(self) -> int:
        return 1


def test_a_run_that_fails_at_its_end_is_no_success(
    comparison: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    changed = SimpleNamespace(**{**vars(subprocess), "Popen": FailsAtItsEnd})
    monkeypatch.setattr(child_runs, "subprocess", changed)
    main(["compare", "--config", str(comparison), "--only=[scratch]"])
    assert "scratch 20 seed 1: failed: " in capfd.readouterr().out
    result = found(Path("runs/compare/three"))["scratch"]
    assert result["error"] and not result["accuracy"]


ODD_NAMES = """
data:
  class_path: ImageFolder
  init_args: {root: images, image_size: 28, cache: "off", num_workers: 0, test_fraction: 0.4}
epochs: 1
seeds: [1]
contenders:
  "$a_$ [b]": {config: scratch.yaml}
"""


@pytest.mark.usefixtures("in_process")
def test_odd_names_reach_the_report(
    comparison: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of classes, files and contenders; and one plot that can't be drawn costs one line."""

    def broken(*args: Any) -> None:
        raise ValueError("no such colour")

    monkeypatch.setattr(gallery, "curves", broken)
    folder_of(Path("images"), [b"$\\frac$", b"caf\xe9", b"a\nb", b"[bold]"], [b"1", b"\xff", b"3"])
    Path("odd.yaml").write_text(ODD_NAMES)
    main(["compare", "--config", "odd.yaml"])
    folder = Path("runs/compare/odd")
    result = found(folder)["$a_$ [b]"]
    assert not result["error"] and result["accuracy"]
    assert (
        "warning: plots/curves_1_a_b.png can't be drawn: no such colour" in capfd.readouterr().out
    )
    plots = {path.stem for path in (folder / "plots").iterdir()}
    assert plots >= {"confusion_1_a_b", "accuracy_over_time"} and "curves_1_a_b" not in plots
    classes = json.loads((folder / "results.json").read_text("utf-8"))["data"]["class_names"]
    assert classes == ["$\\frac$", "[bold]", "a\\nb", "caf\\xe9"]


def test_a_changed_config_runs_anew(comparison: Path) -> None:
    """And an unchanged one is found, wherever the comparison's own file lies."""
    contender = Contender("scratch.yaml")
    data = {"class_path": "project.data.Digits"}
    keys = []
    for text in ("", "", "# another comment"):
        with Path("scratch.yaml").open("a") as file:
            file.write(text)
        keys.append(cells_of(Settings({"scratch": contender}), data)[0].key)
    assert keys[0] == keys[1] != keys[2]


def test_cells(comparison: Path) -> None:
    contenders = {
        "a": Contender("scratch.yaml", {"model.lr_scheduler": None}),
        "b": Contender(["scratch.yaml", "full.yaml"]),
    }
    settings = Settings(contenders, seeds=(4, 5), train_fractions=(0.5, 1), only=("b", "a"))
    cells = cells_of(settings, {"class_path": "project.data.Digits", "init_args": {"mean": 0.1}})
    order = [(seed, size, name) for seed in (4, 5) for size in ("0.5", "1") for name in "ab"]
    assert [(cell.seed, cell.size, cell.contender) for cell in cells] == order
    assert cells[0].arguments == (
        *("fit", "--config=scratch.yaml", "--data=Digits"),
        *("--data.val_fraction=0.1", "--data.split_seed=0", "--data.steps_per_epoch=null"),
        *("--data.limit_per_class=null", "--data.train_fraction=1.0", "--data.mean=0.1"),
        *("--model.lr_scheduler=null", "--trainer.max_epochs=10"),
        *("--data.train_fraction=0.5", "--seed_everything=4"),
    )
    assert cells[1].arguments[1:3] == ("--config=scratch.yaml", "--config=full.yaml")


def test_time_is_the_whole_budget(comparison: Path) -> None:
    settings = Settings({"a": Contender("scratch.yaml")}, epochs=None, max_time="00:00:05:00")
    arguments = cells_of(settings, {"class_path": "project.data.Digits"})[0].arguments
    assert {"--trainer.max_epochs=-1", "--trainer.max_time=00:00:05:00"} <= set(arguments)


def pretend(runs: Runs, cell: Cell, seconds: float, **more: Any) -> None:
    """Write what a finished run would."""
    folder = runs.run_dir(cell)
    folder.mkdir(parents=True)
    (folder / "test_predictions.csv").touch()
    summary = {"test/accuracy": 0.5, "process_seconds": seconds, "fit_seconds": seconds - 10}
    (folder / "summary.json").write_text(json.dumps(summary | more))


def test_forecast(tmp_path: Path) -> None:
    """Of the same contender: its other seeds, else another size; else unknown."""
    runs, source = Runs(tmp_path, "name", jobs=1), Cell("source big", ("fit", "source"))
    cells = [
        Cell(f"{name} {size} {seed}", ("fit",), name, size, seed, source if name == "b" else None)
        for name in "ab"
        for size in ("20", "100")
        for seed in (0, 1, 2)
    ]
    pretend(runs, cells[0], 14)
    pretend(runs, cells[1], 18)
    found = {(row.name, row.size): row for row in forecast(runs, cells)}
    assert list(found) == [("source big", ""), *((n, s) for n in "ab" for s in ("20", "100"))]
    assert found["a", "20"] == Forecast("a", "20", [0, 1], [2], 16, False)
    assert found["a", "100"] == Forecast("a", "100", [], [0, 1, 2], 10 + 5 * 6, True)
    assert found["b", "20"].seconds is found["source big", ""].seconds is None


def test_dry_run(comparison: Path, capfd: pytest.CaptureFixture[str]) -> None:
    main(["compare", "--config", str(comparison), "--dry_run=true", "--max_time=00:00:05:00"])
    out = capfd.readouterr().out
    assert "0 of 4 runs are finished; the time of 4 is unknown, as no run of source digits," in out
    assert "each trains for at most 00:00:05:00." in out
    assert not Path("runs").exists()


class Identified(list[int]):
    """Images of which nothing but what is in them is asked."""

    def __init__(self, sha256: str) -> None:
        super().__init__([0, 1])
        self.content = lambda: sha256


def test_other_images_are_no_comparison(tmp_path: Path) -> None:
    """A config that splits otherwise makes the run an error, not a number beside the others."""
    runs = Runs(tmp_path, "name", jobs=1)
    cells = [Cell(f"{name} 1 seed 0", ("fit",), name, "1") for name in "ab"]
    for cell, sha256 in zip(cells, ("1", "2")):
        folder = runs.run_dir(cell)
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "config.yaml").touch()
        (best := folder / "checkpoints" / "best.ckpt").touch()
        (folder / "test_predictions.csv").write_text("image,label,prediction\n0,x,x\n1,x,y\n")
        scores = dict.fromkeys(("accuracy", "precision", "recall", "f1"), 0.5)
        costs = (
            *("fit_seconds", "process_seconds", "peak_memory_mb", "parameters_trained"),
            *("parameters_total", "best_epoch_seconds", "gflop_per_image"),
            "train_images_per_second",
        )
        summary = {f"test/{name}": value for name, value in scores.items()}
        summary |= dict.fromkeys(costs, 1.0) | {"approach": "FineTuning", "pretrained": True}
        data = {"train": {"images": 5, "sha256": "1"}, "test": {"images": 2, "sha256": sha256}}
        text = json.dumps({**summary, "data": data, "best_checkpoint": str(best)})
        (folder / "summary.json").write_text(text)
    own: Any = SimpleNamespace(val_images=None, test_images=Identified("1"), class_names="xy")
    first, second = results_of(runs, cells, own)
    assert first.error == "" and first.correct.tolist() == [True, False]
    message = "its test images are not those of this comparison; its config splits the data"
    assert second.error.startswith(message)
    unmeasured, _ = results_of(runs, cells, own, Metric("auroc"))
    assert unmeasured.error == (
        "metric: its test gave no 'auroc'; it gave accuracy, precision, recall, f1"
    )
    (runs.run_dir(cells[0]) / "test_predictions.csv").unlink()  # killed before they were written
    assert runs.missing(cells) == cells[:1]


BAD = [
    (["--epochs=0"], "epochs: 0 must be at least one"),
    (["--seeds=[]"], "seeds: () must be at least one"),
    (["--seeds=[1,1]"], "seeds: 1, 1 has one of them twice"),
    (["--epochs=null"], "epochs: null needs max_time, or a training would have no end"),
    (["--until_sure=true", "--max_seeds=1"], "max_seeds: 1 must be at least 2, to add seeds"),
    (["--total_time=2x"], "total_time: '2x' must be a length of time, such as 45s, 30m or 1h30m"),
    (["--margin=-0.1"], "margin: -0.1 must be at least 0"),
    (["--jobs=0"], "jobs: 0 must be at least one"),
    (["--contenders={}"], "contenders: there are none"),
    (["--train_fractions=[0.5]"], "train_fractions and images_per_class: give one of them"),
    (["--images_per_class=null", "--train_fractions=[1.5]"], "train_fractions: 1.5 must be in"),
    (["--images_per_class=[0]"], "images_per_class: 0 must be at least 1"),
    (["--only=[probe]"], "only: there is no 'probe'; known are scratch, tuned, diverging"),
    (
        ["--contenders={a: {config: b.yaml}}"],
        "contenders.a.config: there is no file b.yaml",
    ),
    (
        ["--contenders={a: {config: scratch.yaml, source: b}}"],
        "contenders.a.source: there is no 'b'; known are digits",
    ),
    (
        ["--contenders={a: {config: scratch.yaml, options: {trainer.max_epochs: 3}}}"],
        "contenders.a.options: trainer.max_epochs must be the same for all; it is set by epochs",
    ),
    (
        ["--contenders={a: {config: scratch.yaml, options: {trainer: {max_epochs: 3}}}}"],
        "contenders.a.options: give the options of the trainer one by one: trainer.precision",
    ),
    (["--max_time=5m"], "max_time: '5m' must be days:hours:minutes:seconds, as 00:00:05:00"),
    (["--contenders={a/b: {config: scratch.yaml}}"], "contenders.a/b: the name becomes a folder"),
    (
        [f"--contenders={{{'猫' * 99}: {{config: scratch.yaml}}}}"],
        f"contenders.{'猫' * 99}: the name becomes a folder; at most 200 bytes are left",
    ),
    (
        ["--contenders={a: {config: scratch.yaml, options: {model.lr: 1}}}"],
        "contenders: a: model: TrainFromScratch has no option 'lr'; did you mean optimizer.lr?",
    ),
    (["--sources={digits: {config: no.yaml}}"], "sources.digits.config: there is no file no.yaml"),
    (
        ["--data.limit_per_class=5"],
        "data.limit_per_class: it is set by images_per_class; leave it out, or give images_per_c",
    ),
    (
        ["--data.limit_per_class=1"],
        "data.limit_per_class: it is set by images_per_class; leave it out, or give images_per_c",
    ),
    (
        ["--images_per_class=null", "--data.train_fraction=0.5"],
        "data.train_fraction: it is set by train_fractions; leave it out, or give train_fraction",
    ),
    (["--data=Digit"], "no class 'Digit'; did you mean Digits?"),
    (["--data=ImageFolder", "--data.root=none"], "data.root: none is not a folder"),
    (["--seed=3"], "no option 'seed'"),
]


@pytest.mark.parametrize(("args", "message"), BAD)
def test_bad_settings(
    args: list[str], message: str, comparison: Path, fails: Callable[..., str]
) -> None:
    """One message, and nothing is run."""
    assert message in fails("compare", "--config", comparison, *args)
    assert not Path("runs").exists()


def test_bad_data(comparison: Path, pets: Path, fails: Callable[..., str]) -> None:
    args = ("compare", "--config", comparison, "--data=ImageFolder", "--data.root")
    message = "data: there are no test images to judge by; add test/ or test_fraction"
    assert fails(*args, pets / "train", "--data.test_fraction=0") == message
    (empty := pets.parent / "empty").mkdir()
    assert "for each of two or more classes, and has none" in fails(*args, empty)
    (empty / "one").mkdir()
    assert "for each of two or more classes, and has only one" in fails(*args, empty)


def start(*args: Any) -> "subprocess.Popen[bytes]":
    root = str(CONFIGS.parent)
    return subprocess.Popen(
        [sys.executable, "-m", "project", "compare", *map(str, args)],
        env=os.environ | {"PYTHONPATH": root},
        stdout=subprocess.DEVNULL,
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_comparison_goes_on(how: signal.Signals, comparison: Path) -> None:
    """With the same results as one that was never stopped, and nothing run twice but one."""
    args = ("--config", comparison, "--images_per_class=[10,20]", "--only=[scratch,tuned]")
    assert start(*args, "--output=whole").wait() == 0
    process = start(*args, "--output=stopped")
    runs = Path("stopped/runs")
    while len(list(runs.glob("*/config.yaml"))) < 3:  # the third has begun
        time.sleep(0.1)
        assert process.poll() is None
    process.send_signal(how)
    code = process.wait()
    assert code == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[how]
    done = {path: path.stat().st_mtime_ns for path in runs.glob("*/test_predictions.csv")}
    assert len(done) >= 2
    assert start(*args, "--output=stopped").wait() == 0
    assert all(path.stat().st_mtime_ns == moment for path, moment in done.items())
    folders = (Path("whole"), Path("stopped"))
    results = [json.loads((folder / "results.json").read_text()) for folder in folders]
    keep = ("contender", "size", "seed", "images")
    scores = ("accuracy", "precision", "recall", "f1")
    whole, stopped = (
        [
            {name: run[name] for name in keep} | {name: run["figures"][name] for name in scores}
            for run in result["runs"]
        ]
        for result in results
    )
    assert whole == stopped and len(whole) == 4
