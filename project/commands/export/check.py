"""The check of an exported file: it classifies the test images, beside the checkpoint."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from project.classifier import Classifier
from project.data.batches import Images
from project.data.splits import spread
from project.errors import UserError
from project.exported.running import Exported

PROBABILITY = 1e-4  # largest difference of a probability, on the same pixels
LOGIT = 1e-3  # largest difference of a logit, as a fraction of the largest one, or of 1
ROUNDING = 1e-5  # what float32 may make of a logit, likewise
# Of whole pictures, which the file resizes, a logit may differ by so much of what it varies between
# pictures. Right files stay below 0.02 and 0.15: some tall pictures differ by 1 of 255. A filter
# without antialiasing, a crop that is half a pixel off and the like begin at 0.15 and 0.55.
TYPICAL, LARGEST = 0.05, 0.5  # the median over the pictures, and the largest difference
MOST_WHOLE = 50  # pictures that the file resizes itself
SECONDS = 1.0  # for which a latency is measured
BATCHES = (1, 32)


@dataclass
class Compared:
    """An exported file beside the checkpoint, on the same images.

    Attributes:
        images: Number of images.
        logit: Largest difference of a logit.
        typical_logit: Median over the images of the largest difference of a logit.
        largest_logit: The largest one of the checkpoint.
        spread: Standard deviation of a logit of the checkpoint over the images.
        probability: Largest difference of a probability.
        agreement: Fraction of the images of which both name the same class.
        accuracy: Of the file; None where the labels aren't known.
        accuracy_of_checkpoint: Likewise.
    """

    images: int = 0
    logit: float = 0.0
    typical_logit: float = 0.0
    largest_logit: float = 0.0
    spread: float = 0.0
    probability: float = 0.0
    agreement: float = 0.0
    accuracy: float = 0.0
    accuracy_of_checkpoint: float = 0.0


@dataclass
class Check:
    """What a check has found.

    Attributes:
        split: Whose images they are.
        same_pixels: On images that the decoder has resized.
        whole: On whole pictures, which the file resizes itself; None if the data has none.
        size_mb: Size of the file in 10^6 bytes.
        milliseconds: Median time of a batch, by its size, of the file.
        milliseconds_of_checkpoint: Likewise, of the checkpoint.
    """

    split: str
    same_pixels: Compared
    whole: Compared | None
    size_mb: float
    milliseconds: dict[int, float] = field(default_factory=dict)
    milliseconds_of_checkpoint: dict[int, float] = field(default_factory=dict)


def images_to_check(classifier: Classifier, most: int | None) -> tuple[str, Images, Tensor]:
    """Return the images that a file is checked on: of the test, or else of what there is.

    Args:
        classifier: The classifier.
        most: Largest number; None takes all.

    Returns:
        The name of the split, its images, and the positions of those to check, int64.
    """
    data = classifier.data
    data.setup_lazily()
    splits = {"test": data.test_images, "validation": data.val_images}
    name, images = next(
        ((name, images) for name, images in splits.items() if images),
        ("training", data.train_images),
    )
    assert images is not None
    return name, images, spread(len(images), most or len(images))


def check(
    exported: Exported, classifier: Classifier, path: Path, chosen: tuple[str, Images, Tensor]
) -> Check:
    """Classify images by an exported file and by the checkpoint.

    Args:
        exported: The file.
        classifier: The checkpoint.
        path: The file.
        chosen: What :func:`images_to_check` returns.
    """
    split, images, index = chosen
    same, labels = [], []
    for part in torch.split(index, classifier.data.fitting_eval_batch_size):
        batch = images[part]
        pixels = classifier.data.resized(batch.images)
        same.append((logits_of(classifier, pixels), _of_file(exported, pixels)))
        labels.append(batch.labels)
    found = Check(
        split,
        _compared(same, torch.cat(labels)),
        _whole(exported, classifier, images, index),
        path.stat().st_size / 1e6,
    )
    pixels = torch.cat([pixels] * BATCHES[-1])[: BATCHES[-1]]
    for size in BATCHES:
        some = pixels[:size]
        found.milliseconds[size], found.milliseconds_of_checkpoint[size] = _medians(
            partial(exported, channels_last(some)), partial(logits_of, classifier, some)
        )
    return found


def refuse_difference(found: Check) -> None:
    """Compare an export in full precision with the checkpoint.

    Raises:
        UserError: If it computes something else.
    """
    same = found.same_pixels
    if not same.probability <= PROBABILITY or not same.logit <= LOGIT * max(same.largest_logit, 1):
        raise UserError(
            f"the exported file computes something else than the checkpoint: on {same.images:,} "
            f"{found.split} images, probabilities differ by up to {same.probability:.2g} and "
            f"logits by up to {same.logit:.2g}, and {same.agreement:.1%} of the classes agree "
            f"(accuracy {same.accuracy:.4f}, and {same.accuracy_of_checkpoint:.4f} of the "
            "checkpoint); nothing is left of it"
        )
    whole = found.whole
    if whole is None or not whole.spread:  # a single logit says nothing of what is much
        return
    rounding = ROUNDING * max(whole.largest_logit, 1)
    typical, largest = (most * whole.spread + rounding for most in (TYPICAL, LARGEST))
    if not whole.typical_logit <= typical or not whole.logit <= largest:
        raise UserError(
            f"the exported file resizes pictures in another way than the training: on "
            f"{whole.images:,} whole pictures, logits differ by {whole.typical_logit:.2g} in the "
            f"median and by up to {whole.logit:.2g}, and they vary by {whole.spread:.2g} between "
            "pictures; nothing is left of it"
        )


def refuse_loss(found: Check, most: float) -> None:
    """Compare the accuracy of an export in less precision with that of the checkpoint.

    Args:
        found: What the check has found.
        most: The largest loss of accuracy.

    Raises:
        UserError: If it loses more.
    """
    same = found.same_pixels
    loss = same.accuracy_of_checkpoint - same.accuracy
    if not loss <= most:
        raise UserError(
            f"{loss:.4f} of accuracy is lost on {same.images:,} {found.split} images "
            f"({same.accuracy_of_checkpoint:.4f} to {same.accuracy:.4f}), more than --max_loss "
            f"{most} allows; nothing is left of it"
        )


@torch.inference_mode()
def logits_of(classifier: Classifier, pixels: Tensor) -> Tensor:
    """Return the logits of a checkpoint, float32 ``[B, K]``, of uint8 ``[B, C, H, W]``."""
    model = classifier.model
    images = classifier.data.normalize(pixels.to(model.device))
    return model.predicted_logits(images).float().cpu()


def _of_file(exported: Exported, pixels: Tensor) -> Tensor:
    return torch.from_numpy(exported(channels_last(pixels))[1])


def channels_last(pixels: Tensor) -> NDArray[np.uint8]:
    """Return images, uint8 ``[B, C, H, W]``, as an exported file takes them."""
    array: NDArray[np.uint8] = np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())
    return array


def _compared(pairs: list[tuple[Tensor, Tensor]], labels: Tensor) -> Compared:
    expected, given = (torch.cat(logits) for logits in zip(*pairs))
    right, mine = expected.argmax(1), given.argmax(1)
    difference = (expected - given).abs()
    return Compared(
        images=len(labels),
        logit=difference.max().item(),
        typical_logit=difference.amax(1).median().item(),
        largest_logit=expected.abs().max().item(),
        spread=expected.std(0).mean().item()
        if len(labels) > 1
        else expected.std(correction=0).item(),
        probability=(expected.softmax(1) - given.softmax(1)).abs().max().item(),
        agreement=(right == mine).float().mean().item(),
        accuracy=(mine == labels).float().mean().item(),
        accuracy_of_checkpoint=(right == labels).float().mean().item(),
    )


def _whole(
    exported: Exported, classifier: Classifier, images: Images, index: Tensor
) -> Compared | None:
    """Classify whole pictures, which the file resizes, beside what Pillow has resized."""
    decoder = exported.description.decoder()
    chosen = index[spread(len(index), MOST_WHOLE)]
    pairs, labels = [], []
    for number, place in enumerate(chosen.tolist()):
        path = images.path(place)
        if path is None:  # its pixels are all that there is
            batch = images[chosen[number : number + 1]]
            pixels = batch.images
            if pixels.shape[1] != classifier.data.image_shape[0]:
                return None
            resized = decoder.of_picture(as_picture(channels_last(pixels)[0]))
        else:
            picture = decoder.whole(path)
            pixels = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None]
            resized = decoder(path)
        expected = logits_of(classifier, torch.from_numpy(resized)[None])
        pairs.append((expected, _of_file(exported, pixels)))
        labels.append(images.labels[place])
    return _compared(pairs, torch.stack(labels))


def as_picture(image: NDArray[np.uint8]) -> Image.Image:
    """Return an image, uint8 ``[H, W, 1 or 3]``, for Pillow."""
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def _medians(*calls: Callable[[], object]) -> list[float]:
    """Return the median time of each call in milliseconds; they take turns."""
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + SECONDS * len(calls)
    while not times[0] or time.perf_counter() < end:
        for call, taken in zip(calls, times):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) * 1000 for taken in times]
