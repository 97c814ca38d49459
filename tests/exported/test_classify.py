"""``classify.py``, which stands alone, reads pictures to the same pixels as the training does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from project.decoding.decode import Decoder
from project.exported.classify import Model

MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "I", "F", "YCbCr")
SUFFIXES = {"CMYK": "jpg", "YCbCr": "jpg", "I": "tif", "F": "tif", "I;16": "png"}
SIZES = ((40, 30), (30, 41), (224, 224), (300, 17), (5, 90), (640, 480), (1, 1))
ORIENTED = range(10)  # 0 and 9 mean nothing


def picture(mode: str, width: int, height: int) -> Image.Image:
    """Smooth colours, with some noise and transparency."""
    generator = np.random.default_rng(width + height)
    coarse = generator.integers(0, 256, (5, 5, 4), np.uint8)
    image = Image.fromarray(coarse, "RGBA").resize((width, height), Image.Resampling.BICUBIC)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if mode == "I":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.int32) * 100)
    if mode == "F":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.float32) / 255)
    return image.convert(mode)


def files(folder: Path) -> Iterator[Path]:
    """Pictures of all modes, sizes and orientations."""
    for mode in MODES:
        for place, size in enumerate(SIZES):
            path = folder / f"{mode.replace(';', '')}-{place}.{SUFFIXES.get(mode, 'png')}"
            picture(mode, *size).save(path)
            yield path
    for suffix in ("jpg", "png", "webp", "tif"):
        for orientation in ORIENTED:
            exif = Image.Exif()
            exif[0x0112] = orientation
            path = folder / f"turned-{orientation}.{suffix}"
            picture("RGB", 60, 44).save(path, exif=exif)
            yield path
    for suffix in ("gif", "bmp", "ppm", "webp"):
        path = folder / f"other.{suffix}"
        picture("RGB", 33, 44).save(path)
        yield path
    for suffix, size in (("png", (2500, 1803)), ("tif", (2400, 1800)), ("jpg", (2501, 1777))):
        exif = Image.Exif()
        exif[0x0112] = 6
        picture("RGB", *size).save(folder / f"large.{suffix}", exif=exif)
        yield folder / f"large.{suffix}"
    transparent = picture("RGB", 33, 44).quantize(16)
    transparent.save(folder / "transparent.gif", transparency=3)
    yield folder / "transparent.gif"


@pytest.mark.sampled(5)
@pytest.mark.parametrize("how", ["crop", "squash", "pad"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_all_modes_sizes_and_orientations(mode: Any, how: Any, tmp_path: Path) -> None:
    model = Model.__new__(Model)
    model.mode, model.how, model.size = mode, how, (48, 32)
    decoder = Decoder(mode, model.size, how, fast=False)
    count = 0
    for path in files(tmp_path):
        expected = decoder(path).transpose(1, 2, 0)
        found = model.read(path)
        assert found.dtype == np.uint8 and found.shape == expected.shape, path.name
        assert np.array_equal(found, expected), path.name
        whole = model.read(path, whole=True)
        assert np.array_equal(whole, decoder.whole(path)), path.name
        count += 1
    assert count == len(MODES) * len(SIZES) + 48


def test_a_program_is_no_picture(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.eps")
    model = Model.__new__(Model)
    model.mode, model.how, model.size = "RGB", "crop", (4, 4)
    with pytest.raises(OSError, match="cannot identify"):
        model.read(tmp_path / "a.eps")
