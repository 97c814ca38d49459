"""The pictures show what they should."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from project.callbacks.figures import draw_confusion_matrix


def test_confusion_matrix_is_dark_where_the_counts_are(tmp_path: Path) -> None:
    def blue(confusion: torch.Tensor) -> float:
        path = tmp_path / "matrix.png"
        draw_confusion_matrix(confusion, ("a", "b", "c"), path)
        pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
        height, width = pixels.shape[:2]
        return float((pixels[: height // 2, : width // 2] < 120).mean())

    diagonal = torch.diag(torch.tensor([5, 6, 7]))
    assert blue(diagonal) > 2 * blue(diagonal.flip(0))
