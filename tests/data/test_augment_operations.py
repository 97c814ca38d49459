"""Each operation does what torchvision's does with the same numbers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from project.data.augment import colour, filters, geometry, interpolation
from project.data.augment.policies import NAMES, RandAugment, TrivialAugment
from tests.data.pictures import pictures

Function = Callable[..., Tensor]
ROUNDING = 2  # of 255; torchvision cuts to whole numbers, of the result and of what is blended in
BILINEAR = InterpolationMode.BILINEAR


def each(number: float) -> Tensor:
    return torch.full((4,), float(number))


def check(found: Tensor, expected: Tensor, most: float = ROUNDING) -> None:
    difference = (found - expected.float()).abs()
    assert difference.max() <= most, difference.max()


COLOURS: dict[str, tuple[Function, Function, tuple[float, ...]]] = {
    "brightness": (colour.brighter, functional.adjust_brightness, (0, 0.01, 0.6, 1, 1.99)),
    "contrast": (colour.contrasted, functional.adjust_contrast, (0, 0.01, 0.6, 1, 1.99)),
    "saturation": (colour.saturated, functional.adjust_saturation, (0, 0.01, 0.6, 1, 1.99)),
    "hue": (colour.turned, functional.adjust_hue, (-0.5, -0.3, 0, 0.1, 0.5)),
    "posterize": (colour.posterized, functional.posterize, (2, 4, 8)),
    "solarize": (colour.solarized, functional.solarize, (0, 127.5, 255)),
    "sharpness": (filters.sharpened, functional.adjust_sharpness, (0, 0.01, 0.6, 1, 1.99)),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", COLOURS)
def test_colours_are_those_of_torchvision(name: str, channels: int) -> None:
    own, theirs, numbers = COLOURS[name]
    images = pictures(4)[:, :channels]
    for number in numbers:
        expected = theirs(images, number)  # type: ignore[arg-type]
        check(own(images.float(), each(number)), expected)


@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
def test_histograms_are_those_of_torchvision(name: str) -> None:
    own = {"autocontrast": colour.autocontrasted, "equalize": colour.equalized}[name]
    images = pictures(4)
    images[1, 0] = 7  # one value
    images[2, 1] = images[2, 1] // 128 * 90 + 20  # two values
    expected = torch.stack([getattr(functional, name)(image) for image in images])
    check(own(images.float()), expected, ROUNDING if name == "autocontrast" else 0)


def test_blur_is_that_of_torchvision() -> None:
    images = pictures(4).float()
    for sigma in (0.1, 0.7, 2.0):
        expected = functional.gaussian_blur(images, [13, 13], [sigma, sigma])
        check(filters.blurred(images, each(sigma), 6), expected, 0.01)


@pytest.mark.parametrize(
    ("degrees", "x", "y", "scale", "shear"),
    [(0, 0, 0, 1, 0), (30, 0, 0, 1, 0), (-75, 3, -5, 0.7, 20), (10, 8, 0, 1.5, -40)],
)
def test_affine_maps_are_those_of_torchvision(
    degrees: float, x: int, y: int, scale: float, shear: float
) -> None:
    images = pictures(4, (40, 56)).float()
    maps = geometry.affine(*(each(number) for number in (degrees, x, y, scale, shear)))
    expected = functional.affine(images, degrees, [x, y], scale, [shear, 0], interpolation=BILINEAR)
    check(interpolation.warped(images, maps), expected, 0.1)
    black = interpolation.warped(255 - images, maps, 255)  # the negative of both
    check(255 - black, expected, 0.1)


def test_rotation_is_that_of_torchvision() -> None:
    images = pictures(4, (40, 56)).float()
    found = interpolation.warped(images, geometry.rotations(each(25)))
    check(found, functional.rotate(images, 25, interpolation=BILINEAR), 0.1)


@pytest.mark.parametrize("box", [(0, 0, 40, 44), (10, 5, 10, 20), (0, 14, 20, 30)])
def test_crop_is_that_of_torchvision(box: tuple[int, int, int, int]) -> None:
    """Beside its border, beyond which torchvision repeats it."""
    top, left, height, width = box
    images = pictures(4, (40, 44))
    boxes = torch.tensor([left / 44, top / 40, width / 44, height / 40]).expand(4, 4)
    found = interpolation.sampled(images, boxes, (32, 32))
    expected = functional.resized_crop(images.float(), *box, size=[32, 32], antialias=False)
    inner = slice(3, -3)
    check(found[..., inner, inner], expected[..., inner, inner], 0.1)
    if box == (0, 0, 40, 44):
        check(found, expected, 0.1)


def test_a_much_larger_image_is_averaged() -> None:
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(4, 4)
    images = pictures(4, (96, 96)).float()
    expected = functional.resize(images, [32, 32], antialias=True)
    check(interpolation.sampled(images, whole, (32, 32)), expected, 5)
    stripes = torch.zeros(4, 1, 96, 96)
    stripes[..., ::3] = 240
    check(
        interpolation.sampled(stripes, whole, (32, 32)), torch.full_like(stripes, 80)[..., :32, :32]
    )


def torchvisions(name: str, image: Tensor, strength: float, wide: bool) -> Tensor:
    """Apply an operation as torchvision's policies do."""
    slope, angle, colours, bits = (0.99, 135.0, 0.99, 6) if wide else (0.3, 30.0, 0.9, 4)
    height, width = image.shape[-2:]
    shift = {"X": 32 if wide else 150 / 331 * width, "Y": 32 if wide else 150 / 331 * height}
    given = {
        **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), colours),
        **{f"Shear{way}": slope for way in "XY"},
        **{f"Translate{way}": far for way, far in shift.items()},
        "Rotate": angle,
    }
    magnitude = given.get(name, 0) * strength
    if name == "Posterize":
        magnitude = 8 - round(bits * strength)
    if name == "Solarize":
        magnitude = 1 - strength
    return v2.RandAugment()._apply_image_or_video_transform(  # type: ignore[no-any-return]
        image, name, magnitude, interpolation=BILINEAR, fill={}
    )


@pytest.mark.parametrize("policy", [TrivialAugment(), RandAugment()], ids=["trivial", "rand"])
@pytest.mark.parametrize("name", NAMES)
def test_policies_do_what_those_of_torchvision_do(
    name: str, policy: TrivialAugment | RandAugment
) -> None:
    images = pictures(4, (64, 64))
    signed = name not in ("Posterize", "Solarize", "AutoContrast", "Equalize", "Identity")
    for strength in (0, 0.25, 1):
        for sign in (1, -1) if signed else (1,):
            kind = torch.full((4,), NAMES.index(name))
            found = policy.apply(images.float(), kind, each(strength), each(sign))
            wide = isinstance(policy, TrivialAugment)
            expected = torchvisions(name, images, strength * sign, wide)

            check(found, expected, 2.5)
