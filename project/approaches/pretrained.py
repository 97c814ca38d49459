"""Pretrained backbones: what images they expect, and those of a run's checkpoint."""

from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from project.approaches.base import NetworkFactory
from project.checkpoints import find_checkpoint, load_checkpoint
from project.class_paths import init_args_of
from project.console import readable
from project.errors import UserError, under
from project.networks import InputSpec, Network, input_spec
from project.networks.backbone import is_of_timm
from project.trust import class_in

KNOWN = ("class_names", "image_shape", "normalization", "num_classes", "one_logit")


def pretrained_input_spec(backbone: str, weights: str | None) -> InputSpec:
    """Return the images that a backbone expects, by the arguments of :class:`FineTuning`.

    Raises:
        UserError: If there is no such backbone.
    """
    if not is_checkpoint(backbone):
        with under("", name="backbone"):
            return input_spec(backbone, weights)
    hparams = _hyper_parameters(backbone)
    channels, height, width = hparams["image_shape"]
    constants = hparams["normalization"]
    return InputSpec(channels, (height, width), tuple(constants["mean"]), tuple(constants["std"]))


def is_checkpoint(backbone: str) -> bool:
    """Return whether ``backbone`` is a path of a run or checkpoint, not an architecture's name."""
    is_path = "/" in backbone and not is_of_timm(backbone)
    return is_path or backbone.endswith(".ckpt") or Path(backbone).exists()


def _hyper_parameters(backbone: str) -> dict[str, Any]:
    path = find_checkpoint(backbone)
    hparams: dict[str, Any] = load_checkpoint(path).get("hyper_parameters", {})
    network = hparams.get("network")
    if not isinstance(network, dict) or not {*KNOWN, "network"} <= hparams.keys():
        raise UserError(
            f"{path} doesn't say which network it holds; give a checkpoint that `fit` wrote with "
            "FullTraining or TrainFromScratch",
            "backbone",
        )
    return hparams


def load_network(backbone: str) -> Network:
    """Build the network of a checkpoint, with its weights, from trusted packages alone.

    Raises:
        UserError: If it is of another class, or isn't trusted.
    """
    path = find_checkpoint(backbone)
    hparams = _hyper_parameters(backbone)
    class_path: str = hparams["network"]["class_path"]
    with under("", name="backbone"):
        network_class = class_in(path, class_path, Network)
    init_args: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in (hparams["network"].get("init_args") or {}).items()
        if key != "weights"  # the checkpoint has them
    }
    num_logits = 1 if hparams["one_logit"] else hparams["num_classes"]
    build: NetworkFactory = partial(network_class, **init_args)
    try:
        network = build(tuple(hparams["image_shape"]), num_logits)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        reason = readable(" ".join(str(error).split())[:200])
        raise UserError(
            f"{path} holds no network that can be built: {reason}", "backbone"
        ) from error
    prefix = "network."
    state = {
        key.removeprefix(prefix): value
        for key, value in load_checkpoint(path)["state_dict"].items()
        if key.startswith(prefix)
    }
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{path} doesn't fit {class_path}: {error}", "backbone") from error
    return network


def remove_weights(model: Namespace) -> None:
    """Let a model be built with random weights.

    Args:
        model: The arguments of an approach; they are changed.
    """
    network = model.get("network") or Namespace()
    for arguments in (model, init_args_of(network)):
        if "weights" in arguments:
            arguments.weights = None
