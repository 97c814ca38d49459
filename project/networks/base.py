"""The base of all networks: a backbone, a head, and an ordered list of layer groups."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from project.errors import UserError


@dataclass(frozen=True)
class InputSpec:
    """The images that a pretrained backbone expects.

    Args:
        channels: 1 for grey, 3 for RGB.
        size: Height and width in pixels.
        mean: Mean of each channel, for pixel values in [0, 1].
        std: Standard deviation of each channel, for pixel values in [0, 1].
    """

    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Network(nn.Module):
    """A backbone that turns images into features, and a head that turns features into logits.

    A subclass takes the shape of one image ``(C, H, W)`` and the number of logits as its first two
    arguments, then its own, and passes the two halves to this constructor.

    Args:
        backbone: Maps images ``[B, C, H, W]`` to features.
        head: Maps the features to logits ``[B, K]``.

    Raises:
        UserError: If it is built without them, as a config would.

    Attributes:
        name: What reports and messages call the network.
        input_spec: The images that pretrained weights expect; None for any.
    """

    input_spec: ClassVar["InputSpec | None"] = None

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        if not isinstance(backbone, nn.Module):  # a config gives a shape and a number
            raise UserError(
                f"{type(self).__name__} has no architecture of its own; give a class that has, "
                "such as MLP, CNN or Airbench",
                "model.network",
            )
        self.backbone = backbone
        self.head = head
        self.name = type(self).__name__

    @classmethod
    def expected_input(cls, **options: Any) -> "InputSpec | None":
        """Return the images that pretrained weights expect; None for any.

        Args:
            options: The arguments of the class that a config gives.
        """
        return cls.input_spec

    def adapt(self, images: Tensor) -> Tensor:
        """Return images ``[B, C, H, W]`` as the backbone takes them."""
        return images

    def features(self, images: Tensor) -> Tensor:
        """Return the features of images ``[B, C, H, W]``: the input of the head."""
        features: Tensor = self.backbone(self.adapt(images))
        return features

    def forward(self, inputs: Tensor, depth: int = 0) -> Tensor:
        """Return the logits ``[B, K]``.

        Args:
            inputs: Images ``[B, C, H, W]``, or the result of :meth:`prefix`.
            depth: Number of stages that ``inputs`` have passed through.
        """
        if depth == 0:
            inputs = self.features(inputs)
        else:
            for stage in self.stages()[depth:]:
                inputs = stage(inputs)
        logits: Tensor = self.head(inputs)
        return logits

    def stages(self) -> list[nn.Module]:
        """Return the modules between which the backbone can be cut, from input to output.

        They are the children of the backbone and of any ``nn.Sequential`` in it. One after the
        other, they need not compute what the backbone does, whose forward method may do anything:
        the caller has to check that. Override this if that method itself draws random numbers.
        """
        return _in_sequence(self.backbone) or [self.backbone]

    def frozen_depth(self) -> int:
        """Return the number of stages before the first that trains, or is in training mode."""
        stages = self.stages()
        if not any(parameter.requires_grad for parameter in self.backbone.parameters()):
            return len(stages)
        trained = [
            any(parameter.requires_grad for parameter in stage.parameters())
            or any(module.training for module in stage.modules())
            for stage in stages
        ]
        return trained.index(True) if any(trained) else 0

    def prefix(self, images: Tensor, depth: int) -> Tensor:
        """Return the output of the first ``depth`` stages for images ``[B, C, H, W]``."""
        stages = self.stages()
        if depth == len(stages):
            return self.features(images)
        images = self.adapt(images)
        for stage in stages[:depth]:
            images = stage(images)
        return images

    def num_features(self, image_shape: tuple[int, int, int]) -> int:
        """Return the number of features of one image of this shape.

        Raises:
            UserError: If the backbone can't take such images.
        """
        training = self.backbone.training
        try:
            with torch.no_grad():
                self.backbone.eval()
                return self.features(torch.zeros(1, *image_shape)).numel()
        except (AssertionError, RuntimeError) as error:
            size = "×".join(str(length) for length in image_shape)
            raise UserError(f"{self.name} can't take images of {size}: {error}") from error
        finally:
            self.backbone.train(training)

    def layer_groups(self) -> dict[str, list[str]]:
        """Return the layer groups from input to output: group name to names of its submodules.

        Each parameter belongs to exactly one group; the last group is ``head``. Modules are given
        by name (as in ``get_submodule``) because wrappers may replace the objects. Parameters that
        are in no submodule, such as class tokens, belong to the first group, by their own names.
        """
        groups = {
            name: [f"backbone.{name}"]
            for name, child in self.backbone.named_children()
            if any(True for _ in child.parameters())
        }
        tokens = [f"backbone.{name}" for name, _ in self.backbone.named_parameters(recurse=False)]
        if groups and tokens:
            groups[next(iter(groups))] += tokens
        return groups | {"head": ["head"]}


def _in_sequence(module: nn.Module) -> list[nn.Module]:
    stages: list[nn.Module] = []
    for child in module.children():
        plain = isinstance(child, nn.Sequential) and type(child).forward is nn.Sequential.forward
        stages += _in_sequence(child) if plain else [child]
    return stages


def dense_head(
    num_features: int, num_logits: int, hidden: Sequence[int] = (), dropout: float = 0.0
) -> nn.Sequential:
    """Return a head: flatten, dense ReLU layers of the sizes in ``hidden``, then the logits.

    Args:
        num_features: Number of values of one flattened feature.
        num_logits: Number of outputs.
        hidden: Sizes of the hidden layers, from the features on.
        dropout: Fraction of each layer's inputs that is dropped in training.

    Raises:
        UserError: If ``dropout`` is no fraction.
    """
    check_dropout(dropout)
    layers: list[nn.Module] = [nn.Flatten()]
    for size in hidden:
        layers += [nn.Dropout(dropout)] if dropout else []
        layers += [nn.Linear(num_features, size), nn.ReLU()]
        num_features = size
    layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, nn.Linear(num_features, num_logits))


@contextmanager
def one_image_explained() -> Iterator[None]:
    """Explain torch's error where batch norm trains on one image with feature maps of 1×1.

    Raises:
        UserError: In place of torch's ValueError.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "batch norm can't be trained on one image whose feature maps are 1×1; each process "
            "needs batches of at least two training images, or a larger image_size",
            "data.batch_size",
        ) from error


def check_dropout(dropout: float) -> None:
    """Check that a dropout is a fraction; torch lets a NaN pass until it trains.

    Raises:
        UserError: If it isn't.
    """
    if not 0 <= dropout <= 1:
        raise UserError(f"dropout probability has to be between 0 and 1, not {dropout}", "dropout")
