"""Where a training is in its phases: without a trainer, a model or any data."""

import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch

from project.approaches.selection import Validated
from project.errors import UserError
from project.finetuning import Phase, Plateau
from project.finetuning.progress import Position, Progress

STEPS = 4  # of an epoch
PLATEAU = Plateau(max_epochs=6, min_epochs=2, monitor="val/accuracy", mode="max", patience=2)
PHASES = (
    Phase("probe", ["head"], epochs=2),
    Phase("top", 2, steps=6),
    Phase("all", "all", plateau=PLATEAU),
)


def at(step: int) -> Position:
    """The position after so many steps, each of one batch."""
    return Position(step // STEPS, step % STEPS, step)


def test_phases_begin_where_those_before_end() -> None:
    """Epochs count from where a phase began, also from the middle of one."""
    progress = Progress(PHASES)
    begun = {}
    for step in range(38):
        if progress.advance(at(step)):
            begun[progress.phase.name] = (step, progress.start)
    assert begun == {"top": (8, at(8)), "all": (14, at(14))}
    assert not progress.finished(at(14 + 6 * STEPS - 1))
    assert progress.over(at(14 + 6 * STEPS)) == "after 6 epochs"
    assert progress.finished(at(14 + 6 * STEPS))


def test_reasons() -> None:
    progress = Progress(PHASES)
    assert progress.advance(at(7)) == ""
    assert progress.advance(at(8)) == "after 2 epochs"
    assert progress.advance(at(14)) == "after 6 steps"
    assert progress.advance(at(99)) == ""  # there is no phase after the last one


@pytest.mark.parametrize("mode", ["max", "min"])
def test_plateau_has_patience_a_floor_and_a_least_improvement(mode: Any) -> None:
    plateau = replace(PLATEAU, mode=mode, min_delta=0.1)
    progress = Progress([Phase("all", "all", plateau=plateau)])
    sign = 1 if mode == "max" else -1
    values = [0.5, 0.55, 0.7, 0.75, 0.72]
    best = [
        progress.validated(Validated(sign * value), at(2 * (n + 1)))
        for n, value in enumerate(values)
    ]
    assert best == [True, False, True, False, False]
    assert progress.over(at(10)) == "as val/accuracy didn't improve in 2 validations"
    early = Progress([Phase("all", "all", plateau=plateau)])
    for step in (2, 4, 6):
        early.validated(Validated(sign * 0.5), at(step))
    assert early.wait == 2 and not early.over(at(6))  # its floor is at 2 epochs, step 8


def test_restore_best_compares_validation_losses_where_there_is_no_plateau() -> None:
    progress = Progress([Phase("all", "all", epochs=3, restore_best=True)])
    assert progress.monitor == ("val/loss", "min")
    assert [progress.validated(Validated(loss), at(4)) for loss in (0.9, 0.5, 0.7)] == [
        *(True, True, False)
    ]
    assert Progress([Phase("all", "all", epochs=3)]).monitor is None


FLAT = torch.zeros(100)
NOISE = torch.tensor([-1.0, 1.0]).repeat(50)  # a mean of 0 with a standard error of 0.1


@pytest.mark.parametrize("resumed", [False, True])
def test_what_may_be_luck_is_no_improvement_for_a_plateau(resumed: bool) -> None:
    """Small steps count once they are more than luck together; of equals, the last is the best."""
    plateau = Plateau(max_epochs=9, monitor="val/loss", mode="min", patience=2)
    losses = [FLAT + 1, NOISE + 0.95, NOISE + 0.7, NOISE * 2 + 0.65, NOISE + 0.72, FLAT + 2]
    for rule, waits, best in (
        ("minimum", [0, 0, 0, 0, 1, 2], [True, True, True, True, False, False]),
        ("noise_aware", [0, 1, 0, 1, 2, 3], [True, True, True, True, True, False]),
        ("last", [0, 0, 0, 0, 1, 2], [True] * 6),
    ):
        progress = Progress([Phase("all", "all", plateau=plateau)])
        found = []
        for number, values in enumerate(losses):
            if resumed:
                state, progress = progress.state_dict(), Progress(progress.phases)
                assert progress.load_state_dict(pickle.loads(pickle.dumps(state)))
            new = Validated(values.mean().item(), values)
            taken = progress.validated(new, at(STEPS * (number + 1)), rule)  # type: ignore[arg-type]
            found.append((progress.wait, taken))
        assert found == list(zip(waits, best)), rule


def test_not_a_number_is_never_the_best() -> None:
    progress = Progress([Phase("all", "all", epochs=3, restore_best=True)])
    losses = (float("nan"), 0.5, float("nan"), 0.4)
    taken = [progress.validated(Validated(loss), at(4)) for loss in losses]
    assert taken == [False, True, False, True]


def test_state_continues_where_it_was_taken() -> None:
    progress = Progress(PHASES)
    for step in (8, 14):
        progress.advance(at(step))
    progress.validated(Validated(0.5), at(16))
    progress.validated(Validated(0.4), at(20))
    resumed = Progress(PHASES)
    assert resumed.load_state_dict(progress.state_dict())
    assert resumed.state_dict() == progress.state_dict()
    for one in (progress, resumed):
        assert not one.over(at(22))
        one.validated(Validated(0.5), at(24))
        assert one.over(at(24)) == "as val/accuracy didn't improve in 2 validations"


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"patience": 5}, True),
        ({"monitor": "val/f1"}, False),
        ({"mode": "min"}, False),
    ],
)
def test_another_metric_makes_a_best_value_meaningless(change: dict[str, Any], kept: bool) -> None:
    """What was the best by accuracy says nothing about a loss."""
    progress = Progress(PHASES[2:])
    progress.validated(Validated(0.9), at(4))
    changed = Progress([replace(PHASES[2], plateau=replace(PLATEAU, **change))])
    with pytest.raises(UserError, match=r"phases\[0\].plateau: .* is now"):
        changed.load_state_dict(progress.state_dict())
    assert changed.load_state_dict(progress.state_dict(), allow_changes=True) == kept
    assert changed.best == (Validated(0.9) if kept else None)


def test_a_phase_that_is_gone_is_named() -> None:
    with pytest.raises(UserError, match="the checkpoint is in phase 'probe', which is gone"):
        Progress(PHASES[1:]).load_state_dict(Progress(PHASES).state_dict(), allow_changes=True)
