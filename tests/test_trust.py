"""Nothing that lies beside a run runs code, whatever its config, its checkpoint and files hold."""

import io
import json
import pickle
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import Namespace
from safetensors.torch import save

from project import trust
from project.checkpoints import check_resumable, load_checkpoint
from project.errors import UserError
from project.lightning_cli import ProjectCLI
from project.networks.backbone import read_weights
from tests.conftest import CONFIGS, Run

CANARY = """\
import pathlib

import lightning

pathlib.Path({trace!r}).touch()


class Call(lightning.Callback):
    pass


def call(*args: object) -> None:
    pathlib.Path({trace!r}).touch()
"""
TRAINER = ("callbacks", "logger", "profiler", "strategy", "accelerator", "plugins")
CLASSES = (  # keys that take a class, and what one of them is
    *(f"trainer.{name}" for name in TRAINER),
    *("model", "model.init_args.network", "model.init_args.optimizer", "model.init_args.loss"),
    *("model.init_args.lr_scheduler.scheduler", "model.init_args.metrics.own", "data"),
    *("data.init_args.augment", "checkpoint", "config"),
)
TO_CODE: dict[str, Any] = {
    "class": {"class_path": "canary.Call"},
    "name": "canary.Call",
    "list": ["canary.Call"],
    "function": "canary.call",
    "module": "canary",
    "other separator": "canary:Call",
    "file": "nested.yaml",
    "list of files": ["nested.yaml"],
    "arguments in a file": {"class_path": "canary.Call", "init_args": "nested.yaml"},
    "json": json.dumps({"class_path": "canary.Call"}),
    "more arguments": {"class_path": "canary.Call", "dict_kwargs": {"x": "canary.call"}},
    "expression": "__import__('canary').call()",
    "standard input": "-",
    "system": "os.system",
    "through a package": "torch.os.system",
    "function of a package": "torch.hub.load",
    "class of no kind": {"class_path": "torch.package.PackageImporter"},
    "command": {"class_path": "project.cli.ProjectCLI", "init_args": {"args": ["fit"]}},
    "main": "project.cli.main",
}
QUICK = ("class", "list of files", "function of a package", "command")


class Parsed(BaseException):
    """The end of a command whose config was read."""


class Reader(ProjectCLI):
    """A command that ends when its config is read and its places are checked."""

    def prepare(self, config: Namespace) -> None:
        raise Parsed


