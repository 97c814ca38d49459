"""A table names the class of each image: however it is written, and whatever is wrong with it."""

import csv
import importlib
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from project.cli import main
from project.csv_text import table as written_table
from project.data import ImageTable
from project.decoding.listing import tell
from project.errors import UserError
from tests.conftest import Run
from tests.test_names import any_speed

SPLITS = ("train", "val", "test")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Six images, and one more with two extensions."""
    tell.cache_clear()
    root = tmp_path / "images"
    for shade, name in enumerate(("cat/1.png", "cat/2.jpg", "dog/1.png", "dog/2.png", "0001.png")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 40 * shade).save(root / name)
    for name in ("two.png", "two.jpg"):
        Image.new("L", (4, 4)).save(root / name)
    return root


def loaded(table: Path, **options: Any) -> Any:
    options = {"val_fraction": 0, "test_fraction": 0, "cache": "off", "image_size": 4} | options
    data = ImageTable(table=str(table), **options)
    data.setup("fit")
    return data


def read(data: Any) -> dict[str, list[str]]:
    """File and class of each image, by splits."""
    found = {}
    for name in SPLITS:
        if images := getattr(data, f"{name}_images"):
            classes = [data.class_names[label] for label in images.labels]
            files = [images.path(place).relative_to(data.root) for place in range(len(images))]
            found[name] = [f"{file} {one}" for file, one in zip(files, classes)]
    return found


PLAIN = "image,label\ncat/1.png,cat\ndog/1.png,dog\n"
SPLIT = "image,label,split\ncat/1.png,cat,train\ndog/1.png,dog,train\ndog/2.png,dog,test\n"
TWO = {"train": ["cat/1.png cat", "dog/1.png dog"]}
THREE = TWO | {"test": ["dog/2.png dog"]}


class Case(NamedTuple):
    """A table, what is read of it, and the options."""

    text: str | bytes
    found: dict[str, list[str]]
    options: Mapping[str, str] = MappingProxyType({})
    said: str = ""


WRITTEN = {
    "plain": Case(PLAIN, TWO),
    "with splits": Case(SPLIT, THREE),
    "in another order": Case(
        "split,label,image\ntest,dog,dog/2.png\n,dog,dog/1.png\ntrain,cat,cat/1.png", THREE
    ),
    "byte order mark": Case("\ufeff" + SPLIT, THREE, {"path_column": "image"}),
    "UTF-16": Case(SPLIT.replace(",", "\t").encode("utf-16"), THREE),
    "semicolons": Case(SPLIT.replace(",", ";"), THREE),
    "tabs": Case(SPLIT.replace(",", "\t"), THREE),
    "CRLF": Case(SPLIT.replace("\n", "\r\n"), THREE),
    "CR": Case(SPLIT.replace("\n", "\r"), THREE),
    "quoted": Case(re.sub(r"([^,\n]+)", r'"\1"', SPLIT), THREE),
    "blanks": Case(SPLIT.replace(",", " , "), THREE),
    "blank rows": Case(SPLIT.replace("\n", "\n\n") + ",,\n , ,\n", THREE),
    "short rows": Case("image,label,split\ncat/1.png,cat\ndog/1.png,dog\n", TWO),
    "index of pandas": Case(",image,label\n0,cat/1.png,cat\n1,dog/1.png,dog\n", TWO),
    "other columns": Case("image,size,label\ncat/1.png,3,cat\ndog/1.png,4,dog\n", TWO),
    "one column left": Case("id,breed\ncat/1,cat\ndog/1,dog\n", TWO),
    "File Name, Class Name": Case("File Name,Class-Name\ncat/1.png,cat\ndog/1.png,dog\n", TWO),
    "image_path, target": Case("image_path,target\ncat/1.png,cat\ndog/1.png,dog\n", TWO),
    "id beside image": Case("id,image,label\n7,cat/1.png,cat\n8,dog/1.png,dog\n", TWO),
    "chosen": Case(
        "a,b,c,d\ncat/1.png,cat,x,train\ndog/1.png,dog,y,Training\ndog/2.png,dog,,Testing",
        THREE,
        {"path_column": "a", "label_column": "b", "split_column": "d"},
    ),
    "spelled otherwise": Case(SPLIT.replace("train", "TRAIN").replace("test", "test_set"), THREE),
    "empty cell is training": Case(SPLIT.replace("train", ""), THREE),
    "no split at all": Case(
        SPLIT.replace("train", "").replace(",test", ","),
        {"train": ["cat/1.png cat", "dog/1.png dog", "dog/2.png dog"]},
    ),
    "folds": Case(
        "image,label,fold\ncat/1.png,cat,0\ndog/1.png,dog,1\n",
        TWO,
        said="column fold is left out: it has no names of splits, but 0, 1",
    ),
    "set and fold": Case(
        "image,label,fold,set\ncat/1.png,cat,0,train\ndog/1.png,dog,1,train\ndog/2.png,dog,1,test\n",
        THREE,
        said="column fold is left out",
    ),
    "Windows": Case(SPLIT.replace("/", "\\"), THREE),
    "no extension": Case(
        "image,label\ncat/2,cat\n0001,dog\n", {"train": ["cat/2.jpg cat", "0001.png dog"]}
    ),
    "./": Case("image,label\n./cat/1.png,cat\ndog//1.png,dog\n", TWO),
    "repeated": Case(
        PLAIN + "dog/1.png,dog\n./dog/1.png,dog\ncat/1,cat\n",
        TWO,
        said="3 rows repeat another, and are left out",
    ),
    "several labels": Case(
        "image,label\ncat/1.png,cat|dog\ndog/1.png,dog\n",
        {"train": ["cat/1.png cat|dog", "dog/1.png dog"]},
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_table_may_be_written_so(
    name: str, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = WRITTEN[name]
    content = case.text if isinstance(case.text, bytes) else case.text.encode()
    (images / "labels.csv").write_bytes(content)
    assert read(loaded(images / "labels.csv", **case.options)) == case.found
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == bool(case.said) and case.said in "".join(lines)


WRONG = {
    "missing": ("", "data.table: there is no file .*labels.csv"),
    "empty": ("\n", "data.table: .*labels.csv has no first row with the names of its columns"),
    "open quote": (
        PLAIN + '"cat/2.jpg,cat\n' + "cat/2.jpg,cat\n" * 99,
        r"1 rows have no class: row 4 \(cat/2.jpg,cat.{150,250}\)$",
    ),
    "no names": ("cat/1.png,cat\n", "whose columns are cat/1.png, cat, as its first row says"),
    "no label": (
        "image,a,b\n1,2,3\n",
        "data.label_column: none is named .* columns are image, a, b",
    ),
    "two paths": ("image,path,label\n1,2,3\n", "data.path_column: image, path may each be it, in "),
    "two labels": ("image,class,label\n1,2,3\n", "data.label_column: class, label may each be it"),
    "two splits": (
        "image,label,split,set\ncat/1.png,cat,train,test\n",
        "data.split_column: split, set of .*labels.csv may each be it; choose one",
    ),
    "twice": ("image,label,image\n1,2,3\n", "image, image may each be it"),
    "one class": (
        "image,label\ncat/1.png,cat\n",
        "two or more classes in the rows, and has only c",
    ),
    "no training": (
        SPLIT.replace("train", "val"),
        "two or more classes in the rows of the training split, and has none",
    ),
    "no files": (
        PLAIN + "".join(f"gone/{number},cat\n" for number in range(12)),
        r"data.table: .*labels.csv: 12 files are not there, relative to .* \(data.root\): row 4 "
        r"\(gone/0\), row 5 \(gone/1\), row 6 .*row 8 \(gone/4\) and 7 more$",
    ),
    "ambiguous": (PLAIN + "two,cat\n", r"1 rows may each mean several files.*: row 4 \(two\)$"),
    "folder": (PLAIN + "cat,cat\n", r"1 files are not there, .*: row 4 \(cat\)$"),
    "no class": (PLAIN + "cat/2.jpg,\n", r"1 rows have no class: row 4 \(cat/2.jpg\)$"),
    "no path": (PLAIN + ",cat\n", r"1 rows have no path: row 4 \(cat\)$"),
    "two classes": (
        PLAIN + "\ncat/1,dog\n",
        r"1 rows name an image of two classes; an image has one class: row 5 \(cat/1: cat and dog, "
        r"as in row 2\)$",
    ),
    "in two splits": (
        SPLIT + "cat/1.png,cat,test\n",
        r"1 rows name an image of two splits: row 5 \(cat/1.png: train and test, as in row 2\)$",
    ),
    "unknown class": (
        SPLIT + "cat/2.jpg,owl,test\n",
        r"1 rows have a class that the training images lack \(known are cat, dog\): row 5 \(owl\)$",
    ),
    "unknown split": (
        SPLIT + "cat/2.jpg,cat,exam\n",
        r"data.split_column: .* none of train, val and test: row 5 \(exam\)$",
    ),
    "comma in a cell": (
        PLAIN + "cat/2.jpg,cat,black\n",
        r"1 rows have more cells than the 2 columns: row 4 \(cat/2.jpg,cat,black\)$",
    ),
    "Latin-1": ("image,label\ncafé,cat\n".encode("latin-1"), "is no CSV in UTF-8: .*; save it as"),
    "not a table": (b"\x89PNG\r\n\x1a\n\0\xff", "labels.csv is no CSV in UTF-8"),
    "long cell": ("image,label\n" + "a" * 200_000, "labels.csv, line 2: field larger than"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name: str, images: Path) -> None:
    text, message = WRONG[name]
    content = text if isinstance(text, bytes) else text.encode()
    if content:
        (images / "labels.csv").write_bytes(content)
    with pytest.raises(UserError) as said:
        loaded(images / "labels.csv")
    assert re.search(message, str(said.value)), said.value
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("option", ["path_column", "label_column", "split_column"])
def test_a_column_that_is_not_there(option: str, images: Path) -> None:
    (images / "labels.csv").write_text(PLAIN)
    message = f"data.{option}: klass is no column of .*labels.csv, whose columns are image, label"
    with pytest.raises(UserError, match=message):
        loaded(images / "labels.csv", **{option: "klass"})


def test_classes(images: Path) -> None:
    def names(*labels: str, **options: Any) -> tuple[str, ...]:
        files = ("cat/1.png", "cat/2.jpg", "dog/1.png", "dog/2.png")
        rows = (f"{file},{label}" for file, label in zip(files, labels))
        (images / "labels.csv").write_text("\n".join(["image,label", *rows]))
        found: tuple[str, ...] = loaded(images / "labels.csv", **options).class_names
        return found

    assert names("10", "9", "1", "-2") == ("-2", "1", "9", "10")
    assert names("0.5", "1e1", "2", "10") == ("0.5", "2", "10", "1e1")
    assert names("10", "9", "1", "x") == ("1", "10", "9", "x")
    assert names("1", "nan", "inf", "0") == ("0", "1", "inf", "nan")
    assert names("01", "1", "1.0", "2") == ("01", "1", "1.0", "2")
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    assert names(composed, decomposed, "a", "a") == ("a", composed)
    assert names("b", "a", classes=("b", "a")) == ("b", "a")
    with pytest.raises(UserError, match=r"training images lack \(known are a, c\): row 3 \(b\)"):
        names("a", "b", classes=("a", "c"))
    with pytest.raises(UserError, match="data.classes: c has no training images in"):
        names("a", "b", classes=("a", "b", "c"))


def test_paths_are_relative_to_root(images: Path, tmp_path: Path) -> None:
    """Absolute ones are what they are, and by default they are relative to the table."""
    (tmp_path / "labels.csv").write_text(PLAIN.replace("dog/1.png", str(images / "dog/1.png")))
    with pytest.raises(UserError, match=r"1 files are not there, .*: row 2 \(cat/1.png\)"):
        loaded(tmp_path / "labels.csv")
    assert read(loaded(tmp_path / "labels.csv", root=str(images))) == TWO


def test_order_of_rows_does_not_matter(images: Path) -> None:
    rows = ["cat/1.png,cat", "dog/1.png,dog", "dog/2.png,dog", "cat/2.jpg,cat", "0001.png,cat"]
    prints = set()
    for order in (rows, rows[::-1], sorted(rows)):
        (images / "labels.csv").write_text("\n".join(["image,label", *order]))
        prints.add(loaded(images / "labels.csv").train_images.fingerprint())
    assert len(prints) == 1


def test_many_rows_read_each_folder_once(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = []
    original = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (folders.append(path), original(path))[1])
    (images / "labels.csv").write_text("id,label\ncat/1,cat\ncat/2,cat\ndog/1,dog\ndog/2,dog\n")
    loaded(images / "labels.csv")
    assert sorted(path.name for path in folders) == ["cat", "dog"]


# Tables of this program


odd = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1)


@given(name=odd.map(lambda text: text[:40]), label=odd)
@settings(any_speed, max_examples=8, derandomize=True)
def test_a_table_of_this_program_is_read_again(name: str, label: str, tmp_path: Path) -> None:
    """Whatever the names are; only blanks around the name of a class are lost."""
    if len(name.encode()) > 200 or name.startswith(".") or not label.strip():
        return
    for file in (name + ".png", "other.png"):
        Image.new("L", (4, 4)).save((tmp_path / "x").with_suffix(".png"))
        (tmp_path / "x.png").rename(tmp_path / file)
    with written_table(tmp_path / "labels.csv") as to:
        to.row(["image", "label", "probability"])
        to.row([str(tmp_path / (name + ".png")), label.strip(), 0.5])
        to.row([str(tmp_path / "other.png"), "another class", 0.5])
    data = loaded(tmp_path / "labels.csv")
    found = {str(data.train_images.path(place)) for place in range(len(data.train_images))}
    assert found == {str(tmp_path / (name + ".png")), str(tmp_path / "other.png")}


def test_predictions_become_a_table(pets: Path, run: Callable[..., Run]) -> None:
    """With names that aren't UTF-8 or begin as a formula, for a model that learns from another."""
    (pets / "test/cat/1.jpg").rename(pets / "test/cat" / os.fsdecode(b"caf\xe9.jpg"))
    (pets / "test/dog/1.jpg").rename(pets / "test/dog/=1\n.jpg")
    small = ("--data.image_size=8", "--trainer.max_epochs=1", "--trainer.logger=false")
    first = run("fit", "--data=ImageFolder", f"--data.root={pets}", *small)
    again = run(
        *("fit", "--data=ImageTable", f"--data.table={first.path}/test_predictions.csv", *small),
        *("--data.root=.", "--data.val_fraction=0", "--data.test_fraction=0"),
    )
    assert "8 training" in again.out


