"""Backbones from torchvision and timm, without their classifiers, and what images they expect."""

import inspect
import pickle
import re
import sys
import urllib.error
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from project.errors import UserError
from project.networks.base import InputSpec, Network, dense_head
from project.networks.groups import library_groups
from project.networks.hub import answers, offline_where_unreachable

TIMM, HUB = "timm/", "hf-hub:"  # what the names of timm's architectures begin with
GIVEN = {  # arguments that can't be given
    *("num_classes", "pretrained", "in_chans", "features_only", "checkpoint_path", "weights"),
    *("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "image_size", "img_size"),
}


class LibraryNetwork(Network):
    """An architecture of torchvision or timm with a new head.

    VGG and AlexNet keep their convolutions only; all others keep everything but their last dense
    layer. Grey images are repeated over the three channels.

    Args:
        image_shape: Shape ``(C, H, W)`` of one image; given by the data.
        num_classes: Number of logits; given by the data.
        name: A torchvision name such as ``resnet18``, or ``timm/`` and a timm name.
        weights: ``DEFAULT`` or another name of published weights, a file (safetensors or a state
            dict), or None for random weights.
        hidden: Sizes of the dense layers between backbone and logits.
        dropout: Fraction of the inputs of each dense layer that is dropped in training.
        backbone_args: Arguments of the architecture, as its library names them, such as
            ``{drop_path_rate: 0.1}``.

    Raises:
        UserError: If the name or the weights don't exist or don't fit each other.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        name: str = "resnet18",
        weights: str | None = None,
        hidden: tuple[int, ...] = (),
        dropout: float = 0.0,
        backbone_args: dict[str, Any] | None = None,
    ) -> None:
        build = _timm if is_of_timm(name) else _torchvision
        super().__init__(build(name, weights, image_shape[1:], backbone_args or {}), nn.Identity())
        self.name = name
        self.head = dense_head(self.num_features(image_shape), num_classes, hidden, dropout)

    @classmethod
    def expected_input(cls, **options: Any) -> InputSpec:
        """Return the images that an architecture expects."""
        return input_spec(options["name"], options.get("weights"))

    def adapt(self, images: Tensor) -> Tensor:
        """Return images ``[B, 1 or 3, H, W]`` with three channels."""
        return images.expand(-1, 3, -1, -1)

    def layer_groups(self) -> dict[str, list[str]]:
        """Return the layer groups from input to output, as the library or its paper cuts it."""
        groups = library_groups(self.backbone)
        return {
            name: [f"backbone.{member}" for member in members] for name, members in groups.items()
        } | {"head": ["head"]}


def input_spec(name: str, weights: str | None) -> InputSpec:
    """Return the images that an architecture of torchvision or timm expects.

    The constants are those that are published with the weights; with random weights or a file,
    those of the architecture's default weights.
    """
    if is_of_timm(name):
        _check_timm(name)
        config = _timm_config(name)
        channels, height, width = config.input_size
        return InputSpec(channels, (height, width), tuple(config.mean), tuple(config.std))
    is_file = weights is not None and _is_file(weights)
    published = _published_weights(name, None if is_file else weights)
    preset = published.transforms()
    return InputSpec(3, (preset.crop_size[0],) * 2, tuple(preset.mean), tuple(preset.std))


def is_of_timm(name: str) -> bool:
    """Return whether an architecture is one of timm, or of a hub that timm reads."""
    return name.startswith((TIMM, HUB))


def _torchvision(
    name: str, weights: str | None, size: tuple[int, int], arguments: Mapping[str, Any]
) -> nn.Module:
    from torchvision import models
    from torchvision.models.vision_transformer import interpolate_embeddings

    _check_torchvision(name)
    build = partial(models.get_model, name, weights=None)
    model = _built(name, build, arguments)
    is_transformer = isinstance(model, models.VisionTransformer)
    if is_transformer and size != (model.image_size,) * 2:
        if size[0] != size[1]:
            raise UserError(f"{name} takes square images only, not {size[0]}×{size[1]}", "name")
        model = _built(name, partial(build, image_size=size[0]), arguments)
    if isinstance(model, models.VGG | models.AlexNet):
        classifier = "classifier"
        backbone: nn.Module = nn.Sequential(OrderedDict(features=model.features))
    else:
        classifier = [key for key, part in model.named_modules() if isinstance(part, nn.Linear)][-1]
        model.set_submodule(classifier, nn.Identity())
        backbone = model
    if weights is not None:
        state = _state_dict(name, weights)
        if is_transformer and "encoder.pos_embedding" in state:
            state = interpolate_embeddings(size[0], model.patch_size, OrderedDict(state))
        _load(backbone, state, classifier, f"{name} from {weights}")
    if isinstance(model, models.VGG):
        return _vgg_blocks(model.features)
    return backbone


def _state_dict(name: str, weights: str) -> Mapping[str, Tensor]:
    if _is_file(weights):
        return read_weights(weights)
    published = _published_weights(name, weights)
    folder = Path(torch.hub.get_dir(), "checkpoints")
    try:
        if not (folder / Path(published.url).name).is_file() and not answers(published.url):
            raise OSError("no answer")
        state: Mapping[str, Tensor] = published.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except (urllib.error.URLError, OSError) as error:
        raise UserError(
            f"{weights} of {name} could not be downloaded ({error}); put {published.url} into "
            f"{folder}, or give a file",
            "weights",
        ) from error
    return state


def _timm(
    name: str, weights: str | None, size: tuple[int, int], arguments: Mapping[str, Any]
) -> nn.Module:
    import timm

    _check_timm(name)
    is_file = weights is not None and _is_file(weights)
    published = weights is not None and not is_file
    tag = f".{weights}" if published and weights != "DEFAULT" else ""
    if tag and (name.startswith(HUB) or not timm.is_model_pretrained(_plain(name) + tag)):
        raise UserError(f"timm has no weights {weights} of {name}; try DEFAULT", "weights")
    config = _timm_config(name)
    options: dict[str, Any] = {"num_classes": 0}
    if config.fixed_input_size and size != tuple(config.input_size[1:]):
        options["img_size"] = size  # timm resamples the position embeddings of its weights
    build = partial(timm.create_model, _plain(name) + tag, **options)
    if not published:
        model = _built(name, build, arguments)
    else:
        with offline_where_unreachable():
            model = _built(name, partial(build, pretrained=True), arguments, downloads=True)
    if weights is not None and is_file:
        what = f"{name} from {weights}"
        state = _as_timm_has_it(read_weights(weights), model, what)
        native = "×".join(str(length) for length in config.input_size[1:])
        hint = f"; timm may not resample them, try images of {native}" * ("img_size" in options)
        _load(model, state, config.classifier, what, hint)
    backbone: nn.Module = model
    return backbone


def _as_timm_has_it(
    state: Mapping[str, Tensor], model: nn.Module, what: str
) -> Mapping[str, Tensor]:
    """Return weights as timm loads them: by the names of today, for the size of the images."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        with warnings.catch_warnings():  # of what torch will not do any more
            warnings.simplefilter("ignore")
            converted: Mapping[str, Tensor] = convert(dict(state), model)
    except Exception as error:  # of other weights it raises whatever comes of them
        raise UserError(f"they don't fit {what}: {error or type(error).__name__}", "weights") from (
            error
        )
    return converted


def _built(
    name: str,
    build: Callable[..., nn.Module],
    arguments: Mapping[str, Any],
    downloads: bool = False,
) -> Any:
    """Build an architecture with arguments of a config.

    Args:
        name: The architecture.
        build: Builds it.
        arguments: The arguments.
        downloads: Whether it also downloads weights.

    Raises:
        UserError: If one of them is unknown or wrong, the image size doesn't fit, or the weights
            can't be had.
    """
    if given := sorted(GIVEN & arguments.keys()):
        raise UserError(f"{given[0]} is given by the other options; remove it", "backbone_args")
    try:
        return build(**arguments)
    except Exception as error:  # an architecture may raise anything at what it doesn't expect
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown and unknown[1] not in arguments:
            raise UserError(f"{name} takes no images of another size than its own", "name") from (
                error
            )
        reason = str(error) or type(error).__name__
        if unknown:
            raise UserError(_no_argument(name, unknown[1], error), "backbone_args") from error
        if downloads:
            what = f"those of {name} could not be downloaded ({reason}); give a file"
            raise UserError(what, "weights") from error
        if arguments:
            raise UserError(f"{name}: {reason}", "backbone_args") from error
        raise UserError(f"{name} can't be built: {reason}", "name") from error


def read_weights(path: str) -> Mapping[str, Tensor]:
    """Read a state dict from a ``.safetensors`` file or one that ``torch.save`` wrote.

    Raises:
        UserError: If the file is neither, or holds more than tensors.
    """
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors and pickle raise many kinds
        clear = isinstance(error, OSError | RuntimeError | pickle.UnpicklingError)
        reason = str(error) if clear else "neither safetensors nor torch has written it"
        raise UserError(f"{path} is not a file of weights: {reason}", "weights") from error
    return state.get("state_dict", state) if isinstance(state, dict) else {}


def _load(
    model: nn.Module, state: Mapping[str, Tensor], classifier: Any, what: str, hint: str = ""
) -> None:
    """Load ``state`` without the classifier's keys; list all that is missing, unknown or misfit."""
    prefixes = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    state = {
        # files of torchvision's DenseNet are older than its names
        re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key): value
        for key, value in state.items()
        if not _below(key, prefixes)
    }
    own = model.state_dict()
    for key, value in own.items():  # which batch norm didn't have before torch 0.4.1
        if key.endswith(".num_batches_tracked"):
            state.setdefault(key, value)
    wrong = {
        "missing": [key for key in own if key not in state],
        "unknown": [key for key in state if key not in own],
        "of another shape": [k for k in own if k in state and own[k].shape != state[k].shape],
    }
    if any(wrong.values()):
        listed = "; ".join(
            f"{len(keys)} {kind} ({', '.join(keys[:5])}{', …' if len(keys) > 5 else ''})"
            for kind, keys in wrong.items()
            if keys
        )
        raise UserError(f"they don't fit {what}: {listed}{hint}", "weights")
    model.load_state_dict(state)