class Watch:
    """Sees each file that is opened, and each import, while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.seen: set[str] = set()
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.on and event in ("open", "import", "os.system"):
            name = str(args[0])
            self.seen.add(str(Path(name).absolute()) if event == "open" else f"{event} {name}")


WATCH = Watch()


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run directory, with a module and a config that lead to code of its own beside it."""
    folder = tmp_path / "RUN"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "best.ckpt").touch()
    for place in (tmp_path, folder):
        (place / "canary.py").write_text(CANARY.format(trace=str(tmp_path / "trace")))
        (place / "nested.yaml").write_text("class_path: canary.Call\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    WATCH.on = False
    sys.modules.pop("canary", None)


def read(folder: Path, config: Any, *args: str) -> UserError | Namespace:
    """Read a command with the config of a run; return the config, or what was refused."""
    text = config if isinstance(config, str) else yaml.safe_dump(config)
    (folder / "config.yaml").write_text(text)
    cli = reader()
    try:
        with trust.command():
            cli._given = ["test", "--ckpt_path=RUN", *args]
            cli.parse_arguments(cli.parser, cli._given)
            cli.before_instantiate_classes()
    except UserError as error:
        return error
    except Parsed:
        return cli.options
    raise AssertionError


@cache
def reader() -> Reader:
    """A command whose parser is built once."""
    cli = Reader.__new__(Reader)
    with pytest.raises(Parsed):
        cli.__init__(["test", "--ckpt_path=x", "--config={}"])  # type: ignore[misc]
    return cli


def nested(key: str, value: Any) -> dict[str, Any]:
    """A config with a value at one key, and the classes that the key is an argument of."""
    first, _, rest = key.partition(".")
    inner = nested(rest, value) if rest else value
    named = {"model": "TrainFromScratch", "data": "Digits"}.get(first)
    if rest.startswith("init_args") and named:
        return {first: {"class_path": named, **inner}}
    return {first: inner}


def functions(value: Any) -> Iterator[Any]:
    """Yield what a config holds that could be called."""
    if isinstance(value, Namespace | dict):
        items = vars(value) if isinstance(value, Namespace) else value
        for name, item in items.items():
            yield from functions(item if name != "config" else None)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from functions(item)
    elif callable(value):
        yield value


def check_harmless(folder: Path, config: Any) -> None:
    """Check that reading a config of a run runs nothing, and opens nothing else beside it."""
    sys.modules.pop("canary", None)
    WATCH.seen.clear()
    WATCH.on = True
    try:
        found = read(folder, config)
    finally:
        WATCH.on = False
    trace = folder.parent / "trace"
    assert not trace.exists(), config
    assert not {"import canary", "import nested"} & WATCH.seen, config
    assert not [event for event in WATCH.seen if event.startswith("os.system")], config
    opened = {Path(name) for name in WATCH.seen if name.startswith(str(folder.parent))}
    opened = {path for path in opened if path.is_file()}
    assert opened <= {folder / "config.yaml"}, config
    if isinstance(found, Namespace):
        assert not list(functions(found)), config
    else:
        assert "\n" not in str(found), found


@pytest.mark.filterwarnings("ignore")
def some(keys: Iterable[str]) -> list[Any]:
    """Let every third one be tried in the quick tests; the slow ones try all of them."""
    marks = {False: (), True: (pytest.mark.slow,)}
    return [pytest.param(key, marks=marks[number % 3 > 0]) for number, key in enumerate(keys)]


@pytest.mark.parametrize("key", some(CLASSES))
def test_a_class_in_the_config_of_a_run_runs_no_code(key: str, beside: Path) -> None:
    for way in QUICK:
        check_harmless(beside, nested(key, TO_CODE[way]))


def every_key() -> list[str]:
    """All keys of a config, with those of callbacks, loggers and schedulers that take functions."""
    cli = reader()
    cli._given = ["test"]
    cli.parse_arguments(cli.parser, cli._given)
    config = yaml.safe_load(cli.command_parser.dump(cli.options, skip_none=False))

    def keys(value: Any, key: str) -> Iterator[str]:
        if isinstance(value, dict):
            for name, item in value.items():
                yield from keys(item, f"{key}.{name}" if key else name)
        yield key

    return [key for key in keys(config, "") if key and not key.endswith("class_path")]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore")
def test_no_key_of_a_config_of_a_run_runs_code(beside: Path) -> None:
    for key in dict.fromkeys((*every_key(), *CLASSES)):
        for value in TO_CODE.values():
            check_harmless(beside, nested(key, value))
            if key in CLASSES:
                check_harmless(beside, nested(key, [value]))
                check_harmless(beside, nested(key, {"x": value, "class_path": value}))
        for tag in ("name:canary.call", "object/apply:canary.call []", "module:canary"):
            document = yaml.safe_dump(nested(key, "HERE")).replace("HERE", f"!!python/{tag}")
            check_harmless(beside, document)


INSIDE: dict[str, Any] = {  # arguments that take a function, of classes that may be named
    "trainer.callbacks": [
        ("LambdaCallback", "on_fit_start"),
        ("EMAWeightAveraging", "update_starting_at_step"),
        ("WeightAveraging", "avg_fn"),
    ],
    "model.init_args.loss": [("torch.nn.TripletMarginWithDistanceLoss", "distance_function")],
    "model.init_args.lr_scheduler.scheduler": [("LambdaLR", "lr_lambda")],
    "model.init_args.optimizer": [("SGD", "differentiable")],
    "trainer.strategy": [("lightning.pytorch.strategies.DDPStrategy", "ddp_comm_hook")],
    "trainer.profiler": [("PyTorchProfiler", "schedule")],
    "trainer.logger": [("CSVLogger", "name"), ("WandbLogger", "experiment")],
    "data": [("Digits", "augment"), ("Digits", "cache_dir")],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("key", some(INSIDE))
def test_no_argument_of_a_class_that_may_be_named_takes_a_function(key: str, beside: Path) -> None:
    for name, argument in INSIDE[key]:
        for way in ("name", "function of a package", "command"):
            value = {"class_path": name, "init_args": {argument: TO_CODE[way]}}
            check_harmless(beside, nested(key, value))


SHIPPED = {
    path.stem: path
    for path in sorted(CONFIGS.rglob("*.yaml"))
    if {*yaml.safe_load(path.read_text())} <= {"data", "model", "trainer", "checkpoint"}
    and "backbone: RUN" not in path.read_text()
}
RICHEST = {"full_cifar10_best", "own_phases"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=name, marks=[] if name in RICHEST else pytest.mark.slow)
        for name, path in SHIPPED.items()
    ],
)
def test_the_config_of_each_run_is_read_again(path: Path, beside: Path) -> None:
    cli = reader()
    cli._given = ["test", "--config", str(path)]
    cli.parse_arguments(cli.parser, cli._given)
    saved = cli._saved(cli.options)
    found = read(beside, saved)
    assert isinstance(found, Namespace), found
    assert cli._saved(found) == saved


