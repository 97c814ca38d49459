"""How long pictures take to decode, as recommend predicts it from a sample."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from project.commands.recommend.decoding import (
    CONTRAST,
    Timed,
    decode_some,
    samplable,
    seconds_to_decode,
)
from project.commands.recommend.scan import scan
from project.data import ImageFolder
from project.decoding.decode import open_image


@given(
    each=st.floats(0, 0.1),
    per_pixel=st.floats(0, 1e-6),
    sizes=st.lists(st.tuples(st.integers(1, 50), st.integers(1, 10**7)), min_size=2, max_size=9),
    pixels=st.floats(1, 1e9),
)
def test_time_to_decode_goes_by_images_and_pixels(
    each: float, per_pixel: float, sizes: list[tuple[int, int]], pixels: float
) -> None:
    """A few pictures that are much larger than any of the sample count as what they are."""
    timed = [Timed(n, n * mean, n * (each + per_pixel * mean)) for n, mean in sizes]
    means = [mean for _, mean in sizes]
    if max(means) < CONTRAST * min(means):  # all of it counts as that of pixels
        each, per_pixel = 0.0, sum(t.seconds for t in timed) / sum(t.pixels for t in timed)
    expected = 1000 * (each + per_pixel * pixels)
    assert seconds_to_decode(timed, 1000, pixels) == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_pictures_that_take_a_second_are_in_no_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, side in enumerate((30, 40, 50, 60, 3000)):
        folder = tmp_path / "train" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("1", (side, side)).save(folder / f"{number}.png")
    monkeypatch.setattr("project.commands.recommend.decoding.LARGE", 10**6)
    opened: list[str] = []
    for name in ("project.commands.duplicates.open_image", "project.decoding.decode.open_image"):
        monkeypatch.setattr(name, partial(seen_by, opened))
    data = ImageFolder(root=str(tmp_path), image_size=8, cache="off", val_fraction=0)
    data.setup("fit")
    assert data.train_images is not None and len(data.train_images) == 5
    files, timed = decode_some(data.train_images, most=9, seconds=60)
    assert len(files) == sum(group.images for group in timed) == 4
    assert sum(group.pixels for group in timed) == 30**2 + 40**2 + 50**2 + 60**2
    data.test_images = data.train_images
    found = scan(data)
    assert (found.opened, found.sizes) == (8, (30, 3000))
    assert found.pixels == (30**2 + 40**2 + 50**2 + 60**2 + 3000**2) / 5
    assert "4.png" not in opened and len(opened) == 12
    every = torch.full((3,), 10**7)
    assert samplable(every).tolist() == [True] * 3  # as of a large camera


def seen_by(opened: list[str], path: Path, *args: Any, **options: Any) -> Image.Image:
    """Open an image, and note its name."""
    opened.append(Path(path).name)
    return open_image(path, *args, **options)
