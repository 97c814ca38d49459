"""The pictures show what they should, are logged once, and change nothing of a training."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from project.approaches import TrainFromScratch
from project.callbacks.cam import class_activation_maps
from project.callbacks.figures import Figures, training_images
from project.callbacks.plots import (
    Row,
    draw_class_accuracy,
    draw_confusion_matrix,
    draw_precision_recall,
    draw_reliability,
    draw_rows,
)
from project.callbacks.tested import TestResults
from project.cli import main
from project.data import Digits
from project.networks import CNN
from tests.conftest import Run
from tests.wandb_log import records

FIT = (
    *("fit", "--data=Digits", "--data.limit_per_class=10", "--trainer.max_epochs=2"),
    *("--model.network=CNN", "--model.network.channels=[4]"),
)
PICTURES = {
    *("train/images", "val/predictions", "test/class_accuracy", "test/confusion_matrix"),
    *("test/mistakes", "test/class_activation", "test/precision_recall", "test/reliability"),
}


def test_confusion_matrix_is_dark_where_the_counts_are(tmp_path: Path) -> None:
    def blue(confusion: torch.Tensor) -> float:
        path = tmp_path / "matrix.png"
        draw_confusion_matrix(confusion, ("a", "b", "c"), path)
        pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
        height, width = pixels.shape[:2]
        return float((pixels[: height // 2, : width // 2] < 120).mean())

    diagonal = torch.diag(torch.tensor([5, 6, 7]))
    assert blue(diagonal) > 2 * blue(diagonal.flip(0))


def test_a_picture_of_too_many_classes_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = TrainFromScratch(101, (1, 4, 4))
    trainer: Any = SimpleNamespace(global_rank=0, default_root_dir=str(tmp_path), loggers=[])
    Figures(TestResults()).on_test_end(trainer, model)
    assert "confusion_matrix.png: not drawn, as 101 classes are more than 100\n" in (
        capsys.readouterr().out
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.sampled(3)
@pytest.mark.drawing
@pytest.mark.parametrize("classes", [1, 40])
@pytest.mark.parametrize("channels", [1, 3])
def test_one_class_many_classes_grey_and_rgb_are_drawn(
    classes: int, channels: int, tmp_path: Path
) -> None:
    names = [f"a class with a long name, {label} $" for label in range(classes)]
    labels = torch.arange(80) % classes
    probabilities = torch.rand(80, classes, generator=torch.Generator().manual_seed(0))
    confidences, predictions = probabilities.max(1)
    confusion = torch.zeros(classes, classes).index_put_(
        (labels, predictions), torch.ones(80), accumulate=True
    )
    draw_class_accuracy(confusion, names, tmp_path / "1.png")
    draw_reliability(confidences, labels == predictions, tmp_path / "2.png")
    draw_precision_recall(probabilities, labels, names, tmp_path / "3.png")
    draw_rows([Row(torch.ones(3, channels, 4, 6), names[:1] * 3, "x")], "y", tmp_path / "4.png")
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            width, height = image.size
        assert 200 < width < 1200 and 50 < height < 1200, path


@pytest.mark.drawing
def test_a_legend_names_classes_that_begin_with_an_underscore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    names, labels = ("_other", "cat"), torch.tensor([0, 1])
    draw_precision_recall(torch.eye(2), labels, names, tmp_path / "x.png")
    legend = figures[0].axes[0].get_legend()
    assert [text.get_text().strip() for text in legend.get_texts()] == [
        "_other: 1.000",
        "cat: 1.000",
    ]


def test_training_images_are_not_normalised() -> None:
    data = Digits(mean=0.9, std=0.1)
    data.prepare_data()
    data.setup("fit")
    rows, _ = training_images(data)
    seen = torch.cat([row.images for row in rows])
    assert seen.min() == 0 and 0.9 < seen.max() <= 1
    assert 0.2 < seen.mean() < 0.5  # normalised, most of it would be black


def test_maps_show_where_the_class_is_seen_and_change_nothing() -> None:
    model = TrainFromScratch(2, (1, 8, 8), network=lambda *shape: CNN(*shape, channels=(4,))).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, state = torch.rand(3, 1, 8, 8), torch.get_rng_state()
    with torch.inference_mode():
        maps = class_activation_maps(model, images, torch.tensor([0, 1, 1]))
    assert torch.equal(state, torch.get_rng_state())
    assert maps is not None and maps.shape == (3, 1, 8, 8)
    assert maps.min() >= 0 and maps.max() <= 1
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    flat = TrainFromScratch(2, (1, 8, 8)).eval()
    assert class_activation_maps(flat, images, torch.tensor([0, 1, 1])) is None


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A run with pictures and one without."""
    found = {}
    for every in (1, 0):
        found[every] = tmp_path_factory.mktemp("pictures") / f"every_{every}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "project.callbacks.figures.render",
                lambda draw, path: Image.new("RGB", (8, 8)).save(path),
            )
            main([*FIT, f"--pictures={every}", f"--run_dir={found[every]}"])
    return found


