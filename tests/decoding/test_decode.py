"""Any file is an image or a broken image, and says nothing else; large ones take little memory."""

import io
import itertools
import os
import random
import re
import struct
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from project.decoding import decode
from project.decoding.decode import BrokenImageError, Decoder, broken_image, open_image, size_of
from project.decoding.memory import Memory
from project.errors import UserError

ORIENTATION = 0x0112
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {  # a name: mode, options of saving
    "JPEG": ("RGB", {"exif": "exif"}),
    "MPO": ("RGB", {"save_all": True, "append_images": "more"}),
    "PNG": ("RGBA", {"exif": "exif"}),
    "GIF": ("P", {"save_all": True, "append_images": "more"}),
    "BMP": ("RGB", {}),
    "TIFF": ("RGB", {"compression": "tiff_lzw", "exif": "exif"}),
    "WEBP": ("RGBA", {"exif": "exif"}),
    "AVIF": ("RGB", {"exif": "exif"}),
    "DDS": ("RGBA", {"pixel_format": "DXT5"}),
    "ICO": ("RGBA", {"sizes": [(16, 16)]}),
    "JPEG2000": ("RGB", {}),
    "PPM": ("RGB", {}),
    "TGA": ("RGBA", {"compression": "tga_rle"}),
    "PCX": ("L", {}),
    "SGI": ("RGB", {}),
}


def exif(orientation: Any = 1) -> Image.Exif:
    found = Image.Exif()
    found[ORIENTATION] = orientation
    found[0x010F] = "A camera"
    return found


