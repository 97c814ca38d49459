"""Measures what the rules need: learning curves on a sample, and a trial of each candidate."""

from collections.abc import Mapping
from typing import Any

from project.commands.durations import seconds_of
from project.commands.probing import features_of
from project.commands.recommend.candidates import CANDIDATES
from project.commands.recommend.evidence import cross_validate, from_scratch, on_features, sample
from project.commands.recommend.machine import Machine
from project.commands.recommend.request import Request
from project.commands.recommend.rules import Measured, unfit
from project.commands.recommend.scan import Scan
from project.commands.recommend.trial import Prediction, try_out
from project.console import show
from project.data import ImageDataModule
from project.errors import UserError
from project.parsing import build

Config = dict[str, Any]


def measure(
    request: Request,
    no_weights: str,
    found: Scan,
    machine: Machine,
    configs: Mapping[str, Config],
    small: Config,
) -> Measured:
    """Measure what the rules need.

    Args:
        request: What the user asks for.
        no_weights: Why there are no pretrained weights; empty if there may be some.
        found: Facts about the data.
        machine: Facts about the machine.
        configs: Config of each candidate, by name.
        small: Config of ``scratch`` for as many images as the sample has.
    """
    curve, distance, scratch = None, None, None
    if not no_weights:
        show(f"features of {request.backbone} …")
        try:
            model, data = _built(configs["probe"])
            images = sample(data, request.sample)
            features, distance = features_of(model, data, images)
        except UserError as error:
            show(_with_own_key(error))
            no_weights = f"the weights of {request.backbone} could not be had"
    try:
        if not no_weights:
            curve = cross_validate(
                on_features(features, images.labels, data.num_classes), images.labels
            )
        show("a small network on the same images …")
        images = sample(_built(small)[1], request.sample)
        scratch = cross_validate(from_scratch(small, images), images.labels)
    except UserError as error:
        show(f"learning curves not measured: {error}")
    predictions: dict[str, Prediction | str] = {}
    out = unfit(found, no_weights)
    for one in CANDIDATES:
        if one.name in out:
            continue
        show(f"a few steps of {one.name} …")
        try:
            predictions[one.name] = try_out(configs[one.name])
        except UserError as error:
            predictions[one.name] = str(error)
    return Measured(
        scan=found,
        objective=request.objective,
        experience=request.experience,
        seconds=seconds_of(request.time, "time"),
        memory_mb=machine.memory_mb,
        predictions=predictions,
        no_weights=no_weights,
        probe=curve,
        scratch=scratch,
        distance=distance,
    )


def _built(config: Config) -> tuple[Any, ImageDataModule]:
    model, data = build(config)
    data.setup_lazily()  # a sample is all that is needed
    return model, data


def _with_own_key(error: UserError) -> str:
    """Return the message with the key of this command: ``weights`` for ``model.weights``."""
    return str(UserError(error.message, error.key.removeprefix("model.")))
