"""``python -m project recommend``: measure data and machine for a minute, then choose."""

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.table import Table

from project.approaches.pretrained import is_checkpoint, pretrained_input_spec
from project.commands.durations import duration, seconds_of
from project.commands.preparation import find_images
from project.commands.recommend.candidates import (
    CANDIDATES,
    Candidate,
    Task,
    build,
    config_of,
    write_config,
)
from project.commands.recommend.evidence import (
    cross_validate,
    features_of,
    from_scratch,
    probe,
    sample,
)
from project.commands.recommend.machine import Machine, find_machine, weights_at_hand
from project.commands.recommend.rules import (
    Decision,
    Experience,
    Measured,
    Objective,
    Rule,
    decide,
    rules_of,
    unfit,
)
from project.commands.recommend.scan import Scan, scan
from project.commands.recommend.trial import Prediction, try_out
from project.console import print_table, show
from project.data import ImageDataModule, ImageFolder
from project.environment import versions
from project.errors import UserError
from project.networks.backbone import TIMM
from project.parsing import ProjectParser

Config = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """What is asked.

    Args:
        objective: What the model is for: this ``task``, a ``foundation`` for other tasks, or
            ``research`` on an architecture.
        experience: Of the person who will work with it.
        time: How long a training may take, such as ``45s``, ``30m`` or ``1h30m``.
        epochs: Epochs of a training.
        backbone: Pretrained backbone to consider, as for ``FineTuning``: a name of torchvision,
            ``timm/`` and a name of timm, or the run of a ``FullTraining``.
        weights: Its weights, as for ``FineTuning``: ``DEFAULT``, another published name, or a file.
        sample: Images to find out how far little data carries.
        output: Config file to write, for ``fit``.
    """

    objective: Objective = "task"
    experience: Experience = "intermediate"
    time: str = "30m"
    epochs: int = 10
    backbone: str = "timm/tf_efficientnet_lite0"
    weights: str | None = "DEFAULT"
    sample: int = 400
    output: str = "configs/recommended.yaml"

    def __post_init__(self) -> None:
        """Refuse what can't work.

        Raises:
            UserError: Naming the key, what is wrong and what would be right.
        """
        if self.epochs < 2:
            raise UserError(f"epochs: {self.epochs} must be at least 2")
        if self.sample < 30:
            raise UserError(f"sample: {self.sample} must be at least 30")
        if Path(self.output).suffix not in (".yaml", ".yml"):
            raise UserError(f"output: {self.output} must be a .yaml file")
        seconds_of(self.time, "time")


def recommend(arguments: Sequence[str]) -> None:
    """Look at data and machine, choose an approach and write a config for it.

    Args:
        arguments: What follows ``recommend`` on the command line.

    Raises:
        UserError: If options or data can't work.
    """
    start = time.perf_counter()
    arguments = [*_folder_as_data(arguments)]
    parser = _parser()
    config = parser.parse_args(arguments)
    given = parser.parse_args(arguments, defaults=False)
    objects = parser.instantiate(config)
    request = Request(**{field.name: objects[field.name] for field in fields(Request)})
    weights = _why_no_weights(request)
    found = scan(find_images(objects.data))
    machine = find_machine()
    show_facts(found, machine)
    task = Task(
        data=given.data.as_dict(),
        image_size=min(objects.data.source_shape[1:]),
        images=found.images,
        epochs=request.epochs,
        backbone=request.backbone,
        weights=None if is_checkpoint(request.backbone) else request.weights,
        bfloat16=machine.bfloat16,
    )
    configs = {one.name: config_of(one, task) for one in CANDIDATES}
    small = config_of(CANDIDATES[0], replace(task, images=request.sample))
    measured = measure(request, weights, found, machine, configs, small)
    rules = rules_of(measured)
    decision = decide(rules, measured)
    show_decision(decision, rules, measured, config.explain)
    if not decision.choice:
        raise UserError("no approach is left; give more --time, or see --explain")
    write(Path(request.output), configs[decision.choice], decision, measured, arguments)
    show(f"measured in {duration(time.perf_counter() - start)}")


def _folder_as_data(arguments: Sequence[str]) -> Sequence[str]:
    """Let ``--data FOLDER`` stand for an ``ImageFolder`` of it."""
    words: list[str] = []
    for word in arguments:
        name, _, value = word.partition("=") if word.startswith("--data=") else ("", "", word)
        is_data = name == "--data" or (words and words[-1] == "--data")
        if is_data and ("/" in value or Path(value).is_dir()):
            words = words if name else words[:-1]
            words += ["--data=ImageFolder", f"--data.root={value}"]
        else:
            words.append(word)
    return words


def _why_no_weights(request: Request) -> str:
    """Return why the backbone can't be pretrained; empty if it may be.

    Raises:
        UserError: If there is no such backbone.
    """
    if request.backbone.startswith(TIMM) and find_spec("timm") is None:
        return f"{request.backbone} needs timm: pip install timm"
    pretrained_input_spec(request.backbone, None)
    if request.weights is None and not is_checkpoint(request.backbone):
        return "with weights: null the backbone would be random"
    return ""


