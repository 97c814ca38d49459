"""The pictures show what they should."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from project.approaches import TrainFromScratch
from project.callbacks.figures import Figures, draw_confusion_matrix


def test_confusion_matrix_is_dark_where_the_counts_are(tmp_path: Path) -> None:
    def blue(confusion: torch.Tensor) -> float:
        path = tmp_path / "matrix.png"
        draw_confusion_matrix(confusion, ("a", "b", "c"), path)
        pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
        height, width = pixels.shape[:2]
        return float((pixels[: height // 2, : width // 2] < 120).mean())

    diagonal = torch.diag(torch.tensor([5, 6, 7]))
    assert blue(diagonal) > 2 * blue(diagonal.flip(0))


def test_a_picture_of_too_many_classes_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    model = TrainFromScratch(101, (1, 4, 4))
    trainer: Any = SimpleNamespace(global_rank=0, default_root_dir="", loggers=[])
    Figures().on_test_end(trainer, model)
    assert "confusion_matrix.png: not drawn, as 101 classes are more than 100\n" in (
        capsys.readouterr().out
    )
    assert not Path("confusion_matrix.png").exists()
