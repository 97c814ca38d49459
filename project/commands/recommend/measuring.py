"""Measures what the rules need: a trial of each candidate, and learning curves on a sample.

All of it together takes a minute at most, however large the data and the backbone are: what the
trials leave of it decides how many images the learning curves are measured on.
"""

import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from project.commands.probing import features_of
from project.commands.recommend.candidates import CANDIDATES
from project.commands.recommend.evidence import (
    FOLDS,
    Curve,
    cross_validate,
    decoded,
    from_scratch,
    on_features,
    sample,
)
from project.commands.recommend.machine import Machine
from project.commands.recommend.request import Request
from project.commands.recommend.rules import Measured, unfit
from project.commands.recommend.scan import Scan
from project.commands.recommend.trial import Prediction, try_out
from project.commands.suspects import judge_features
from project.console import show
from project.data import ImageDataModule
from project.durations import seconds_of
from project.errors import UserError, as_own_option
from project.parsing import build

SECONDS = 50.0  # from the start of the command until the learning curves are to be known
LEAST_SECONDS = 12.0  # for the learning curves, however long the trials took
LARGEST = 32  # height and width in pixels that the network from scratch gets of the sample
FOR_FEATURES, FOR_SCRATCH = 0.4, 0.5  # shares of what is left
BUSY = 1.15  # from this slowdown on, the machine counts as busy

Config = dict[str, Any]


@dataclass(frozen=True)
class Curves:
    """Learning curves on the same images; None where one could not be measured.

    Attributes:
        images: Number of images of the sample.
        classes: Number of their classes.
        probe: Of a linear probe on pretrained features.
        scratch: Of a small network from scratch.
        distance: Distance of the images from the pretraining data.
        suspects: Those whose label is probably wrong, the surest first, in words.
    """

    images: int = 0
    classes: int = 0
    probe: Curve | None = None
    scratch: Curve | None = None
    distance: float | None = None
    suspects: Sequence[str] = ()


def measure(
    request: Request,
    no_weights: str,
    found: Scan,
    machine: Machine,
    configs: Mapping[str, Config],
    small: Config,
    start: float,
) -> Measured:
    """Measure what the rules need.

    Args:
        request: What the user asks for.
        no_weights: Why there are no pretrained weights; empty if there may be some.
        found: Facts about the data.
        machine: Facts about the machine.
        configs: Config of each candidate, by name.
        small: Config of ``scratch`` for as many images as the sample has.
        start: When the command began, by ``time.perf_counter``.
    """
    pretrained = None
    if not no_weights:
        try:
            with as_own_option("model"):
                pretrained = _built(configs["probe"])
        except UserError as error:
            show(str(error))
            no_weights = f"the weights of {request.backbone} could not be loaded"
    predictions = try_all(configs, unfit(found, no_weights), found.pixels)
    left = max(start + SECONDS - time.perf_counter(), LEAST_SECONDS)
    curves = _curves(request, pretrained, small, predictions.get("scratch"), left)
    return Measured(
        scan=found,
        objective=request.objective,
        experience=request.experience,
        seconds=seconds_of(request.time, "time"),
        memory_mb=machine.memory_mb,
        predictions=predictions,
        no_weights=no_weights,
        **vars(curves),
    )


def try_all(
    configs: Mapping[str, Config], out: set[str], pixels: float
) -> dict[str, Prediction | str]:
    """Return the prediction for each candidate that isn't out, or why its trial failed.

    Args:
        configs: Config of each candidate, by name.
        out: Names of those that are out.
        pixels: Mean number of pixels of an image, in its file.
    """
    found: dict[str, Prediction | str] = {}
    for one in CANDIDATES:
        if one.name in out:
            continue
        show(f"a few steps of {one.name} …")
        try:
            found[one.name] = try_out(configs[one.name], pixels)
        except UserError as error:
            found[one.name] = str(error)
    slowdowns = [one.slowdown for one in found.values() if isinstance(one, Prediction)]
    if slowdowns and max(slowdowns) > BUSY:
        show(
            f"the machine is busy: these steps took up to {max(slowdowns):.1f} times as long as "
            "alone; the predicted times are for a machine that stays so"
        )
    return found


def _curves(
    request: Request,
    pretrained: tuple[Any, ImageDataModule] | None,
    small: Config,
    trial: Prediction | str | None,
    seconds: float,
) -> Curves:
    """Measure learning curves on as many images as there is time for.

    Args:
        request: What the user asks for.
        pretrained: A model with the backbone, and the data as it gets it.
        small: Config of the network from scratch.
        trial: What the trial of ``scratch`` predicts.
        seconds: The time that there is.
    """
    small, shrunk = _shrunk(small)
    own = _built(small)[1]
    assert own.train_images is not None
    count = request.sample
    if isinstance(trial, Prediction):  # a fold trains on two thirds of the images, and on one third
        epochs = FOLDS * small["trainer"]["max_epochs"]
        affordable = FOR_SCRATCH * seconds * trial.images_per_second * shrunk / epochs
        count = min(count, int(affordable))
    chosen = sample(own, count)
    features = distance = None
    found = Curves()
    try:
        if pretrained is not None:
            show(f"features of {request.backbone} …")
            model, data = pretrained
            assert data.train_images is not None
            subset = data.train_images.subset(chosen)
            features, distance = features_of(model, data, subset, FOR_FEATURES * seconds)
            chosen = chosen[: len(features)]
        labels = own.train_images.labels[chosen]
        found = Curves(len(chosen), len(set(labels.tolist())), distance=distance)
        show(f"learning curves on {_share(found, own)} …")
        if features is not None:
            probe = cross_validate(on_features(features, labels, own.num_classes), labels)
            found = replace(found, probe=probe, suspects=_suspects(own, chosen, features))
        learn = from_scratch(small, decoded(own, chosen))
        found = replace(found, scratch=cross_validate(learn, labels))
    except UserError as error:
        show(f"learning curves not measured: {error}")
    return found


def _shrunk(config: Config) -> tuple[Config, float]:
    """Return a config with images of :data:`LARGEST` pixels at most, and the ratio of the areas."""
    height, width = build(config)[1].image_shape[1:]
    if max(height, width) <= LARGEST:
        return config, 1.0
    smaller = deepcopy(config)
    smaller["data"]["init_args"]["image_size"] = LARGEST
    return smaller, height * width / LARGEST**2


def _share(found: Curves, data: ImageDataModule) -> str:
    """Return in words how many images and classes a sample has of all."""
    assert data.train_images is not None
    classes = f", {found.classes:,} of {data.num_classes:,} classes"
    return f"{found.images:,} of {len(data.train_images):,} training images" + (
        classes if found.classes < data.num_classes else ""
    )


def _suspects(data: ImageDataModule, chosen: Tensor, features: Tensor) -> list[str]:
    """Return images whose label is probably wrong, with label and the more probable class."""
    assert data.train_images is not None
    images, labels = data.train_images, data.train_images.labels[chosen]
    try:
        known, classes, judged = judge_features(features, labels)
    except UserError:  # the classes are too small
        return []
    names = data.class_names
    found = []
    for one in judged.suspects.tolist():
        place = int(chosen[known[one]])
        name = images.path(place) or f"training image {place}"
        label, other = int(images.labels[place]), int(classes[judged.suggested[one]])
        found.append(f"{name} ({names[label]}, more probably {names[other]})")
    return found


def _built(config: Config) -> tuple[Any, ImageDataModule]:
    model, data = build(config)
    data.setup_lazily()  # a sample is all that is needed
    return model, data
