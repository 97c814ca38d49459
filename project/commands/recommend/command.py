"""``python -m project recommend``: measures data and machine for a minute, then chooses."""

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from project.approaches.pretrained import is_checkpoint
from project.commands.preparation import find_images, folder_as_data, why_no_weights
from project.commands.recommend.candidates import CANDIDATES, Task, config_of, write_config
from project.commands.recommend.checking import (
    findings_of,
    read_comparison,
    refuse_other_data,
    show_check,
)
from project.commands.recommend.decision import Decision, decide
from project.commands.recommend.display import (
    on_suspects,
    on_unequal_classes,
    show_decision,
    show_facts,
    words,
)
from project.commands.recommend.machine import Machine, find_machine
from project.commands.recommend.measuring import measure
from project.commands.recommend.request import Request, request_parser
from project.commands.recommend.rules import Measured, rules_of
from project.commands.recommend.scan import Scan, scan
from project.commands.recommend.trial import Prediction
from project.console import show
from project.durations import duration
from project.environment import COMMAND, versions
from project.errors import UserError
from project.parsing import options_of

SAMPLE_EPOCHS = 10  # at most, of the network from scratch on a sample


def recommend(arguments: Sequence[str]) -> None:
    """Look at data and machine, choose an approach and write a config for it.

    Args:
        arguments: What follows ``recommend`` on the command line.

    Raises:
        UserError: If the options or the data are wrong, or no candidate is left.
    """
    start = time.perf_counter()
    arguments = [*folder_as_data(arguments)]
    parser = request_parser()
    config = parser.parse(arguments)
    given = parser.parse(arguments, defaults=False).data.as_dict()
    objects = parser.instantiate(config)
    request = options_of(Request, objects)
    compared = read_comparison(Path(request.check)) if request.check else None
    if compared and compared.epochs:
        request = replace(request, epochs=compared.epochs)
    no_weights = why_no_weights(request.backbone, request.weights)
    found, machine = scan(find_images(objects.data)), find_machine()
    if compared:
        refuse_other_data(compared, found)
    show_facts(found, machine, request.weights)
    task = task_of(request, given, min(objects.data.source_shape[1:]), found, machine)
    configs = {one.name: config_of(one, task) for one in CANDIDATES}
    few = replace(task, images=request.sample, epochs=min(request.epochs, SAMPLE_EPOCHS))
    small = config_of(CANDIDATES[0], few)
    measured = measure(request, no_weights, found, machine, configs, small, start)
    rules = rules_of(measured)
    decision = decide(rules, measured)
    show_decision(decision, rules, measured, config.explain)
    if suspects := on_suspects(measured, arguments):
        show(suspects)
    if not decision.choice:
        raise UserError("no approach is left; give more --time, or see --explain")
    if compared:
        show_check(findings_of(decision, measured, compared), compared)
    else:
        write(Path(request.output), configs[decision.choice], decision, measured, arguments)
    show(f"measured in {duration(time.perf_counter() - start)}")


def task_of(
    request: Request, data: Mapping[str, Any], image_size: int, found: Scan, machine: Machine
) -> Task:
    """Return what the candidates are to do.

    Args:
        request: What the user asks for.
        data: ``class_path`` and ``init_args`` of the data module, as the user gave them.
        image_size: Smaller side of the source's images, in pixels.
        found: Facts about the data.
        machine: Facts about the machine.
    """
    return Task(
        data=data,
        image_size=image_size,
        images=found.images,
        epochs=request.epochs,
        backbone=request.backbone,
        weights=None if is_checkpoint(request.backbone) else request.weights,
        bfloat16=machine.bfloat16,
    )


def write(
    path: Path,
    config: Mapping[str, Any],
    decision: Decision,
    measured: Measured,
    arguments: Sequence[str],
) -> None:
    """Write the config, with the decision above it."""
    prediction = measured.predictions.get(decision.choice)
    train = shlex.join([*COMMAND, "fit", "--config", str(path)])
    lines = [train, ""]
    lines += [*words(decision), *on_unequal_classes(measured.scan)]
    if isinstance(prediction, Prediction):
        packages = ", ".join(f"{name} {version}" for name, version in versions().items())
        lines.append(
            f"Predicted: {duration(prediction.seconds)} and {prediction.memory_mb:,.0f} MB "
            f"({packages})."
        )
    lines.append(f"Made by: {shlex.join([*COMMAND, 'recommend', *arguments])}")
    write_config(path, config, "\n".join(lines))
    show(f"config: {path}; train it: {train}")
