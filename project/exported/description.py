"""What an exported file says of itself: enough to feed it, and to know where it comes from."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from project.console import readable
from project.decoding.decode import Decoder, Resize
from project.errors import UserError

KEY = "classifier"  # of the metadata of a file


@dataclass(frozen=True)
class Description:
    """An exported classifier.

    Args:
        class_names: Name of each class.
        mode: Grey (``L``) or RGB.
        size: Width and height to which pictures are resized.
        resize: How, as for :class:`Decoder`.
        normalization: ``mean`` and ``std`` of each channel, for pixel values in [0, 1]. Except in a
            safetensors file, the file does it itself.
        precision: What the network computes in, or its weights are kept in.
        config: The complete config of the run, as YAML.
        run: The run: its directory, its id in W&B, its checkpoint and that one's SHA-256.
        versions: Versions of the packages that wrote it.
    """

    class_names: tuple[str, ...]
    mode: str
    size: tuple[int, int]
    resize: Resize
    normalization: dict[str, list[float]]
    precision: str
    config: str
    run: dict[str, str]
    versions: dict[str, str]

    def decoder(self) -> Decoder:
        """Return what reads pictures as the images of the run were read, by Pillow alone."""
        return Decoder("L" if self.mode == "L" else "RGB", self.size, self.resize, fast=False)

    def to_metadata(self) -> dict[str, str]:
        """Return it as the metadata of a file; each part is JSON, also under its own name."""
        parts = {name: json.dumps(value) for name, value in asdict(self).items()}
        return {KEY: "1", **parts}

    @classmethod
    def of(cls, metadata: Mapping[str, str], path: Path) -> "Description":
        """Read the metadata of a file.

        Raises:
            UserError: If it isn't one of this project.
        """
        try:
            if metadata[KEY] != "1":
                raise ValueError(f"version {metadata[KEY]}")
            values: dict[str, Any] = {
                field.name: json.loads(metadata[field.name]) for field in fields(cls)
            }
            values["class_names"] = tuple(map(str, values["class_names"]))
            width, height = values["size"]
            values["size"] = (int(width), int(height))
            if values["resize"] not in ("crop", "squash", "pad") or min(width, height) < 1:
                raise ValueError(values["resize"])
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise UserError(
                f"{readable(path)} doesn't say which classes it knows and how pictures are read; "
                "it must be a file that `export` wrote"
            ) from error
        return cls(**values)
