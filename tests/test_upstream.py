"""What other libraries get wrong: each test fails when its workaround can go."""

import inspect
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from traceback import walk_tb
from typing import Any

import lightning as L
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    ModelCheckpoint,
    SpikeDetection,
    WeightAveraging,
)
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from lightning.pytorch.tuner.tuning import Tuner
from lightning_utilities.core.rank_zero import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import DataLoader

from project.cli import main
from project.upstream.lightning import (
    BATCH_HOOKS,
    QUIET,
    CheckpointsDecideNothing,
    drop_anonymous,
    ema_decay,
    follow_weights,
    forget_averages,
    has_averaged,
    keeps_model,
    log_by_steps_alone,
    log_on_first_rank,
    own_signals,
    restart_averages,
    restored,
    resume_by_epochs,
    skip_empty_hooks,
    unlogged,
)
from project.upstream.torch import allow_recompilation
from project.upstream.wandb import logged_in_to_wandb, wandb_url
from tests.conftest import CONFIGS
from tests.finetuning.schedules import RECORD

pytestmark = pytest.mark.filterwarnings("ignore")


class Line(L.LightningModule):
    """One weight that is trained towards 1; its validation gets worse with every epoch."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.weight = nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return (self.weight - 1).square().sum()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("worse", float(self.global_step))

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("weight", self.weight.item())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)

    def train_dataloader(self) -> Any:
        return DataLoader([torch.zeros(1)] * 4)

    val_dataloader = test_dataloader = train_dataloader


def trainer(callback: L.Callback, **options: Any) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(callbacks=[callback], accelerator="cpu", **quiet, **options)


def test_loggers_take_the_first_rank_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 3)  # as it is where RANK=3
    made = trainer(L.Callback(), devices=1)
    assert made.is_global_zero and rank_zero_only.rank == 3
    log_on_first_rank(made.global_rank)
    assert rank_zero_only.rank == 0


class Follow(L.Callback):
    """Lets averages follow the weights until they begin."""

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        follow_weights(trainer, pl_module)


@pytest.mark.parametrize("follow", [False, True])
def test_an_average_that_has_not_begun_is_validated(follow: bool) -> None:
    class Validated(Line):
        def validation_step(self, batch: Tensor, batch_idx: int) -> None:
            self.log("validated", self.weight.item())

    run = trainer(EMAWeightAveraging(update_starting_at_step=1000), max_epochs=1)
    if follow:
        run.callbacks.append(Follow())
    run.fit(Validated())
    assert (run.callback_metrics["validated"] != 0) == follow


class ByEpochs(L.Callback):
    def on_load_checkpoint(self, trainer: L.Trainer, *_: Any) -> None:
        resume_by_epochs(trainer)


@pytest.mark.parametrize("mended", [False, True])
def test_max_steps_counts_an_epoch_twice_that_a_checkpoint_has_ended(mended: bool) -> None:
    checkpoint = ModelCheckpoint("kept", filename="end", save_on_train_epoch_end=True)
    trainer(checkpoint, max_epochs=1).fit(Line())
    resumed = trainer(ByEpochs() if mended else L.Callback(), max_epochs=3, max_steps=99)
    resumed.fit(Line(), ckpt_path="kept/end.ckpt")
    assert resumed.global_step == (12 if mended else 8)


class Logs(Line):
    """Logs in every other step."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        if batch_idx % 2:
            self.log("step", batch_idx)
            self.log("loss", loss)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("epoch_loss", 1.0)


class StopsAndSaves(L.Callback):
    """Stops after the third batch, and keeps what is not logged when a checkpoint is saved."""

    def __init__(self, alone: bool, stop: bool = True) -> None:
        self.alone = alone
        self.stop = stop
        self.unlogged: list[Any] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.alone:
            log_by_steps_alone(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **_: Any) -> None:
        self.unlogged.append(unlogged(trainer))
        trainer.should_stop = self.stop and args[-1] == 2

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.unlogged.append(unlogged(trainer))


class Ended(ModelCheckpoint):
    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
        looks = [c for c in trainer.callbacks if isinstance(c, StopsAndSaves)]  # type: ignore[attr-defined]
        looks[0].unlogged.append(unlogged(trainer))


def log_into_list(run: L.Trainer) -> list[dict[str, float]]:
    """Return the list that a trainer will log into."""
    logged: list[dict[str, float]] = []

    class Logger(CSVLogger):
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:  # type: ignore[override]
            logged.append({**metrics, "step": step or 0})

    run.loggers = [Logger("logged")]
    return logged


@pytest.mark.parametrize("alone", [False, True])
def test_a_training_that_stops_logs_an_earlier_step_once_more(alone: bool) -> None:
    run = trainer(StopsAndSaves(alone), max_epochs=1, log_every_n_steps=2)
    logged = log_into_list(run)
    run.fit(Logs())
    assert sum("loss" in row for row in logged) == (1 if alone else 2)


