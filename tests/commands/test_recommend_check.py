"""``recommend --check``: what was predicted beside what a comparison measured."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from project.cli import main
from project.commands.recommend import measuring
from project.commands.recommend.checking import Compared, Trained, findings_of, read_comparison
from project.commands.recommend.decision import decide
from project.commands.recommend.rules import rules_of
from tests.commands.test_recommend import FAST, curve, measured

SCORES = {
    "scratch": (0.62, 35.0),
    "probe": (0.91, 50.0),
    "full": (0.90, 900.0),
    "own": (0.95, 9.0),
}


def compared(**scores: tuple[float, float]) -> Compared:
    trained = {name: Trained(score, score, time) for name, (score, time) in scores.items()}
    return Compared("accuracy", 300, 30, ("0", "1", "2"), 10, trained)


def results(folder: Path, classes: int, images: int, test_images: int) -> Path:
    """Write what ``compare`` does into ``results.json``, as far as it is read."""
    rows = [
        {
            "contender": name,
            "images": count,
            "seeds": [0] if time else [],
            "mean": {"accuracy": score, "f1": score / 2, "process_seconds": time},
        }
        for count in (images // 2, images)
        for name, (score, time) in {**SCORES, "failed": (0.0, 0.0)}.items()
    ]
    names = [str(label) for label in range(classes)]
    data = {"class_names": names, "test_images": test_images}
    folder.mkdir()
    content = {"metric": "f1", "epochs": 3, "data": data, "rows": rows}
    (folder / "results.json").write_text(json.dumps(content))
    return folder


def test_what_was_right_and_what_was_not() -> None:
    """A choice no more than a tie behind is right; an order is judged beyond a tie alone."""
    found = measured(probe=curve(0.9), scratch=curve(0.5))
    decision = decide(rules_of(found), found)
    assert decision.choice == "probe"
    told = {one.what: one for one in findings_of(decision, found, compared(**SCORES))}
    assert told["use"].right is False and told["use"].measured == "own is the best, 0.040 ahead"
    assert told["probe before full"].right is None
    assert told["probe before scratch"].right and told["full before scratch"].right
    assert told["accuracy of probe"].right and not told["accuracy of scratch"].right
    assert told["time of scratch"].right and told["time of scratch"].measured == "35 s: ×0.86"
    assert told["time of full"].right is False  # 5 min, and it took 15
    without = {name: score for name, score in SCORES.items() if name in ("scratch", "probe")}
    alone = findings_of(decision, found, compared(**without))
    assert alone[0].measured == "it is the best" and alone[0].right
    swapped = compared(scratch=(0.9, 35.0), probe=(0.5, 50.0))
    assert [one.right for one in findings_of(decision, found, swapped)][:2] == [False, False]


def test_other_networks_are_not_judged() -> None:
    """A comparison of smaller images says nothing about accuracy and time of larger ones."""
    like = replace(FAST, gflop_per_image=0.4)
    found = measured(
        probe=curve(0.9), scratch=curve(0.5), predictions={"scratch": like, "probe": like}
    )
    trained = {
        "scratch": Trained(0.62, 0.62, 35.0, 0.41),
        "probe": Trained(0.91, 0.91, 50.0, 0.033),
    }
    theirs = Compared("accuracy", 300, 30, ("0", "1", "2"), 10, trained)
    told = {one.what: one for one in findings_of(decide(rules_of(found), found), found, theirs)}
    assert told["use"].right and told["probe before scratch"].right
    assert told["time of scratch"].measured == "35 s: ×1.71"
    assert told["time of probe"].measured == "50 s, at 0.033 GFLOP an image and not at 0.4"
    assert told["accuracy of probe"].right is told["time of probe"].right is None


def test_comparison_is_that_of_its_largest_training_set(tmp_path: Path) -> None:
    found = read_comparison(results(tmp_path / "compared", 3, 300, 30))
    assert (found.images, found.test_images, found.epochs) == (300, 30, 3)
    assert found.trained["probe"] == (0.91 / 2, 0.91, 50.0, None)
    assert set(found.trained) == set(SCORES)


def test_check(
    mnist: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    fails: Callable[..., str],
) -> None:
    """It takes as many epochs as the comparison, and writes no config."""
    tried: list[int] = []

    def try_out(config: dict[str, Any], pixels: float) -> Any:
        tried.append(config["trainer"]["max_epochs"])
        return FAST

    monkeypatch.setattr(measuring, "try_out", try_out)
    own = ("recommend", "--data=MNIST", f"--data.root={mnist}", "--weights=null", "--sample=40")
    folder = results(tmp_path / "compared", 10, 180, 100)
    main([*own, f"--check={folder}"])
    out = capfd.readouterr().out
    assert tried == [3]
    assert "time of scratch" in out and "predictions that can be judged were right" in out
    assert not Path("configs").exists()
    other = results(tmp_path / "other", 10, 90, 100)
    message = "check: it compared 90 training and 100 test images in 10 classes, and data has 180"
    assert message in fails(*own, f"--check={other}")


def test_no_comparison(tmp_path: Path, fails: Callable[..., str]) -> None:
    message = fails("recommend", "--data=Digits", f"--check={tmp_path}")
    assert message.startswith(f"check: {tmp_path}/results.json: No such file")
    (tmp_path / "results.json").write_text('{"rows": []}')
    message = fails("recommend", "--data=Digits", f"--check={tmp_path}")
    assert message == f"check: {tmp_path}/results.json holds no results that can be read"
