"""The parser behind the command line: what LightningCLI's own gets wrong in reading a config."""

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from difflib import get_close_matches
from inspect import signature
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace, _typehints, set_parsing_settings
from jsonargparse._util import import_object
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from project.approaches import ImageClassifier
from project.approaches.pretrained import pretrained_input_spec
from project.data import Augment, ImageDataModule
from project.finetuning.phases import preset_phases
from project.networks import Network

FROM_DATA = ("num_classes", "image_shape", "class_names", "normalization")

_keep_arguments: Callable[..., None] = _typehints.discard_init_args_on_class_path_change


def _start_afresh(parser: Any, previous: Any, value: Any) -> None:
    """Forget what was never meant for the class that replaces another.

    jsonargparse keeps all arguments that the new class knows too: ``SGD`` would run with the
    ``weight_decay`` that the config gives ``AdamW``, and ``FullTraining`` with the default network
    of ``TrainFromScratch``. Here an optimizer, scheduler or network starts with its own defaults;
    approaches, data modules and augmentations keep what the config gave, but no default of the
    other class.
    """
    if previous and previous["class_path"] != value["class_path"] and previous.get("init_args"):
        replaced = import_object(previous["class_path"])
        if issubclass(replaced, (Optimizer, LRScheduler, Network)):
            previous["init_args"] = Namespace()
        elif issubclass(replaced, (ImageClassifier, ImageDataModule, Augment)):
            defaults = _class_parser(replaced).get_defaults()
            for name, default in vars(defaults).items():
                if name in previous["init_args"] and previous["init_args"][name] == default:
                    del previous["init_args"][name]
    _keep_arguments(parser, previous, value)


_typehints.discard_init_args_on_class_path_change = _start_afresh


# By default jsonargparse accepts no subclass of a dataclass.
set_parsing_settings(subclasses_enabled=[Augment])


class ProjectParser(LightningArgumentParser):
    """Takes no abbreviated options, and answers a mistake with one line instead of a page."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def dump(self, cfg: Namespace, **kwargs: Any) -> str:
        """Write a config, with the phases of a preset in its place."""
        cfg = cfg.clone()
        expand_presets(cfg.get("trainer") or Namespace())
        text: str = super().dump(cfg, **kwargs)
        return text

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong, where, and what would be right; exit with 2."""
        if not self.exit_on_error:  # the parser of a class inside; what it says comes here later
            super().error(message, ex)
        sys.stderr.write(f"error: {explain(message)}\n")
        sys.exit(2)


def link_data_and_model(parser: LightningArgumentParser) -> None:
    """Let the model take from the data, and the data from a pretrained backbone, what they know."""
    for name in FROM_DATA:
        parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")
    parser.link_arguments(
        ("model.init_args.backbone", "model.init_args.weights"),
        "data.init_args.input_spec",
        compute_fn=_input_spec,
    )


def _input_spec(backbone: str, weights: str | None) -> dict[str, Any]:
    return asdict(pretrained_input_spec(backbone, weights))


def stretch_presets(trainer: Namespace) -> None:
    """Let the preset of a ``FineTuningSchedule`` take the epochs of the trainer."""
    for options in _presets(trainer):
        if options.epochs is None and (trainer.get("max_epochs") or 0) > 0:
            options.epochs = trainer.max_epochs


def expand_presets(trainer: Namespace) -> None:
    """Replace the preset of a ``FineTuningSchedule`` by its phases, as they can be edited."""
    stretch_presets(trainer)
    for options in _presets(trainer):
        if not options.get("phases"):
            phases = preset_phases(options.preset, options.epochs)
            options.phases = tuple(Namespace(asdict(phase)) for phase in phases)
            options.preset = options.epochs = None


def _presets(trainer: Namespace) -> Iterator[Namespace]:
    callbacks = trainer.get("callbacks")
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        options = callback.get("init_args") if callback else None
        if options and options.get("preset"):
            yield options


