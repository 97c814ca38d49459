"""Inspections: which labels are suspect, which images are the same, and what is written of them."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from project.cli import main
from project.commands import duplicates
from project.commands.duplicates import THUMBNAIL, originals
from project.commands.inspect import command, report
from project.commands.inspect.findings import Group, group, judge_labels
from project.commands.inspect.images import Found
from project.commands.suspects import judge
from project.csv_text import read_table
from project.errors import UserError
from tests.conftest import digits_like
from tests.test_signals import stopped


def separable(count: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features of classes that are easy to tell apart, and labels; the last class is rare."""
    labels = torch.arange(count) % (classes * 3) // 3
    labels[labels == classes - 1] = torch.arange(int((labels == classes - 1).sum())) % classes
    features = torch.randn(count, 20, generator=torch.Generator().manual_seed(seed))
    features[:, :classes] += 8 * torch.eye(classes)[labels]
    return features, labels


def found_of(
    labels: Tensor, thumbnails: Tensor | None = None, split: Tensor | None = None
) -> Found:
    blank = torch.zeros(len(labels), 3, THUMBNAIL, THUMBNAIL, dtype=torch.uint8)
    return Found(
        splits={},
        split=torch.zeros_like(labels) if split is None else split,
        index=torch.arange(len(labels)),
        labels=labels,
        class_names=[f"class {label}" for label in range(int(labels.max()) + 1)],
        thumbnails=blank if thumbnails is None else thumbnails,
        broken=[],
        total=len(labels),
    )


def test_confident_joint_of_a_small_table() -> None:
    """Thresholds: 0.6 for class 0, 0.7 for class 1. The third is confidently of the other class."""
    first = torch.tensor([0.9, 0.8, 0.1, 0.3, 0.45, 0.15])
    judged = judge(torch.stack([first, 1 - first], 1), torch.tensor([0, 0, 0, 1, 1, 1]))
    assert judged.suspects.tolist() == [2]
    assert judged.suggested.tolist() == [1, 1, 1, 0, 0, 0]
    assert judged.margin.tolist() == pytest.approx([0.8, 0.6, -0.8, 0.4, 0.1, 0.7])
    assert judged.errors.tolist() == [[0, 1], [0, 0]]


def test_errors_are_scaled_to_all_images_of_a_label() -> None:
    """One of two that are confidently of some class is wrong; so two of four are, by estimate."""
    first = torch.tensor([0.9, 0.1, 0.5, 0.5, 0.1, 0.1])
    judged = judge(torch.stack([first, 1 - first], 1), torch.tensor([0, 0, 0, 0, 1, 1]))
    # thresholds 0.5 and 0.9: the two of 0.5 are confidently of class 0, too
    assert judged.errors.tolist() == [[0, 1], [0, 0]]
    first[2:4] = torch.tensor([0.45, 0.45])
    judged = judge(torch.stack([first, 1 - first], 1), torch.tensor([0, 0, 0, 0, 1, 1]))
    assert judged.errors.tolist() == [[0, 2], [0, 0]]


def test_a_class_that_is_never_sure_has_a_low_threshold() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.7, 0.3]])
    judged = judge(probabilities, torch.tensor([0, 0, 0, 1, 1]))
    assert judged.suspects.tolist() == [2]
    assert judged.margin[2] > 0  # although its label is the more probable class


@pytest.mark.parametrize("classes", [2, 4])
def test_flipped_labels_are_the_first_suspects(classes: int) -> None:
    features, labels = separable(240, classes)
    flipped = torch.arange(3, 240, 20)
    labels[flipped] = (labels[flipped] + 1) % classes
    found = judge_labels(found_of(labels), torch.arange(240), features)
    first = {suspect.image for suspect in found.suspects[: len(flipped)]}
    assert len(first & set(flipped.tolist())) >= len(flipped) - 2
    assert found.wrong == pytest.approx(len(flipped), abs=len(flipped))
    assert (found.judged, found.skipped) == (240, [])
    for suspect in found.suspects:
        assert suspect.suggested != f"class {labels[suspect.image]}"


def test_tiny_classes_are_not_judged() -> None:
    features, labels = separable(60, 2)
    labels[:4] = 2
    found = judge_labels(found_of(labels), torch.arange(60), features)
    assert (found.judged, found.skipped) == (56, ["class 2"])
    assert found.margin[:4].tolist() == [0] * 4 and found.margin[4:].ne(0).all()
    with pytest.raises(UserError, match="two classes of at least 5 training images"):
        judge_labels(found_of(labels), torch.arange(9), features[:9])


