"""Static quantisation of an exported file to 8 bits."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from project.commands.export.check import channels_last
from project.data import ImageDataModule
from project.data.splits import spread
from project.errors import UserError
from project.exported.description import Description

CALIBRATED_AT_ONCE = 16  # images
OPERATIONS = ["Conv", "Gemm", "MatMul"]
NETWORK = "network"  # where the network is in a pipeline, as the exporter notes it at each node


def quantize(path: Path, description: Description, data: ImageDataModule, count: int) -> None:
    """Let the network of a file compute in 8 bits; resizing and normalising stay as they are.

    Weights are quantised for each channel, and activations by the range that they have on training
    images.

    Args:
        path: The file, in ONNX; it is replaced.
        description: What it says of itself.
        data: The data, after its ``setup``.
        count: Number of training images, which are spread evenly over the split.

    Raises:
        UserError: If the network has nothing that can be quantised.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    batches = _calibration(data, count)

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def get_next(self) -> dict[str, Any] | None:
            return next(batches, None)

    nodes = onnx.load(path).graph.node
    if not any(_of_network(node) and node.op_type in OPERATIONS for node in nodes):
        raise UserError("this network has no layer that int8 could be of use for", "precision")
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it advises on stderr
    try:
        quantize_static(
            str(path),
            str(path),
            Reader(),
            op_types_to_quantize=OPERATIONS,
            nodes_to_exclude=[node.name for node in nodes if not _of_network(node)],
            per_channel=True,
            reduce_range=True,  # processors without VNNI add pairs of products in 16 bits
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.root.setLevel(level)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, description.to_metadata())
    onnx.save(model, path)


def _of_network(node: Any) -> bool:
    scopes = {one.key: one.value for one in node.metadata_props}.get("pkg.torch.onnx.name_scopes")
    return f"'{NETWORK}'" in str(scopes)


def _calibration(data: ImageDataModule, count: int) -> Iterator[dict[str, Any]]:
    images = data.train_images
    assert images is not None
    for part in torch.split(spread(len(images), count), CALIBRATED_AT_ONCE):
        yield {"images": channels_last(data.resized(images[part].images))}