def explain(message: str) -> str:
    """Reduce jsonargparse's message to the key, the mistake and what would be right.

    It lists what each alternative of a type has to say, inside each class that the key passes.
    """
    # callbacks are tried as a list and as a single one, too
    message = re.sub(r"\n *- Problem with given class_path 'lightning.Callback':\n.*", "", message)
    message = re.sub(r"\n *- Expected a <class 'list'>.*", "", message)
    keys = re.findall(r'Parser key "([^"]+)"', message)
    classes = re.findall(r"(?:given class_path |\(class_path=)'([\w.]+)'", message)
    given = re.findall(r"(?:Given|Got) value: (.*?)(?:\. Got value: .*)?$", message, re.MULTILINE)
    if unknown := re.search(
        r"(?:does not accept option '|unrecognized arguments: --)([\w.]+)", message
    ):
        options = [f"trainer.{name}" for name in signature(Trainer).parameters]
        return f"no option {unknown[1]!r}{_similar(unknown[1], options, listed=False)}"
    place = f"{'.'.join(keys)}: " if keys else ""
    if option := re.search(r"Option '([^'.]+)[^']*' is not accepted", message):
        name, owner = option[1], classes[-1] if classes else ""
        close = _similar(name, _options(owner))
        return f"{place}{owner.rpartition('.')[2]} has no option {name!r}{close}"
    if classes and (needed := re.search(r"arguments are required: (.*)", message)):
        return f"{place}{classes[-1].rpartition('.')[2]} needs {needed[1]}"
    expected = re.findall(r"Expected a <class '(?:\w+\.)*(\w+)'>", message)
    types = [name for name in expected if name not in ("NoneType", "ImageClassifier")]
    if types and given and "typing.Literal" not in message:
        return f"{place}expected {' or '.join(dict.fromkeys(types))}, got {given[0]!r}"
    if choices := re.findall(r"Expected a typing.Literal\[([^\]]*)\]", message):
        value = f", got {given[0].rstrip('.')}" if given else ""
        return f"{place}expected one of {', '.join(choices)}{value}"
    if missing := re.search(r"Expected a dot import path string: (\S+)", message):
        close = _similar(missing[1], _class_names(keys[-1] if keys else ""))
        if keys and keys[-1].endswith("lr_scheduler"):
            close = f"; give it as {'.'.join(keys)}.scheduler"
        return f"{place}no class {missing[1]!r}{close}"
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    lines = [line for line in lines if line and not _NOISE.match(line)]
    lines = [re.sub(r'^Parser key "[^"]*": ', "", line) for line in lines]
    if not lines and given:
        return f"{place}can't be {given[0]}"
    return re.sub(r"^Call to compute_fn of link .* failed: ", "", place + "; ".join(lines))


_NOISE = re.compile(
    r"Does not validate against any of|Subtypes: |Errors:|Expected a <class 'NoneType'>|"
    r"Not a valid subclass of|Subclass types expect one of|a (?:class path|dict) |"
    r"Given value|Parser key \"[^\"]*\":$|Problem with given class_path"
)


def _similar(name: str, known: list[str], listed: bool = True) -> str:
    close = get_close_matches(name, known, n=2, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; known are {', '.join(known)}" if known and listed else ""


def _options(class_path: str) -> list[str]:
    known = vars(_class_parser(import_object(class_path)).get_defaults()) if class_path else {}
    return [name for name in known if name not in (*FROM_DATA, "input_spec")]


def _class_parser(owner: type) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(owner, fail_untyped=False, sub_configs=True)
    return parser


def _class_names(key: str) -> list[str]:
    bases: dict[str, type] = {
        "model": ImageClassifier,
        "data": ImageDataModule,
        "network": Network,
        "optimizer": Optimizer,
        "scheduler": LRScheduler,
        "callbacks": Callback,
    }
    key = key.rpartition(".")[2]
    return sorted(_subclasses(bases[key])) if key in bases else []


def _subclasses(base: type) -> set[str]:
    names: set[str] = set()
    subclass: type
    for subclass in base.__subclasses__():
        if not subclass.__name__.startswith("_"):
            names.add(subclass.__name__)
        names |= _subclasses(subclass)
    return names
