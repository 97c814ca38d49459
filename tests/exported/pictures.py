"""Pictures of all modes, formats, sizes and orientations, as files."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

MODES = (
    *("RGB", "RGBA", "L", "LA", "P", "PA", "1", "CMYK", "YCbCr", "I;16", "I;16B", "I", "F"),
    *("F of 255", "F with NaN"),
)
SUFFIXES = {"CMYK": "jpg", "YCbCr": "jpg", "I;16": "png"}
TIFFS = ("PA", "I;16B", "I", "F", "F of 255", "F with NaN")
ODD = np.array([np.nan, np.inf, -np.inf, -1, 0, 0.3, 0.5, 0.9, 1.2], np.float32)
SIZES = ((40, 30), (30, 41), (224, 224), (300, 17), (5, 90), (640, 480), (97, 64), (1, 1))
ORIENTED = range(10)  # 0 and 9 mean nothing


def picture(mode: str, width: int, height: int) -> Image.Image:
    """Smooth colours, with some noise and transparency."""
    generator = np.random.default_rng(width + height)
    coarse = generator.integers(0, 256, (5, 5, 4), np.uint8)
    image = Image.fromarray(coarse, "RGBA").resize((width, height), Image.Resampling.BICUBIC)
    grey = np.asarray(image.convert("L"))
    greys = {
        "I;16": grey.astype(np.uint16) * 257,
        "I;16B": (grey.astype(np.uint16) * 257).astype(">u2"),
        "I": grey.astype(np.int32) * 100,
        "F": grey.astype(np.float32) / 255,
        "F of 255": grey.astype(np.float32),
        "F with NaN": ODD[grey % len(ODD)],
    }
    if mode in greys:
        return Image.fromarray(greys[mode])
    if mode == "PA":
        return image.convert("P").convert("PA")
    return image.convert(mode)


def files(folder: Path) -> Iterator[Path]:
    """Write them into a new folder, and yield the path of each."""
    folder.mkdir()
    for mode in MODES:
        for place, size in enumerate(SIZES):
            suffix = "tif" if mode in TIFFS else SUFFIXES.get(mode, "png")
            path = folder / f"{mode.replace(';', '').replace(' ', '-')}-{place}.{suffix}"
            picture(mode, *size).save(path)
            yield path
    for suffix in ("jpg", "png", "webp", "tif"):
        for orientation in ORIENTED:
            path = folder / f"turned-{orientation}.{suffix}"
            picture("RGB", 60, 44).save(path, exif=turned(orientation))
            yield path
    for suffix, size in (("png", (2500, 1803)), ("tif", (2400, 1800)), ("jpg", (2501, 1777))):
        path = folder / f"large.{suffix}"
        picture("RGB", *size).save(path, exif=turned(6))
        yield path
    for number, size in enumerate(((3000, 3), (2, 1500), (4096, 1), (1, 2))):
        path = folder / f"long-{number}.{'jpg' if number % 2 else 'png'}"
        picture("RGB", *size).save(path)
        yield path
    yield from of_other_formats(folder)
    for quality, progressive in ((20, False), (95, True), (75, True)):
        for subsampling in (0, 1, 2):
            for mode in ("RGB", "L"):
                path = folder / f"jpeg-{quality}-{subsampling}-{mode}.jpeg"
                options = {"quality": quality, "subsampling": subsampling}
                picture(mode, 97, 131).save(path, progressive=progressive, **options)
                yield path


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def of_other_formats(folder: Path) -> Iterator[Path]:
    """Palettes, transparency and animations in each format that has them."""
    rgb, rgba = picture("RGB", 33, 44), picture("RGBA", 44, 33)
    palette = rgb.quantize(16)
    frames = [picture("RGB", 33, 44), picture("RGB", 44, 33).resize((33, 44))]
    written: dict[str, tuple[Image.Image, dict[str, object]]] = {
        "other.gif": (rgb, {}),
        "other.bmp": (rgb, {}),
        "other.ppm": (rgb, {}),
        "other.webp": (rgb, {}),
        "lossless.webp": (rgba, {"lossless": True}),
        "other.jp2": (rgb, {}),
        "alpha.jp2": (rgba, {}),
        "grey.ppm": (picture("L", 33, 44), {}),
        "deep.ppm": (picture("I;16", 33, 44), {}),
        "bits.bmp": (picture("1", 33, 44), {}),
        "alpha.tif": (rgba, {}),
        "lzw.tif": (rgb, {"compression": "tiff_lzw"}),
        "cmyk.tif": (picture("CMYK", 33, 44), {}),
        "transparent.gif": (palette, {"transparency": 3}),
        "transparent.png": (palette, {"transparency": 3}),
        "half.png": (palette, {"transparency": bytes(range(0, 256, 16))}),
        "keyed.png": (rgb, {"transparency": rgb.getpixel((3, 3))}),
        "keyed-grey.png": (picture("L", 33, 44), {"transparency": 100}),
        "animated.gif": (frames[0], {"save_all": True, "append_images": frames[1:]}),
        "animated.png": (frames[0], {"save_all": True, "append_images": frames[1:]}),
        "animated.webp": (frames[0], {"save_all": True, "append_images": frames[1:]}),
        "other.avif": (rgb, {}),
        "pages.tif": (frames[0], {"save_all": True, "append_images": frames[1:]}),
        "camera.mpo": (frames[0], {"save_all": True, "append_images": frames[1:]}),
    }
    for name, (image, options) in written.items():
        image.save(folder / name, **options)
        yield folder / name
