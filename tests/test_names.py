"""Whatever a system allows as a name goes through training, testing, predicting and comparing."""

import csv
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonargparse import Namespace
from lightning_utilities.core.rank_zero import rank_zero_only
from rich.table import Table

from project.cli import main
from project.console import print_table, readable, show
from project.csv_text import cell, read_table, table, text_of
from project.decoding.listing import look
from project.environment import PACKAGE
from project.errors import UserError
from project.runs import RunDir
from tests.conftest import Run, folder_of
from tests.ranks import TWO

pytestmark = pytest.mark.drawing

TINY = (
    *("--data=ImageFolder", "--data.image_size=4", "--data.cache=off", "--data.num_workers=0"),
    *("--data.val_fraction=0", "--model.network=MLP", "--model.network.hidden=[]"),
    *("--trainer.max_epochs=1", "--trainer.logger=false"),
)
SMALL = ("--data.limit_per_class=10", "--model.network.hidden=[]")
CLASSES = (
    *(b"$a_$", b"$\\frac$", b"[bold]", b"[red]", b"a\nb", b"a\tb", b"a,b", b'"', b"'", b"=1+1"),
    *("😀".encode(), "猫".encode(), "\u202eabc".encode(), b"x" * 200, b"caf\xe9", b"\xff\xfe"),
    *(b"1e3", b"null", b"no", b"True", b"~", b"-", b" ", b"\x1b[31m", b"a\\b", b"%s", b"{0}", b"#"),
    *("\u2028".encode(), b"\x01", b"\x7f", b"&lt;", b"<b>", b"C:", b"a|b", b":smile:", b"*"),
)
RUN_DIRS = (
    *("sp ace", "#1", "a%20b", "k=v", "q'\"", "ünï", "a/", "a/../b", "x" * 255, "a:b", "~x", "-r"),
    *("data:x", "file:x", "*", "?", "[a]", "{a}", "$HOME", "new\nline", "猫", "\\", "a@b", "|"),
)
BYTES = [byte for byte in range(1, 256) if byte not in b"/"]


def names(most: int, odd: tuple[bytes, ...] = ()) -> st.SearchStrategy[bytes]:
    """Names as bytes, of at most so many, that are visible and not those of the system."""
    made = st.lists(st.sampled_from(BYTES), min_size=1, max_size=most).map(bytes)
    either = made | st.sampled_from(odd) if odd else made
    return either.filter(lambda name: name[:1] != b"." and name != b"wandb")


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def through_everything(root: Path, run_dir: str) -> list[list[str]]:
    """Train, test, and predict the images below root; return the rows of the predictions."""
    there = Path(run_dir)
    main(["fit", *TINY, f"--data.root={root}", "--data.test_fraction=0.4", f"--run_dir={run_dir}"])
    assert (there / "checkpoints" / "best.ckpt").is_file()
    assert (there / "confusion_matrix.png").is_file()
    main(["test", f"--ckpt_path={run_dir}", "--run_dir=tested", "--trainer.logger=false"])
    assert rows(there / "test_predictions.csv") == rows(Path("tested/test_predictions.csv"))
    main(
        [
            *("predict", f"--ckpt_path={run_dir}", "--run_dir=predicted", "--trainer.logger=false"),
            f"--data.predict_dir={root}",
        ]
    )
    return rows(Path("predicted/predictions.csv"))


def check_names(tmp_path: Path, classes: list[bytes], files: list[bytes], run_dir: str) -> None:
    number = sum(1 for _ in tmp_path.iterdir())
    place = tmp_path / str(number)
    place.mkdir()
    os.chdir(place)
    root = folder_of(place / "images", classes, files)
    shown = sorted(readable(os.fsdecode(name)) for name in classes)
    if len(set(shown)) < len(shown):
        return
    header, *images = through_everything(root, run_dir)
    assert header[3:] == [f"probability_{name}" for name in shown]
    assert {text_of(row[1]) for row in images} <= set(shown)
    paths = (root / os.fsdecode(c) / (os.fsdecode(f) + ".png") for c in classes for f in files)
    assert sorted(row[0] for row in images) == sorted(readable(str(path)) for path in paths)


several = {"min_size": 2, "max_size": 3, "unique": True}
given_names = given(
    classes=st.lists(names(12, CLASSES), **several),
    files=st.lists(names(20), **several),
    run_dir=st.sampled_from(RUN_DIRS),
)
any_speed = settings(deadline=None, suppress_health_check=list(HealthCheck))


