"""What the parser says of a mistake, in one line: the key, what is wrong, what would be right."""

import re
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from inspect import isabstract, signature
from pathlib import Path

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from project.approaches import ImageClassifier
from project.class_paths import FROM_DATA, FROM_MODEL, class_parser, named
from project.data import ImageDataModule, Operation
from project.environment import COMMAND
from project.networks import Network


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
    message = re.sub(r"\n *- Expected a <class 'list'>.*", "", message)
    if re.search(rf"{_PROBLEM}(?!{_BASE})", message):
        message = re.sub(rf"\n *- {_PROBLEM}{_BASE}:\n.*", "", message)
    whole_key = key_of(message)
    message = re.sub(r"Given value: (?:_AsItIs|Namespace)\(.*", "", message)
    raw, classes = message, re.findall(_CLASS, message)
    message = re.sub(r"\. Got value: Namespace\(.*", "", message)
    message = re.sub(r"Type .* expects a function or a callable class: ", "", message)
    given = re.findall(r"(?:Given|Got) value: (.*?)(?:\. Got value: .*)?$", message, re.MULTILINE)
    keys = _keys(message)
    place = f"{'.'.join(keys)}: " if keys else ""
    if unknown := re.search(
        r"(?:does not accept option '|unrecognized arguments: --)([\w.-]+)", message
    ):
        if keys and classes:
            name, owner = unknown[1].partition(".")[0], _owner(raw, unknown[0], classes)
            close = _similar_option(name, _options(owner))
            return f"{place}{owner.rpartition('.')[2]} has no option {name!r}{close}"
        parts = [part for part in PARTS if part in options] or PARTS  # in a file, there are none
        known = [*options, *(option for part in parts for option in _below(part))]
        close = _similar_option(unknown[1], known, listed=False)
        start = _similar(unknown[1].partition(".")[0], known, listed=False)
        return f"no option {unknown[1]!r}{close or start}"
    if option := re.search(r"Option '([^'.]+)[^']*' is not accepted", message):
        name, owner = option[1], _owner(raw, option[0], classes)
        if not owner:
            return f"{place}no option {name!r}{_similar(name, [*options], listed=False)}"
        for base, example in EXAMPLES.items():
            if named(owner) is base:
                kind, key = base.__name__.lower(), ".".join(keys)
                return f"{key}: {name!r} is of no {kind}; name one before, as by --{key} {example}"
        close = _similar_option(name, _options(owner))
        return f"{place}{owner.rpartition('.')[2]} has no option {name!r}{close}"
    if classes and (needed := re.search(r"arguments are required: (.*)", message)):
        owner = _owner(raw, needed[0], classes)
        return f"{place}{owner.rpartition('.')[2]} needs {needed[1]}"
    expected = re.findall(r"Expected a <class '(?:\w+\.)*(\w+)'>", message)
    types = [LISTS.get(name, name) for name in expected if name not in NO_CHOICE]
    missing = re.search(r"Expected a dot import path string: (\S+)", message)
    if missing and not {"int", "float", "str"} & {*types}:
        close = _similar(missing[1], _class_names(keys[-1] if keys else ""))
        if keys and keys[-1].endswith("lr_scheduler"):
            close = f"; give it as {'.'.join(keys)}.scheduler"
        if keys and keys[-1].endswith("augment") and missing[1] in _class_names("augment"):
            close = f"; give a list, as in [{missing[1]}]"
        return f"{place}no class {missing[1]!r}{close}"
    if types and given and "typing.Literal" not in message:
        return f"{place}expected {' or '.join(dict.fromkeys(types))}, got {given[0]!r}"
    if count := re.search(r"Expected a tuple with (\d+) elements", message):
        return f"{place}expected a list of {count[1]} values, got {given[0]}"
    if choices := re.findall(r"Expected a typing.Literal\[([^\]]*)\]", message):
        value = f", got {given[0].rstrip('.')}" if given else ""
        return f"{place}expected one of {', '.join(dict.fromkeys(choices))}{value}"
    if absent := re.search(r"No module named '([\w.]+)'", message):
        where = "in the working directory or among the installed packages"
        return f"{place}there is no module {absent[1]!r} {where}"
    if absent := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message):
        return f"{place}the module {absent[1]} has no class {absent[2]!r}"
    if several := re.search(r"Multiple subclasses with name (\w+)\. [^:]*: ([\w., ]+)", message):
        return f"{place}there are several {several[1]}; give one of {several[2]}"
    if "Expected an instantiatable class, but" in message:
        name = ".".join(keys) if "augment" in "".join(keys) else "".join(keys[:1]).split(".")[0]
        others = ", ".join(_class_names(name))
        return f"{name}: needs a class that isn't abstract; known are {others}"
    if function := re.search(r"Expected '([\w.]+)' to be a function that returns", message):
        return (
            f"{place}{function[1]} must be a class, or a function whose annotation says what it "
            "returns"
        )
    bases = r"(?:to be a subclass of <class '(\w+)'>|correspond to a subclass of (\w+))"
    if other := re.search(bases, message):
        subject = f"{given[-1]} is" if given and "(" not in given[-1] else "the class is"
        return f"{place}{subject} not a subclass of {other[1] or other[2]}"
    place = f"{whole_key}: " if whole_key else ""  # which the parser hasn't come to
    if whole := re.search(r"Unable to load config '(.*)'", message):
        reason = "must be options below it, one by one or in a file, or left out"
        return f"{place}{whole[1]} {reason}"
    if lost := re.match(r"the following arguments are required: \w+\.(model|data)$", message):
        return (
            f"{lost[1]}: must be a class, or left out; known are {', '.join(_class_names(lost[1]))}"
        )
    if no_text := re.search(r"Key must be a string, got: (\w+)", message):
        return f"{place}the key {no_text[1]} must be the name of an option"
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    lines = [line for line in lines if line and not _NOISE.match(line)]
    lines = [re.sub(r'^Parser key "[^"]*": ', "", line) for line in lines]
    if not lines and given:
        return f"{place}can't be {given[0]}"
    return place + "; ".join(lines)


