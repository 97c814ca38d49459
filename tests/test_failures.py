"""Errors from deep inside a library end in one line that names the key; faults keep their trace."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from jsonargparse import Namespace
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.distributed import DistNetworkError

from project.approaches import TrainFromScratch
from project.cli import main
from project.failures import explained, machine
from project.networks import MLP, Network
from project.runs import RunDir
from project.tracking import check_loggers, configure_loggers, given_by_environment
from tests.conftest import CONFIGS, Run
from tests.test_errors import assert_matches

SHORT = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--test_after_fit=false")
QUIET = (*SHORT, "--trainer.logger=false")
STOP, LOSS = "--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/loss"
METRIC = "torchmetrics.classification.MulticlassAUROC"
PLATEAU = ("--model.lr_scheduler.scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau",)
ONE_CYCLE = (
    "--model.lr_scheduler.scheduler=OneCycleLR",
    "--model.lr_scheduler.scheduler.max_lr=0.1",
    "--model.lr_scheduler.scheduler.total_steps=3",
)


class Shadow(TrainFromScratch):
    def loss(self, logits: Any, targets: Any) -> Any:  # type: ignore[override]
        return logits


class Headless(MLP):
    def layer_groups(self) -> dict[str, list[str]]:
        return {"head": ["head"], "body": ["backbone"]}


def unannotated(image_shape, num_logits):  # type: ignore[no-untyped-def]
    return MLP(image_shape, num_logits)


def annotated(image_shape: tuple[int, int, int], num_logits: int) -> Network:
    return MLP(image_shape, num_logits)


class Silent(Logger):
    """A logger that takes no option at all."""

    name, version = "silent", 0

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


class Faulty(L.Callback):
    def on_train_start(self, *args: Any) -> None:
        raise ValueError("mine")


class WrongHook(L.Callback):
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.log("x", 1.0)


class Unsaved(L.Callback):
    def state_dict(self) -> dict[str, Any]:
        return {"f": lambda: 1}


class FaultyNetwork(Network):
    def __init__(self, image_shape: Any, num_logits: int) -> None:
        raise ValueError("mine")


DEEP: list[tuple[str, tuple[str, ...], str]] = [
    ("monitor", (STOP, f"{LOSS}s"), "^trainer.callbacks.EarlyStopping.monitor: .*val/losss"),
    (
        "monitor of the training",
        (STOP, "--trainer.callbacks.monitor=train/los"),
        "^trainer.callbacks: EarlyStopping: .*train/los.* not avail",
    ),
    (
        "no validation",
        (STOP, LOSS, "--data.val_fraction=0"),
        "^trainer.callbacks.EarlyStopping.monitor: val/loss: nothing is validated",
    ),
    (
        "fused and clipped",
        (
            *("--model.optimizer=Adam", "--model.optimizer.fused=true"),
            *("--trainer.gradient_clip_val=1", "--trainer.precision=bf16-mixed"),
        ),
        "^trainer.precision: MixedPrecision: The current optimizer, Adam, does not allow",
    ),
    ("interval", ("--trainer.val_check_interval=30",), "^trainer.val_check_interval: .*30"),
    (
        "interval of checkpoints",
        ("--trainer.callbacks=ModelCheckpoint", "--trainer.callbacks.every_n_epochs=-1"),
        "^trainer.callbacks: ModelC.*every_n_epochs",
    ),
    ("devices", ("--trainer.devices=-3",), "^trainer.devices: "),
    ("fraction", ("--trainer.limit_train_batches=1.5",), "^trainer.limit_train_batches: .*1.5"),
    ("strategy", ("--trainer.strategy=dddp",), "^trainer.strategy: .*dddp"),
    ("loss", ("--model.loss=torch.nn.BCEWithLogitsLoss",), "^model.loss: BCEWithLogitsLoss: Targ"),
    ("dropout", ("--model.network.dropout=5",), "^model.network.dropout: dropout probability.*5"),
    ("negative", ("--model.network.hidden=[-1]",), "^model.network: MLP: .*negative dimension"),
    ("memory", ("--model.network.hidden=[100000000000]",), "^not enough memory .*lower data.batch"),
    (
        "one cycle",
        (*ONE_CYCLE, "--model.lr_scheduler.interval=step", "--trainer.limit_train_batches=9"),
        "^model.lr_scheduler: OneCycleLR ends after 3 steps, .* takes 9",
    ),
    ("method loss", (f"--model={__name__}.Shadow",), "^model: Shadow: .* name it compute_loss$"),
    ("function", (f"--model.network={__name__}.unannotated",), "annotation says what it returns$"),
    ("name", (f"--experiment={'x' * 300}",), "File name too long$"),
    ("directory", (f"--run_dir={'x' * 300}",), "File name too long$"),
    ("mlflow", ("--trainer.logger=MLFlowLogger",), "^trainer.logger: MLFlowLogger: .*mlflow"),
    ("lr", ("--model.optimizer=Adam", "--model.optimizer.lr=.nan"), "^model.optimizer: .*nan"),
    ("decay", ("--model.optimizer=SGD", "--model.optimizer.weight_decay=.inf"), "^model.optimizer"),
    ("seed", ("--seed_everything=-5",), "^seed_everything: -5 must be from 0"),
    ("null byte", ("--run_dir=a\0b",), "^run_dir: .*null byte"),
    (
        "choice in a list",
        (
            "--trainer.callbacks=LearningRateMonitor",
            "--trainer.callbacks.logging_interval=x",
        ),
        "^trainer.callbacks.logging_interval: expected one of 'step', 'epoch', got x$",
    ),
    (
        "two of a name",
        ("--model.lr_scheduler.scheduler=ReduceLROnPlateau",),
        "^model.lr_scheduler.scheduler: there are several ReduceLROnPlateau; give one of torch",
    ),
    (
        "frequency",
        (*ONE_CYCLE, "--model.lr_scheduler.frequency=0"),
        "^model.lr_scheduler.freq.* 1$",
    ),
    ("accumulation", ("--trainer.accumulate_grad_batches=0",), "^trainer.accumulate_grad_batches"),
    ("smoothing", ("--model.label_smoothing=1000000",), "^model.label_smoothing: 1000000.0 must"),
    ("shift", ("--data.augment.shift=100000000000000000000",), "^data.augment.shift: 1000"),
    ("mean", ("--data.mean=.inf",), "^data.mean: inf must be finite, and at most 1,000,000$"),
    ("dropout of nan", ("--model.network.dropout=.nan",), "^model.network.dropout: .*nan"),
    ("best", ("--checkpoint.monitor=nothing",), "^checkpoint.monitor: .*nothing"),
    ("arguments", ("--model.optimizer={class_path: Adam, init_args: 3}",), "^model.optimizer"),
    ("clip", ("--trainer.gradient_clip_algorithm=x",), "^trainer.gradient_clip_algorithm: "),
    ("accelerator", ("--trainer.accelerator=mps",), "^trainer.accelerator: 'mps' can't be used: "),
    ("no gpu", ("--trainer.accelerator=gpu",), "^trainer.accelerator: 'gpu' can't be used: No sup"),
    ("sharded", ("--trainer.strategy=fsdp",), "^trainer.strategy: 'fsdp' can't be used: .*GPU"),
    (
        "plateau between validations",
        (*PLATEAU, "--trainer.check_val_every_n_epoch=2"),
        "^model.lr_scheduler.frequency: 1 epoch is over before val/loss .*; set frequency: 2$",
    ),
    (
        "plateau of each step",
        (*PLATEAU, "--model.lr_scheduler.interval=step"),
        "^model.lr_scheduler.frequency: 1 step is over before val/loss .*; set interval: epoch",
    ),
    (
        "part of a batch to test",
        ("--test_after_fit=true", "--trainer.limit_test_batches=0.5"),
        "^trainer.limit_test_batches: 0.5 of 1 is less than one batch",
    ),
    (
        "own state",
        (f"--trainer.callbacks={__name__}.Unsaved",),
        "^trainer.callbacks: Unsaved: what its state_dict returns can't be saved",
    ),
]


@pytest.mark.sampled(3)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("args", "message"), [pytest.param(args, message, id=name) for name, args, message in DEEP]
)
def test_error_deep_inside(args: tuple[str, ...], message: str, fails: Callable[..., str]) -> None:
    assert_matches(fails("fit", *QUIET, *args), message)


FILES: list[tuple[str, bytes, str]] = [
    ("alias of itself", b"trainer: &t {callbacks: *t}", "^given.yaml: its aliases .* without end"),
    ("latin-1", "experiment: ü".encode("latin-1"), "^given.yaml: is not in UTF-8 .byte 12 is 0xfc"),
    ("UTF-16", "experiment: ü".encode("utf-16"), "^given.yaml: is not in UTF-8 .byte 0 is 0xff"),
    ("bracket", b"trainer:\n  max_epochs: [1\nmodel: 3\n", "^given.yaml: line 3, column 6: "),
    ("tab", b"trainer:\n\tmax_epochs: 1\n", "^given.yaml: line 2, column 1: "),
    ("twice", b"trainer: {}\nmodel: x\ntrainer: {}\n", "line 3, column 1: the key 'trainer' is th"),
    ("empty", b"# nothing\n", "^given.yaml: holds no keys"),
    ("list", b"- trainer\n", "^given.yaml: holds no keys"),
    ("control", b"experiment: \x07\n", r"^given.yaml: the character '\\x07' is not allowed"),
    ("anchor", b"experiment: *a\n", "^given.yaml: line 1, column 13: .*undefined alias"),
    ("tag", b"experiment: !!python/name:os.system\n", "^given.yaml: line 1, column 13: "),
    (
        "metric",
        b"model: {class_path: TrainFromScratch, init_args: {metrics: {a.b: {class_path: "
        + METRIC.encode()
        + b"}}}}",
        "^model.metrics: 'a.b' can't be the name of a metric",
    ),
    (
        "update",
        b"model: {class_path: TrainFromScratch, init_args: {metrics: {update: {class_path: "
        + METRIC.encode()
        + b"}}}}",
        "^model.metrics: 'update' can't be the name of a metric",
    ),
    (
        "task",
        b"model: {class_path: TrainFromScratch, init_args: {metrics: {acc: {class_path: "
        b"torchmetrics.Accuracy}}}}",
        "^model.metrics.acc: .*number of classes.*MulticlassAUROC",
    ),
]


@pytest.mark.parametrize(
    ("content", "message"), [pytest.param(text, message, id=name) for name, text, message in FILES]
)
def test_bad_config_file(content: bytes, message: str, fails: Callable[..., str]) -> None:
    Path("given.yaml").write_bytes(content)
    assert_matches(fails("fit", "--config=given.yaml", *QUIET), message)


ENDS = "--model.lr_scheduler.scheduler.total_steps=9"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("interval", [("step", ENDS), ("epoch",)])
def test_one_cycle_may_end_with_the_training(
    interval: tuple[str, ...], run: Callable[..., Run]
) -> None:
    args = (*ONE_CYCLE, *interval[1:], f"--model.lr_scheduler.interval={interval[0]}")
    assert run("fit", *QUIET, *args, "--trainer.limit_train_batches=9").path.exists()


MISTYPED: list[tuple[tuple[str, ...], str]] = [
    (("fit", "--model.optimiser.lr=3"), "^model: .* no option 'optimiser'; did you mean optimizer"),
    (("recommend", "--dat", "x"), "^no option 'dat'; did you mean data"),
    (("fit", "given.yaml"), "did you mean --config given.yaml"),
    (("fit", "--config=givn.yaml"), "no file .*givn.yaml; did you mean given.yaml"),
    (("validat",), "no command 'validat'; did you mean validate"),
    (("fit", "--experimnt=x"), "^no option 'experimnt'; did you mean experiment"),
    (("fit", "--data.root=\udcff"), "not in UTF-8"),
    (("fit", "--checkpoint.montor=x"), "did you mean checkpoint.monitor"),
]


@pytest.mark.parametrize(("args", "message"), MISTYPED, ids=lambda value: str(value)[:30])
def test_mistyped(args: tuple[str, ...], message: str, fails: Callable[..., str]) -> None:
    Path("given.yaml").touch()
    assert_matches(fails(*args), message)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("option", "message"),
    [("project=a/b", "Invalid project name 'a/b'"), (f"tags=[{'x' * 70}]", "Tag .* 70 characters")],
)
def test_what_wandb_refuses(option: str, message: str, fails: Callable[..., str]) -> None:
    assert_matches(
        fails("fit", *SHORT, f"--trainer.logger.{option}"), f"^trainer.logger: .*{message}"
    )


def test_batch_system(fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"NTASKS": "2", "JOB_NAME": "train", "JOB_ID": "7"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert_matches(fails("fit", *QUIET), "^the environment: SLURMEnvironment: .*--ntasks-per-node")


def test_markup_in_a_name_is_a_text(capfd: pytest.CaptureFixture[str]) -> None:
    phases = "[{name: '[/x]', train: [head], epochs: 1}]"
    schedule = (
        "--trainer.callbacks=FineTuningSchedule",
        f"--trainer.callbacks.phases={phases}",
    )
    main(["plan", "--model=FineTuning", "--model.backbone=resnet18", *schedule])
    assert "[/x]" in capfd.readouterr().out


def test_a_logger_may_have_no_options(run: Callable[..., Run]) -> None:
    assert (run("fit", *SHORT, f"--trainer.logger={__name__}.Silent").path / "config.yaml").exists()


def test_network_may_be_a_function(run: Callable[..., Run]) -> None:
    assert run("fit", *QUIET, f"--model.network={__name__}.annotated").path.exists()


def test_last_layer_group_must_be_the_head(fails: Callable[..., str]) -> None:
    args = ("fit", *QUIET, "--model=FineTuning", f"--model.network={__name__}.Headless")
    assert_matches(
        fails(*args), "^model.network: the last of layer_groups.. is 'body', and must be"
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("option", "note"),
    [
        (
            "trainer.callbacks=Faulty",
            "code of your own: Faulty, which trainer.callbacks names: tests/test_failures.py, l",
        ),
        ("model.network=FaultyNetwork", "code of your own: FaultyNetwork, which model.network na"),
    ],
)
def test_own_code_keeps_its_trace(option: str, note: str) -> None:
    name, value = option.split("=")
    with pytest.raises(ValueError, match="mine") as raised:
        main(["fit", *QUIET, f"--{name}={__name__}.{value}"])
    assert note in "".join(raised.value.__notes__)


@pytest.mark.filterwarnings("ignore")
def test_a_library_that_own_code_calls_is_not_blamed() -> None:
    with pytest.raises(MisconfigurationException) as raised:
        main(["fit", *QUIET, f"--trainer.callbacks={__name__}.WrongHook"])
    said = "".join(raised.value.__notes__)
    assert_matches(said, r"code of your own: WrongHook, which trainer.callbacks names: .*, line")


def test_a_fault_asks_for_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("project.approaches.ImageClassifier.training_batch")
    with pytest.raises(AttributeError) as raised:
        main(["fit", *QUIET])
    assert "please report it" in "".join(raised.value.__notes__)


@pytest.mark.parametrize("args", [("fit", "--trainer.max_epoch=3"), ("fit", "--data.batch_size=0")])
def test_traceback_shows_all(
    args: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROJECT_TRACEBACK", "1")
    with pytest.raises(SystemExit, match="2"):
        main([*args])
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "place",
    ["project.lightning_cli.settle_length", "project.approaches.ImageClassifier.training_step"],
    ids=["before", "training"],
)
def test_interrupted_run_exits_with_130(
    place: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(place, interrupt)
    with pytest.raises(SystemExit) as exit_:
        main(["fit", *QUIET])
    signal.signal(signal.SIGINT, handler)
    assert exit_.value.code == 130
    assert capfd.readouterr().err.splitlines()[-1].startswith("interrupted: ")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "/x/y"), "/x/y: No space left on device"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("CUDA out of memory. Tried"), "not enough memory .CUDA out of memory"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "use UTF-8"),
        (ValueError("invalid literal for int() with base 10: 'abc'"), "^MASTER_PORT: 'abc': inv"),
        (DistNetworkError("timed out"), "^MASTER_ADDR: far: timed out; each machine must be able"),
        (DistNetworkError("The server socket has failed to listen"), "^MASTER_PORT: abc: "),
    ],
)
def test_machine(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", "abc")
    monkeypatch.setenv("MASTER_ADDR", "far")
    assert_matches(str(machine(error)), message)
    assert machine(ValueError("x")) is None
    assert explained(ValueError("x"), config={}) is not None  # type: ignore[arg-type]


def test_wandb_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An option beats the environment, and that beats a default of this package."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("PROJECT", "NAME", "DIR"):
        monkeypatch.setenv(f"WANDB_{name}", f"environment's {name}")
    assert given_by_environment() == {"project": "environment's PROJECT"}

    def logger(**given: Any) -> Namespace:
        options = {"name": None, "save_dir": None, "mode": None, "resume": None, **given}
        one = Namespace(class_path="lightning.pytorch.loggers.WandbLogger")
        one.init_args = Namespace(**options)
        trainer = Namespace(logger=one)
        check_loggers(trainer)
        configure_loggers(trainer, RunDir(Namespace(run_dir="run")), "default")
        return one.init_args

    found, given = logger(), logger(name="option", save_dir="there", mode="disabled")
    assert (found.name, found.save_dir) == ("environment's NAME", "environment's DIR")
    assert (given.name, given.save_dir, given.mode) == ("option", "there", "disabled")
    for name in ("PROJECT", "NAME", "DIR"):
        monkeypatch.delenv(f"WANDB_{name}")
    assert given_by_environment() == {}
    assert (logger().name, logger().save_dir) == ("default", "run")


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["RANK", pytest.param("MPLBACKEND", marks=pytest.mark.slow)])
def test_a_variable_that_a_library_reads_at_its_import(variable: str) -> None:
    failed = subprocess.run(
        [sys.executable, "-m", "project", "--version"],
        cwd=CONFIGS.parent,
        env={**os.environ, variable: "x"},
        capture_output=True,
        text=True,
    )
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: a library refuses an environment variable: ")
    assert len(failed.stderr.splitlines()) == 1


def test_a_server_of_wandb_that_is_none(
    fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "nonsense")
    assert fails("fit", "--run_dir=run").startswith("WANDB_BASE_URL: nonsense must be https://")
