"""Measures what the rules need: a trial of each candidate, and learning curves on a sample.

All of it together takes a minute at most, however large the data and the backbone are: what the
trials leave of it decides how many images the learning curves are measured on.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from project.commands.durations import seconds_of
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
from project.console import show
from project.data import ImageDataModule
from project.errors import UserError
from project.parsing import build

SECONDS = 52.0  # from the start of the command until the learning curves are to be known
LEAST_SECONDS = 10.0  # for the learning curves, however long the trials took
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
    """

    images: int = 0
    classes: int = 0
    probe: Curve | None = None
    scratch: Curve | None = None
    distance: float | None = None


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
            pretrained = _built(configs["probe"])
        except UserError as error:
            show(_with_own_key(error))
            no_weights = f"the weights of {request.backbone} could not be had"
    predictions = _try_out(configs, unfit(found, no_weights))
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


def _try_out(configs: Mapping[str, Config], out: set[str]) -> dict[str, Prediction | str]:
    """Return the prediction for each candidate that isn't out, or why its trial failed."""
    found: dict[str, Prediction | str] = {}
    for one in CANDIDATES:
        if one.name in out:
            continue
        show(f"a few steps of {one.name} …")
        try:
            found[one.name] = try_out(configs[one.name])
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
    own = _built(small)[1]
    count = request.sample
    if isinstance(trial, Prediction):  # a fold trains on two thirds of the images, and on one third
        epochs = FOLDS * small["trainer"]["max_epochs"]
        count = min(count, int(FOR_SCRATCH * seconds * trial.images_per_second / epochs))
    chosen, features, distance = sample(own, count), None, None
    assert own.train_images is not None
    total, every = len(own.train_images), own.num_classes
    curve = scratch = None
    try:
        if pretrained is not None:
            show(f"features of {request.backbone} …")
            model, data = pretrained
            assert data.train_images is not None
            subset = data.train_images.subset(chosen)
            features, distance = features_of(model, data, subset, FOR_FEATURES * seconds)
            chosen = chosen[: len(features)]
        images = decoded(own, chosen)
        if features is not None:
            curve = cross_validate(
                on_features(features, images.labels, own.num_classes), images.labels
            )
        show("a small network on the same images …")
        scratch = cross_validate(from_scratch(small, images), images.labels)
    except UserError as error:
        show(f"learning curves not measured: {error}")
    classes = len(set(own.train_images.labels[chosen].tolist()))
    of = f"{classes} of {every:,} classes" if classes < every else f"{classes:,} classes"
    show(f"learning curves on {len(chosen):,} of {total:,} training images, of {of}")
    return Curves(len(chosen), classes, curve, scratch, distance)


def _built(config: Config) -> tuple[Any, ImageDataModule]:
    model, data = build(config)
    data.setup_lazily()  # a sample is all that is needed
    return model, data


def _with_own_key(error: UserError) -> str:
    """Return the message with the key of this command: ``weights`` for ``model.weights``."""
    return str(UserError(error.message, error.key.removeprefix("model.")))