def _owner(message: str, problem: str, classes: Sequence[str]) -> str:
    """Return the class that a problem is of: that in its line, or the last one before it."""
    before, _, after = message.partition(problem)
    here = re.findall(_CLASS, after.partition("\n")[0])[:1]
    return [*classes[-1:], *re.findall(_CLASS, before), *here][-1] if classes else ""


def key_of(message: str) -> str:
    """Return the key that a message of jsonargparse is about; empty if there is none."""
    keys = _keys(message)
    nested = re.findall(r"Given value: _AsItIs\(key='([^']+)'", message)
    whole = f"{keys[0]}.{nested[-1]}" if keys and nested else ""
    return max(".".join(keys), whole, key=len)


def _keys(message: str) -> list[str]:
    """Return the key in its parts, one of each class inside; that of an item has its number."""
    keys = [*dict.fromkeys(re.findall(r'Parser key "([^"]+)"', message))]  # once an alternative
    return [key for key in keys if not any(other.startswith(f"{key}[") for other in keys)]


EXAMPLES: dict[type, str] = {Optimizer: "Adam", Callback: "EarlyStopping", Logger: "CSVLogger"}
BASES: dict[str, type] = {
    "model": ImageClassifier,
    "data": ImageDataModule,
    "network": Network,
    "optimizer": Optimizer,
    "scheduler": LRScheduler,
    "callbacks": Callback,
    "logger": Logger,
    "augment": Operation,
}
PARTS = ("trainer", "model", "data")  # of the config of a run
OF_OPTIMIZERS = ["optimizer.lr", "optimizer.weight_decay"]  # as options of a model
OTHER_WORDS = {  # what options are called elsewhere, and here
    **{"epochs": "max_epochs", "num_epochs": "max_epochs", "steps": "max_steps"},
    **{"learning_rate": "lr", "base_lr": "lr", "wd": "weight_decay", "opt": "optimizer"},
    **{"scheduler": "lr_scheduler", "sched": "lr_scheduler", "arch": "backbone"},
    **{"pretrained": "weights", "smoothing": "label_smoothing", "drop": "dropout"},
    **{"bs": "batch_size", "batch": "batch_size", "train_batch_size": "batch_size"},
    **{"workers": "num_workers", "img_size": "image_size", "imgsz": "image_size"},
    **{"size": "image_size", "input_size": "image_size", "data_dir": "root", "data_path": "root"},
    **{"amp": "precision", "gpus": "devices", "device": "devices", "gpu": "devices"},
    **{"seed": "seed_everything", "name": "experiment", "output_dir": "run_dir", "out": "run_dir"},
    **{
        "output": "run_dir",
        "save_dir": "run_dir",
        "ckpt": "ckpt_path",
        "checkpoint_path": "ckpt_path",
    },
    **{"log_interval": "log_every_n_steps", "clip_grad": "gradient_clip_val"},
}
LISTS = {"Iterable": "list", "tuple": "list"}
NO_CHOICE = ("NoneType", "ImageClassifier")
_CLASS = r"(?:given class_path |\(class_path=)'([\w.]+)'"
_PROBLEM, _BASE = "Problem with given class_path ", r"'lightning\.Callback'"
_NOISE = re.compile(
    r"Does not validate against any of|Subtypes: |Errors:|Expected a <class 'NoneType'>|"
    r"Not a valid subclass of|Subclass types expect one of|a (?:class path|dict) |"
    r"Expected a path but|Given value|Parser key \"[^\"]*\":$|Problem with given class_path"
)