def logged(run: Path) -> Counter[str]:
    """How often each key was logged that isn't a number, with its type."""
    from wandb.proto.wandb_internal_pb2 import Record

    found: Counter[str] = Counter()
    for file in run.glob("wandb/offline-run-*/*.wandb"):
        for content in records(file):
            keys = Counter[str]()
            for item in Record.FromString(content).history.item:
                names = [*item.nested_key] or [item.key]
                value = json.loads(item.value_json)
                kind = value.get("_type") if isinstance(value, dict) else None
                if names[-1] == "_type":
                    keys[f"{names[0]}: {value}"] += 1
                elif kind:
                    keys[f"{names[0]}: {kind}"] += 1
            found += keys
    return found


def test_each_picture_and_table_is_logged_once(runs: dict[int, Path]) -> None:
    expected = {f"{key}: images/separated": 1 for key in PICTURES}
    expected["val/predictions: images/separated"] = 2  # one an epoch
    expected |= {"wandb/predictions: table-file": 1, "wandb/confusion_table: table-file": 1}
    assert dict(logged(runs[1])) == expected
    assert logged(runs[0]) == {}


def test_images_of_the_table_are_in_the_run_directory(runs: dict[int, Path]) -> None:
    staged = [path for path in runs[1].glob("wandb/artifacts/staging/**/*") if path.is_file()]
    assert staged


def test_weights_and_metrics_are_the_same_without_pictures(runs: dict[int, Path]) -> None:
    one, other = (
        torch.load(runs[every] / "checkpoints" / "last.ckpt", weights_only=True) for every in (1, 0)
    )
    assert one["state_dict"].keys() == other["state_dict"].keys()
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name
    drawn, plain = ((runs[every] / "test_predictions.csv").read_text() for every in (1, 0))
    assert drawn == plain
    assert not (runs[0] / "pictures").exists() and not (runs[0] / "confusion_matrix.png").exists()


def test_tensorboard_gets_the_pictures(run: Callable[..., Run]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    finished = run(*FIT, "--pictures=2", "--trainer.logger=TensorBoardLogger")
    log = EventAccumulator(str(finished.path / "tensorboard"))
    assert set(log.Reload().Tags()["images"]) == PICTURES


def test_a_schedule_is_drawn(run: Callable[..., Run], schedule: tuple[str, ...]) -> None:
    drawn = run(*schedule, "--trainer.logger=false", "--test_after_fit=false")
    assert (drawn.path / "pictures" / "train_schedule.png").is_file()


def test_the_bar_fits_into_a_terminal(
    run: Callable[..., Run], schedule: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("project.callbacks.bar.SHOWN_SECONDS", 0.0)
    bar = (*schedule, "--trainer.enable_progress_bar=true", "--trainer.logger=false")
    shown = run(*bar, "--test_after_fit=false", "--pictures=0").out
    lines = re.findall(r"epoch \d+/\d+ +\d+%  \d+:\d\d left  [^/]*/s", shown)
    assert lines and max(map(len, lines)) < 80
    parts = r"probe  loss \d+\.\d{3}  acc [01]\.\d{3}  lr \d\.\de-\d\d  [\d,]+/s"
    assert any(re.search(parts, line) for line in lines), lines[0]