# Beside folders, and in every command


def test_scores_are_those_of_the_folder(pets: Path, run: Callable[..., Run]) -> None:
    with (pets / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "category", "subset"])
        for path in sorted(pets.rglob("*.??g"), reverse=True):
            split, name = path.parts[-3:-1]
            writer.writerow([path.relative_to(pets), name, {"train": "Training"}.get(split, split)])
    small = ("--data.image_size=8", "--trainer.max_epochs=2", "--trainer.logger=false")
    folder = run("fit", "--data=ImageFolder", f"--data.root={pets}", *small)
    table = run("fit", "--data=ImageTable", f"--data.table={pets}/labels.csv", *small)
    scores = [
        {name: value for name, value in done.summary.items() if re.match("(val|test|train)/", name)}
        for done in (folder, table)
    ]
    assert scores[0] == scores[1] and "test/accuracy" in scores[0]
    rows = [(done.path / "test_predictions.csv").read_text() for done in (folder, table)]
    assert rows[0] == rows[1]
    assert len(list(Path("cache").glob("*.npy"))) == 1

    more = ("--trainer.logger=false", f"--ckpt_path={table.path}")
    tested = run("test", *more)
    assert tested.summary["test/accuracy"] == table.summary["test/accuracy"]
    run("fit", *more, "--trainer.max_epochs=3")
    predicted = run("predict", *more)
    assert len((predicted.path / "predictions.csv").read_text().splitlines()) == 1 + 8
    (pets / "labels.csv").unlink()
    one = run("predict", *more, f"--data.predict_dir={pets}/test/cat/*.png")
    assert len((one.path / "predictions.csv").read_text().splitlines()) == 1 + 2