def _mistyped(message: str) -> str:
    """Explain a wrong command or none, a file without ``--config``, and a file that isn't there."""
    if 'expected "subcommand" to be one of' in message:
        command = " ".join(COMMAND)
        return f"give a command, as in `{command} fit --config FILE`; `{command} --help` lists all"
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


def _similar_option(name: str, known: list[str], listed: bool = True) -> str:
    """Suggest where an option is, or what it is called here, or one with a similar name."""
    last = name.rpartition(".")[2]
    last = OTHER_WORDS.get(last, last)
    same = [option for option in dict.fromkeys(known) if option.rpartition(".")[2] == last]
    return f"; did you mean {' or '.join(same)}?" if same else _similar(name, known, listed)


def _below(part: str) -> list[str]:
    """Return the options below ``trainer``, or those that a data module or a model may have."""
    base = BASES.get(part, Trainer)
    kinds = [one for kind in (base, *_subclasses(base)) for one in kind.__mro__]
    names = [x for kind in kinds if issubclass(kind, base) for x in signature(kind).parameters]
    passed = {*FROM_DATA, *FROM_MODEL, "args", "kwargs"}
    names += OF_OPTIMIZERS if part == "model" else []
    return [f"{part}.{name}" for name in dict.fromkeys(names) if name not in passed]


def _options(class_path: str) -> list[str]:
    owner = named(class_path)
    known = vars(class_parser(owner).get_defaults()) if owner else {}
    passed = {*FROM_DATA, *FROM_MODEL}  # by the program
    if isinstance(owner, type) and issubclass(owner, Optimizer | LRScheduler):
        passed |= {"params", "optimizer"}
    nested = OF_OPTIMIZERS if isinstance(owner, type) and issubclass(owner, ImageClassifier) else ()
    return [*(name for name in known if name not in passed), *nested]


def _class_names(key: str) -> list[str]:
    key = key.rpartition(".")[2].partition("[")[0]
    return sorted({kind.__name__ for kind in _subclasses(BASES[key])}) if key in BASES else []


def _subclasses(base: type) -> list[type]:
    found: list[type] = []
    subclass: type
    for subclass in base.__subclasses__():
        if not subclass.__name__.startswith("_") and not isabstract(subclass):
            found.append(subclass)
        found += _subclasses(subclass)
    return found
