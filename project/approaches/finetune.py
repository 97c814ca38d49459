"""Fine-tuning: a pretrained model adapted to a small data set of your own."""

import importlib
from functools import partial
from pathlib import Path
from typing import Any

from project.approaches.base import ImageClassifier, NetworkFactory
from project.checkpoints import TRUSTED_PACKAGES, find_checkpoint, load_checkpoint
from project.errors import UserError
from project.networks import InputSpec, LibraryNetwork, Network, dense_head, input_spec
from project.networks.backbone import num_features


class FineTuning(ImageClassifier):
    """A pretrained backbone, frozen, and a new head that is trained.

    Frozen means that the backbone gets no gradients and that its norm and dropout layers stay in
    evaluation mode.

    Args:
        backbone: A torchvision name such as ``vgg16``, ``timm/`` and a timm name, or the run
            directory or checkpoint of a ``FullTraining``.
        weights: ``DEFAULT`` or another name of published weights, a file (safetensors or a state
            dict), or null for random weights. Null also where ``backbone`` is a checkpoint, which
            brings its own.
        hidden: Sizes of the dense layers between backbone and logits.
        dropout: Share of the inputs of each dense layer that is dropped in training.
        num_classes: Number of classes; given by the data.
        image_shape: Shape ``(C, H, W)`` of one image; given by the data.
        kwargs: Options of every approach.

    Raises:
        UserError: If backbone and weights don't exist or don't fit.
    """

    def __init__(
        self,
        num_classes: int,
        image_shape: tuple[int, int, int],
        backbone: str = "vgg16",
        weights: str | None = None,
        hidden: tuple[int, ...] = (),
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, image_shape=image_shape, **kwargs)
        if _is_checkpoint(backbone):
            if weights is not None:
                raise UserError(
                    f"model.weights: {backbone} brings its own weights; leave weights null"
                )
            pretrained = _load_network(backbone).backbone
            features = num_features(pretrained, image_shape, backbone)
            self.network = Network(
                pretrained, dense_head(features, self.num_logits, hidden, dropout)
            )
        else:
            self.network = LibraryNetwork(
                image_shape, self.num_logits, backbone, weights, hidden, dropout
            )
        self.network.backbone.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "FineTuning":
        """Set the mode of the head; the frozen backbone always evaluates."""
        super().train(mode)
        self.network.backbone.eval()
        return self

    def layer_groups(self) -> dict[str, list[str]]:
        """Return the layer groups from input to output, by names of submodules of ``network``."""
        return self.network.layer_groups()


def pretrained_input_spec(backbone: str, weights: str | None) -> InputSpec:
    """Return the images that a backbone expects, by the arguments of :class:`FineTuning`.

    Raises:
        UserError: If there is no such backbone.
    """
    if not _is_checkpoint(backbone):
        return input_spec(backbone, weights)
    hparams = _hyper_parameters(backbone)
    channels, height, width = hparams["image_shape"]
    constants = hparams["normalization"]
    return InputSpec(channels, (height, width), tuple(constants["mean"]), tuple(constants["std"]))


def _is_checkpoint(backbone: str) -> bool:
    return backbone.endswith(".ckpt") or Path(backbone).is_dir() or Path(backbone).is_file()


def _hyper_parameters(backbone: str) -> dict[str, Any]:
    path = find_checkpoint(backbone)
    hparams: dict[str, Any] = load_checkpoint(path).get("hyper_parameters", {})
    network = hparams.get("network")
    if not isinstance(network, dict) or "class_path" not in network:
        raise UserError(
            f"model.backbone: {path} doesn't say which network it holds; give a checkpoint that "
            "`fit` wrote with FullTraining or TrainFromScratch"
        )
    return hparams


def _load_network(backbone: str) -> Network:
    """Build the network of a checkpoint, with its weights, from trusted packages alone."""
    path = find_checkpoint(backbone)
    hparams = _hyper_parameters(backbone)
    class_path: str = hparams["network"]["class_path"]
    module, _, name = class_path.rpartition(".")
    if module.split(".")[0] not in TRUSTED_PACKAGES:
        raise UserError(
            f"model.backbone: {path} asks for {class_path}, which is outside of "
            f"{', '.join(TRUSTED_PACKAGES)}; it was not imported"
        )
    network_class = getattr(importlib.import_module(module), name, None)
    if not (isinstance(network_class, type) and issubclass(network_class, Network)):
        raise UserError(f"model.backbone: {path} asks for {class_path}, which is not a Network")
    init_args: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in hparams["network"].get("init_args", {}).items()
        if key != "weights"  # the checkpoint has them
    }
    num_logits = 1 if hparams["one_logit"] else hparams["num_classes"]
    build: NetworkFactory = partial(network_class, **init_args)
    network = build(tuple(hparams["image_shape"]), num_logits)
    prefix = "network."
    state = {
        key.removeprefix(prefix): value
        for key, value in load_checkpoint(path)["state_dict"].items()
        if key.startswith(prefix)
    }
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"model.backbone: {path} doesn't fit {class_path}: {error}") from error
    return network