@given_names
@settings(any_speed, max_examples=2, derandomize=True)
def test_any_name_goes_through(
    tmp_path: Path, classes: list[bytes], files: list[bytes], run_dir: str
) -> None:
    check_names(tmp_path, classes, files, run_dir)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@given_names
@settings(any_speed, max_examples=300)
def test_many_names_go_through(
    tmp_path: Path, classes: list[bytes], files: list[bytes], run_dir: str
) -> None:
    check_names(tmp_path, classes, files, run_dir)


def test_odd_classes_go_through(tmp_path: Path) -> None:
    """At once, and files with names that are as long as can be, begin with - or hold a newline."""
    files = [b"-rf", b"new\nline", b"caf\xe9", b"x" * 251, b"\x01", b"\x7f"]
    check_names(tmp_path, list(CLASSES), files, "run dir #1")


def test_classes_reach_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that W&B takes part in, with a name and a class that W&B's own format can't hold."""
    root = folder_of(tmp_path / "images", [b"caf\xe9", b"b\nc"], [b"1", b"\xff", b"3"])
    main(["fit", *TINY[:-1], f"--data.root={root}", "--run_dir=new\nline"])
    assert list(Path("new\nline/wandb").glob("offline-run-*"))


def test_the_error_of_an_odd_file_is_one_line(tmp_path: Path, fails: Callable[..., str]) -> None:
    root = folder_of(tmp_path / "images", [b"a\nb", b"c\xe9"], [b"new\nline", b"\xff"])
    for name in (b"a\nb/new\nline.png", b"a\nb/\xff.png"):
        (root / os.fsdecode(name)).write_text("no image")
    said = fails("fit", *TINY, "--data.cache=memory", "--data.root", root)
    assert said.endswith(
        (
            "a\\nb/new\\nline.png: broken image: not an image",
            "a\\nb/\\xff.png: broken image: not an image",
        )
    )


def test_classes_that_read_alike_are_refused(tmp_path: Path, fails: Callable[..., str]) -> None:
    root = folder_of(tmp_path / "images", [b"caf\xe9", b"caf\\xe9"], [b"1"])
    said = fails("fit", *TINY, "--data.root", root)
    assert said.endswith("images read as caf\\xe9; rename one")


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("plain ünï 猫😀\u202e", "plain ünï 猫😀\u202e"),
        ("caf\udce9", "caf\\xe9"),
        ("a\nb\t\x1b[31m", "a\\nb\\t\\x1b[31m"),
        ("a\x85b\u2028c", "a\\x85b\\u2028c"),
        ("\ud800", "\\ud800"),
        ("\\", "\\"),
    ],
)
def test_readable(name: str, seen: str) -> None:
    assert readable(name) == seen
    seen.encode()
    assert len(seen.splitlines()) == 1


FORMULAS = (
    "=HYPERLINK(1)",
    "+1",
    "-1",
    "@a",
    "\t=1",
    "\r=1",
    "\n=1",
    "\uff1d1",
    "\uff0b1",
    "\uff20",
)


@given(st.text() | st.sampled_from(FORMULAS))
@settings(any_speed, max_examples=100, derandomize=True)
def test_a_cell_is_no_formula_and_gives_its_text_again(text: str) -> None:
    assert text_of(cell(text)) == text
    assert not cell(text).startswith(tuple(one[0] for one in FORMULAS))
    assert cell(text) == text or text.startswith(("'", *(one[0] for one in FORMULAS)))


@pytest.mark.parametrize("text", ["'s-Hertogenbosch", "'", "'tis", "a'b", ""])
def test_a_cell_of_another_program_stays_as_it_is(text: str) -> None:
    assert text_of(text) == text


def test_no_text_of_a_table_is_a_formula(tmp_path: Path) -> None:
    """Nor does it become one where a semicolon ends a cell, as in many countries."""
    texts = [*FORMULAS, "a;=1", 'a",=1', "'=1", "猫", "a\n=1"]
    with table(tmp_path / "a.csv") as to:
        to.row(["name", "number"])
        for text in texts:
            to.row([text, -0.5])
    content = (tmp_path / "a.csv").read_bytes().decode()
    assert content.startswith('"name","number"\r\n"\'=HYPERLINK(1)",-0.5\r\n')
    assert '"a;=1",-0.5' in content and '"a"",=1",-0.5' in content
    assert [row["name"] for row in read_table(tmp_path / "a.csv")] == texts


def test_no_name_controls_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show("a\x1b[31m\tb\nc\x07")
    show_table = Table("\x1b[31mname\x07")
    show_table.add_row("\x1b]0;title\x07\r猫")
    print_table(show_table)
    with pytest.raises(SystemExit):
        main(["fit", "--data=ImageFolder", "--data.root=\x1b[31m\x07"])
    with pytest.raises(SystemExit):
        main(["fit", "--data=MNIST", "--data.root=/dev/null/\x1b[31m"])
    done = capsys.readouterr()
    assert done.out.startswith("a\\x1b[31m\\tb\nc\\x07\n") and "猫" in done.out
    assert done.err.count("error: ") == 2
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f]", done.out + done.err)


def test_a_picture_that_cannot_be_drawn_costs_one_line(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise OSError("no space left\nand more")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", broken)
    done = run("fit", "--trainer.logger=false", "--trainer.max_epochs=1")
    assert done.summary["test/accuracy"] > 0
    assert "warning: confusion_matrix.png can't be drawn: no space left\n" in done.out


@pytest.mark.slow
def test_any_terminal_will_do() -> None:
    """One that knows ASCII alone gets escapes, and no font is missed in a Python warning."""
    folder_of(Path("images"), ["猫".encode(), b"caf\xe9"], [b"1", "é".encode(), b"3"])
    done = subprocess.run(
        [sys.executable, "-m", PACKAGE, "fit", *TINY, "--data.root=images", "--run_dir=ü"],
        env=os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert b"3\\xd74\\xd74 pixels" in done.stdout
    assert b"Warning" not in done.stderr


# Run directories


def run_dir_of(path: Path | str) -> RunDir:
    return RunDir(Namespace(run_dir=str(path), experiment="e"))


def test_only_one_of_several_gets_a_directory(tmp_path: Path) -> None:
    """Threads have locks of their own, as processes do."""
    start, winners, losers = Barrier(8), [], []

    def claim() -> None:
        mine = run_dir_of(tmp_path / "a" / "run")
        start.wait()
        try:
            mine.claim("config")
            winners.append(mine)
        except UserError as error:
            losers.append(str(error))

    threads = [Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1 and len(losers) == 7
    assert all("another process is running in it" in said for said in losers)
    pickle.dumps(winners[0])  # as when a model is copied: its scheduler knows who made it
    winners[0].release()
    with pytest.raises(UserError, match="holds another run"):
        run_dir_of(tmp_path / "a" / "run").claim("config")


def test_one_process_resumes_in_a_directory(tmp_path: Path) -> None:
    first = run_dir_of(tmp_path / "run")
    first.claim("first")
    with pytest.raises(UserError, match="another process is running in it"):
        run_dir_of(tmp_path / "run").claim("second", goes_on=True)
    first.release()
    (tmp_path / "run" / "metrics.csv").write_text("steps of the first")
    second = run_dir_of(tmp_path / "run")
    second.claim("second", goes_on=True)
    assert (tmp_path / "run" / "config.yaml").read_text() == "first"
    second.go_on("second")  # now that its checkpoint fits
    second.release(unused=True)  # but the first run is there
    assert (tmp_path / "run" / "config.yaml").read_text() == "second"
    kept = {path.read_text() for path in (tmp_path / "run").glob("*-until-*")}
    assert kept == {"first"}
    assert (tmp_path / "run" / "metrics.csv").read_text() == "steps of the first"


def test_a_process_that_died_while_it_claimed_does_not_block(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    run_dir_of(tmp_path / "run").claim("config")


def test_an_unused_directory_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    for path in ("a/b/run", "mine", "mine/c/run"):
        unused = run_dir_of(tmp_path / path)
        unused.claim("config")
        unused.release(unused=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine", "notes.txt"]
    used = run_dir_of(tmp_path / "a" / "run")
    used.claim("config")
    (used.path / "checkpoints").mkdir()
    used.release(unused=True)
    assert (used.path / "config.yaml").is_file()


@pytest.mark.parametrize(
    "args",
    [
        ("fit", "--data=MNIST", "--data.root=nowhere"),  # no network in a test
        ("fit", *TINY, "--data.cache=memory", "--data.root=broken"),
        ("fit", *TINY[:-1], "--data.cache=memory", "--data.root=broken"),  # W&B has begun
        ("fit", "--data=ImageFolder", "--data.root=nowhere"),
        ("fit", "--trainer.precision=7"),
    ],
)
def test_what_fails_at_the_start_leaves_nothing(
    args: tuple[str, ...], fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*args: Any, **kwargs: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    folder_of(Path("broken"), [b"a", b"b"], [b"1", b"2", b"3"])
    Path("broken/a/1.png").write_text("no image")
    fails(*args, "--trainer.max_epochs=1", "--run_dir=runs/run")
    assert not Path("runs").exists()


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a::b", "run_dir: .*a::b: Lightning takes :: in a path for an address"),
        ("s3://bucket/run", "run_dir: s3://bucket/run must be a folder on this machine"),
        ("memory://run", "run_dir: memory://run must be a folder on this machine"),
        ("x" * 256, "run_dir: x+ can't be made: File name too long"),
        ("file", "run_dir: file can't be made: File exists"),
        ("circle/run", "run_dir: circle/run can't be made: "),
        ("/proc/run", "run_dir: /proc/run can't be made: "),
        (os.fsdecode(b"caf\xe9"), "--run_dir=caf\\\\xe9: is not in UTF-8"),
    ],
)
def test_directories_that_cannot_be_used(
    path: str, message: str, fails: Callable[..., str], tmp_path: Path
) -> None:
    Path("file").touch()
    Path("circle").symlink_to("circle")
    before = set(tmp_path.iterdir())
    said = fails("fit", "--trainer.logger=false", f"--run_dir={path}")
    assert re.match(message, said), said
    assert "must be a folder in runs/" in fails("fit", "--experiment=../a")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", ["RANK", "NODE_RANK", "SLURM_PROCID", "LOCAL_RANK", "GROUP_RANK"])
def test_a_rank_in_the_environment_does_not_lose_a_run(
    name: str, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loggers, too, ask whether they are on the first rank."""
    monkeypatch.setenv(name, "3")
    monkeypatch.setattr(rank_zero_only, "rank", 3)  # as Lightning reads it when it is imported
    done = run(*("fit", "--trainer.max_epochs=1", "--trainer.logger=CSVLogger"), *SMALL)
    assert done.summary["test/accuracy"] > 0
    assert "train/loss" in next(done.path.rglob("metrics.csv")).read_text()


