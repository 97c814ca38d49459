"""The parser behind the command line: what LightningCLI's own gets wrong in reading a config."""

import re
from argparse import HelpFormatter
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace, set_dumper, set_loader, set_parsing_settings
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from project import config_text
from project.approaches import ImageClassifier
from project.approaches.pretrained import pretrained_input_spec
from project.checkpoints import from_home
from project.console import is_utf8, readable
from project.data import Augment, ImageDataModule
from project.environment import COMMAND
from project.errors import UserError, under
from project.length import expand_presets
from project.networks import Network
from project.upstream import (
    before_class_change,
    leave_texts,
    read_configs_by,
    read_numbers_by,
    settled,
)

FROM_DATA = ("num_classes", "image_shape", "class_names", "normalization")
FROM_MODEL = ("input_spec",)
_MANY_CLASSES = re.compile(r"(known\s+subclasses:[^)]{900}[^,)]*,)[^)]*\)", re.DOTALL)


def _start_afresh(previous: Namespace, value: Namespace) -> None:
    """Forget arguments that were never meant for the class that replaces another.

    An optimizer, scheduler or network starts with its own defaults. An approach, data module or
    augmentation keeps what the config gave the other one, but no default of the other class:
    ``FullTraining`` must not get the default network of ``TrainFromScratch``.
    """
    if not previous.get("init_args"):
        return
    replaced = resolve_name(previous["class_path"])
    if issubclass(replaced, (Optimizer, LRScheduler, Network)):
        previous["init_args"] = Namespace()
    elif issubclass(replaced, (ImageClassifier, ImageDataModule, Augment)):
        defaults = _class_parser(replaced).get_defaults()
        for name, default in vars(defaults).items():
            if name in previous["init_args"] and previous["init_args"][name] == default:
                del previous["init_args"][name]


before_class_change(_start_afresh)
leave_texts()
read_configs_by(config_text.read)
read_numbers_by(config_text.load)
set_loader("yaml", config_text.load, (yaml.YAMLError,))
set_dumper("yaml", config_text.dump)

# By default jsonargparse accepts no subclass of a dataclass.
set_parsing_settings(subclasses_enabled=[Augment])


