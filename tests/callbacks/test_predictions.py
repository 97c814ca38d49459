"""The tables of predictions hold what was predicted, however many classes there are."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from project.approaches import TrainFromScratch
from project.callbacks import predictions
from project.callbacks.predictions import PredictionWriter
from project.csv_text import read_table


@pytest.mark.parametrize("most", [1000, 2])
def test_of_very_many_classes_only_the_largest_probability_is_written(
    most: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(predictions, "MAX_CLASSES", most)
    model = TrainFromScratch(3, (1, 4, 4), class_names=("=a", "b", "c"))
    data = SimpleNamespace(path=lambda index: Path(f"{index}.png"))
    trainer: Any = SimpleNamespace(
        global_rank=0, world_size=1, default_root_dir=".", datamodule=data
    )
    writer = PredictionWriter()
    batch: Any = {
        "indices": torch.tensor([1, 0]),
        "probabilities": torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]]),
        "class": ["=a", "b"],
    }
    writer.write_on_batch_end(trainer, model, batch, None, None, 0, 0)
    writer.on_predict_end(trainer, model)
    rows = list(read_table(Path("predictions.csv")))
    assert [row["class"] for row in rows] == ["b", "=a"]
    assert [row["probability"] for row in rows] == ["0.75", "0.5"]
    assert ("probability_=a" in rows[0]) == (most == 1000)
    assert ("3 classes are more than 2" in capsys.readouterr().out) == (most == 2)