def _parser() -> ProjectParser:
    parser = ProjectParser(
        prog="python -m project recommend",
        description="Measure for about a minute which approach fits the data, and write a config.",
    )
    parser.add_subclass_arguments(ImageDataModule, "data", required=True)
    parser.add_class_arguments(Request)
    parser.add_argument(
        "--explain", action="store_true", help="Show every rule, also those that don't hold."
    )
    return parser


def measure(
    request: Request,
    weights: str,
    found: Scan,
    machine: Machine,
    configs: Mapping[str, Config],
    small: Config,
) -> Measured:
    """Measure what the rules need.

    Args:
        request: What is asked.
        weights: Why pretrained weights can't be had; empty if that isn't known yet.
        found: Facts about the data.
        machine: What there is to compute with.
        configs: Config of each candidate.
        small: That of the network from scratch, for as few images as the sample has.
    """
    curve, distance, scratch = None, None, None
    if not weights:
        show(f"features of {request.backbone} …")
        try:
            model, data = _built(configs["probe"])
            images = sample(data, request.sample)
            features, distance = features_of(model, data, images)
        except UserError as error:
            show(str(error).replace("--model.weights", "--weights"))
            weights = f"the weights of {request.backbone} could not be had"
    try:
        if not weights:
            curve = cross_validate(probe(features, images.labels, data.num_classes), images.labels)
        show("a small network on the same images …")
        images = sample(_built(small)[1], request.sample)
        scratch = cross_validate(from_scratch(small, images), images.labels)
    except UserError as error:
        show(f"learning curves not measured: {error}")
    predictions: dict[str, Prediction | str] = {}
    out = unfit(found, weights)
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
        weights=weights,
        probe=curve,
        scratch=scratch,
        distance=distance,
    )


def _built(config: Config) -> tuple[Any, ImageDataModule]:
    model, data = build(config)
    if isinstance(data, ImageFolder):
        data.cache = "off"  # a sample is all that is needed
    data.setup("fit")
    return model, data


def show_facts(found: Scan, machine: Machine) -> None:
    """Print what data and machine are like."""
    largest = max(found.class_sizes)
    facts = {
        "images": f"{found.images:,} training, {found.val_images:,} validation, "
        f"{found.test_images:,} test, in {len(found.class_names)} classes",
        "balance": f"{found.smallest:,} to {largest:,} training images a class",
        "sizes": f"{found.sizes[0]} to {found.sizes[1]} pixels a side; {found.opened:,} opened, "
        "none broken",
        "duplicates": f"{found.duplicates} of {found.compared[0]:,} test images look like one of "
        f"{found.compared[1]:,} in training",
        "machine": str(machine),
        "weights": ", ".join(weights_at_hand()) or "none downloaded yet",
    }
    table = Table("data and machine", "", show_lines=False)
    for name, text in facts.items():
        table.add_row(name, text)
    print_table(table)


def show_decision(
    decision: Decision, rules: Sequence[Rule], measured: Measured, explain: bool
) -> None:
    """Print candidates, rules and the choice."""
    candidates = Table("candidate", "points", "predicted time", "images/s", "memory", "what it is")
    for one in CANDIDATES:
        points = str(decision.points[one.name]) if one.name in decision.points else "out"
        candidates.add_row(one.name, points, *_predicted(one, measured), one.what)
    print_table(candidates)
    table = Table("factor", "if", "measured", "holds", "then")
    for rule in rules:
        if explain or rule.fired:
            holds = "?" if rule.fired is None else "yes" if rule.fired else "no"
            table.add_row(rule.factor, rule.condition, rule.measured, holds, rule.effect)
    print_table(table)
    if decision.choice:
        show("\n".join(words(decision)))


def _predicted(one: Candidate, measured: Measured) -> tuple[str, str, str]:
    found = measured.predictions.get(one.name, "not measured")
    if isinstance(found, str):
        return found, "", ""
    return duration(found.seconds), f"{found.images_per_second:,.0f}", f"{found.memory_mb:,.0f} MB"


def words(decision: Decision) -> list[str]:
    """Return the decision as lines of text."""
    named = {one.name: one.what for one in CANDIDATES}
    lines = [f"Use {decision.choice}: {named[decision.choice]}."]
    doubts = f" ({'; '.join(decision.reasons)})" if decision.reasons else ""
    lines.append(f"Confidence: {decision.confidence}{doubts}.")
    if decision.runner_up:
        lines.append(f"Runner-up: {decision.runner_up}.")
    if decision.changes:
        lines.append("It would be")
        lines += [f"  {change}" for change in decision.changes]
    return lines


def write(
    path: Path, config: Config, decision: Decision, measured: Measured, arguments: Sequence[str]
) -> None:
    """Write the config, with the decision above it."""
    prediction = measured.predictions.get(decision.choice)
    lines = [f"python -m project fit --config {path}", ""]
    lines += words(decision)
    if isinstance(prediction, Prediction):
        packages = ", ".join(f"{name} {version}" for name, version in versions().items())
        lines.append(
            f"Predicted: {duration(prediction.seconds)} and {prediction.memory_mb:,.0f} MB "
            f"({packages})."
        )
    lines.append(f"Made by: {shlex.join(['python', '-m', 'project', 'recommend', *arguments])}")
    write_config(path, config, "\n".join(lines))
    show(f"config: {path}; train it: python -m project fit --config {path}")
