"""Recommendations: what is measured, what is made of it, and the config that comes out."""

import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from project.cli import main
from project.commands.duplicates import count_duplicates
from project.commands.preparation import find_images
from project.commands.probing import features_of, folds
from project.commands.recommend import candidates, measuring
from project.commands.recommend import decision as decision_rules
from project.commands.recommend.candidates import CANDIDATES, Candidate, Task, config_of
from project.commands.recommend.decision import decide, record, score
from project.commands.recommend.display import on_suspects, on_unequal_classes
from project.commands.recommend.evidence import (
    FOLDS,
    Curve,
    cross_validate,
    gap,
    on_features,
    sample,
)
from project.commands.recommend.rules import Measured, rules_of
from project.commands.recommend.scan import Scan, scan
from project.commands.recommend.trial import Prediction, phases_of, predict, try_out
from project.data import Digits, ImageFolder
from project.data.batches import TensorImages
from project.errors import UserError
from project.parsing import build
from tests.conftest import Run
from tests.test_signals import stopped

FAST = Prediction(60.0, 900.0, 100.0)


def facts(each: int = 100, classes: int = 3) -> Scan:
    names = [str(label) for label in range(classes)]
    return Scan(names, [each] * classes, 30, 30, (28, 28), 784, 30, 0, (30, each * classes))


def curve(accuracy: float, few: float | None = None, images: int = 200) -> Curve:
    """A curve whose mistakes are as far from those of others as can be."""
    correct = np.arange(images) < round(accuracy * images)
    return Curve((images / 3, images * 2 / 3), (few or accuracy, accuracy), correct)


def measured(**changes: Any) -> Measured:
    predictions = {
        "scratch": replace(FAST, seconds=30.0),
        "complete": replace(FAST, seconds=200.0),
        "probe": FAST,
        "full": replace(FAST, seconds=300.0),
    }
    found = Measured(
        scan=facts(),
        objective="task",
        experience="intermediate",
        seconds=1800.0,
        memory_mb=8000.0,
        predictions=predictions,
        no_weights="",
        probe=curve(0.9),
        scratch=curve(0.6),
        distance=0.3,
        images=300,
        classes=3,
    )
    return replace(found, **changes)


def choice(**changes: Any) -> str:
    found = measured(**changes)
    return decide(rules_of(found), found).choice


CHOICES: list[tuple[Mapping[str, Any], str]] = [
    ({}, "probe"),
    ({"distance": 1.5}, "full"),
    ({"distance": 1.5, "scan": facts(50)}, "probe"),
    ({"distance": 1.5, "seconds": 100.0}, "probe"),
    ({"distance": 1.5, "experience": "expert"}, "full"),
    ({"probe": curve(0.5), "scratch": curve(0.9)}, "full"),
    ({"probe": curve(0.5), "scratch": curve(0.9), "seconds": 100.0}, "scratch"),
    ({"no_weights": "no network", "probe": None, "distance": None}, "scratch"),
    ({"objective": "research"}, "scratch"),
    ({"objective": "foundation"}, "probe"),  # there are too few images for one
    ({"objective": "foundation", "scan": facts(600)}, "complete"),
    ({"scan": facts(5000), "scratch": curve(0.9), "distance": 1.5, "seconds": 250.0}, "complete"),
    ({"memory_mb": 800.0}, ""),
    ({"predictions": {"probe": "it crashed", "full": FAST}}, "full"),
]


@pytest.mark.parametrize(("changes", "expected"), CHOICES)
def test_choice(changes: Mapping[str, Any], expected: str) -> None:
    assert choice(**changes) == expected