REFUSED = [
    (
        "trainer: {callbacks: [canary.Call]}",
        r"names canary.Call \(trainer.callbacks\); .* --trust canary$",
    ),
    ("model: canary.Call", r"names canary.Call \(model\); .* --trust canary$"),
    ("model: {init_args: {network: os.system}}", r"names os.system \(model.network\); .* --config"),
    (
        "model: {init_args: {network: torch.hub.load}}",
        r"names torch.hub.load, .* \(model.network\)",
    ),
    ("trainer: {callbacks: nested.yaml}", r"names the file nested.yaml \(trainer.callbacks\); "),
    ("trainer: {callbacks: !!python/name:canary.call }", "line 1, column 22: could not determine"),
    ("run_dir: elsewhere", r"names elsewhere, .* \(run_dir\); .* --config RUN/config.yaml$"),
    ("trainer: {default_root_dir: /tmp/x}", r"names /tmp/x, .* \(trainer.default_root_dir\)"),
    (
        "trainer: {callbacks: [{class_path: ModelCheckpoint, init_args: {dirpath: more}}]}",
        r"names more, .* \(trainer.callbacks.dirpath\)",
    ),
    (
        "trainer: {callbacks: [{class_path: ModelCheckpoint, init_args: {filename: ../x}}]}",
        r"names ../x, .* \(trainer.callbacks.filename\)",
    ),
    (
        "trainer: {logger: {class_path: CSVLogger, init_args: {save_dir: ~/x}}}",
        r"names .*/x, .* \(trainer.logger.save_dir\)",
    ),
    (
        "trainer: {logger: {class_path: WandbLogger, init_args: {dir: more}}}",
        r"names more, .* \(trainer.logger.dir\)",
    ),
    ("config: nested.yaml", "^RUN/config.yaml: config: names another config; "),
    ("config: {trainer: {callbacks: canary.Call}}", "config: names another config; "),
    ("trust: canary", "^trust: is for the command line alone$"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("config", "message"), REFUSED)
def test_a_refusal_names_file_key_and_way_out(config: str, message: str, beside: Path) -> None:
    said = read(beside, config)
    assert isinstance(said, UserError)
    assert re.search(message, str(said)), said
    assert str(said).startswith(("RUN/config.yaml", "trust"))


ALLOWED = [
    ("trainer: {callbacks: [canary.Call]}", "--trust=canary"),
    ("trainer: {callbacks: [canary.Call]}", "--trust canary --trust other"),
    (
        "trainer: {callbacks: {class_path: LambdaCallback, init_args: {setup: canary.call}}}",
        "--trust canary",
    ),
    ("{}", "--trainer.callbacks canary.Call"),
    ("trainer: {callbacks: [canary.Call]}", "--trainer.callbacks+=canary.Call"),
    ("{}", "--trainer.callbacks nested.yaml"),
    ("{}", "--trainer.default_root_dir=/tmp/x --run_dir elsewhere"),
    ("trainer: {logger: {class_path: CSVLogger, init_args: {save_dir: .}}}", ""),
    ("data: {class_path: ImageFolder, init_args: {root: /tmp/x, cache_dir: ~/y}}", ""),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("config", "args"), ALLOWED)
def test_what_the_command_line_says_is_done(config: str, args: str, beside: Path) -> None:
    found = read(beside, config, *args.split())
    assert isinstance(found, Namespace), found
    assert found.get("trust") is None
    assert (beside.parent / "trace").exists() == ("canary" in args or "nested" in args)


@pytest.mark.parametrize("given", ["--trust", "--trust=", "--trust=a.b", "--trust=os"])
def test_trust_is_given_to_a_package(given: str, beside: Path) -> None:
    said = read(beside, "{}", given)
    assert str(said).startswith("--trust: must be followed by the name of a package of your own")


def test_trust_ends_with_the_command(beside: Path) -> None:
    with trust.command():
        trust.take_packages(["test", "--trust", "canary"])
        trust.distrust(Path("config.yaml"), {})
        assert trust.resolve_name("canary.Call")
        assert not trust.may_read("nested.yaml")
    with trust.command():
        trust.take_packages(["test", "--ckpt_path", "canary.Call"])
        trust.distrust(Path("config.yaml"), {})
        with pytest.raises(trust.Refused):
            trust.resolve_name("canary.Call")
        with pytest.raises(trust.Refused):
            trust.check_download("http://localhost/x.zip", "data.url")
    assert trust.may_read("nested.yaml")


@pytest.mark.parametrize("place", ["", "network.init_args."])
def test_weights_of_a_hub_are_downloaded_if_somebody_says_so(place: str, tmp_path: Path) -> None:
    def check(*args: str, weights: str | None = "DEFAULT") -> None:
        config = Namespace({f"init_args.{place}name": "hf-hub:a/b"})
        config[f"init_args.{place}weights"] = weights
        with trust.command():
            trust.take_packages(args)
            trust.distrust(tmp_path / "config.yaml", {})
            trust.check_downloads(config, "hf-hub:", "model")

    with pytest.raises(UserError, match=r"would download hf-hub:a/b \(model\.(network\.)?name\)"):
        check()
    check("--model.backbone=hf-hub:a/b")
    check("--model.backbone", "hf-hub:a/b")
    check(weights=None)  # test and predict take those of the checkpoint


# Checkpoints


@pytest.fixture(scope="module")
def last(backbone: Path) -> dict[str, Any]:
    """The checkpoint that a run can resume from."""
    checkpoint = load_checkpoint(backbone / "checkpoints" / "last.ckpt")
    check_resumable(checkpoint, "last.ckpt")
    return checkpoint


GARBAGE: list[Any] = [
    *(None, -1, 10**30, True, float("nan"), "x\x1b[31m", [3], [[]], {3: 3}, {"x": 3}),
    *(torch.zeros(2), b"x"),
]
PLACES = (
    *("callbacks", "loops", "optimizer_states", "lr_schedulers", "hyper_parameters", "epoch"),
    *("global_step", "state_dict", "pytorch-lightning_version", "validation", "order", "compared"),
    *("hyper_parameters.class_names", "hyper_parameters.image_shape", "optimizer_states.0"),
    *("hyper_parameters.num_classes", "hyper_parameters.network", "loops.fit_loop", "configured"),
    *("loops.fit_loop.epoch_progress", "loops.fit_loop.epoch_loop.batch_progress"),
    *("loops.fit_loop.epoch_progress.current.processed", "optimizer_states.0.param_groups"),
    *("optimizer_states.0.state", "optimizer_states.0.param_groups.0.params"),
)
ACCEPTED: dict[str, list[Any]] = {  # what is no garbage there
    "hyper_parameters": [{"x": 3}],
    "validation": [{"x": 3}],
    "hyper_parameters.network": [None, "x\x1b[31m"],
    "optimizer_states.0.param_groups.0.params": [[3]],
}


def with_part(checkpoint: Any, place: str, value: Any) -> Any:
    """A copy of a checkpoint with another value at one place."""
    if not place:
        return value
    names = list(checkpoint) if isinstance(checkpoint, dict) else list(range(len(checkpoint)))
    name = next(one for one in names if f"{place}.".startswith(f"{one}."))
    inner = with_part(checkpoint[name], place[len(str(name)) + 1 :], value)
    if isinstance(checkpoint, dict):
        return {**checkpoint, name: inner}
    return [inner if number == name else item for number, item in enumerate(checkpoint)]


@pytest.mark.parametrize("place", PLACES)
def test_garbage_in_a_checkpoint_is_refused_by_name(place: str, last: dict[str, Any]) -> None:
    for value in GARBAGE:
        if any(value is one or repr(value) == repr(one) for one in ACCEPTED.get(place, [])):
            continue
        torch.save(with_part(last, place, value), "x\x1b.ckpt")
        with pytest.raises(UserError) as refused:
            check_resumable(load_checkpoint("x\x1b.ckpt"), "x\x1b.ckpt")
        said = str(refused.value)
        assert said.isprintable()
        assert f"x\\x1b.ckpt is damaged: {place}" in said, (value, said)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"optimizer_states": []}, "optimizer_states is empty"),
        ({"optimizer_states": None}, "optimizer_states must be a list"),
        (
            {"callbacks": {"BestAndLast": {"score": "x"}}},
            "damaged: callbacks.BestAndLast.monitor is",
        ),
        ({"lr_schedulers": [{}]}, ""),
    ],
)
def test_a_damaged_checkpoint_is_not_resumed(
    part: dict[str, Any],
    message: str,
    last: dict[str, Any],
    backbone: Path,
    fails: Callable[..., str],
) -> None:
    Path("RUN/checkpoints").mkdir(parents=True)
    torch.save({**last, **part}, "RUN/checkpoints/last.ckpt")
    Path("RUN/config.yaml").write_text((backbone / "config.yaml").read_text())
    if message:
        assert message in fails("fit", "--ckpt_path=RUN", "--run_dir=next")
        assert not Path("next").exists()


