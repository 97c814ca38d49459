"""Running exported files. Of these, a file in ONNX needs neither torch nor Lightning."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from project.console import readable
from project.errors import UserError
from project.exported.description import KEY, Description

Outputs = tuple[NDArray[np.float32], NDArray[np.float32]]
FILES = {"onnx": "model.onnx", "torch_export": "model.pt2", "safetensors": "model.safetensors"}
"""Name of the file of each format."""


class Exported(Protocol):
    """An exported file that can be run."""

    description: Description

    def __call__(self, images: NDArray[np.uint8]) -> Outputs:
        """Return probabilities and logits, float32 ``[B, K]``, of uint8 ``[B, H, W, C]``."""
        ...


def find_exported(path: Path) -> Path | None:
    """Return the exported file that a path means: itself, or the one in a folder; else None."""
    if path.is_dir():
        return next((path / name for name in FILES.values() if (path / name).is_file()), None)
    known = {Path(name).suffix for name in FILES.values()}
    return path if path.suffix in known and path.is_file() else None


def open_exported(path: Path) -> Exported:
    """Open a file in ONNX, or one of torch.export.

    Raises:
        UserError: If it can't be opened, or isn't one of this project.
    """
    return OnnxFile(path) if path.suffix == ".onnx" else ProgramFile(path)


@contextmanager
def _opening(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever is raised for a damaged file into one error; the libraries raise many kinds."""
    try:
        yield
    except Exception as error:
        reason = readable(" ".join(str(error).split()))[:200]
        raise UserError(f"{readable(path)} can't be opened as {kind}: {reason}") from error


class OnnxFile:
    """A file in ONNX, which onnxruntime runs on the CPU.

    Args:
        path: The file.

    Raises:
        UserError: If it can't be opened, or isn't one of this project.
    """

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(
                f"{readable(path)} needs onnxruntime: pip install onnxruntime"
            ) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or 0)
        with _opening(path, "ONNX"):
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.description = Description.of(metadata, path)

    def __call__(self, images: NDArray[np.uint8]) -> Outputs:
        """Return probabilities and logits, float32 ``[B, K]``, of uint8 ``[B, H, W, C]``."""
        probabilities, logits = self._session.run(None, {"images": images})
        return probabilities, logits


class ProgramFile:
    """A file of torch.export, which torch runs on the CPU.

    Args:
        path: The file.

    Raises:
        UserError: If it can't be opened, or isn't one of this project.
    """

    def __init__(self, path: Path) -> None:
        import torch

        found: dict[str, Any] = {"classifier.json": ""}
        with _opening(path, "a program"):
            self._module: Any = torch.export.load(path, extra_files=found).module()
            metadata = json.loads(found["classifier.json"] or "{}")
        self.description = Description.of(metadata if KEY in metadata else {}, path)

    def __call__(self, images: NDArray[np.uint8]) -> Outputs:
        """Return probabilities and logits, float32 ``[B, K]``, of uint8 ``[B, H, W, C]``."""
        import torch

        with torch.inference_mode():
            probabilities, logits = self._module(torch.from_numpy(np.ascontiguousarray(images)))
        return probabilities.numpy(), logits.numpy()
