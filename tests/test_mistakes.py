"""What the parser says of a mistake: the whole key as it was written, and no words of Python's."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from project.class_paths import check_written
from project.cli import main
from project.errors import UserError
from project.failures import causes

RAW = r"Namespace\(|_AsItIs|object has no attribute|Unable to load|iterable|unhashable|typing\."
SCHEDULER = "--model.lr_scheduler.scheduler"
TUNING = (
    *("--model=FineTuning", "--model.backbone=resnet18"),
    "--trainer.callbacks=FineTuningSchedule",
)
ARGUMENTS: list[tuple[tuple[str, ...], str]] = [
    (("--trainer.logger=CSVLoger",), "trainer.logger: no class 'CSVLoger'; did you mean CSVLogger"),
    (("--trainer=null",), "trainer: null must be options below it"),
    (("--checkpoint=5",), "checkpoint: 5 must be options below it"),
    (("--model=null",), "model: must be a class, or left out; known are "),
    (("--model.optimizer=Adam", "--model.optimizer.betas=x"), "model.optimizer.betas: expected li"),
    (
        ("--model.optimizer=Adam", "--model.optimizer.betas=[0.9]"),
        "model.optimizer.betas: expected a list of 2 values, got [0.9]",
    ),
    (
        (f"{SCHEDULER}=MultiStepLR", f"{SCHEDULER}.milestones=[a]"),
        "model.lr_scheduler.scheduler.milestones[0]: expected int, got 'a'",
    ),
    ((f"{SCHEDULER}=StepLR",), "model.lr_scheduler.scheduler: StepLR needs step_size"),
    (("--trainer.callbacks.monitor=x",), "trainer.callbacks: 'monitor' is of no callback; name"),
    (
        (*TUNING, "--trainer.callbacks.phases=[{name: a, train: all}, {name: b, lr_scale: x}]"),
        "trainer.callbacks.phases[1].lr_scale: expected float, got 'x'",
    ),
    (("--model={class_path: 5}",), "model.class_path: 5 must be the name of a class"),
    (("--seed_everything=null",), "seed_everything: "),
]
FILES: list[tuple[str, str]] = [
    ("1: 2", "given.yaml: the key 1 must be the name of an option"),
    ("trainer: {true: 2}", "given.yaml: trainer: the key true must be the name of an option"),
    (
        "trainer: {callbacks: [LearningRateMonitor, {class_path: EarlyStopping}]}",
        "trainer.callbacks[1]: EarlyStopping needs monitor",
    ),
    (
        "trainer: {callbacks: [LearningRateMonitor, {class_path: EarlyStopping, "
        "init_args: {monitor: x, patience: y}}]}",
        "trainer.callbacks[1].patience: expected int, got 'y'",
    ),
    (
        "model: {class_path: TrainFromScratch, init_args: {optimizer: {class_path: null}}}",
        "model.optimizer.class_path: null must be the name of a class",
    ),
    ("seed_everything: null", "seed_everything: null must be a number"),
]


def assert_says(found: str, message: str) -> None:
    assert found.startswith(message)
    assert not re.search(RAW, found)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("args", "message"), ARGUMENTS, ids=lambda value: str(value)[:40])
def test_arguments(args: tuple[str, ...], message: str, fails: Callable[..., str]) -> None:
    assert_says(fails("fit", *args), message)


@pytest.mark.parametrize(("content", "message"), FILES, ids=lambda value: value[:40])
def test_files(content: str, message: str, fails: Callable[..., str]) -> None:
    Path("given.yaml").write_text(content)
    assert_says(fails("fit", "--config=given.yaml"), message)


@pytest.mark.parametrize("value", [None, 5, "", ["a"], {"a": "b"}, True])
@pytest.mark.parametrize("name", ["class_path", "init_args"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_class_is_checked_before_it_is_read(value: Any, name: str, inside: bool) -> None:
    written: Any = {"class_path": "Adam", name: value}
    if (name, value) == ("init_args", {"a": "b"}):
        check_written("model", written)
        return
    with pytest.raises(UserError) as raised:
        check_written("model", {"init_args": {"one": [3, written]}} if inside else written)
    assert raised.value.key == f"model{'.one[1]' if inside else ''}.{name}"


OWN: dict[str, tuple[str, str]] = {
    "NameError": ("\n\nx = undefined\n", "3: NameError: name 'undefined' is not defined"),
    "SyntaxError": ("x = 1\ndef f(:\n", "2: SyntaxError: "),
    "module": ("import not_there_at_all\n", "1: ModuleNotFoundError: No module named 'not_there"),
    "exit": ("import sys\nsys.exit('no')\n", "2: sys.exit('no') at its import"),
    "exit_with_0": ("import sys\nsys.exit(0)\n", "2: sys.exit(0) at its import"),
}


@pytest.mark.parametrize("option", ["model", "model.network", "trainer.callbacks"])
@pytest.mark.parametrize("kind", OWN)
def test_import_of_own_code_names_its_line(
    kind: str,
    option: str,
    fails: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content, message = OWN[kind]
    name = f"own_{kind.lower()}"
    (tmp_path / f"{name}.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    key = "" if kind.startswith("exit") else f"{option}: "
    assert_says(fails("fit", f"--{option}={name}.Thing"), f"{key}{name}.py, line {message}")
    assert name not in sys.modules


@pytest.mark.parametrize(
    ("place", "args"),
    [
        ("project.parsing.ProjectParser._dump_cleanup_actions", ()),
        ("project.parsing.pretrained_input_spec", TUNING[:2]),
    ],
    ids=["writing", "link"],
)
def test_a_fault_inside_the_parser_keeps_its_trace(
    place: str, args: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, int)  # which takes other arguments
    with pytest.raises(TypeError) as raised:
        main(["fit", *args, "--trainer.logger=false"])
    assert "please report it" in "".join(raised.value.__notes__)


def test_causes_of_a_group() -> None:
    first, second = ValueError("1"), NameError("2")
    second.__cause__ = KeyError("3")
    error = TypeError("0")
    error.__cause__ = ExceptionGroup("alternatives", [first, second])
    second.__cause__.__context__ = error  # as where it is raised again
    assert [type(one) for one in causes(error)] == [
        *(TypeError, ExceptionGroup, ValueError, NameError, KeyError),
    ]
