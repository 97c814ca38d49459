"""The whole way from pixels to probabilities as one module, which can be exported."""

import torch
from torch import Tensor, nn

from project.approaches import ImageClassifier
from project.decoding.decode import BACKGROUND, Decoder

FIXED_POINT = 2.0**22  # Pillow's weights are multiples of 1 / this


class Resize(nn.Module):
    """Resizes as Pillow does: bilinear, antialiased, and rounded after each of its two passes.

    Each pass is a product with a matrix of the weights of all pixels, because ONNX's own filter
    doesn't round between the passes. The result is that of Pillow, bit for bit, but for sums that
    lie within float32's error of a half. Pillow goes through the rows of some tall pictures before
    their columns; there, a pixel may differ by 1 of 255.

    Args:
        decoder: How the images of the run are read.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.size = decoder.size
        self.resize = decoder.resize

    def forward(self, images: Tensor) -> Tensor:
        """Return images of one size.

        Args:
            images: uint8 ``[B, H, W, C]``.

        Returns:
            float32 ``[B, C, *size]`` with whole values from 0 to 255.
        """
        width, height = self.size
        box = [torch.scalar_tensor(side, dtype=torch.float64) for side in images.shape[1:3]]
        rows, columns = box
        left, top = torch.zeros_like(columns), torch.zeros_like(rows)
        first = (torch.zeros_like(rows), torch.zeros_like(columns))
        seen = (torch.full_like(rows, height), torch.full_like(columns, width))
        if self.resize == "crop":
            scale = torch.minimum(columns / width, rows / height)
            inner_rows = (height * scale).round().clamp(min=1.0)
            inner_columns = (width * scale).round().clamp(min=1.0)
            left, top = ((columns - inner_columns) / 2).floor(), ((rows - inner_rows) / 2).floor()
            columns, rows = inner_columns, inner_rows
        elif self.resize == "pad":
            scale = torch.minimum(width / columns, height / rows)
            seen = (
                (rows * scale).round().clamp(min=1.0),
                (columns * scale).round().clamp(min=1.0),
            )
            first = (((height - seen[0]) / 2).floor(), ((width - seen[1]) / 2).floor())
        down = _weights(images.shape[1], height, top, rows, first[0], seen[0])
        across = _weights(images.shape[2], width, left, columns, first[1], seen[1])
        pixels = images.permute(0, 3, 1, 2).float()
        pixels = (pixels @ across.transpose(0, 1) + 0.5).floor()
        pixels = (down @ pixels + 0.5).floor()
        if self.resize == "pad":
            inside = (down.sum(1, keepdim=True) > 0) & (across.sum(1) > 0)
            pixels = torch.where(inside, pixels, float(BACKGROUND[0]))
        return pixels


def _weights(
    count: int, outputs: int, start: Tensor, extent: Tensor, first: Tensor, seen: Tensor
) -> Tensor:
    """Return how much each of the pixels in a line counts in each output, ``[outputs, count]``.

    Args:
        count: Number of pixels.
        outputs: Number of outputs.
        start: The first pixel of the part that is seen, float64, as all that follow.
        extent: How long it is.
        first: The first output that shows it; those before have no weights.
        seen: Number of outputs that show it.
    """
    places = torch.arange(outputs, dtype=torch.float64).unsqueeze(1) - first
    pixels = torch.arange(count, dtype=torch.float64).unsqueeze(0)
    scale = extent / seen
    support = scale.clamp(min=1.0)
    center = start + (places + 0.5) * scale
    weights = (1.0 - ((pixels + 0.5 - center) / support).abs()).clamp(min=0.0)
    near = (pixels >= (center - support + 0.5).floor()) & (
        pixels < (center + support + 0.5).floor()
    )
    seen_ones = (pixels >= start) & (pixels < start + extent)
    weights = torch.where(near & seen_ones, weights, 0.0)
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-9)
    weights = (weights * FIXED_POINT + 0.5).floor() / FIXED_POINT
    return torch.where((places >= 0) & (places < seen), weights, 0.0).float()


class Pipeline(nn.Module):
    """What an exported file computes: resizes, normalises, and classifies.

    Args:
        model: The model, with its weights.
        decoder: How the images of the run are read.
        normalization: ``mean`` and ``std`` of each channel, for pixel values in [0, 1].
        dtype: What the network computes in.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        model: ImageClassifier,
        decoder: Decoder,
        normalization: dict[str, list[float]],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.resize = Resize(decoder)
        self.network = _Logits(model).to(dtype)
        self.dtype = dtype
        std = torch.tensor(normalization["std"]).view(-1, 1, 1)
        mean = torch.tensor(normalization["mean"]).view(-1, 1, 1)
        self.register_buffer("shift", -mean / std)
        self.register_buffer("scale", 1 / (255 * std))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities and logits, float32 ``[B, K]``.

        Args:
            images: uint8 ``[B, H, W, C]`` of any height and width.
        """
        normalized = self.shift + self.resize(images) * self.scale
        logits = self.network(normalized.to(self.dtype)).float()
        return logits.softmax(dim=1), logits


class _Logits(nn.Module):
    """Logits of all classes, as an evaluation takes them."""

    def __init__(self, model: ImageClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.predicted_logits(images)
