"""What commands do with the data before anything is trained."""

import pkgutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from project import data as sources
from project.approaches.pretrained import is_checkpoint, pretrained_input_spec
from project.data import ImageDataModule, ImageFolder, ImageTable
from project.data.cells import is_table
from project.errors import UserError
from project.networks.backbone import is_of_timm

UNEQUAL = 3  # times as many images in the largest class as in the smallest


def folder_as_data(arguments: Sequence[str]) -> Sequence[str]:
    """Turn ``--data FOLDER`` into the options of an ``ImageFolder`` with that root.

    A table, such as ``labels.csv``, becomes those of an ``ImageTable``.
    """
    words: list[str] = []
    for word in arguments:
        name, _, value = word.partition("=") if word.startswith("--data=") else ("", "", word)
        is_data = name == "--data" or (words and words[-1] == "--data")
        is_file = is_data and is_table(Path(value)) and not Path(value).is_dir()
        if is_data and (is_file or "/" in value or Path(value).is_dir()):
            words = words if name else words[:-1]
            kind, option = (ImageTable, "table") if is_file else (ImageFolder, "root")
            words += [f"--data={kind.__name__}", f"--data.{option}={value}"]
        else:
            words.append(word)
    return words


def why_no_weights(backbone: str, weights: str | None) -> str:
    """Return why a backbone can't have pretrained weights; empty if it can, as far as is known.

    Raises:
        UserError: If there is no such backbone.
    """
    if is_of_timm(backbone) and find_spec("timm") is None:
        return f"{backbone} needs timm: pip install timm"
    pretrained_input_spec(backbone, None)
    if weights is None and not is_checkpoint(backbone):
        return "with weights: null the backbone would be random"
    return ""


def find_images(data: ImageDataModule) -> ImageDataModule:
    """Set a data module up without decoding all files.

    Raises:
        UserError: If there are no training or no test images.
    """
    data.setup_lazily()
    if not data.test_images:
        raise UserError("data: there are no test images to judge by; add test/ or test_fraction")
    return data


def data_class(class_path: str) -> type[ImageDataModule]:
    """Return the data module that a config names.

    Args:
        class_path: Its import path, or the bare name of one that this project brings.
    """
    if "." not in class_path:
        class_path = f"{sources.__name__}.{class_path}"
    found: type[ImageDataModule] = pkgutil.resolve_name(class_path)
    return found


def shortest_name(class_path: str) -> str:
    """Return the shortest ``class_path`` with which a config can name a data module."""
    found = data_class(class_path)
    own = getattr(sources, found.__name__, None) is found
    return found.__name__ if own else class_path
