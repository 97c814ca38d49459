"""What commands do before anything is trained."""

from project.data import ImageDataModule, ImageFolder
from project.errors import UserError


def find_images(data: ImageDataModule) -> ImageDataModule:
    """Set the data module up, but decode no files.

    Raises:
        UserError: If there is nothing to train or to test on.
    """
    if isinstance(data, ImageFolder):
        data.cache = "off"
    data.prepare_data()
    data.setup("fit")
    if not data.test_images:
        raise UserError("data: there are no test images to judge by; add test/ or test_fraction")
    return data