def test_a_node_too_many_is_refused(
    fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_RANK", "1")
    said = fails("fit", "--trainer.logger=false", "--run_dir=run", *TWO)
    assert said.startswith("trainer.num_nodes: this is process 2 of 2, counted from 0")
    assert not Path("run").exists()


# Paths


def test_home_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder_of(tmp_path / "home" / "images", [b"a", b"b"], [b"1", b"2", b"3", b"4", b"5"])
    Path("config.yaml").write_text("data: {init_args: {cache_dir: ~/cache, cache: disk}}\n")
    main(
        [
            *("fit", *TINY, "--data.root=~/images", "--run_dir=~/run", "--config=config.yaml"),
            *("--data.cache_dir=~/cache", "--data.cache=disk"),
        ]
    )
    main(
        [
            *("predict", "--ckpt_path=~/run", "--run_dir=~/predicted", "--trainer.logger=false"),
            "--data.predict_dir=~/images/a",
        ]
    )
    main(["fit", *TINY, "--data.root=~/images", "--ckpt_path", "~/run", "--run_dir=~/more"])
    there = sorted(path.name for path in (tmp_path / "home").iterdir())
    assert there == ["cache", "images", "more", "predicted", "run"]
    assert not Path("~").exists()


@pytest.mark.slow
def test_data_in_the_working_directory(fails: Callable[..., str]) -> None:
    folder_of(Path(), [b"a", b"b"], [b"1", b"2", b"3", b"4", b"5"])
    for name in ("wandb", "lost+found", ".git", "__MACOSX"):
        Path(name).mkdir()
    args = (*TINY, "--data.root=.", "--data.cache=disk")
    main(["fit", *args])
    main(["fit", *args, "--run_dir=own"])
    main(["fit", *args, "--run_dir=folder/of/runs"])
    main(["predict", "--ckpt_path=own", "--data.predict_dir=.", "--run_dir=predicted"])
    assert len(rows(Path("predicted/predictions.csv"))) == 1 + 10  # and none of the figures
    main(["fit", *args, "--run_dir=."])
    assert [path.name for path in look(Path(), Path("cache")).folders] == ["a", "b"]
    (Path("c") / "deep").mkdir(parents=True)
    assert "c holds no images" in fails("fit", *args)  # a class that is no run is still named
