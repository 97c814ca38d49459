"""The parser behind the command line: what LightningCLI's own gets wrong in reading a config."""

import re
from argparse import SUPPRESS, HelpFormatter
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict
from inspect import signature
from itertools import pairwise
from typing import Any, NoReturn, TypeVar

import yaml
from jsonargparse import (
    ArgumentError,
    ArgumentParser,
    Namespace,
    set_dumper,
    set_loader,
    set_parsing_settings,
)
from lightning.pytorch.cli import LightningArgumentParser
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from project import config_text
from project.approaches import ImageClassifier
from project.approaches.pretrained import pretrained_input_spec
from project.checkpoints import from_home
from project.class_paths import FROM_DATA, FROM_MODEL, check_written, class_parser, init_args_of
from project.console import is_utf8, readable
from project.data import Augment, ImageDataModule
from project.environment import COMMAND
from project.errors import UserError, under
from project.failures import Raised, causes, own_line, sentence
from project.length import expand_presets
from project.mistakes import explain, key_of
from project.networks import Network
from project.trust import heard, resolve_name
from project.upstream.jsonargparse import (
    before_class_change,
    keep_alternatives,
    leave_texts,
    look_before,
    read_configs_by,
    read_numbers_by,
    settled,
)

Options = TypeVar("Options")
_ROLE = re.compile(r":\w+:`~?(?:[\w.]*\.)?(\w+)`")  # of Sphinx, such as :class:`~torch.Tensor`
_HELP = {  # in place of Lightning's
    "ckpt_path": "RUN, which is a run directory; or a checkpoint in it; or an artifact of W&B, as "
    "wandb:ENTITY/PROJECT/model-ID:best. fit goes on from there, the other commands use it.",
    "trainer.barebones": SUPPRESS,
    "trainer.default_root_dir": SUPPRESS,
}
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
        defaults = class_parser(replaced).get_defaults()
        for name, default in vars(defaults).items():
            if name in previous["init_args"] and previous["init_args"][name] == default:
                del previous["init_args"][name]


before_class_change(_start_afresh)
leave_texts()
look_before(check_written)
keep_alternatives()
read_configs_by(lambda path: heard(config_text.read(path), path))
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
        """Add subcommands, which the help lists with the descriptions of their parsers."""
        self._commands = super().add_subcommands(*args, metavar="COMMAND", **kwargs)
        add = self._commands.add_subcommand

        def described(name: str, parser: ArgumentParser, **_: Any) -> None:
            add(name, parser, help=parser.description)

        self._commands.add_subcommand = described  # type: ignore[method-assign, assignment]
        return self._commands

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        """Return the help in words that a terminal shows, without what a run refuses or leaves out.

        It leaves out the hundreds of modules and metrics of other packages, too.
        """
        for group in self._action_groups:
            for action in group._group_actions:
                text = _HELP.get(action.dest, action.help or "")
                action.help = _ROLE.sub(r"``\1``", text) or None
                if action.dest == "ckpt_path":
                    group.title = "Checkpoint"
        return _MANY_CLASSES.sub(r"\1 …)", super().format_help(formatter))

    def parse(self, args: Sequence[str], defaults: bool = True) -> Namespace:
        """Return the config that a command line gives, with ordinary strings.

        Args:
            args: The arguments.
            defaults: Whether to add the defaults of what they don't give.

        Raises:
            UserError: If there is a mistake in them.
        """
        for name, description in self._other_commands.items():  # after those of LightningCLI
            self._commands.add_subcommand(name, ArgumentParser(description=description))
        self._other_commands = {}
        for before, arg in pairwise(["", *args]):
            if not arg or re.fullmatch("--(?!trainer)[^=]+=", arg):  # of a variable that isn't set
                option = (arg or before).strip("-=") if (arg or before)[:2] == "--" else ""
                raise UserError("an empty value; give one, or leave it out", option)
            if not is_utf8(arg):
                raise UserError("is not in UTF-8; rename it, or give a link to it", readable(arg))
            if "\0" in arg:
                key = readable(arg.partition("=")[0].lstrip("-"))
                raise UserError("holds the character \\0, which no value may", key)
        try:
            config: Namespace = config_text.plain(self.parse_args(args, defaults=defaults))
        except SystemExit as end:
            if where := own_line(end):  # of a module that a config names
                raise UserError(f"{where}: sys.exit({end.code!r}) at its import") from end
            raise
        except Raised as fault:
            assert fault.__cause__ is not None
            raise fault.__cause__ from None
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
        if "config" in config_text.mapping(path):
            raise UserError("names another config; give each by --config", f"{path}: config")
        config: Namespace = super().parse_path(path, *args, **kwargs)
        return config

    def dump(self, cfg: Namespace, **kwargs: Any) -> str:
        """Write a config, with the phases of a preset."""
        cfg = deepcopy(cfg)  # jsonargparse writes into the classes of a list
        if trainer := cfg.get("trainer"):
            expand_presets(trainer)
        with settled():
            try:
                if not kwargs.get("skip_validation"):
                    self.validate(cfg)
            except (TypeError, ValueError) as error:  # of a value that only its class could check
                if not self.exit_on_error:
                    raise
                raise UserError(explain(str(error))) from error
            text: str = super().dump(cfg, **kwargs | {"skip_validation": True})
        return text

    def instantiate(self, *args: Any, **kwargs: Any) -> Namespace:
        """Return the objects that a config names."""
        with settled():
            objects: Namespace = super().instantiate(*args, **kwargs)
        return objects

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong, where, and what would be right.

        Raises:
            UserError: Unless what :func:`link_data_and_model` calls has a fault.
        """
        if not self.exit_on_error:  # the parser of a class inside; what it says comes here later
            super().error(message, ex)
        for cause in causes(ex):
            if isinstance(cause, UserError):
                raise cause
            if where := own_line(cause):
                raise UserError(f"{where}: {sentence(cause, named=True)}", key_of(message)) from ex
        if isinstance(ex, ValueError) and "compute_fn of link" in message and ex.__cause__:
            raise Raised from ex.__cause__
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
            spec = found.expected_input(**vars(init_args_of(network)))
        return asdict(spec) if spec else None
    with under("model"):
        return asdict(pretrained_input_spec(backbone, weights))


def options_of(kind: type[Options], config: Namespace) -> Options:
    """Return the options of a command, a dataclass, with the values that a config gives them."""
    return kind(**{name: config[name] for name in signature(kind).parameters})


def build(
    config: Mapping[str, Any], prepare: Callable[[Namespace], None] = lambda parsed: None
) -> tuple[ImageClassifier, ImageDataModule]:
    """Return model and data module of a config of ``fit``, before any image is read.

    Args:
        config: The config; only ``data`` and ``model`` count.
        prepare: Is given the config once it is parsed, and may change it.

    Raises:
        UserError: If they don't fit each other.
    """
    parser = ProjectParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageDataModule, "data", fail_untyped=False)
    parser.add_subclass_arguments(ImageClassifier, "model", fail_untyped=False)  # as in Lightning
    link_data_and_model(parser)
    try:
        parsed = parser.parse_object(deepcopy({key: config[key] for key in ("data", "model")}))
        prepare(parsed)
        objects = parser.instantiate(parsed)
    except (ArgumentError, TypeError, ValueError, ModuleNotFoundError) as error:
        for cause in causes(error):
            if isinstance(cause, UserError):
                raise cause from None
        raise UserError(explain(str(error))) from error
    return objects.model, objects.data
