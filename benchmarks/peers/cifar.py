"""CIFAR-10's batch files as arrays, with NumPy alone: for peers of either environment."""

import pickle
from pathlib import Path

import numpy as np

TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST = ("test_batch",)


def read(root: Path, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return images, uint8 ``[N, 32, 32, 3]``, and labels, int64 ``[N]``."""
    paths = [root / "cifar-10-batches-py" / name for name in names]
    files = [pickle.loads(path.read_bytes(), encoding="latin1") for path in paths]
    images = np.concatenate([file["data"] for file in files]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([file["labels"] for file in files])
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1)), labels
