"""What commands do with the data before anything is trained."""

import pkgutil

from project import data as sources
from project.data import ImageDataModule
from project.errors import UserError


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
