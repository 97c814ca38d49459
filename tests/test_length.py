"""How long a training takes, by everything that can limit it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from jsonargparse import Namespace

from project.errors import UserError
from project.finetuning import FineTuningSchedule, Phase
from project.length import settle_length
from tests.conftest import Run

QUIET = ("--trainer.logger=false", "--test_after_fit=false")
STEPS = 21  # of an epoch of the bundled digits


def steps(run: Run) -> int:
    last = torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)
    return int(last["global_step"])


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ("abc", "must be days:hours"),
        ("1", "must be days:hours"),
        ({"foo": 1}, "must be days:hours"),
        ("00:00:00:00", "must be more than 0"),
        ({"days": -1}, "must be more than 0"),
    ],
)
def test_a_time_that_is_none(limit: Any, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as raised:
        settle_length(Namespace(max_time=limit))
    assert raised.value.key == "trainer.max_time"


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], 10 * STEPS),
        (["max_epochs=3"], 3 * STEPS),
        (["max_steps=250"], 250),
        (["max_steps=30", "max_epochs=3"], 30),
        (["max_steps=99", "max_epochs=3"], 3 * STEPS),
        (["min_epochs=2"], 10 * STEPS),
        (["min_epochs=12"], 12 * STEPS),
        (["min_steps=30", "max_steps=50"], 50),
        (["max_epochs=2", "max_time=00:01:00:00"], 2 * STEPS),
        (["max_epochs=2", "min_epochs=2"], 2 * STEPS),
    ],
)
def test_limits(given: list[str], expected: int, run: Callable[..., Run]) -> None:
    """Each limit alone and together; the default applies only where nobody gave one."""
    finished = run("fit", *(f"--trainer.{option}" for option in given), *QUIET)
    assert steps(finished) == expected
    again = run("fit", "--config", finished.path / "config.yaml", *QUIET)
    assert steps(again) == expected  # the saved config means the same


def test_time_alone_is_a_limit(run: Callable[..., Run]) -> None:
    """The default of 10 epochs would be over long before."""
    finished = run("fit", "--trainer.max_time=00:00:00:02", *QUIET)
    assert "trainer.max_time: ended" in finished.out


def test_a_minimum_above_the_maximum_is_refused(fails: Callable[..., str]) -> None:
    message = fails("fit", "--trainer.max_epochs=3", "--trainer.min_epochs=5", *QUIET)
    assert message == "trainer.min_epochs: 5 is more than max_epochs: 3"


def test_a_least_number_of_steps_alone_is_refused(fails: Callable[..., str]) -> None:
    message = fails("fit", "--trainer.min_steps=30", *QUIET)
    assert message == "trainer.min_steps: is no limit; give max_epochs or max_steps, too"


class Gradual(FineTuningSchedule):
    """A schedule of one's own, of more epochs than the default."""

    def __init__(self) -> None:
        super().__init__((Phase("all", "all", epochs=12),))


class Named(FineTuningSchedule):
    """A schedule of one's own with a preset of another name, and without ``epochs``."""

    def __init__(self, preset: str = "mine", phases: tuple[Phase, ...] | None = None) -> None:
        super().__init__((Phase(preset, "all", epochs=2),))


class Listed(L.Callback):
    """A callback of one's own that has options with the names of the schedule's."""

    def __init__(self, preset: str = "small", phases: tuple[int, ...] = ()) -> None:
        self.preset = preset


def test_a_subclass_of_the_schedule_decides_too(
    run: Callable[..., Run], schedule: tuple[str, ...]
) -> None:
    finished = run(*schedule, f"--trainer.callbacks={__name__}.Gradual")
    assert steps(finished) == 12 * 4


@pytest.mark.parametrize("preset", ["mine", "full"])
def test_a_subclass_of_the_schedule_may_have_a_preset_of_its_own(
    preset: str, run: Callable[..., Run], schedule: tuple[str, ...]
) -> None:
    named = f"{{class_path: {__name__}.Named, init_args: {{preset: {preset}}}}}"
    assert steps(run(*schedule, f"--trainer.callbacks={named}")) == 2 * 4


def test_other_callbacks_may_have_a_preset(run: Callable[..., Run]) -> None:
    """It was taken for that of a schedule, whatever class it belonged to."""
    callback = {"class_path": f"{__name__}.Listed", "init_args": {"preset": "large"}}
    Path("own.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    finished = run("fit", "--config", "own.yaml", "--trainer.max_epochs=1", *QUIET)
    saved: dict[str, Any] = yaml.safe_load((finished.path / "config.yaml").read_text())
    assert saved["trainer"]["callbacks"][0]["init_args"]["preset"] == "large"


def test_two_schedules_are_refused_whatever_their_class(
    fails: Callable[..., str], schedule: tuple[str, ...]
) -> None:
    message = fails(*schedule, f"--trainer.callbacks+={__name__}.Gradual")
    assert message == "trainer.callbacks: there are two FineTuningSchedules; leave one"
