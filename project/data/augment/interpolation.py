"""Pixels between pixels: parts of images at another size, and images under an affine map."""

import torch
from torch import Tensor
from torch.nn import functional


def sampled(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a part of each image at another size, by bilinear interpolation.

    Where the whole image has 1.5 times the pixels or more in each direction, several points are
    taken for each pixel, and their mean; one would leave pixels out.

    Args:
        images: ``[B, C, H, W]``.
        boxes: Left, top, width and height as fractions of the image's, ``[B, 4]``.
        size: Height and width of the result.

    Returns:
        float32 ``[B, C, *size]``.
    """
    left, top, width, height = boxes.unbind(dim=1)
    points = max(1, *(round(whole / part) for whole, part in zip(images.shape[2:], size)))
    zero = torch.zeros_like(left)
    rows = [width, zero, 2 * left + width - 1, zero, height, 2 * top + height - 1]
    shape = [*images.shape[:2], points * size[0], points * size[1]]
    found = _at(images, torch.stack(rows, dim=1).view(-1, 2, 3), shape, "border")
    return functional.avg_pool2d(found, points) if points > 1 else found


def middle(aspects: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the largest boxes of the aspect ratio of a size, in the centre of each picture.

    Args:
        aspects: Width over height of each picture, ``[B]``.
        size: Height and width.

    Returns:
        As :func:`sampled` takes them, ``[B, 4]``.
    """
    ratio = size[1] / size[0]
    width, height = (ratio / aspects).clamp(max=1), (aspects / ratio).clamp(max=1)
    return torch.stack([(1 - width) / 2, (1 - height) / 2, width, height], dim=1)


def warped(images: Tensor, maps: Tensor, fill: float = 0) -> Tensor:
    """Return images under affine maps, by bilinear interpolation.

    Args:
        images: ``[B, C, H, W]``.
        maps: ``[B, 2, 3]``; they map a pixel of the result to where it comes from, both in pixels
            from the centre of the image, x first.
        fill: Value of pixels that come from outside.

    Returns:
        float32 ``[B, C, H, W]``.
    """
    height, width = images.shape[2:]
    (a, b, x), (c, d, y) = (row.unbind(dim=1) for row in maps.unbind(dim=1))
    stretch = height / width  # affine_grid counts in half sides
    rows = [a, b * stretch, 2 * x / width, c / stretch, d, 2 * y / height]
    theta = torch.stack(rows, dim=1).view(-1, 2, 3)
    if not fill:
        return _at(images, theta, list(images.shape), "zeros")
    return _at(images.float() - fill, theta, list(images.shape), "zeros") + fill


def _at(images: Tensor, theta: Tensor, shape: list[int], beyond: str) -> Tensor:
    grid = functional.affine_grid(theta, shape, align_corners=False).float()
    return functional.grid_sample(images.float(), grid, padding_mode=beyond, align_corners=False)