def pictures(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(256, (count, 3, 8, 8), generator=generator).float()
    return torch.nn.functional.interpolate(coarse, size=THUMBNAIL).byte()


def test_what_is_the_same_picture() -> None:
    one, other = pictures(2)
    same = (0.8 * one + 20).byte()
    recoloured = one[[2, 0, 1]]
    grey_one = one.float().mean(0, keepdim=True).expand(3, -1, -1).byte()
    flat = torch.full_like(one, 200)
    row = torch.stack([one, other, same, recoloured, one.flip(2), flat, flat, other])
    assert originals(row).tolist() == [0, 1, 0, 3, 4, 5, 6, 1]
    assert originals(torch.stack([grey_one, grey_one])).tolist() == [0, 0]
    assert originals(one[None]).tolist() == [0]


def test_a_copy_of_a_copy_is_not_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left out is the same as something that is kept, whatever lies between."""
    first, last = pictures(2)
    between = ((first.float() + last.float()) / 2).byte()
    three = torch.stack([first, between, last])
    levels = (duplicates._coarse(three), duplicates._standardized(three))
    bar = min(float(min(a @ b, b @ c)) for a, b, c in levels) - 0.01
    assert any(float(a @ c) < bar for a, _, c in levels)
    monkeypatch.setattr(duplicates, "DUPLICATE", bar)
    assert originals(three).tolist() == [0, 0, 2]
    assert originals(torch.stack([between, first, last])).tolist() == [0, 0, 0]


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    distinct = pictures(9)
    row = distinct[torch.randint(9, (40,), generator=torch.Generator().manual_seed(1))]
    whole = originals(row)
    assert len(whole.unique()) == 9 and torch.equal(row[whole], row)
    monkeypatch.setattr(duplicates, "CHUNK", 7)
    assert torch.equal(originals(row), whole)


def test_which_of_a_group_is_kept_and_which_group_is_first() -> None:
    picture = pictures(4)
    #           three of one class; train and test; train twice, with different labels; alone
    which = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])
    split = torch.tensor([0, 0, 0, 0, 2, 0, 0, 0])
    labels = torch.tensor([0, 0, 0, 1, 1, 0, 1, 1])
    margin = torch.tensor([0.5, 0.9, 0.5, 0.9, 0.0, -0.8, 0.7, 0.0])
    groups = group(found_of(labels, picture[which], split), margin)
    assert groups == [Group([6, 5], 2, 1), Group([4, 3], 1, 2), Group([1, 0, 2], 1, 1)]


NAMES = ("<b>bold", "=1+1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Digits as files, in two classes: two of another label, two copies, and a broken file."""
    root = tmp_path / "some data"
    images, labels = digits_like(160, 8, seed=0)
    number = 0
    for image, label in zip(images, labels):
        if label in (0, 3):
            split = "test" if number >= 28 else "train"
            wrong = number in (4, 9)
            place = root / split / NAMES[int((label == 3) != wrong)]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).resize((32, 32), Image.Resampling.NEAREST).save(
                place / f"{number}.png"
            )
            if number in (6, 30):
                Image.fromarray(image).resize((64, 64), Image.Resampling.NEAREST).save(
                    root / "train" / NAMES[int(label == 3)] / f"copy of {number}.png"
                )
            number += 1
    (root / "train" / NAMES[0] / "empty.png").write_bytes(b"")
    return root


def rows(file: str, folder: Path | str = "out") -> list[dict[str, str]]:
    return list(read_table(Path(folder) / file))