def test_what_is_logged_after_a_checkpoint() -> None:
    """Lightning logs it after the last callback, and has no hook for it."""
    looks = StopsAndSaves(alone=False, stop=False)
    run = trainer(looks, max_epochs=1, log_every_n_steps=2)
    run.callbacks.append(Ended())  # type: ignore[attr-defined]
    logged = log_into_list(run)
    run.fit(Logs())
    before = [{**found["metrics"], "step": found["step"]} for found in looks.unlogged if found]
    assert before == [row for row in logged if "worse" not in row]
    assert len(before) == 3


@pytest.mark.parametrize("forget", [False, True])
def test_an_average_takes_the_place_of_the_checkpoint_that_is_tested(forget: bool) -> None:
    """WeightAveraging loads a checkpoint that it didn't write into its average, not the model."""
    model, average = Line(), EMAWeightAveraging(decay=0.5)
    run = trainer(average, max_epochs=1, enable_checkpointing=False)
    run.fit(model)
    run.save_checkpoint("other.ckpt")
    checkpoint = torch.load("other.ckpt", weights_only=True)
    checkpoint["current_model_state"]["weight"].fill_(7)
    torch.save(checkpoint, "other.ckpt")
    if forget:
        forget_averages(run)
    found = run.test(model, ckpt_path="other.ckpt", verbose=False)[0]["weight"]
    assert (found == 7) != forget  # the weights of before the average are tested


def test_an_average_can_be_restarted() -> None:
    average = EMAWeightAveraging(decay=0.5)
    run = trainer(average, max_epochs=1, enable_checkpointing=False)
    run.fit(Line())
    assert average._average_model is not None and average._average_model.n_averaged == 4
    restart_averages(run)
    assert average._average_model.n_averaged == 0
    assert not any(name.startswith(("reset", "restart")) for name in dir(average))


def test_an_average_doesnt_say_what_it_is_of() -> None:
    average = EMAWeightAveraging(decay=0.75, update_starting_at_step=2)
    assert ema_decay(average) == 0.75
    assert ema_decay(WeightAveraging()) is None
    assert not has_averaged(average)
    trainer(average, max_steps=2, enable_checkpointing=False).fit(Line())
    assert not has_averaged(average)
    trainer(average, max_steps=3, enable_checkpointing=False).fit(Line())
    assert has_averaged(average)
    assert not any(name.startswith(("decay", "n_averaged")) for name in vars(average))


def test_batch_size_finder_returns_a_size_that_it_has_not_tried() -> None:
    """Why finders.py gives it twice the largest size."""

    class Sized(Line):
        batch_size = 1

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            tried.add(self.batch_size)
            return super().training_step(batch, batch_idx)

        def train_dataloader(self) -> Any:
            return DataLoader([torch.zeros(1)] * 100, batch_size=self.batch_size)

        val_dataloader = train_dataloader

    tried: set[int] = set()
    tuner = Tuner(trainer(L.Callback(), enable_checkpointing=False))
    assert tuner.scale_batch_size(Sized(), max_val=8, steps_per_trial=1) == 8
    assert max(tried) == 4


def test_early_stopping_says_why_only_if_verbose() -> None:
    assert not EarlyStopping("worse").verbose


def test_spike_detection_cant_load_its_state() -> None:
    callback = SpikeDetection()
    callback.running_mean.update(1.0)
    callback.last_val = torch.tensor(1.0)
    with pytest.raises(AttributeError, match="running"):
        SpikeDetection().load_state_dict(callback.state_dict())


