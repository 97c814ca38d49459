"""Which parts of an image speak for the predicted class: Grad-CAM (Selvaraju et al., 2017)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from project.approaches import ImageClassifier


def class_activation_maps(
    model: ImageClassifier, images: Tensor, predictions: Tensor
) -> Tensor | None:
    """Return Grad-CAM of the last convolution that still has several places in an image.

    The channels of its output, each weighted by the mean gradient of the predicted class's logit,
    are summed; what speaks against the class is 0, and the largest value of an image is 1. Neither
    gradients of parameters, nor buffers, nor the random state change: the model must be in
    evaluation mode, as a test leaves it.

    Args:
        model: The model.
        images: Normalised, ``[B, C, H, W]``, on the model's device.
        predictions: int64 ``[B]``.

    Returns:
        ``[B, 1, H, W]`` in [0, 1]; None if the network has no such convolution.
    """
    outputs: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            outputs[:] = [output]

    convolutions = [module for module in model.network.modules() if isinstance(module, nn.Conv2d)]
    handles = [module.register_forward_hook(keep) for module in convolutions]
    try:
        with torch.inference_mode(False), torch.enable_grad():
            inputs = images.clone().requires_grad_()  # so that frozen layers have gradients, too
            logits = model.class_logits(model.network.forward(inputs))  # not the compiled network
            if not outputs:
                return None
            scores = logits.gather(1, predictions[:, None].clone())
            if model.one_logit:  # class 0 has no logit of its own: it is what class 1 is not
                scores = scores - logits.sum(1, keepdim=True) / 2
            (gradients,) = torch.autograd.grad(scores.sum(), outputs[0])
            weights = gradients.mean(dim=(2, 3), keepdim=True)
            maps = (weights * outputs[0]).sum(1, keepdim=True).relu().detach().float()
    finally:
        for handle in handles:
            handle.remove()
    maps = functional.interpolate(maps, images.shape[2:], mode="bilinear", align_corners=False)
    return maps / maps.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)


def overlaid(images: Tensor, maps: Tensor) -> Tensor:
    """Return RGB images ``[B, 3, H, W]``, red where a map is high and dark where it is 0.

    Args:
        images: ``[B, 1 or 3, H, W]`` with values in [0, 1].
        maps: ``[B, 1, H, W]`` in [0, 1].
    """
    grey = images.mean(1, keepdim=True).expand(-1, 3, -1, -1) * 0.6
    red = torch.tensor([1.0, 0.15, 0.0]).view(-1, 1, 1)
    return (grey * (1 - 0.6 * maps) + 0.6 * maps * red).clamp(0, 1)