def test_plan_counts_the_rows(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["plan", "--model=FineTuning", "--model.backbone=resnet18", "--data=ImageTable"]
    args += ["--data.image_size=32", "--trainer.callbacks=FineTuningSchedule"]
    args += ["--trainer.callbacks.phases=[{name: a, train: [head], epochs: 1}]"]
    (pets / "labels.csv").write_text("image,label\ntrain/cat/0,a\ntrain/dog/0,b\ntrain/dog/4,c\n")
    main([*args, f"--data.table={pets}/labels.csv"])
    assert "assumed" not in capsys.readouterr().out
    main([*args, f"--data.table={pets}/other.csv"])
    assert "other.csv is not there; two classes are assumed" in capsys.readouterr().out


# Parquet


def test_parquet_needs_pyarrow(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    (images / "labels.parquet").touch()
    with pytest.raises(UserError, match="data.table: .*parquet needs pyarrow.*; or save it as CSV"):
        loaded(images / "labels.parquet")


def test_parquet(images: Path) -> None:
    pyarrow = importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    cells = {
        "image": ["cat/1.png", "dog/1.png", "dog/2.png"],
        "label": ["cat", "dog", "dog"],
        "number": [10, 9, 9],
        "split": [None, "train", "test"],
        "bytes": [b"1", b"2", b"3"],
    }
    path = images / "labels.parquet"
    parquet.write_table(pyarrow.table(cells), path)
    assert read(loaded(path)) == THREE
    assert loaded(path, label_column="number").class_names == ("9", "10")
    with pytest.raises(UserError, match="column bytes holds bytes, and no paths or names"):
        loaded(path, path_column="bytes")
    path.write_bytes(b"PAR1")
    with pytest.raises(UserError, match="data.table: .*parquet can't be read"):
        loaded(path)