def _below(key: str, prefixes: tuple[str, ...]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _vgg_blocks(features: nn.Sequential) -> nn.Sequential:
    """Cut VGG's convolutions after each pooling: ``block1`` to ``block5``, as its paper does."""
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    layers: list[nn.Module] = []
    for layer in features:
        layers.append(layer)
        if isinstance(layer, nn.MaxPool2d):
            blocks[f"block{len(blocks) + 1}"] = nn.Sequential(*layers)
            layers = []
    return nn.Sequential(blocks)


def _published_weights(name: str, weights: str | None) -> Any:
    from torchvision import models

    _check_torchvision(name)
    choices = models.get_model_weights(name)
    if weights is None:
        return choices.DEFAULT
    try:
        return choices[weights]
    except KeyError:
        names = ", ".join(choices.__members__)
        raise UserError(
            f"{weights} is neither a file nor published weights of {name}; known are {names}",
            "weights",
        ) from None


def _is_file(weights: str) -> bool:
    return Path(weights).suffix != "" or Path(weights).is_file()


def _check_torchvision(name: str) -> None:
    from torchvision import models

    without_head = {"googlenet", "inception_v3", "squeezenet1_0", "squeezenet1_1"}
    known = set(models.list_models(module=models)) - without_head
    if name not in known:
        raise _unknown(name, sorted(known), "torchvision")


def _no_argument(name: str, argument: str, error: Exception) -> str:
    """Say that an architecture has no such argument, and which is meant."""
    called = str(error).partition(".")[0]  # as in «ResNet.__init__() got an unexpected …»
    loaded = [module for path, module in sys.modules.items() if ".models." in path]
    found = [getattr(module, called) for module in loaded if hasattr(module, called)]
    known = {key for one in found for key in inspect.signature(one).parameters}
    close = get_close_matches(argument, sorted(known), n=2)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"{name} has no argument {argument}{hint}"


def _check_timm(name: str) -> None:
    try:
        import timm
    except ModuleNotFoundError:
        raise UserError(f"{name} needs timm: pip install timm", "name") from None
    if name.startswith(HUB):
        _timm_config(name)
    elif not timm.is_model(name.removeprefix(TIMM)):
        raise _unknown(name, [TIMM + known for known in timm.list_models()], "timm")


def _plain(name: str) -> str:
    return name.removeprefix(TIMM)


@cache
def _timm_config(name: str) -> Any:
    import timm
    from timm.models import PretrainedCfg, load_model_config_from_hf

    if not name.startswith(HUB):
        return timm.get_pretrained_cfg(_plain(name))
    try:
        with offline_where_unreachable():
            config, architecture, _ = load_model_config_from_hf(name.removeprefix(HUB))
    except Exception as error:  # of the hub or of the file
        raise UserError(f"{name} could not be read: {error}", "name") from error
    if not timm.is_model(architecture):
        raise UserError(f"{name} is of {architecture}, which timm doesn't have", "name")
    return PretrainedCfg(**config)


def _unknown(name: str, known: list[str], library: str) -> UserError:
    close = get_close_matches(name, known, n=3)
    some = ", ".join(known[:8])
    hint = f"did you mean {' or '.join(close)}?" if close else f"known are {some}, …"
    return UserError(f"no {name!r} in {library}; {hint}", "name")
