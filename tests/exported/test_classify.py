"""``classify.py``, which stands alone, reads pictures to the same pixels as the training does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from project.decoding.decode import Decoder
from project.exported.classify import Model
from tests.exported.pictures import files


@pytest.mark.sampled(10)
@pytest.mark.parametrize("how", ["crop", "squash", "pad"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_all_modes_sizes_and_orientations(mode: Any, how: Any, tmp_path: Path) -> None:
    model = Model.__new__(Model)
    model.mode, model.how, model.size = mode, how, (48, 32)
    decoder = Decoder(mode, model.size, how, fast=False)
    for path in files(tmp_path / "pictures"):
        expected = decoder(path).transpose(1, 2, 0)
        found = model.read(path)
        assert found.dtype == np.uint8 and found.shape == expected.shape, path.name
        assert np.array_equal(found, expected), path.name
        whole = model.read(path, whole=True)
        again = decoder.whole(path)
        assert np.array_equal(whole, again) and again.flags.writeable, path.name


def test_a_program_is_no_picture(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.eps")
    model = Model.__new__(Model)
    model.mode, model.how, model.size = "RGB", "crop", (4, 4)
    with pytest.raises(OSError, match="cannot identify"):
        model.read(tmp_path / "a.eps")
