"""Where a training is in the phases of a schedule; it knows no trainer and no model."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from project.approaches.selection import Rule, Selection, Validated, may_be_luck
from project.errors import UserError
from project.finetuning.phases import Phase, Plateau, differences


class Position(NamedTuple):
    """A moment of a training, between two batches.

    Attributes:
        epoch: The epoch, from 0 on.
        batch: Batches of the epoch that are over.
        step: Optimizer steps of the training that are over.
    """

    epoch: int
    batch: int
    step: int


class Progress:
    """Which phase a training is in, whether that is over, and why.

    Args:
        phases: The phases.

    Attributes:
        number: The phase, from 0 on.
        start: Where it began.
        best: The validation that the last improvement led to; None before the first one.
        wait: Validations since then.
        reference: The validation with the best metric.
    """

    def __init__(self, phases: Sequence[Phase]) -> None:
        self.phases = phases
        self._enter(0, Position(0, 0, 0))

    def _enter(self, number: int, start: Position) -> None:
        self.number = number
        self.start = start
        self.best: Validated | None = None
        self.wait = 0
        self.reference: Validated | None = None
        self._ended = ""  # why a validation has ended the phase

    @property
    def phase(self) -> Phase:
        """The phase that the training is in."""
        return self.phases[self.number]

    @property
    def in_last(self) -> bool:
        """Whether no phase comes after this one."""
        return self.number == len(self.phases) - 1

    def over(self, at: Position) -> str:
        """Return why the phase is over at a position; empty if it isn't."""
        phase = self.phase
        epochs = phase.max_epochs
        if self._ended:
            return self._ended
        if phase.steps and at.step - self.start.step >= phase.steps:
            return f"after {phase.steps} steps"
        if epochs and at[:2] >= (self.start.epoch + epochs, self.start.batch):
            return f"after {epochs} epoch{'s' if epochs > 1 else ''}"
        return ""

    def finished(self, at: Position) -> bool:
        """Return whether the last phase is over at a position."""
        return self.in_last and bool(self.over(at))

    def advance(self, at: Position) -> str:
        """Enter the next phase if this one is over and there is a next one.

        Returns:
            Why the phase before is over; empty if none was entered.
        """
        reason = self.over(at)
        if not reason or self.in_last:
            return ""
        self._enter(self.number + 1, at)
        return reason

    @property
    def monitor(self) -> tuple[str, str] | None:
        """Metric and mode by which validations of the phase are compared; None if they aren't."""
        if self.phase.plateau:
            return self.phase.plateau.monitor, self.phase.plateau.mode
        return ("val/loss", "min") if self.phase.restore_best else None

    def validated(self, new: Validated, at: Position, rule: Rule = "minimum") -> bool:
        """Take the result of a validation, which may end the phase.

        Args:
            new: The monitored metric.
            at: Where the training is; after the last batch of an epoch, the start of the next one.
            rule: How the best one is chosen. With ``noise_aware``, an improvement that may be luck
                is none for a plateau.

        Returns:
            Whether it is the best of the phase.
        """
        assert self.monitor is not None
        plateau = self.phase.plateau
        selection = Selection(rule, self.monitor[1], self.reference)
        self.wait += 1
        improves = self._improves(new, rule)
        if improves:
            self.best, self.wait = new, 0
        is_best = selection.takes(new) if rule != "minimum" else improves
        self.reference = selection.reference
        if plateau and self.wait >= plateau.patience and self._past_floor(plateau, at):
            self._ended = f"as {plateau.monitor} didn't improve in {self.wait} validations"
        return is_best

    def _improves(self, new: Validated, rule: Rule) -> bool:
        assert self.monitor is not None
        if self.best is None or math.isnan(new.score):
            return not math.isnan(new.score)
        sign = 1 if self.monitor[1] == "max" else -1
        least = self.phase.plateau.min_delta if self.phase.plateau else 0.0
        if not sign * new.score > sign * self.best.score + least:
            return False
        return rule != "noise_aware" or not may_be_luck(self.best, new)

    def _past_floor(self, plateau: Plateau, at: Position) -> bool:
        return at[:2] >= (self.start.epoch + plateau.min_epochs, self.start.batch)

    def state_dict(self) -> dict[str, Any]:
        """Return the schedule, the phase, and where in it the training is."""
        return {
            "phases": [asdict(phase) for phase in self.phases],
            "phase": self.number,
            "start": self.start[:2],
            "start_step": self.start.step,
            "ended": self._ended,
            "wait": self.wait,
            "best": self.best and vars(self.best),
            "reference": self.reference and vars(self.reference),
        }

    def load_state_dict(self, state: dict[str, Any], allow_changes: bool = False) -> bool:
        """Continue from a state.

        Args:
            state: Result of :meth:`state_dict`.
            allow_changes: Whether the state may be of another schedule that has the phase by name.

        Returns:
            Whether the best validation still counts: it doesn't where another metric is monitored.

        Raises:
            UserError: If the schedule is another one.
        """
        before = state["phases"][state["phase"]]
        names = [phase.name for phase in self.phases]
        changes = differences(state["phases"], self.phases)
        if changes and not allow_changes:
            raise UserError(
                f"the schedule is not that of the checkpoint: {'; '.join(changes)}. Resume with "
                "the old one, or set allow_changes of FineTuningSchedule"
            )
        if before["name"] not in names:
            raise UserError(
                f"the checkpoint is in phase {before['name']!r}, which is gone from the schedule"
            )
        number = names.index(before["name"])
        epoch, batch = state["start"]
        self._enter(number, Position(epoch, batch, state["start_step"]))
        old, new = before["plateau"], asdict(self.phase)["plateau"]
        same = _compared_by(old) == _compared_by(new)
        if same:
            self.best, self.reference = (
                Validated(**state[name]) if state[name] else None for name in ("best", "reference")
            )
            self.wait = state["wait"]
        if old == new:
            self._ended = state["ended"]
        return same


def _compared_by(plateau: dict[str, Any] | None) -> tuple[str, str]:
    return (plateau["monitor"], plateau["mode"]) if plateau else ("val/loss", "min")