def test_runner_up_confidence_and_what_would_change_it() -> None:
    found = measured()
    decision = decide(rules_of(found), found)
    assert (decision.choice, decision.runner_up) == ("probe", "full")
    assert decision.points == {"probe": 4, "full": 2, "scratch": 0}
    assert (decision.confidence, decision.reasons) == ("high", [])
    assert any(
        change.startswith("full, if the probe doesn't beat the small network")
        for change in decision.changes
    )
    assert "scratch, if the aim is research on an architecture (task)" in decision.changes
    close = replace(found, probe=curve(0.65))
    decision = decide(rules_of(close), close)
    assert (decision.choice, decision.confidence) == ("probe", "medium")
    assert decision.reasons == ["probe and small network are close: +0.050 ± 0.015 in accuracy"]
    unknown = replace(found, no_weights="no network", probe=None, distance=None)
    decision = decide(rules_of(unknown), unknown)
    assert decision.confidence == "low"
    assert decision.reasons == [
        "not all of the data rules could be measured: no network",
        "with pretrained weights the answer may differ: --weights FILE",
    ]


def test_confidence_is_a_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its uncertainty: of few data sets, little is known."""
    monkeypatch.setattr(decision_rules, "RIGHT", {"high": (9, 10), "low": (0, 0)})
    found = "right on 9 of 10 data sets, so in 65% to 98% of all like these"
    assert record("high") == found
    assert record("low") == "no data set was tried on which it was so"


def test_suspect_labels_are_said() -> None:
    """In one line, with the command that lists them."""
    words = ["--data=ImageFolder", "--data.root", "a b", "--time", "5m", "--weights=w.pt"]
    assert on_suspects(measured(), words) == ""
    line = on_suspects(measured(suspects=["x.png (cat, more probably dog)", "y.png (…)"]), words)
    assert line == (
        "2 of 300 labels that were looked at may be wrong, first of all x.png (cat, more probably "
        "dog); python -m project inspect --data=ImageFolder --data.root 'a b' --weights=w.pt lists "
        "them and the others"
    )
    line = on_suspects(measured(suspects=["x.png (cat, more probably dog)"] * 76), words)
    assert line == (
        "nothing is said about wrong labels: a probe takes 76 of 300 for others, as classes look "
        "alike to it"
    )


@pytest.mark.parametrize(("slowdown", "said"), [(1.05, False), (1.9, True)])
def test_busy_machine_is_said(
    slowdown: float,
    said: bool,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(measuring, "try_out", lambda *_: replace(FAST, slowdown=slowdown))
    configs = {one.name: config_of(one, TASK) for one in CANDIDATES}
    assert set(measuring.try_all(configs, {"full"}, pixels=100)) == {"scratch", "complete", "probe"}
    message = f"the machine is busy: these steps took up to {slowdown} times as long as alone"
    assert (message in capfd.readouterr().out) is said


def test_unequal_classes_are_said() -> None:
    assert on_unequal_classes(facts()) == []
    assert on_unequal_classes(replace(facts(), class_sizes=[50, 20, 17])) == []
    said = " ".join(on_unequal_classes(replace(facts(), class_sizes=[30, 160, 10])))
    assert (
        "160 images of 1 and 10 of 2: 1 as the only answer would have an accuracy of 0.80" in said
    )
    assert "val/f1" in said and "data.sampling: balanced" in said


def test_equal_points_are_a_doubt() -> None:
    found = measured(distance=1.5, scan=facts(50), experience="expert")
    decision = decide(rules_of(found), found)
    assert decision.points["probe"] == decision.points["full"]
    assert decision.reasons == ["the runner-up has as many points", "so the shorter time decides"]


def test_an_aim_that_cannot_be_met_is_a_doubt() -> None:
    found = measured(objective="foundation")
    decision = decide(rules_of(found), found)
    doubt = "complete is excluded, although the aim is a backbone for other tasks"
    assert doubt in decision.reasons and decision.confidence != "high"


def test_of_equals_the_faster_one() -> None:
    rules = [rule for rule in rules_of(measured()) if not rule.points]
    assert list(score(rules, measured())) == ["scratch", "probe", "full"]


def test_curve_goes_on_as_a_power() -> None:
    """Half the error with four times the images, but no faster than that, and never worse."""
    correct = np.zeros(10, bool)
    assert Curve((100, 200), (1 - 0.4, 1 - 0.4 / 2**0.5), correct).at(800) == pytest.approx(
        1 - 0.4 / 8**0.5
    )
    assert Curve((100, 200), (0.2, 0.8), correct).at(800) == pytest.approx(0.9)
    assert Curve((100, 200), (0.8, 0.7), correct).at(800) == pytest.approx(0.7)


def test_cross_validation_tests_each_image_once() -> None:
    labels = torch.arange(54) % 3
    seen: list[tuple[Tensor, Tensor]] = []

    def learn(train: Tensor, held_out: Tensor) -> Tensor:
        seen.append((train, held_out))
        assert not set(train.tolist()) & set(held_out.tolist())
        return labels[held_out] if len(train) == 36 else torch.zeros_like(held_out)

    found = cross_validate(learn, labels)
    assert found.sizes == (18, 36)
    assert found.accuracies == (pytest.approx(1 / 3), 1.0)
    held_out = torch.cat([held_out for _, held_out in seen[1::2]])
    assert sorted(held_out.tolist()) == list(range(54))
    assert [torch.bincount(labels[folds(labels, FOLDS) == n]).min() for n in range(FOLDS)] == [
        6,
        6,
        6,
    ]


def test_folds_are_equal_also_where_classes_are_small() -> None:
    labels = torch.arange(24) % 6
    assert torch.bincount(folds(labels, FOLDS)).tolist() == [8, 8, 8]
    with pytest.raises(UserError, match="fewer than 4 training images"):
        cross_validate(lambda train, held_out: labels[held_out], torch.arange(30) % 10)


def test_sample_has_as_many_of_each_class_however_short_it_is() -> None:
    labels = torch.cat([torch.full((size,), label) for label, size in enumerate((40, 9, 5, 90))])
    data = Digits()
    data.train_images = TensorImages(torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8), labels)
    chosen = sample(data, 60)
    assert len(chosen) == len(set(chosen.tolist())) == 60
    assert torch.bincount(labels[chosen]).tolist() == [23, 9, 5, 23]
    assert torch.bincount(labels[chosen[:20]]).tolist() == [5, 5, 5, 5]
    few = labels[sample(data, 16)]  # for two classes of eight
    assert sorted(torch.bincount(few).tolist(), reverse=True)[:2] == [8, 8]
    assert len(sample(data, 1)) == 8  # of each of two classes enough for all folds


def test_features_take_no_longer_than_they_may(backbone: Path) -> None:
    config = {
        "data": {"class_path": "Digits", "init_args": {"eval_batch_size": 20}},
        "model": {"class_path": "FineTuning", "init_args": {"backbone": str(backbone)}},
    }
    model, data = build(config)
    data.setup("fit")
    assert data.train_images is not None
    images = data.train_images.subset(torch.arange(100))
    assert len(features_of(model, data, images, seconds=0.0)[0]) == 20


def test_gap_takes_pairs() -> None:
    one, other = curve(0.75), curve(0.5)
    difference, error = gap(one, other)
    assert difference == pytest.approx(0.25)
    assert error == pytest.approx(np.std([1] * 50 + [0] * 150, ddof=1) / 200**0.5)


def test_probe_separates_what_can_be_separated() -> None:
    labels = torch.arange(90) % 3
    features = torch.randn(90, 40, generator=torch.Generator().manual_seed(0))
    features[:, :3] += 4 * torch.eye(3)[labels]
    assert cross_validate(on_features(features, labels, 3), labels).accuracies[1] > 0.95
    noise = torch.randn(90, 40, generator=torch.Generator().manual_seed(1))
    assert cross_validate(on_features(noise, labels, 3), labels).accuracies[1] < 0.6


def test_distance_is_that_to_the_statistics_of_batch_norm(backbone: Path) -> None:
    """Nothing for the images that the statistics are of, and more for others."""
    config = {
        "data": {"class_path": "Digits", "init_args": {}},
        "model": {"class_path": "FineTuning", "init_args": {"backbone": str(backbone)}},
    }
    model, data = build(config)
    data.setup("fit")
    assert data.train_images is not None
    batch = data.train_images[torch.arange(500)]
    images = TensorImages(batch.images, batch.labels)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # the mean over all batches
            layer.reset_running_stats()
    model.network.train()
    for _ in range(2):  # the second layer's are of the first one's latest
        model.network.features(data.transform(batch.images, batch.indices, None))
    features, same = features_of(model, data, images)
    _, other = features_of(model, data, TensorImages(255 - batch.images, batch.labels))
    assert features.shape[0] == 500
    assert same is not None and other is not None
    assert same < 0.2 < other


def test_duplicates_are_found_at_another_size_and_brightness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 255, (6, 8, 8, 3), dtype=np.uint8)
    for split, chosen in (("train", (0, 1, 2, 3)), ("test", (3, 4))):
        for number in chosen:
            folder = tmp_path / split / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(pictures[number]).resize((200, 200))
            if split == "test":
                image = image.resize((90, 90)).point(lambda value: 0.8 * value + 20)
            image.save(folder / f"{number}.jpg", quality=80)
    (tmp_path / "test" / "a").mkdir(exist_ok=True)
    data = ImageFolder(root=str(tmp_path), cache="off", val_fraction=0)
    data.setup("fit")
    found = scan(data)
    assert (found.duplicates, found.compared, found.opened) == (1, (2, 4), 6)
    assert found.sizes == (90, 200)
    monkeypatch.setattr("project.commands.recommend.scan.SECONDS", 0.0)
    monkeypatch.setattr("project.commands.duplicates.FILES", 1)
    assert scan(data).opened == 2  # one of each split, and no further one after that time
    assert (found.class_names, found.class_sizes) == (("a", "b"), [2, 2])
    blank = torch.full((3, 3, 32, 32), 255, dtype=torch.uint8)
    assert count_duplicates(blank, blank) == 0


FOUND = {
    **{"train": 1000, "val": 100, "test": 200, "train_cut": 70, "val_cut": 30, "test_cut": 30},
    **{"batch_size": 10, "decoded": [], "image_bytes": 0, "memory_gb": 4.0},
    **{"per_image": 0.1, "between": 5.0, "process_seconds": 50.0, "slowdown": 1.0},
    **{"memory_before_mb": 300.0, "peak_memory_mb": 500.0, "gflop_per_image": 0.5},
}


def test_prediction_of_one_phase() -> None:
    """The trial: 2 epochs of 4 steps of 1 s and 30 images of validation, then 30 of the test."""
    found = predict({**FOUND, "steps": [3.0, 1.0]}, [(10, False)])
    fixed = 50 - 2 * (4 + 2 + 3) - 3
    assert found.seconds == pytest.approx(fixed + 10 * (100 + 2 + 10) + 20)
    assert (found.memory_mb, found.images_per_second) == (500, 10)
    assert found.gflop_per_image == 0.5


def test_prediction_of_larger_batches() -> None:
    """As many images in half the steps, which take twice the time and what memory they add."""
    trial = {**FOUND, "steps": [3.0, 1.0]}
    found = predict(trial, [(10, False)], larger=2.0)
    same = predict(trial, [(10, False)])
    assert found.seconds == pytest.approx(same.seconds)
    assert (found.memory_mb, found.images_per_second) == (700, same.images_per_second)


def test_prediction_of_phases_and_features() -> None:
    """Images that have to be decoded take that once, in the trial as in the run."""
    steps = {"steps": [0.5, 1.0], "between": 1.0, "image_bytes": 1000}
    steps |= {"decoded": [(60, 6000, 1.2), (30, 3000, 0.6)]}
    found = predict({**FOUND, **steps}, [(3, True), (7, False)], pixels=100)
    fixed = 50 - (4 * 0.5 + 1 + 10) - (4 + 1 + 3) - 3 - 90 * 0.02
    cached, uncached = 110 + 3 * (50 + 1), 7 * (100 + 1 + 10)
    assert found.seconds == pytest.approx(fixed + cached + uncached + 20 + 1300 * 0.02)
    assert found.memory_mb == pytest.approx(500 + 1.3)


TASK = Task({"class_path": "Digits"}, 8, 500, 10, "resnet18", None, bfloat16=False)


def test_phases_of_configs() -> None:
    configs = {one.name: config_of(one, TASK) for one in CANDIDATES}
    found = {name: phases_of(config) for name, config in configs.items()}
    assert found == {
        "scratch": [(10, False)],
        "complete": [(10, False)],
        "probe": [(10, True)],
        "full": [(10, False)],
    }


@pytest.mark.sampled(2)
@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda one: one.name)
def test_candidate_is_a_config_of_fit(
    candidate: Candidate, run: Callable[..., Run], pets: Path, backbone: Path
) -> None:
    file = Path(str(candidates.CONFIGS / f"{candidate.name}.yaml"))
    head = file.read_text().splitlines()
    assert head[0].startswith("# A candidate of `python -m project recommend`")
    config = f"project/commands/recommend/configs/{candidate.name}.yaml"
    assert head[2] == f"# python -m project fit --config {config} --data.root FOLDER"
    pretrained = [f"--model.backbone={backbone}", "--model.weights=null"]
    finished = run(
        *("fit", "--config", file, "--data.root", pets, "--trainer.max_epochs=2"),
        *(pretrained if candidate.pretrained else []),
    )
    assert 0 <= finished.summary["test/accuracy"] <= 1
    assert finished.summary["pretrained"] == candidate.pretrained


def test_no_augmentation_is_none() -> None:
    task = replace(TASK, data={"class_path": "Digits", "init_args": {"augment": None}})
    probe_config, tuned_config = (config_of(one, task) for one in CANDIDATES[2:])
    assert phases_of(probe_config) == [(10, True)]
    assert phases_of(tuned_config) == [(10, False)]


def test_candidate_with_phases_of_its_own_is_refused() -> None:
    config = config_of(CANDIDATES[2], TASK)
    (schedule,) = config["trainer"]["callbacks"]
    schedule["init_args"] = {"phases": [{"name": "head", "train": ["head"], "epochs": 3}]}
    with pytest.raises(UserError, match="trainer.callbacks: needs a preset"):
        phases_of(config)


SCRATCH = CANDIDATES[0]


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Replace a part of the config of ``scratch``, as a user may."""

    def edit(old: str, new: str) -> Path:
        text = (candidates.CONFIGS / "scratch.yaml").read_text()
        assert re.search(old, text)
        file = tmp_path / "scratch.yaml"
        file.write_text(re.sub(old, new, text))
        monkeypatch.setattr(candidates, "CONFIGS", tmp_path)
        return file

    return edit


