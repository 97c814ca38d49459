"""A convolutional network that learns small images in few epochs."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from project.networks.base import Network


class Airbench(Network):
    """A whitening layer and three blocks of two 3×3 convolutions with batch norm, wide and shallow.

    After Jordan, 2024 ("94% on CIFAR-10 in 3.29 seconds", arXiv 2404.00498), where the widths are
    64, 256 and 256. The weights of the first layer are not trained: :meth:`initialize` sets them by
    the training images so that its outputs are not correlated. The other convolutions start as
    the identity on their first channels.

    Args:
        image_shape: Shape ``(C, H, W)`` of one image; given by the data.
        num_classes: Number of logits; given by the data.
        widths: Output channels of each block, which halves height and width.
        whiten: Height and width of the first layer's kernel.

    Raises:
        ValueError: If the image is too small for that many blocks.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        widths: tuple[int, ...] = (32, 128, 128),
        whiten: int = 2,
    ) -> None:
        inputs, height, width = image_shape
        smallest = 2 ** len(widths) + whiten - 1
        if min(height, width) < smallest:
            raise ValueError(
                f"Airbench: images of {height}×{width} are too small for {len(widths)} blocks; "
                f"use fewer widths, or images of {smallest}×{smallest} or more"
            )
        whitening = nn.Conv2d(inputs, 2 * inputs * whiten**2, whiten)
        whitening.weight.requires_grad_(False)
        stages: OrderedDict[str, nn.Module] = OrderedDict()
        stages["whiten"] = nn.Sequential(whitening, nn.SiLU())
        inputs = whitening.out_channels
        for number, outputs in enumerate(widths, start=1):
            stages[f"block{number}"] = _block(inputs, outputs)
            inputs = outputs
        stages["pool"] = nn.AdaptiveMaxPool2d(1)
        head = nn.Sequential(nn.Flatten(), nn.Linear(inputs, num_classes), _Scale(1 / 9))
        super().__init__(nn.Sequential(stages), head)

    @torch.no_grad()
    def initialize(self, images: Tensor) -> None:
        """Set the first layer by training images ``[B, C, H, W]``, before the first step.

        Half of its filters are the eigenvectors of the covariance of all patches, each divided by
        the root of its eigenvalue; the other half are the same with the opposite sign.
        """
        layer = self.backbone.get_submodule("whiten.0")
        assert isinstance(layer, nn.Conv2d) and layer.bias is not None
        patches = functional.unfold(images.float(), layer.kernel_size[0])
        patches = patches.transpose(1, 2).flatten(0, 1)
        values, vectors = torch.linalg.eigh(torch.cov(patches.T, correction=0))
        half = (vectors / (values + 5e-4).sqrt()).T  # or patches of one colour would explode
        filters = torch.cat([half, -half])
        layer.weight.copy_(filters.view_as(layer.weight))
        layer.bias.copy_(-filters @ patches.mean(dim=0))


def _block(inputs: int, outputs: int) -> nn.Sequential:
    first = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
    for convolution in (first, second):
        nn.init.dirac_(convolution.weight[: convolution.in_channels])
    return nn.Sequential(
        first,
        nn.MaxPool2d(2),
        nn.BatchNorm2d(outputs),
        nn.SiLU(),
        second,
        nn.BatchNorm2d(outputs),
        nn.SiLU(),
    )


class _Scale(nn.Module):
    """Scales the logits down: after the maximum over all pixels they would start too large."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, logits: Tensor) -> Tensor:
        return logits * self.factor