def noise(size: tuple[int, int] = (16, 16), mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def encoded(name: str) -> bytes:
    mode, options = FORMATS[name]
    given = {"exif": exif(6), "more": [noise(mode=mode).rotate(90)]}
    options = {key: given.get(str(value), value) for key, value in options.items()}
    file = io.BytesIO()
    noise(mode=mode).save(file, name, **options)
    return file.getvalue()


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Change a few bytes, most of them in the header; cut, or repeat a part."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        place = int(len(changed) * chance.random() ** 3)
        changed[place] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    if chance.random() < 0.2:
        del changed[chance.randrange(len(changed)) :]
    if chance.random() < 0.1:
        changed += changed[chance.randrange(len(changed) or 1) :]
    return bytes(changed)


@pytest.fixture
def loud(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Show all warnings on the screen, where none may be."""
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_, **__: print(f"warning {message}")
        yield
    out, err = capfd.readouterr()
    err = re.sub(r"(?m)^(tempfile\.tif|\w+): .*\n", "", err)  # of libtiff, which takes no file
    assert (out, err) == ("", "")


@pytest.mark.usefixtures("loud")
@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_an_image_or_a_broken_one(name: str, tmp_path: Path) -> None:
    content, chance, path = encoded(name), random.Random(name), tmp_path / "x"
    decoder, kinds = Decoder("RGB", (4, 4), "crop"), set()
    path.write_bytes(content)
    assert decoder(path).shape == (3, 4, 4)
    for _ in range(200):
        path.write_bytes(mutated(content, chance))
        try:
            assert decoder(path).shape == (3, 4, 4)
            kinds.add("image")
        except UserError as error:
            assert str(error).startswith(f"{path}: broken image: ")
            assert "\n" not in str(error) and len(error.reason) > 3  # type: ignore[attr-defined]
            kinds.add("broken")
    assert "broken" in kinds


@pytest.mark.parametrize(
    "error",
    [
        *(AttributeError("x"), NotImplementedError(), RuntimeError("a\nb"), struct.error("unpack")),
        *(MemoryError(), OverflowError("x"), KeyError(3), IndexError("x"), ZeroDivisionError("x")),
        *(AssertionError(), RecursionError("x"), TypeError("x"), EOFError(), UnicodeError("x")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_pillow_raises_names_the_file(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    noise().save("a.png")
    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(BrokenImageError, match=r"^a.png: broken image: [^\n]+$"):
        open_image("a.png", "L")


def test_an_error_of_the_machine_is_not_one_of_the_file() -> None:
    for number, lasting in ((5, False), (24, False), (116, False), (2, True), (13, True)):
        assert broken_image("a", OSError(number, os.strerror(number))).lasting == lasting
    assert broken_image("a", OSError("image file is truncated")).lasting


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_that_of_pillow(name: str, orientation: int) -> None:
    image = noise((8, 4))
    image.save("a", name, exif=exif(orientation))
    with Image.open("a") as file:
        expected = ImageOps.exif_transpose(file)
    assert expected is not None
    assert open_image("a").tobytes() == expected.convert("RGB").tobytes()
    assert open_image("a").size == ((8, 4) if orientation < 5 else (4, 8))


def test_orientation_in_xmp_counts() -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    for name in ("JPEG", "PNG", "WEBP"):
        options: dict[str, Any] = {"xmp": xmp}
        if name == "PNG":
            from PIL.PngImagePlugin import PngInfo

            options = {"pnginfo": PngInfo()}
            options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
        noise((8, 4)).save("a", name, **options)
        assert open_image("a").size == (4, 8), name


@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_is_that_of_the_decoded_image(orientation: int, tmp_path: Path) -> None:
    noise((16, 9)).save(tmp_path / "a.jpg", exif=exif(orientation))
    assert size_of(tmp_path / "a.jpg") == open_image(tmp_path / "a.jpg").size


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(("size", "box"), [((20, 10), (0, 4, 16, 12)), ((1, 90), (7, 0, 8, 16))])
def test_pad_shows_all_of_an_image(
    mode: Any, size: tuple[int, int], box: tuple[int, int, int, int], tmp_path: Path
) -> None:
    Image.new(mode, size).save(tmp_path / "a.png")
    padded = Decoder(mode, (16, 16), "pad")(tmp_path / "a.png")
    left, top, right, bottom = box
    expected = np.full_like(padded, 255)
    expected[:, top:bottom, left:right] = 0
    np.testing.assert_array_equal(padded, expected)


def odd(tag: int, kind: int, count: int, value: bytes, orientation: int = 6) -> bytes:
    """EXIF with an orientation, and another value that nothing can write again."""
    entries = [
        struct.pack("<HHI4s", ORIENTATION, 3, 1, struct.pack("<HH", orientation, 0)),
        struct.pack("<HHI4s", tag, kind, count, value),
    ]
    body = struct.pack("<H", len(entries)) + b"".join(entries[:: 1 if tag > ORIENTATION else -1])
    return b"Exif\0\0II*\0\x08\0\0\0" + body + bytes(4)


@pytest.mark.usefixtures("loud")
@pytest.mark.parametrize(
    ("raw", "size"),
    [
        (odd(0x0100, 1, 1, b"\0\0\0\0"), (4, 8)),  # struct.error in exif_transpose
        (odd(0x0106, 3, 2, b"\0\0\0\0"), (4, 8)),  # KeyError
        (odd(0x010D, 5, 1, b"\0\0\0\0"), (4, 8)),  # AttributeError
        (odd(0x011A, 1, 1, b"\0\0\0\0"), (4, 8)),  # TypeError
        (odd(0x0201, 4, 9, b"\xff\xff\xff\xff"), (4, 8)),
        (odd(0x011A, 5, 1, b"\0\0\0\1"), (4, 8)),
        (odd(0x9286, 7, 4, b"\xff\xfe\0\0"), (4, 8)),
        (odd(0x0213, 99, 1, b"abcd"), (4, 8)),
        (odd(0x010F, 2, 4, b"\xff\xfe\0\0", orientation=99), (8, 4)),
        (b"Exif\0\0II*\0\x08\0\0\0", (8, 4)),
        (b"Exif\0\0XX", (8, 4)),
        (b"Exif\0\0", (8, 4)),
        (b"Exif\0\0II*\0\xff\xff\xff\xff", (8, 4)),
    ],
)
def test_odd_exif_is_no_reason_to_refuse_a_photo(raw: bytes, size: tuple[int, int]) -> None:
    for name in ("JPEG", "PNG", "WEBP"):
        noise((8, 4)).save("a", name, exif=raw)
        assert open_image("a").size == size, name


@pytest.mark.usefixtures("loud")
def test_no_value_in_exif_matters() -> None:
    tags = (*range(0x0100, 0x0112), 0x011A, 0x0132, 0x0201, 0x8769, 0x8825, 0xA005, 0xC4A5)
    for tag, kind in itertools.product(tags, range(1, 14)):
        value = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"abcd")[(tag + kind) % 3]
        noise((8, 4)).save("a.jpg", exif=odd(tag, kind, 1 + (tag + kind) % 2, value))
        assert open_image("a.jpg").size in ((4, 8), (8, 4)), (tag, kind)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 127, 255]),
        ([0.0, 0.5, 1.0001], [0, 127, 255]),
        ([-0.2, 0.5, 1.7], [0, 127, 255]),
        ([0.0, 0.5, np.nan], [0, 127, 0]),
        ([-np.inf, 0.5, np.inf], [0, 127, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([-9.0, 100.0, 3e38], [0, 100, 255]),
        ([np.nan, np.inf, np.nan], [0, 255, 0]),
        ([0.0, 0.0, 0.0], [0, 0, 0]),
    ],
)
def test_floats(values: list[float], expected: list[int]) -> None:
    Image.fromarray(np.array([values], np.float32)).save("a.tif")
    assert list(open_image("a.tif", "L").tobytes()) == expected


def test_warnings_of_threads_are_unseen(capfd: pytest.CaptureFixture[str]) -> None:
    """Also where filters are set while they decode."""
    image = Image.new("P", (4, 4))
    image.info["transparency"] = b"\0\1"
    noise((8, 4)).save("a.jpg", exif=odd(0x0201, 4, 9, b"\xff\xff\xff\xff"))
    seen: list[Any] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *args, **_: seen.append(args)
        threads = [
            threading.Thread(target=lambda: [open_image("a.jpg") for _ in range(20)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        warnings.warn("ours", stacklevel=1)
    assert [str(args[0]) for args in seen] == ["ours"]


def gradient(size: tuple[int, int], mode: str) -> Image.Image:
    """Smooth, so that it is the same however it is reduced; in RGBA with a transparent part."""
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 200, width), np.linspace(0, 255, height))
    channels = [x, y, (x + y) / 2, 255 - x / 2]
    image = Image.fromarray(np.stack(channels, -1).astype(np.uint8), "RGBA")
    if mode == "F":
        return Image.fromarray((y / 255).astype(np.float32))
    return image if mode == "RGBA" else image.convert(mode)


@pytest.mark.parametrize("size", [(403, 251), (400, 250), (90, 1000), (1000, 90)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "LA", "I;16", "F", "CMYK", "1"])
def test_large_images_are_reduced_in_bands(
    mode: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    gradient(size, mode).save("a.tif")
    for read_as in ("RGB", "L"):
        decoder = Decoder(read_as, (8, 8), "crop")  # type: ignore[arg-type]
        monkeypatch.setattr(decode, "LARGE", 10**9)
        monkeypatch.setattr(decode, "BAND", 10**9)
        expected, whole = decoder(Path("a.tif")).astype(int), open_image("a.tif", read_as)  # type: ignore[arg-type]
        monkeypatch.setattr(decode, "LARGE", 100)
        monkeypatch.setattr(decode, "BAND", 3000)
        assert open_image("a.tif", read_as).tobytes() == whole.tobytes()  # type: ignore[arg-type]
        assert min(open_image("a.tif", read_as, at_least=16).size) in range(16, 32)  # type: ignore[arg-type]
        allowed = 8 if mode in "P1" else 2  # of a few colours, which make sharp edges
        assert abs(decoder(Path("a.tif")).astype(int) - expected).max() <= allowed


def test_an_image_that_is_too_large_is_a_bad_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    noise((10, 10)).save("right.png")
    noise((10, 11)).save("wrong.png")
    open_image("right.png")
    monkeypatch.setattr(decode, "MOST_BYTES", 1500)
    noise((10, 10)).save("wrong.webp")
    with pytest.raises(BrokenImageError, match="100 pixels take 0.0 GB to decode, and the limit"):
        open_image("wrong.webp")
    with pytest.raises(BrokenImageError, match=r"wrong.png.*110 pixels.* limit of 100 pixels"):
        open_image("wrong.png")


def test_a_header_that_promises_too_much_takes_no_memory(tmp_path: Path) -> None:
    content = bytearray(encoded("BMP"))
    content[18:26] = struct.pack("<ii", 200_000, 200_000)
    Path("a.bmp").write_bytes(content)
    start = time.monotonic()
    with pytest.raises(BrokenImageError):
        open_image("a.bmp")
    assert time.monotonic() - start < 1


def test_postscript_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    noise().save("a.eps")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_: pytest.fail("it was run"))
    Path("a.eps").rename("a.png")
    with pytest.raises(BrokenImageError, match="a.png: broken image: PostScript is a program"):
        open_image("a.png")


def run_all(jobs: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def test_threads_share_memory() -> None:
    memory, lock, now, most, alone = Memory(10), threading.Lock(), 0, 0, []

    def hold(size: int) -> None:
        nonlocal now, most
        with memory.hold(size):
            with lock:
                now += size
                most = max(most, now)
                if size > 10:
                    alone.append(now == size)
            time.sleep(0.002)
            with lock:
                now -= size

    sizes = [3, 4, 30, 1, 6, 10, 2, 2, 25, 5] * 3
    run_all([lambda size=size: hold(size) for size in sizes])  # type: ignore[misc]
    assert alone == [True] * 6 and most == 30 and memory._used == 0
    with pytest.raises(KeyError), memory.hold(5):
        raise KeyError
    assert memory._used == 0


def test_memory_that_an_image_takes_is_known_from_its_header(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held: dict[str, int] = {}

    def hold(num_bytes: int) -> Any:
        held[name] = num_bytes
        return threading.Lock()

    monkeypatch.setattr(decode._memory, "hold", hold)
    monkeypatch.setattr(decode, "BAND", 0)
    for name, mode, options in (
        ("grey.png", "L", {}),
        ("rgb.png", "RGB", {}),
        ("a.webp", "RGB", {}),
        ("a.jpg", "RGB", {}),
        ("progressive.jpg", "RGB", {"progressive": True}),
    ):
        noise((160, 160), mode).save(name, **options)
        open_image(name, at_least=20)
    each = {name: size / 160**2 for name, size in held.items()}
    assert each == {
        **{"grey.png": 1, "rgb.png": 4, "a.webp": 16, "a.jpg": 4 / 64},
        "progressive.jpg": 6 + 4 / 64,
    }