def cli(kind: type[LightningCLI], *args: str) -> LightningCLI:
    quick = ["--trainer.logger=false", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    hidden = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    return kind(Line, args=["fit", *quick, *hidden, *args], save_config_callback=None)


def test_lightning_lets_a_checkpoint_beat_the_command_line() -> None:
    cli(LightningCLI, "--model.lr=0.1", "--trainer.default_root_dir=run")
    (path,) = Path("run").rglob("*.ckpt")
    again = (f"--ckpt_path={path}", "--model.lr=0.5")
    assert cli(LightningCLI, *again).model.lr == 0.1
    assert cli(CheckpointsDecideNothing, *again).model.lr == 0.5


class Base:
    """A class that a config may name."""


class Old(Base):
    def __init__(self, size: int = 1, other: int = 0) -> None:
        self.size = size


class New(Base):
    def __init__(self, size: int = 2) -> None:
        self.size = size


def test_jsonargparse_keeps_arguments_that_were_meant_for_another_class() -> None:
    """Of classes that the project doesn't know; of its own, test_cli.py says what is kept."""
    parser = ArgumentParser()
    parser.add_argument("--part", type=Base)
    given = [f"--part={__name__}.Old", "--part.size=5", f"--part={__name__}.New"]
    assert parser.parse_args(given).part.init_args.size == 5


def test_lightning_passes_an_option_of_wandb_that_has_no_effect() -> None:
    logger = WandbLogger(offline=True)
    assert "anonymous" in logger._wandb_init
    drop_anonymous(logger)
    assert "anonymous" not in logger._wandb_init


def test_a_logger_does_not_say_which_models_it_keeps() -> None:
    names = {name for name in dir(WandbLogger) if "model" in name.lower()}
    assert names <= {"_scan_and_log_checkpoints"}  # none of it is public
    kept = [keeps_model(WandbLogger(log_model=value)) for value in (True, False, "all")]
    assert kept == [True, False, False]


def test_login_of_wandb_is_found_without_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    url = wandb_url()
    assert url.startswith("https://") and not logged_in_to_wandb(url)
    host = url.removeprefix("https://")
    Path("netrc").write_text(f"machine {host} login user password {'0' * 40}\n")
    monkeypatch.setenv("NETRC", "netrc")
    assert logged_in_to_wandb(url)


def test_torch_compiles_no_more_than_a_few_programs() -> None:
    config = torch._dynamo.config
    config.recompile_limit = 8  # torch's own
    allow_recompilation()
    assert config.recompile_limit == 64
    assert not any("limit" in name for name in dir(torch.compiler))


QUICK = ("fit", "--trainer.max_epochs=1", "--trainer.logger=false")
RUNS = {  # part of the warning: command lines, of which the last one causes it
    "Checkpoint directory": [
        (*QUICK, "--run_dir=run"),
        (*QUICK, "--trainer.max_epochs=2", "--ckpt_path=run", "--run_dir=run"),
    ],
    "loading a checkpoint outside": [(*QUICK, "--trainer.callbacks=EMAWeightAveraging")],
    "smaller than the logging interval": [("fit", "--trainer.max_epochs=1")],
    "in eval mode at the start": [
        (*QUICK, "--model=FullTraining", "--data.image_size=32", "--run_dir=run"),
        (*QUICK, "--model=FineTuning", "--model.backbone=run"),
    ],
    "LeafSpec": [QUICK],
    "dataloader is not resumable": [
        (*QUICK, "--run_dir=run", "--checkpoint.every_n_steps=1", f"{RECORD}KeepAll"),
        (
            *("fit", "--config=run/config.yaml", "--trainer.callbacks=null"),
            "--ckpt_path=run/step5.ckpt",
        ),
    ],
    "requested to overfit": [("fit", f"--config={CONFIGS / 'debug' / 'overfit.yaml'}", *QUICK[1:])],
    "infer the batch indices": [(*QUICK, "--run_dir=run"), ("predict", "--ckpt_path=run")],
    "callbacks used to create": [
        (
            *(*QUICK, "--run_dir=run"),
            "--trainer.callbacks={class_path: EarlyStopping, init_args: {monitor: val/loss}}",
        ),
        ("fit", "--ckpt_path=run", "--trainer.max_epochs=2", "--trainer.callbacks=null"),
    ],
    "across ranks is zero": [(*QUICK, "--data.val_fraction=0")],
}
ON_SEVERAL_RANKS = "sync_dist=True"  # of it, test_distributed.py would have to print warnings


def test_every_hidden_warning_has_a_run() -> None:
    parts = [*RUNS, ON_SEVERAL_RANKS]
    plain = [pattern.replace("\\", "") for pattern in QUIET]
    assert len(parts) == len(plain)
    for pattern in plain:
        words = re.sub(r"[.*]+", " ", pattern)
        assert any(all(word in words for word in part.split()) for part in parts), pattern


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The messages of all warnings, none of them hidden."""
    monkeypatch.setattr("project.cli.QUIET", ())
    messages: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(
            warnings, "showwarning", lambda message, *_: messages.append(str(message))
        )
        yield messages


@pytest.mark.sampled(6)
@pytest.mark.parametrize("part", RUNS)
def test_warnings_that_are_hidden_would_be_shown(part: str, seen: list[str]) -> None:
    for args in RUNS[part]:
        seen.clear()
        main(list(args))
    assert any(part in message for message in seen), seen


ORIGINAL = """
import sys
import jsonargparse
from typing import Any
class Owner:
    def __init__(self, root: str = "data", anything: Any = None): ...
parser = jsonargparse.ArgumentParser()
parser.add_subclass_arguments(Owner, "owner")
config = parser.parse_args(["--owner=Owner", "--owner.root=null"])
print(config.owner.init_args.root is None)
open("config.yaml", "wb").write("owner: {class_path: Owner, init_args: {root: '\\xfc'}}".encode())
parser = jsonargparse.ArgumentParser()
parser.add_subclass_arguments(Owner, "owner")
parser.add_argument("--config", action="config")
try:
    config = parser.parse_args(["--config=config.yaml"])
    print(config.owner.init_args.root != "\\xfc")
except UnicodeDecodeError:
    print(True)
config = parser.parse_object({"owner": {"class_path": "Owner", "init_args": {"anything": "x"}}})
config.owner.init_args.anything = "true"
print("anything: true" in parser.dump(config))
parser = jsonargparse.ArgumentParser()
parser.add_argument("--number", type=int)
print(parser.parse_args(["--number=1:30"]).number == 90)
parser = jsonargparse.ArgumentParser(exit_on_error=False)
parser.add_argument("--base", type=Owner, sub_configs=True)
try:
    parser.parse_args(["--base=wave.Wave_read"])
except jsonargparse.ArgumentError:
    print("wave" in sys.modules)
with open("file", "w") as file:
    file.write("class_path: Owner")
print(parser.parse_args(["--base=file"]).base.class_path.endswith("Owner"))
"""


def test_jsonargparse_reads_texts_as_yaml_and_files_by_the_locale(tmp_path: Path) -> None:
    """Why there are leave_texts, read_configs_by, read_numbers_by and settled.

    And import_by and find_configs_by: a text that isn't the class which a type would also take is
    imported all the same, and one that is the name of a file is read.
    """
    found = subprocess.run(
        [sys.executable, "-c", ORIGINAL],
        cwd=tmp_path,
        env={"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == ["True"] * 6


MISTAKES = """
from jsonargparse import ArgumentParser
parser = ArgumentParser(exit_on_error=False)
parser.add_argument("--one", type=BaseException | list[BaseException])
for value in ({"class_path": 5}, {"class_path": "ValueError", "init_args": 5}):
    try:
        parser.parse_object({"one": value})
    except Exception as error:
        text = str(error)
        print("is not iterable" in text or "has no attribute 'keys'" in text)
        causes = []
        while error is not None:
            causes.append(error)
            error = error.__cause__
        print(not any(isinstance(cause, ExceptionGroup) for cause in causes))
"""


def test_jsonargparse_says_what_python_says_of_a_class_that_is_none() -> None:
    """Why there are look_before and keep_alternatives."""
    found = subprocess.run(
        [sys.executable, "-c", MISTAKES], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["True", "True", "True", "True"]


def test_lightning_does_not_say_that_a_checkpoint_is_damaged(tmp_path: Path) -> None:
    first = trainer(L.Callback(), max_epochs=1, default_root_dir=tmp_path)
    first.fit(Line())
    first.save_checkpoint("x.ckpt")
    checkpoint = torch.load("x.ckpt", weights_only=True)
    torch.save({**checkpoint, "loops": {"fit_loop": {"epoch_progress": 3}}}, "x.ckpt")
    second = trainer(L.Callback(), max_epochs=2, default_root_dir=tmp_path)
    with pytest.raises((KeyError, TypeError, AttributeError)) as raised:
        second.fit(Line(), ckpt_path="x.ckpt")
    frames = [frame for frame, _ in walk_tb(raised.value.__traceback__)]
    parts = [found for frame in frames if (found := restored(frame))]
    assert parts[-1] == ("loops", "x.ckpt")


def test_lightning_talks_to_other_ranks_inside_a_signal_handler() -> None:
    """Why there is own_signals; it is mended once the handler only sets a flag."""
    handler = inspect.getsource(_SignalConnector._sigterm_notifier_fn)
    assert "dist.broadcast" in handler
    assert "broadcast" in inspect.getsource(_TrainingEpochLoop._broadcast_sigterm_tensor)


def test_lightning_takes_over_sigterm_unless_told_not_to() -> None:
    for own in (False, True):
        trainer = L.Trainer(logger=False, barebones=True, max_epochs=1)
        if own:
            own_signals(trainer)
        before = signal.getsignal(signal.SIGTERM)
        try:
            trainer._signal_connector.register_signal_handlers()
            assert (signal.getsignal(signal.SIGTERM) == before) == own
        finally:
            signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("skipped", [False, True])
def test_lightning_calls_empty_hooks(monkeypatch: pytest.MonkeyPatch, skipped: bool) -> None:
    class Some(L.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            called.add("own")

    called: set[str] = set()
    for hook in BATCH_HOOKS:
        monkeypatch.setattr(L.Callback, hook, lambda self, *_, hook=hook: called.add(hook))
    run = trainer(Some(), max_steps=1, enable_checkpointing=False)
    if skipped:
        skip_empty_hooks(run.callbacks)
    run.fit(Line())
    empty = set(BATCH_HOOKS) - {"on_train_batch_end"}
    assert called == {"own"} | (set() if skipped else empty)
