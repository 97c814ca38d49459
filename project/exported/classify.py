"""Classifies pictures with an exported model.onnx.

    python classify.py model.onnx PICTURE …

This file stands alone: it needs onnxruntime, numpy and Pillow, and nothing else.
"""

import json
import sys
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

TURNS = [
    Image.Transpose[name]
    for name in "FLIP_LEFT_RIGHT ROTATE_180 FLIP_TOP_BOTTOM TRANSPOSE ROTATE_270 TRANSVERSE "
    "ROTATE_90".split()
]
FORMATS = "JPEG PNG WEBP GIF BMP TIFF PPM AVIF JPEG2000".split()  # EPS would be run as a program

LARGE = 2**22  # pixels


class Model:
    """An exported model. It reads pictures as the training did, and returns probabilities.

    Args:
        path: The ``model.onnx``.
    """

    def __init__(self, path: str) -> None:
        self.session = onnxruntime.InferenceSession(path)
        about = self.session.get_modelmeta().custom_metadata_map
        self.class_names: list[str] = json.loads(about["class_names"])
        self.mode, self.how = json.loads(about["mode"]), json.loads(about["resize"])
        self.size: tuple[int, int] = tuple(json.loads(about["size"]))

    def read(self, file: Any, whole: bool = False) -> Any:
        """Return a picture as uint8 ``[H, W, C]``.

        Args:
            file: A path, or a file that is open for reading bytes.
            whole: Leave the resizing to the model; else Pillow does it, so that a batch has images
                of one size.
        """
        with Image.open(file, formats=FORMATS) as opened:
            image = self._decoded(opened)
        if not whole and self.how == "crop":
            image = image.crop(_centred(image.size, self.size))
        if not whole and self.how != "pad":
            image = image.resize(self.size, Image.Resampling.BILINEAR)
        elif not whole:
            inner = _within(image.size, self.size)
            place = (self.size[0] - inner[0]) // 2, (self.size[1] - inner[1]) // 2
            ground = Image.new(self.mode, self.size, "white")
            ground.paste(image.resize(inner, Image.Resampling.BILINEAR), place)
            image = ground
        pixels = np.asarray(image)
        return pixels.reshape(*pixels.shape[:2], -1)

    def _decoded(self, image: Any) -> Any:
        """Return an open picture in the mode of the model, as it is meant to be seen."""
        for scale in (8, 4, 2):  # a large JPEG is read at a fraction of its size
            exact = image.width % scale == image.height % scale == 0
            if exact and min(image.size) // scale >= 2 * max(self.size):
                image.draft(None, (image.width // scale, image.height // scale))
                break
        image.load()  # after which a TIFF is turned already
        turn = _orientation(image)
        if image.mode[0] in "IF":  # greys of 16 bits or more
            values = np.asarray(image, np.float32)
            highest = values.max(initial=0, where=np.isfinite(values))
            if image.mode == "F":
                values = values * (255 if highest <= 2 else 1)
            elif image.mode.startswith("I;16") or highest > 255:
                values = values // 256
            image = Image.fromarray(np.nan_to_num(values).clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:  # becomes white
            ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(ground, image.convert("RGBA"))
        image = _reduced(image.convert(self.mode), 2 * max(self.size))
        return image.transpose(TURNS[turn - 2]) if 2 <= turn <= 8 else image

    def __call__(self, images: Any) -> Any:
        """Return the probabilities, float32 ``[B, K]``, of images, uint8 ``[B, H, W, C]``."""
        return self.session.run(["probabilities"], {"images": np.asarray(images)})[0]


def _reduced(image: Any, at_least: int) -> Any:
    """Return a large image as means of squares; both sides keep at least so many pixels."""
    width, height = image.size
    factor = min(image.size) // at_least
    if width * height < LARGE or factor < 2:
        return image
    image = image.reduce(factor)
    if width % factor == height % factor == 0:
        return image
    box = (0, 0, width / factor, height / factor)  # the last pixels are of less than a square
    return image.resize((width // factor, height // factor), Image.Resampling.BILINEAR, box)


def _orientation(image: Any) -> int:
    """Return how the camera was held, as EXIF has it; 1 if it doesn't say so."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # an image with broken EXIF is taken as it is
        return 1


def _centred(image: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the largest part in the centre of an image that has the aspect ratio of a size."""
    scale = min(image[0] / size[0], image[1] / size[1])
    width, height = (max(round(side * scale), 1) for side in size)
    left, top = (image[0] - width) // 2, (image[1] - height) // 2
    return left, top, left + width, top + height


def _within(image: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Return width and height of an image whose longer side fills what is there for it."""
    scale = min(size[0] / image[0], size[1] / image[1])
    return max(round(image[0] * scale), 1), max(round(image[1] * scale), 1)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python classify.py model.onnx PICTURE …")
    model = Model(sys.argv[1])
    for name in sys.argv[2:]:
        try:
            (found,) = model([model.read(name)])
        except Exception as error:  # Pillow raises every kind for what is no picture
            sys.exit(f"{name}: no picture that can be read: {error}")
        print(f"{name}\t{model.class_names[found.argmax()]}\t{found.max():.4f}")