def test_inspect(
    folder: Path,
    backbone: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(report, "MOST_SUSPECTS", 1)
    before = sorted(folder.rglob("*"))
    main(["inspect", "--data", str(folder), "--backbone", str(backbone), "--output=out"])
    assert sorted(folder.rglob("*")) == before
    files = {"report.html", "suspects.csv", "duplicates.csv", "redundant.csv", "broken.csv"}
    assert {path.name for path in Path("out").iterdir()} == files
    suspects = rows("suspects.csv")
    assert {Path(row["image"]).name for row in suspects[:2]} == {"4.png", "9.png"}
    assert suspects[0]["label"] in NAMES and suspects[0]["suggested"] in NAMES
    assert float(suspects[0]["score"]) <= float(suspects[1]["score"]) < 0
    assert all(Path(row["image"]).is_file() for row in suspects)
    redundant = rows("redundant.csv")
    kept = {Path(row["image"]).name: Path(row["copy_of"]).name for row in redundant}
    assert kept["copy of 30.png"] == "30.png"
    assert {"6.png", "copy of 6.png"} & set(kept)
    listed = rows("duplicates.csv")
    assert [row["image"] for row in listed if row["keep"] == "no"] == [
        row["image"] for row in redundant
    ]
    assert [row["split"] for row in listed[:2]] in (["test", "train"], ["test", "val"])
    (broken,) = rows("broken.csv")
    assert broken["image"].endswith("empty.png") and "broken image" in broken["reason"]
    page = Path("out/report.html").read_text()
    assert "&lt;b&gt;bold" in page and "<b>" not in page
    assert 'are in <a href="suspects.csv">' in page and page.count("data:image/webp") >= 5
    assert "http" not in page
    out = capfd.readouterr().out
    assert "1 images" in out and "nothing was removed" in out
    for name in ("suspects", "redundant", "broken"):
        assert f"--data.exclude out/{name}.csv" in out


def test_images_without_files(backbone: Path, capfd: pytest.CaptureFixture[str]) -> None:
    main(["inspect", "--data=Digits", f"--backbone={backbone}", "--images=300"])
    out = capfd.readouterr().out
    (made,) = Path("runs/inspect").iterdir()
    assert "of 1,797 (" in out and "--data.exclude" not in out
    for row in rows("suspects.csv", made):
        assert 0 <= int(row["image"]) < 1797 and row["split"] in ("train", "val")
    assert rows("broken.csv", made) == []
    assert "--data.exclude" not in (made / "report.html").read_text()


BAD: list[tuple[list[str], str]] = [
    (["--data=nowhere/photos"], "data.root: nowhere/photos is not a folder"),
    (["--data=Digits", "--backbone=resnet19"], "no 'resnet19' in torchvision"),
    (["--data=Digits", "--backbone=resnet18", "--weights=null"], "weights: with weights: null"),
    (["--data=Digits", "--backbone=resnet18", "--weights=none.pt"], "weights: none.pt is not a"),
    (["--data=Digits", "--images=1"], "images: 1 must be at least 10"),
    (["--data=Digits", "--output=file/out", "{backbone}"], "output: file/out can't be made: "),
    (["--data=one"], "two or more classes, and has only a"),
    (["--data=broken", "{backbone}"], "data: none of 8 images can be read: "),
    (["--data=few", "{backbone}"], "data: needs two classes of at least 5 training images each"),
    ([], "the following arguments are required: data"),
]


@pytest.mark.parametrize(("args", "message"), BAD)
def test_bad_options(
    args: list[str], message: str, backbone: Path, fails: Callable[..., str]
) -> None:
    Path("file").write_text("")
    for name in ("one/a", "broken/a", "broken/b", "few/a", "few/b"):
        Path(name).mkdir(parents=True)
        for number in range(4):
            path = Path(name, f"{number}.png")
            if name.startswith("broken"):
                path.write_bytes(b"no image")
            else:
                Image.fromarray(np.full((8, 8), number, np.uint8)).save(path)
    found = fails("inspect", *(one.format(backbone=f"--backbone={backbone}") for one in args))
    assert message in found
    assert not Path("runs").exists()


def test_weights_that_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, fails: Callable[..., str]
) -> None:
    def offline(name: str, pretrained: bool, **options: Any) -> None:
        raise OSError("no network, as it seems")

    monkeypatch.setattr("timm.create_model", offline)
    assert fails("inspect", "--data=Digits") == (
        "weights: those of timm/tf_efficientnet_lite0 could not be downloaded (no network, as it "
        "seems); give a file"
    )


@pytest.mark.parametrize("module, place", [(command, "find"), (report, "render")])
def test_a_signal_leaves_no_folder_without_a_report(
    module: ModuleType, place: str, backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(*args: Any) -> None:
        assert list(Path("runs/inspect").iterdir())
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(module, place, wait)
    with stopped(signal.SIGINT):
        command.inspect(["--data=Digits", f"--backbone={backbone}", "--images=200"])
    assert not Path("runs").exists()
