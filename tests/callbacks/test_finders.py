"""The finders search before a run, which is then the one that their result gives."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import BatchSizeFinder
from lightning.pytorch.tuner import batch_size_scaling

from project.approaches import ImageClassifier
from project.callbacks import finders
from project.data import Batch
from tests.conftest import Run

QUICK = (
    *("--data.limit_per_class=10", "--data.batch_size=16", "--trainer.max_epochs=2"),
    *("--trainer.logger=false", "--test_after_fit=false"),
)
COSINE = ("--model.lr_scheduler.scheduler=WarmupCosine", "--model.lr_scheduler.interval=step")
RATE = "{class_path: LearningRateFinder, init_args: {num_training_steps: 30}}"
SIZE = "{class_path: BatchSizeFinder, init_args: {max_trials: 2}}"


def weights(run: Run) -> dict[str, torch.Tensor]:
    last = torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)
    return last["state_dict"]


def equal(one: Run, other: Run) -> bool:
    left, right = weights(one), weights(other)
    return all(torch.equal(left[name], right[name]) for name in left)


def test_a_found_learning_rate_is_that_of_the_config(run: Callable[..., Run]) -> None:
    adam = ("--model.optimizer=AdamW", *COSINE)
    found = run("fit", *QUICK, *adam, f"--trainer.callbacks=[{RATE}]")
    config = yaml.safe_load((found.path / "config.yaml").read_text())
    assert config["trainer"]["callbacks"] is None
    lr = config["model"]["init_args"]["optimizer"]["init_args"]["lr"]
    assert f"LearningRateFinder: model.optimizer.lr {lr:g} (it was 0.001)" in found.out
    assert equal(found, run("fit", *QUICK, *adam, f"--model.optimizer.lr={lr}"))


def test_a_found_batch_size_is_that_of_the_config(run: Callable[..., Run]) -> None:
    found = run("fit", *QUICK, f"--trainer.callbacks=[{RATE}, {SIZE}]")
    config = yaml.safe_load((found.path / "config.yaml").read_text())
    assert config["data"]["init_args"]["batch_size"] == 4
    lr = config["model"]["init_args"]["optimizer"]["init_args"]["lr"]
    typed = run(
        *("fit", *QUICK, "--data.batch_size=4", "--model.optimizer=torch.optim.Adam"),
        f"--model.optimizer.lr={lr}",
    )
    assert equal(found, typed)  # the rate is one for the size
    resumed = run("fit", "--ckpt_path", found.path, "--trainer.max_epochs=3", run_dir=found.path)
    assert "Finder" not in resumed.out
    assert "epoch 3/3" in resumed.out
    tested = run("test", "--ckpt_path", found.path, "--trainer.callbacks=BatchSizeFinder")
    assert "BatchSizeFinder: only fit searches" in tested.out


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A training that fails with more than ``most`` images in a batch; ``largest`` was tried."""
    state = {"most": math.inf, "largest": 0}
    step = ImageClassifier.training_step

    def training_step(self: ImageClassifier, batch: Batch, batch_idx: int) -> Any:
        if len(batch.images) > state["most"]:
            raise RuntimeError("CUDA out of memory. Tried to allocate")  # as torch says it
        state["largest"] = max(state["largest"], len(batch.images))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(ImageClassifier, "training_step", training_step)
    monkeypatch.setattr(batch_size_scaling, "garbage_collection_cuda", lambda: None)  # slow
    return state


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("most", "options", "found"),
    [
        (math.inf, "max_val: 3", "3 (it was 16)"),
        (math.inf, "mode: binsearch, init_val: 8", "10, which is all training images (it was 16)"),
        (5, "init_val: 4", "4 (it was 16)"),
        (5, "mode: binsearch, init_val: 4, margin: 0.0", "5 (it was 16)"),
        (0, "init_val: 1", ""),
    ],
)
def test_only_a_size_that_was_tried_is_found(
    most: float,
    options: str,
    found: str,
    memory: dict[str, float],
    run: Callable[..., Run],
    fails: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory["most"] = most
    said: dict[str, float] = {}
    monkeypatch.setattr(finders, "show", lambda text: said.update({text: memory["largest"]}))
    finder = f"{{class_path: BatchSizeFinder, init_args: {{{options}, steps_per_trial: 1}}}}"
    args = ("fit", *QUICK, "--data.limit_per_class=1", f"--trainer.callbacks=[{finder}]")
    if not found:
        assert "BatchSizeFinder: memory is full with one image in a batch" in fails(*args)
        return
    run(*args)
    assert list(said) == [f"BatchSizeFinder: data.batch_size {found}"]
    assert said.popitem()[1] >= int(re.findall(r"\d+", found)[0])  # before the run itself


@pytest.mark.slow
def test_update_attr_false_changes_nothing(run: Callable[..., Run]) -> None:
    finder = RATE.replace("30", "30, update_attr: false")
    found = run("fit", *QUICK, f"--trainer.callbacks=[{finder}]")
    assert "(update_attr: false keeps 0.001)" in found.out
    assert "optimizer: null" in (found.path / "config.yaml").read_text()


class OwnFinder(BatchSizeFinder):
    """A finder that could search at any time."""


@pytest.mark.parametrize(
    ("finder", "options", "message"),
    [
        (RATE.replace("30", "5"), (), "LearningRateFinder: finds none; raise num_training_steps"),
        (RATE.replace("30", "30, mode: cubic"), (), "LearningRateFinder: `mode` should be either"),
        (RATE.replace("30", "30, attr_name: rate"), (), "attr_name has no effect; it finds model."),
        (RATE.replace("30", "30, max_lr: 0"), (), "min_lr: 1e-08 must be between 0 and max_lr"),
        (SIZE.replace("2", "0"), (), "BatchSizeFinder: max_trials: 0 must be at least 1"),
        (SIZE.replace("2", "2, margin: 2.0"), (), "BatchSizeFinder: `margin` should be between"),
        (SIZE.replace("2", "2, batch_arg_name: b"), (), "batch_arg_name has no effect; it finds"),
        (f"{{class_path: {__name__}.OwnFinder}}", (), "OwnFinder: a subclass would search within"),
        (f"{SIZE}, {SIZE.replace('2', '3')}", (), "BatchSizeFinder: there can be only one"),
        (
            SIZE,
            ("--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu"),
            "BatchSizeFinder: works on one device; run it with trainer.devices: 1",
        ),
        (
            RATE,
            ("--model=FineTuning", "--model.network=MLP", "--model.group_lr={head: 0.1}"),
            "LearningRateFinder: changes the learning rates of model.group_lr, too",
        ),
    ],
)
def test_what_a_finder_refuses(
    finder: str, options: tuple[str, ...], message: str, fails: Callable[..., str], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    args = ("fit", *QUICK, *options, f"--trainer.callbacks=[{finder}]", "--run_dir", run_dir)
    assert message in fails(*args)
    assert not run_dir.exists()


def test_a_resumed_run_keeps_what_was_found(run: Callable[..., Run], fails: Any) -> None:
    first = run("fit", *QUICK)
    config = ("--config", first.path / "config.yaml", f"--trainer.callbacks=[{SIZE}]")
    message = fails("fit", *config, "--ckpt_path", first.path)
    assert "a resumed run keeps the learning rate and the batch size" in message
