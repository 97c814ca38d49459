"""The extra ``fast`` reads JPEGs as Pillow does, and leaves everything odd to Pillow."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from project.data.files import ImageFiles
from project.decoding.decode import BrokenImageError, Decoder


def photo(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Smooth noise, as soft as a photo."""
    generator = np.random.default_rng(seed)
    noise = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    return image.convert(mode)


def both(path: Path, mode: Any = "RGB", size: Any = (32, 32), resize: Any = "crop") -> Any:
    """What the two ways make of a file, as int64."""
    ways = (Decoder(mode, size, resize, fast=way) for way in (True, False))
    return [way(path).astype(int) for way in ways]


def check(ours: Any, pillows: Any) -> None:
    assert ours.shape == pillows.shape
    assert abs(ours - pillows).max() <= 2


KINDS: dict[str, tuple[Image.Image, dict[str, Any]]] = {
    "photo": (photo(100, 80), {}),
    "upright": (photo(80, 100), {}),
    "square": (photo(64, 64), {}),
    "small": (photo(40, 34), {}),
    "a pixel": (photo(1, 1), {}),
    "grey": (photo(100, 80, "L"), {}),
    "progressive": (photo(100, 80), {"progressive": True}),
    "no subsampling": (photo(100, 80), {"subsampling": 0}),
    "poor": (photo(100, 80), {"quality": 20}),
    "half the size": (photo(256, 192), {}),
    "an eighth of the size": (photo(1024, 768), {}),
    "cmyk": (photo(100, 80, "CMYK"), {}),
    "optimised": (photo(100, 80), {"optimize": True, "restart_marker_rows": 1}),
}


@pytest.mark.parametrize("resize", ["crop", "squash"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_of_pillow(kind: str, mode: str, resize: str, tmp_path: Path) -> None:
    image, options = KINDS[kind]
    image.save(path := tmp_path / "a.jpg", **{"quality": 90, **options})
    ours, pillows = both(path, mode, resize=resize)
    check(ours, pillows)


@pytest.mark.parametrize("kind", ["photo", "upright", "square", "a pixel"])
def test_padded_pixels_are_those_of_pillow(kind: str, tmp_path: Path) -> None:
    image, options = KINDS[kind]
    image.save(path := tmp_path / "a.jpg", **{"quality": 90, **options})
    check(*both(path, resize="pad"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    photo(100, 60).save(path := tmp_path / "a.jpg", quality=95, exif=exif)
    check(*both(path, size=(40, 20)))


@pytest.mark.parametrize("size", [(101, 80), (80, 101), (133, 99), (57, 200), (2501, 1777)])
def test_a_crop_of_odd_sides_sees_the_same_pixels(size: Any, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)  # half a pixel is much
    Image.fromarray(noise).save(path := tmp_path / "a.jpg", quality=95, subsampling=0)
    check(*both(path))


@pytest.mark.parametrize("kept", [0, 3, 40, 0.5, 0.99])
def test_a_damaged_file_is_told_as_ever(kept: float, tmp_path: Path) -> None:
    photo(100, 80).save(buffer := io.BytesIO(), "jpeg")
    content = buffer.getvalue()
    path = tmp_path / "a.jpg"
    path.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else int(kept)])
    said = []
    for way in (True, False):
        with pytest.raises(BrokenImageError) as error:
            Decoder("RGB", (32, 32), "crop", fast=way)(path)
        said.append(str(error.value))
    assert said[0] == said[1]


def test_other_formats_are_pillows(tmp_path: Path) -> None:
    for suffix in ("png", "webp", "bmp", "gif"):
        photo(100, 80).save(path := tmp_path / f"a.{suffix}")
        ours, pillows = both(path)
        assert (ours == pillows).all()
    photo(100, 80).save(path := tmp_path / "png.jpg", "png")  # whatever it is called
    ours, pillows = both(path)
    assert (ours == pillows).all()


def test_what_one_has_decoded_is_not_taken_for_the_other() -> None:
    keys = {ImageFiles([], Decoder("RGB", (8, 8), "crop", fast=way)).key for way in (True, False)}
    assert len(keys) == 2