def test_candidate_without_augmentation(edited: Callable[..., Path]) -> None:
    edited(r" *augment: .*\n", "")
    assert config_of(SCRATCH, TASK)["data"]["init_args"] == {"batch_size": 16, "image_size": 28}


BROKEN = [
    ("(?m)^model:", "modle:", "model.class_path must be a string; recommend needs it"),
    ("batch_size: 16", "batch_size: many", "data.init_args.batch_size must be a whole number"),
    ("(?s).*", "a list", "trainer must be a mapping"),
    ("trainer:", "trainer: {", "can't be read"),
]


@pytest.mark.parametrize(("old", "new", "message"), BROKEN)
def test_broken_candidate(
    old: str, new: str, message: str, edited: Callable[..., Path], fails: Callable[..., str]
) -> None:
    file = edited(old, new)
    found = fails("recommend", "--data=Digits")
    assert found.startswith(str(file)) and message in found


def test_recommend(
    pets: Path,
    run: Callable[..., Run],
    capfd: pytest.CaptureFixture[str],
    backbone: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All steps on a few images, with a trial of one candidate; the config then trains."""

    def try_probe(config: Mapping[str, Any], pixels: float) -> Prediction:
        return try_out(config, pixels) if "augment" not in config["data"]["init_args"] else FAST

    monkeypatch.setattr(measuring, "try_out", try_probe)
    main(
        [
            *("recommend", "--data", str(pets), "--backbone", str(backbone), "--weights=null"),
            *("--epochs=2", "--explain", "--output=out/recommended.yaml", "--sample=30"),
        ]
    )
    out = capfd.readouterr().out
    assert re.search(r"probe +│ +\d+ +│ .* MB", out), out
    assert "Use " in out and "Confidence: " in out
    assert "the aim is research on an architecture" in out  # it doesn't hold, but is explained
    config = yaml.safe_load(Path("out/recommended.yaml").read_text())
    assert config["data"]["init_args"]["root"] == str(pets)
    first = Path("out/recommended.yaml").read_text().splitlines()[0]
    assert first == "# python -m project fit --config out/recommended.yaml"
    finished = run("fit", "--config", "out/recommended.yaml")
    assert 0 <= finished.summary["test/accuracy"] <= 1


def test_recommend_without_network_and_weights(
    mnist: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It says what it could not measure, and what that costs."""

    def offline(name: str, pretrained: bool, **options: Any) -> None:
        assert pretrained
        raise OSError("no network")

    monkeypatch.setattr("timm.create_model", offline)
    monkeypatch.setattr(measuring, "try_out", lambda *_: FAST)
    main(["recommend", "--data=MNIST", f"--data.root={mnist}", "--epochs=2", "--sample=60"])
    out = capfd.readouterr().out
    assert "no network" in out
    assert "the weights of timm/tf_efficientnet_lite0 could not be loaded" in out
    assert "the answer may differ: --weights FILE" in out and "Confidence: low" in out
    assert Path("configs/recommended.yaml").is_file()


BAD: list[tuple[list[str], str]] = [
    (["--data=Digits", "--backbone=resnet19"], "no 'resnet19' in torchvision"),
    ([], "the following arguments are required: data"),
    (["--data=nowhere/photos"], "data.root: nowhere/photos is not a folder"),
    (["--data=nowhere/labels.csv"], "data.table: there is no file nowhere/labels.csv"),
    (["--data", "labels.TSV"], "data.table: there is no file labels.TSV"),
    (["--data=Digit"], "no class 'Digit'; did you mean Digits?"),
    (["--data=Digits", "--time=soon"], "time: 'soon' must be a length of time, such as 45s"),
    (["--data=Digits", "--objective=fun"], "objective: expected one of 'task', 'foundation'"),
    (["--data=Digits", "--epochs=1"], "epochs: 1 must be at least 2"),
    (["--data=Digits", "--output=x.txt"], "output: x.txt must be a .yaml file"),
    (["--data=Digits", "--tme=1h"], "no option 'tme'"),
]


@pytest.mark.parametrize(("args", "message"), BAD)
def test_bad_options(args: list[str], message: str, fails: Callable[..., str]) -> None:
    assert message in fails("recommend", *args)


def denied(folder: Path | str) -> Any:
    if Path(folder).name != "cat":
        return SCANDIR(folder)
    raise PermissionError(13, "Permission denied", str(folder))


SCANDIR = os.scandir


def test_bad_folders(tmp_path: Path, pets: Path, fails: Callable[..., str]) -> None:
    (one := tmp_path / "one" / "a").mkdir(parents=True)
    assert "two or more classes, and has only a" in fails("recommend", "--data", one.parent)
    assert "has none" in fails("recommend", "--data", one)
    message = "data: there are no test images to judge by; add test/ or test_fraction"
    no_test = ("--data", pets / "train", "--data.test_fraction=0")
    assert fails("recommend", *no_test) == message
    with pytest.MonkeyPatch.context() as patch:  # modes don't keep the superuser out
        patch.setattr(os, "scandir", denied)
        assert fails("recommend", "--data", pets) == f"{pets}/train/cat: Permission denied"
    for number in (4, 5):
        (pets / "train" / "cat" / f"{number}.jpg").write_bytes(b"no image")
    found = fails("recommend", "--data", pets)
    assert "data: 2 of 32 files can't be read" in found
    assert "broken image" in found
    skipping = ImageFolder(root=str(pets), on_bad_image="skip", max_bad_fraction=0.1)
    assert scan(find_images(skipping)).opened == 30


def test_recommend_leaves_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()

    def wait(*args: Any, **kwargs: Any) -> None:
        assert list((tmp_path / "tmp").iterdir())
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(subprocess, "run", wait)
    with stopped():
        try_out(config_of(SCRATCH, TASK), pixels=64)
    assert not list((tmp_path / "tmp").iterdir())
