"""Writing the file of each format."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from project.approaches import ImageClassifier
from project.commands.export.graph import Pipeline
from project.errors import UserError
from project.exported.description import Description

Format = Literal["onnx", "torch_export", "safetensors"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
OPSET = 20
EXAMPLE = (2, 37, 41)  # images, height and width with which a graph is traced: no two are equal


def check_possible(format_: Format, precision: Precision) -> None:
    """Say whether a format can have a precision, before anything is loaded.

    Raises:
        UserError: If it can't, or a package is missing.
    """
    if format_ == "onnx" and precision == "bf16":
        raise UserError("onnxruntime computes nothing in bf16 on a CPU; take fp16", "precision")
    if precision == "int8" and format_ != "onnx":
        raise UserError("int8 is for --format onnx", "precision")
    for package in ("onnx", "onnxruntime", "onnxscript") if format_ == "onnx" else ():
        if find_spec(package) is None:
            raise UserError(f"needs {package}: pip install -e '.[export]'", "format")


def write_onnx(pipeline: Pipeline, description: Description, path: Path) -> None:
    """Write a pipeline as ONNX, with the description in its metadata.

    Raises:
        UserError: If the network has operations that ONNX lacks.
    """
    import onnx

    program = _traced(pipeline, description)
    try:
        with _quiet():
            exported: Any = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["probabilities", "logits"],
                verbose=False,
            )
    except Exception as error:
        raise UserError(f"this network can't be written as ONNX: {_first(error)}") from error
    model = exported.model_proto
    axes = ("batch", "height", "width")
    for dim, name in zip(model.graph.input[0].type.tensor_type.shape.dim, axes):
        dim.dim_param = name
    onnx.helper.set_model_props(model, description.to_metadata())
    onnx.save(model, path)


def write_program(pipeline: Pipeline, description: Description, path: Path) -> None:
    """Write a pipeline as a program of torch.export, with the description beside it in the file.

    Raises:
        UserError: If the network does what can't be traced.
    """
    text = json.dumps(description.to_metadata())
    with _quiet():
        torch.export.save(
            _traced(pipeline, description), path, extra_files={"classifier.json": text}
        )


def write_safetensors(model: ImageClassifier, description: Description, path: Path) -> None:
    """Write the weights, with the description, and so the config that builds the network."""
    from safetensors.torch import save_file

    dtype = DTYPES[description.precision]
    state = {
        name: (value.to(dtype) if value.is_floating_point() else value).clone().contiguous()
        for name, value in model.state_dict().items()
        if isinstance(value, torch.Tensor)
    }
    save_file(state, path, metadata=description.to_metadata())


def _traced(pipeline: Pipeline, description: Description) -> Any:
    """Return the program of a pipeline, for any number of images of any size."""
    any_size = dict.fromkeys(range(3), torch.export.Dim.DYNAMIC)
    channels = 1 if description.mode == "L" else 3
    example = torch.zeros((*EXAMPLE, channels), dtype=torch.uint8)
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(pipeline, (example,), dynamic_shapes=(any_size,))
    except Exception as error:
        raise UserError(
            f"this network can't be traced: {_first(error)}; --format safetensors writes its "
            "weights alone"
        ) from error


def _first(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


@contextmanager
def _quiet() -> Iterator[None]:
    """Let the exporter not tell of its own deprecations."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
