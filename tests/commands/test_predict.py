"""``predict MODEL PICTURE …`` classifies what it is given, and an exported file without torch."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from project import Classifier
from project.cli import main
from project.csv_text import read_table
from project.data import Digits
from project.environment import PACKAGE


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Test images of the digits as files, each in the folder of its class."""
    data = Digits()
    data.setup("test")
    assert data.test_images is not None
    images, labels, *_ = data.test_images[torch.arange(20)]
    for number, (image, label) in enumerate(zip(images, labels.tolist())):
        folder = tmp_path / "digits" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(folder / f"{number}.png")
    return tmp_path / "digits"


def test_an_exported_file_is_run_without_torch(onnx: Path, digits: Path, backbone: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", PACKAGE, "predict", str(onnx), str(digits)],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "onnxruntime" in imported
    assert not {"torch", "lightning", "jsonargparse", "scipy"} & imported
    Path("found.csv").write_text(done.stdout)
    rows = list(read_table(Path("found.csv")))
    found = Classifier.load(backbone)(row["image"] for row in rows)
    assert [row["class"] for row in rows] == found.classes and len(rows) == 20
    for row, probabilities in zip(rows, found.probabilities.tolist()):
        said = [float(row[f"probability_{name}"]) for name in found.class_names]
        assert said == pytest.approx(probabilities, abs=1e-5)


def test_a_run_says_the_same(
    onnx: Path, backbone: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = []
    for model in (onnx / "model.onnx", backbone, backbone / "checkpoints" / "last.ckpt"):
        main(["predict", str(model), f"{digits}/1/*.png", f"{digits}/2", "--format=jsonl"])
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        tables.append([(row["image"], round(row["probability"], 4)) for row in rows])
    assert tables[0] == tables[1] and len(tables[0]) > 2
    assert len(tables[2]) == len(tables[0])


def test_paths_from_a_list_and_from_standard_input(
    onnx: Path,
    digits: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = sorted(map(str, digits.rglob("*.png")))
    Path("list.txt").write_text("\n".join(paths[:3]) + "\n\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(paths[2:5])))
    main(["predict", str(onnx), "-", "--list=list.txt", "--output=a.csv", "--batch_size=2"])
    assert [row["image"] for row in read_table(Path("a.csv"))] == paths[:5]
    done = capsys.readouterr()
    assert done.out == "" and re.search(r"^5 pictures in [\d.]+ s, [\d,]+ a second", done.err)


def test_labels_give_accuracy_and_mistakes(
    onnx: Path, digits: Path, backbone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(
        [
            *("predict", str(onnx), str(digits), "--labels=folders", "--html=sheet.html"),
            "--output=a.csv",
        ]
    )
    rows = list(read_table(Path("a.csv")))
    right = sum(row["label"] == row["class"] for row in rows)
    said = capsys.readouterr().err
    assert f"accuracy {right / 20:.4f}: {right} of 20 are right" in said and 0 < right < 20
    assert said.count("\nwrong: ") == 20 - right
    sheet = Path("sheet.html").read_text()
    assert sheet.count("<img") == 20 and sheet.count('class="wrong"') == 20 - right
    assert f"below {digits}" in sheet and re.search(r"<br>\s*1/\d+\.png", sheet)
    with Path("labels.csv").open("w") as file:
        file.write("file,class\n" + "".join(f"{row['image']},{row['label']}\n" for row in rows))
    main(["predict", str(onnx), str(digits), "--labels=labels.csv", "--output=b.csv"])
    assert Path("b.csv").read_text() == Path("a.csv").read_text()


def test_a_broken_picture_is_told_and_costs_no_other(
    onnx: Path, digits: Path, capfd: pytest.CaptureFixture[str], fails: Callable[..., str]
) -> None:
    (digits / "0" / "broken.png").write_bytes(b"no picture")
    main(["predict", str(onnx), str(digits), "--output=a.csv"])
    rows = {Path(row["image"]).name: row["class"] for row in read_table(Path("a.csv"))}
    assert len(rows) == 21 and [name for name in rows if not rows[name]] == ["broken.png"]
    said = capfd.readouterr().err
    assert "broken.png: broken image: not an image" in said
    assert "1 picture can't be read: empty rows" in said
    only = fails("predict", onnx, digits / "0" / "broken.png")
    assert only == "nothing of 1 picture can be read"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.onnx", "a.png"], "nowhere.onnx: no such checkpoint or run directory"),
        (["MODEL"], "no pictures: name a file, a folder or a pattern"),
        (["MODEL", "nowhere"], "predict: there is no file and no folder nowhere"),
        (["MODEL", "a.png", "--list=no.txt"], "--list: no.txt: No such file"),
        (["MODEL", "a.png", "--batch_size=0"], "--batch_size: 0 must be at least 1"),
        (["MODEL", "a.png", "--bach_size=2"], "unrecognized arguments: --bach_size=2"),
        (["MODEL", "a.png", "--labels=folders"], "--labels: folders: no picture has one of the"),
        (["MODEL", "a.png", "--labels=a.png"], "--labels: a.png can't be read: "),
        (["MODEL", "a.png", "--labels=b.csv"], "--labels: b.csv can't be read: field larger than"),
        (["MODEL", "a.png", "--labels=a.csv"], "--labels: a.csv must have a column image, file"),
        (
            ["nowhere.onnx", "a.png", "--output=no/a.csv"],
            "no/a.csv: can't be written: No such file",
        ),
        (["nowhere.onnx", "a.png", "--html=."], ".: can't be written: it is no regular file"),
        (["nowhere.onnx", "a.png", "--output=/dev/null"], "/dev/null: can't be written: it is no"),
    ],
)
def test_what_cannot_be_predicted(
    arguments: list[str], message: str, onnx: Path, fails: Callable[..., str]
) -> None:
    Image.new("RGB", (9, 9)).save("a.png")
    Path("a.csv").write_text("picture,label\na.png,1\n")
    Path("b.csv").write_text("x" * 200_000)
    given = [str(onnx) if word == "MODEL" else word for word in arguments]
    assert message in fails("predict", *given)