class Payload:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        import os

        return os.system, ("touch trace",)


def archive_of(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


PICKLES = {
    "checkpoint": lambda: archive_of({"state_dict": {}, "epoch": Payload()}),
    "hyper_parameters": lambda: archive_of(
        {"state_dict": {}, "hyper_parameters": {"a": Payload()}}
    ),
    "plain pickle": lambda: pickle.dumps({"state_dict": Payload()}),
}


@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.parametrize("reader", [load_checkpoint, read_weights])
def test_no_pickle_runs(kind: str, reader: Callable[[str], Any]) -> None:
    Path("x.ckpt").write_bytes(PICKLES[kind]())
    with pytest.raises(UserError):
        reader("x.ckpt")
    assert not Path("trace").exists()


def test_no_pickle_in_an_array_runs() -> None:
    """A cache is mapped, and an array of objects can't be."""
    np.save("x.npy", np.array([Payload()], dtype=object), allow_pickle=True)
    for mode in ("c", "r", "r+"):
        with pytest.raises(ValueError, match="Python objects"):
            np.load("x.npy", mmap_mode=mode)
    assert not Path("trace").exists()


@pytest.mark.parametrize(
    ("hidden", "message"),
    [
        ({"class_path": "canary.Call"}, "names canary.Call; .* --trust canary"),
        ({"class_path": "canary"}, "names canary; "),
        ({"class_path": "os.system"}, "names os.system; "),
        ({"class_path": "torch.hub.load"}, "names torch.hub.load, which is no Network"),
        ({"class_path": "torch.nn.Linear"}, "names torch.nn.Linear, which is no Network"),
        (
            {"class_path": "project.networks.absent.Net"},
            "names project.networks.absent.Net: .* no attribute 'absent'",
        ),
        (
            {"class_path": "project.networks.MLP", "init_args": {"hidden": "x"}},
            "holds no network that can be built",
        ),
    ],
)
def test_a_backbone_is_of_a_trusted_class(
    hidden: dict[str, Any], message: str, last: dict[str, Any], beside: Path
) -> None:
    from project.approaches.pretrained import load_network

    hparams = {
        **last["hyper_parameters"],
        "network": hidden,
        "_instantiator": "canary.call",
        "_class_path": "canary.Call",
        "extra": {"class_path": "canary.Call"},
    }
    torch.save({**last, "hyper_parameters": hparams}, "x.ckpt")
    with trust.command(), pytest.raises(UserError, match=message) as refused:
        load_network("x.ckpt")
    assert str(refused.value).startswith(("x.ckpt", "backbone"))
    assert not (beside.parent / "trace").exists()


def test_what_a_checkpoint_names_is_not_imported(
    last: dict[str, Any], beside: Path, run: Callable[..., Run], backbone: Path
) -> None:
    hparams = {**last["hyper_parameters"], "_instantiator": "canary.call"}
    torch.save({**last, "hyper_parameters": hparams}, beside / "checkpoints" / "best.ckpt")
    (beside / "config.yaml").write_text((backbone / "config.yaml").read_text())
    for name in ("wandb/run-x/files/config.yaml", "wandb/debug.log", "summary.json", "metrics.csv"):
        (beside / name).parent.mkdir(parents=True, exist_ok=True)
        (beside / name).write_bytes(pickle.dumps(Payload()))
    tested = run("test", "--ckpt_path", beside)
    assert tested.summary["test/accuracy"] >= 0
    assert not Path("trace").exists()


def test_weights_are_tensors() -> None:
    Path("x.safetensors").write_bytes(save({"a": torch.ones(2)}))
    assert read_weights("x.safetensors")["a"].sum() == 2
    torch.save([1], "x.pt")
    assert read_weights("x.pt") == {}
