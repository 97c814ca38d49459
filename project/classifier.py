"""A trained classifier for use from Python: pictures in, probabilities and features out."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import IOBase
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import lightning as L
import numpy as np
import torch
from jsonargparse import Namespace
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from project import config_text, trust
from project.approaches import ImageClassifier
from project.approaches.pretrained import remove_weights
from project.checkpoints import find_checkpoint, load_checkpoint
from project.console import class_name, readable, some
from project.data import ImageDataModule
from project.data.file_data import FileDataModule
from project.environment import Threads
from project.errors import UserError
from project.exported.description import Description
from project.exported.running import FILES
from project.networks.backbone import HUB
from project.parsing import build
from project.run_files import CONFIG

WEIGHTS = Path(FILES["safetensors"]).suffix
Picture: TypeAlias = str | Path | Image.Image | NDArray[np.uint8] | Tensor


@dataclass(frozen=True)
class Predictions:
    """What a classifier says of N images.

    Attributes:
        probabilities: float32 ``[N, K]``, on the CPU.
        class_names: Name of each class.
    """

    probabilities: Tensor
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def labels(self) -> Tensor:
        """Most probable class of each image, int64 ``[N]``: a position in ``class_names``."""
        return self.probabilities.argmax(dim=1)

    @property
    def classes(self) -> list[str]:
        """Name of the most probable class of each image."""
        return [self.class_names[label] for label in self.labels.tolist()]


@dataclass(frozen=True)
class Loaded:
    """What is in a run.

    Attributes:
        checkpoint: Path of the checkpoint.
        model: The model, with its weights.
        data: The data; nothing of it is read yet.
        config: The config, as YAML.
    """

    checkpoint: Path
    model: ImageClassifier
    data: ImageDataModule
    config: str

    @property
    def precision(self) -> Any:
        """That of the trainer, as the config has it."""
        return (config_text.load(self.config).get("trainer") or {}).get("precision")


def load_run(run: str | Path, trust_packages: Sequence[str] = ()) -> Loaded:
    """Build what the config of a run names, with the weights of its checkpoint.

    The arguments and the errors are those of :meth:`Classifier.load`.
    """
    if Path(run).suffix == WEIGHTS or Path(run, FILES["safetensors"]).is_file():
        return _from_weights(Path(run), trust_packages)
    path = find_checkpoint(run)
    checkpoint = load_checkpoint(path)
    file = path.parent.parent / CONFIG
    if not file.is_file():
        raise UserError(f"{readable(path)}: no {readable(file)} says how its images are read")
    values = config_text.mapping(file)
    classes = checkpoint.get("hyper_parameters", {}).get("class_names")
    model, data = _built(values, file, classes, trust_packages)
    if classes and [*map(class_name, classes)] != [*map(class_name, model.class_names)]:
        raise UserError(
            f"{readable(path)} knows the classes {some(classes)}, and its data has "
            f"{some(model.class_names)}"
        )
    model.load_state_dict(checkpoint["state_dict"])
    return Loaded(path, model, data, config_text.dump(values))


def _from_weights(path: Path, trust_packages: Sequence[str]) -> Loaded:
    """Return what an export in safetensors holds."""
    from safetensors import SafetensorError, safe_open

    path = path / FILES["safetensors"] if path.is_dir() else path
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{readable(path)} can't be opened: {readable(str(error))}") from error
    about = Description.of(metadata, path)
    values = config_text.load(about.config)
    if not isinstance(values, dict):
        raise UserError(f"{readable(path)} holds no config")
    model, data = _built(values, path, about.class_names, trust_packages)
    model.load_state_dict(state)
    return Loaded(path, model, data, about.config)


def _built(
    values: Mapping[str, Any], file: Path, classes: Any, trust_packages: Sequence[str]
) -> tuple[ImageClassifier, ImageDataModule]:
    if not {"model", "data"} <= values.keys():
        raise UserError(f"{readable(file)} is no config of a run: it lacks model or data")

    def prepare(parsed: Namespace) -> None:
        remove_weights(parsed.model.init_args)  # the checkpoint has them
        if "classes" in parsed.data.init_args:
            parsed.data.init_args.classes = classes
        trust.check_downloads(parsed.model, HUB, "model")

    with trust.command():
        trust.trust_packages(trust_packages)
        trust.distrust(file, values)
        return build(values, prepare)


class Classifier:
    """A trained classifier with the preprocessing that it was trained with.

    ::

        from project import Classifier

        classifier = Classifier.load("runs/finetune_folder/20260101-120000-abcdef")
        found = classifier(["a.jpg", "b.png"])
        found.classes, found.probabilities
        classifier.features("a.jpg")

    Pictures are paths, PIL images, numpy arrays or torch tensors, one of them or a sequence. Arrays
    are uint8 ``[H, W]``, ``[H, W, 1 or 3]`` or a batch ``[N, H, W, 1 or 3]``; tensors are uint8
    ``[1 or 3, H, W]`` or a batch of that. They may have any size: they are resized, converted to
    grey or RGB and normalised as the test images of the run. Its numbers are those of ``predict``.

    Args:
        model: The model, with its weights.
        data: Knows how images are read; no image of it is.
        precision: That of the trainer, as its config has it.

    Attributes:
        class_names: Name of each class.
    """

    def __init__(
        self, model: ImageClassifier, data: ImageDataModule, precision: Any = None
    ) -> None:
        self.model = model
        self.data = data
        self.class_names = model.class_names
        device = model.device
        kind = "gpu" if device.type == "cuda" else device.type
        with _quiet():
            trainer = L.Trainer(
                accelerator=kind,
                devices=[device.index or 0] if kind == "gpu" else 1,
                precision=precision,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
        self._precision: Any = trainer.precision_plugin
        model.setup("predict")
        self._precision.convert_module(model).eval()  # in place

    @classmethod
    def load(
        cls,
        run: str | Path,
        device: str | torch.device | None = None,
        trust_packages: Sequence[str] = (),
    ) -> "Classifier":
        """Return the classifier of a run.

        Args:
            run: Its directory, whose best checkpoint is taken, or a checkpoint in it; or an export
                of it in safetensors.
            device: Where it computes; None takes a GPU if there is one.
            trust_packages: Packages of one's own that the config of the run may name: importing
                them runs their code.

        Raises:
            UserError: If there is no checkpoint, no ``config.yaml`` beside it, or one of them is
                damaged or names what isn't trusted.
        """
        loaded = load_run(run, trust_packages)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(loaded.model.to(device), loaded.data, loaded.precision)

    def __call__(
        self, pictures: Picture | Iterable[Picture], batch_size: int | None = None
    ) -> Predictions:
        """Return the probabilities of the classes for pictures.

        Args:
            pictures: Pictures, or one.
            batch_size: Images that are computed at once; None takes that of evaluations.

        Raises:
            UserError: If one can't be read, or is no picture.
        """
        found = [torch.zeros(0, len(self.class_names))]
        with self._computing():
            found += map(self._probabilities, self._batches(pictures, batch_size))
        return Predictions(torch.cat(found), self.class_names)

    def of_pixels(self, pixels: Tensor) -> Tensor:
        """Return the probabilities, float32 ``[B, K]`` on the CPU, of what the decoder has read.

        Args:
            pixels: uint8 ``[B, C, H, W]``, of the size of the model.
        """
        with self._computing():
            return self._probabilities(self._transformed(pixels))

    def _probabilities(self, images: Tensor) -> Tensor:
        logits = self.model.predicted_logits(images)
        return logits.float().softmax(dim=1).cpu()

    def features(
        self,
        pictures: Picture | Iterable[Picture],
        layer: str | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """Return what the network computes of pictures before the classes, float32 on the CPU.

        Args:
            pictures: Pictures, or one.
            layer: Name of a layer, one of :attr:`layer_names`; None takes the input of the head.
            batch_size: As for a prediction.

        Returns:
            The features ``[N, F]``, or the output of the layer.

        Raises:
            UserError: If there is no such layer, or it was not used.
        """
        network, seen, found = self.model.network, [], []
        if layer is not None:
            if layer not in self.layer_names:
                raise UserError(f"no layer {layer}; known are {some(self.layer_names)}")
            hook = network.get_submodule(layer).register_forward_hook(
                lambda module, inputs, output: seen.append(output)
            )
        try:
            with self._computing():
                for images in self._batches(pictures, batch_size):
                    if layer is None:
                        found.append(network.features(images).flatten(1).float().cpu())
                        continue
                    seen.clear()
                    self.model(images)
                    if not seen:
                        raise UserError(f"the layer {layer} takes no part in a prediction")
                    if not isinstance(seen[-1], Tensor):
                        kind = type(seen[-1]).__name__
                        raise UserError(f"the layer {layer} returns a {kind}, which is no tensor")
                    found.append(seen[-1].float().cpu())
        finally:
            if layer is not None:
                hook.remove()
        return torch.cat(found) if found else torch.zeros(0)

    @property
    def layer_names(self) -> list[str]:
        """Names of the layers of the network, from input to output."""
        modules: Iterator[tuple[str, nn.Module]] = self.model.network.named_modules()
        return [name for name, _ in modules if name]

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with torch.inference_mode(), self._precision.predict_step_context():
            yield

    def _batches(
        self, pictures: Picture | Iterable[Picture], batch_size: int | None
    ) -> Iterator[Tensor]:
        """Yield images as the model receives them, ``[B, C, H, W]``."""
        size = self.data.fitting_eval_batch_size if batch_size is None else batch_size
        if size < 1:
            raise UserError(f"{size} must be at least 1", "batch_size")
        each = iter(_each(pictures))
        with Threads() as pool:
            while batch := list(islice(each, size)):
                yield self._transformed(torch.stack(list(pool.map(self._pixels, batch))))

    def _transformed(self, pixels: Tensor) -> Tensor:
        images = self.data.normalize(self.data.resized(pixels.to(self.model.device)))
        converted: Tensor = self._precision.convert_input(images)
        return converted

    def _pixels(self, picture: Picture) -> Tensor:
        """Return a picture as the data has images before they are normalised, uint8."""
        decoder = self.data.decoder()
        if isinstance(picture, str | Path):
            return torch.from_numpy(decoder(Path(picture)))
        if isinstance(picture, Image.Image):
            return torch.from_numpy(decoder.of_picture(picture))
        array = _channels_last(picture)
        if isinstance(self.data, FileDataModule):
            grey = array.shape[2] == 1
            return torch.from_numpy(
                decoder.of_picture(Image.fromarray(array[:, :, 0] if grey else array))
            )
        channels_first = np.require(array.transpose(2, 0, 1), requirements=["C", "W"])
        tensor = torch.from_numpy(channels_first)
        return self.data.resized(tensor[None])[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Let Lightning not list the devices of this machine."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _each(pictures: Any) -> Iterable[Any]:
    """Return pictures one by one; a single one may be given."""
    several = isinstance(pictures, Iterable) and not isinstance(pictures, str | bytes | IOBase)
    if isinstance(pictures, np.ndarray | Tensor):
        several = pictures.ndim == 4 or str(pictures.dtype).startswith(("object", "<U"))
    return pictures if several else [pictures]


def _channels_last(picture: Any) -> NDArray[np.uint8]:
    """Return an array or a tensor as uint8 ``[H, W, 1 or 3]``.

    Raises:
        UserError: If it is something else.
    """
    array, order = picture, "[H, W, 1 or 3]"
    if isinstance(picture, Tensor):
        array, order = picture.cpu().numpy(), "[1 or 3, H, W]"
        array = array.transpose(1, 2, 0) if array.ndim == 3 else array
    if not isinstance(array, np.ndarray):
        kind = type(picture).__name__
        raise UserError(f"{kind} is no picture: give a path, a PIL image, an array or a tensor")
    array = array[:, :, None] if array.ndim == 2 else array
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] not in (1, 3) or not array.size:
        given = f"{picture.dtype} {list(picture.shape)}"
        raise UserError(f"a picture must be uint8 {order}, with values from 0 to 255, not {given}")
    return array