class ProjectParser(LightningArgumentParser):
    """Takes no abbreviated options, and answers a mistake with one line instead of a page."""

    def __init__(
        self, *args: Any, other_commands: Mapping[str, str] | None = None, **kwargs: Any
    ) -> None:
        kwargs.setdefault("prog", " ".join(COMMAND))
        super().__init__(*args, allow_abbrev=False, **kwargs)
        self._other_commands = other_commands or {}

    def add_class_arguments(self, theclass: type, *args: Any, **kwargs: Any) -> list[str]:
        """Add the options of a class; its help leaves out what data and model take from each other.

        Only the help of a class gives a prefix for the options, ``args``.
        """
        if args and issubclass(theclass, (ImageClassifier, ImageDataModule)):
            kwargs["skip"] = {*kwargs.get("skip", ()), *FROM_DATA, *FROM_MODEL}
        added: list[str] = super().add_class_arguments(theclass, *args, **kwargs)
        return added

    def add_subcommands(self, *args: Any, **kwargs: Any) -> Any:
        """Add subcommands, and list the other commands among them."""
        action = super().add_subcommands(*args, **kwargs)
        for name, description in self._other_commands.items():
            action.add_subcommand(name, ArgumentParser(), help=description)
        return action

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        """Return the help, without the hundreds of modules and metrics of other packages."""
        return _MANY_CLASSES.sub(r"\1 …)", super().format_help(formatter))

    def parse(self, args: Sequence[str], defaults: bool = True) -> Namespace:
        """Return the config that a command line gives, with ordinary strings.

        Args:
            args: The arguments.
            defaults: Whether to add the defaults of what they don't give.

        Raises:
            UserError: If there is a mistake in them.
        """
        for arg in args:
            if not is_utf8(arg):
                raise UserError("is not in UTF-8; rename it, or give a link to it", readable(arg))
        config: Namespace = config_text.plain(self.parse_args(args, defaults=defaults))
        _expand_home(config)
        return config

    def parse_object(self, *args: Any, **kwargs: Any) -> Namespace:
        """Return the config that nested mappings give."""
        config: Namespace = super().parse_object(*args, **kwargs)
        _expand_home(config)
        return config

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Namespace:
        """Return the config of a file.

        Raises:
            UserError: If it can't be read, or isn't a config.
        """
        config_text.mapping(path)
        config: Namespace = super().parse_path(path, *args, **kwargs)
        return config

    def dump(self, cfg: Namespace, **kwargs: Any) -> str:
        """Write a config, with the phases of a preset."""
        cfg = deepcopy(cfg)  # jsonargparse writes into the classes of a list
        if trainer := cfg.get("trainer"):
            expand_presets(trainer)
        try:
            with settled():
                text: str = super().dump(cfg, **kwargs)
        except (TypeError, ValueError) as error:  # of a value that only its class could check
            if not self.exit_on_error:
                raise
            raise UserError(explain(str(error))) from error
        return text

    def instantiate(self, *args: Any, **kwargs: Any) -> Namespace:
        """Return the objects that a config names."""
        with settled():
            objects: Namespace = super().instantiate(*args, **kwargs)
        return objects

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong, where, and what would be right.

        Raises:
            UserError: Always.
        """
        if not self.exit_on_error:  # the parser of a class inside; what it says comes here later
            super().error(message, ex)
        options = [o[2:] for a in self._actions for o in a.option_strings if o[:2] == "--"]
        raise UserError(explain(message, options)) from ex


def _expand_home(value: Any) -> Any:
    """Let ``~/`` at the start of a text mean the home directory, wherever it is in a config.

    A shell replaces it in ``--run_dir ~/run``, but not in ``--run_dir=~/run`` or in a file.
    """
    if isinstance(value, Namespace | dict):
        items = vars(value) if isinstance(value, Namespace) else value
        items.update({key: _expand_home(item) for key, item in items.items()})
    elif isinstance(value, list):
        return [_expand_home(item) for item in value]
    elif isinstance(value, str) and value.startswith("~/"):
        return str(from_home(value))
    return value


def link_data_and_model(parser: LightningArgumentParser) -> None:
    """Let the model take from the data, and the data from a pretrained backbone, what they know."""
    for name in FROM_DATA:
        parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")
    parser.link_arguments(
        ("model.init_args.backbone", "model.init_args.weights", "model.init_args.network"),
        "data.init_args.input_spec",
        compute_fn=_input_spec,
    )


def _input_spec(backbone: str, weights: str | None, network: Any) -> dict[str, Any] | None:
    if callable(network):  # a function may return any network
        return None
    if network is not None:
        found = resolve_name(network["class_path"])
        if not (isinstance(found, type) and issubclass(found, Network)):
            return None
        with under("model.network"):
            spec = found.expected_input(**vars(network.get("init_args") or Namespace()))
        return asdict(spec) if spec else None
    with under("model"):
        return asdict(pretrained_input_spec(backbone, weights))


def explain(message: str, options: Collection[str] = ()) -> str:
    """Reduce jsonargparse's message to the key, the mistake and what would be right.

    It lists what each alternative of a type has to say, inside each class that the key passes.

    Args:
        message: What jsonargparse says.
        options: Options of the command, for a suggestion.
    """
    if typed := _mistyped(message):
        return typed
    # callbacks are tried as a list and as a single one, too
    message = re.sub(r"\n *- Problem with given class_path 'lightning.Callback':\n.*", "", message)
    message = re.sub(r"\n *- Expected a <class 'list'>.*", "", message)
    keys = [*dict.fromkeys(re.findall(r'Parser key "([^"]+)"', message))]  # once an alternative
    classes = re.findall(r"(?:given class_path |\(class_path=)'([\w.]+)'", message)
    given = re.findall(r"(?:Given|Got) value: (.*?)(?:\. Got value: .*)?$", message, re.MULTILINE)
    place = f"{'.'.join(keys)}: " if keys else ""
    if unknown := re.search(
        r"(?:does not accept option '|unrecognized arguments: --)([\w.-]+)", message
    ):
        if keys and classes:
            name, owner = unknown[1].partition(".")[0], classes[-1]
            close = _similar(name, _options(owner))
            return f"{place}{owner.rpartition('.')[2]} has no option {name!r}{close}"
        known = [*options, *(f"trainer.{name}" for name in signature(Trainer).parameters)]
        close = _similar(unknown[1], known, listed=False)
        start = _similar(unknown[1].partition(".")[0], known, listed=False)
        return f"no option {unknown[1]!r}{close or start}"
    if option := re.search(r"Option '([^'.]+)[^']*' is not accepted", message):
        name, owner = option[1], classes[-1] if classes else ""
        if not owner:
            return f"{place}no option {name!r}{_similar(name, [*options], listed=False)}"
        if _named(owner) is Optimizer:
            key = ".".join(keys)
            return f"{key}: {name!r} is of no optimizer; name one before, as by --{key} Adam"
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
        return f"{place}expected one of {', '.join(dict.fromkeys(choices))}{value}"
    if missing := re.search(r"Expected a dot import path string: (\S+)", message):
        close = _similar(missing[1], _class_names(keys[-1] if keys else ""))
        if keys and keys[-1].endswith("lr_scheduler"):
            close = f"; give it as {'.'.join(keys)}.scheduler"
        return f"{place}no class {missing[1]!r}{close}"
    if absent := re.search(r"No module named '([\w.]+)'", message):
        where = "in the working directory or among the installed packages"
        return f"{place}there is no module {absent[1]!r} {where}"
    if absent := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message):
        return f"{place}the module {absent[1]} has no class {absent[2]!r}"
    if several := re.search(r"Multiple subclasses with name (\w+)\. [^:]*: ([\w., ]+)", message):
        return f"{place}there are several {several[1]}; give one of {several[2]}"
    if function := re.search(r"Expected '([\w.]+)' to be a function that returns", message):
        return (
            f"{place}{function[1]} must be a class, or a function whose annotation says what it "
            "returns"
        )
    base = r"(?:to be a subclass of <class '(\w+)'>|correspond to a subclass of (\w+))"
    if other := re.search(base, message):
        named = f"{given[-1]} is" if given and "(" not in given[-1] else "the class is"
        return f"{place}{named} not a subclass of {other[1] or other[2]}"
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


def _mistyped(message: str) -> str:
    """Explain a wrong command, a file without ``--config``, and a file that isn't there."""
    if wrong := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
        known = re.findall(r"'(\w+)'", wrong[2])
        close = _similar(wrong[1], known, listed=False)
        return f"no command {wrong[1]!r}{close} (known are {wrong[2]})"
    if file := re.search(r"unrecognized arguments: ([^-].*\.(?:ya?ml|json))\b", message):
        return f"unrecognized argument {file[1]!r}; did you mean --config {file[1]}?"
    if gone := re.search(r"Parser key \"config\": File does not exist: '(.*)'", message):
        path = Path(gone[1])
        beside = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
        return f"--config: there is no file {gone[1]}{_similar(path.name, beside, listed=False)}"
    return ""


def _similar(name: str, known: list[str], listed: bool = True) -> str:
    close = get_close_matches(name, dict.fromkeys(known), n=2, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; known are {', '.join(known)}" if known and listed else ""


def _named(class_path: str) -> Any:
    """Return the class of a path; None for a name without its module."""
    try:
        return resolve_name(class_path)
    except (ValueError, ImportError, AttributeError):
        return None


def _options(class_path: str) -> list[str]:
    owner = _named(class_path)
    known = vars(_class_parser(owner).get_defaults()) if owner else {}
    return [name for name in known if name not in (*FROM_DATA, *FROM_MODEL)]


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
