"""Where a training is in the phases of a schedule; it knows no trainer and no model."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

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
        best: Best value of the monitored metric in the phase; None before the first validation.
        wait: Validations since the best one.
    """

    def __init__(self, phases: Sequence[Phase]) -> None:
        self.phases = phases
        self._enter(0, Position(0, 0, 0))

    def _enter(self, number: int, start: Position) -> None:
        self.number = number
        self.start = start
        self.best: float | None = None
        self.wait = 0
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

    def validated(self, value: float, at: Position) -> bool:
        """Take the result of a validation, which may end the phase.

        Args:
            value: The monitored metric.
            at: Where the training is; after the last batch of an epoch, the start of the next one.

        Returns:
            Whether it is the best of the phase.
        """
        assert self.monitor is not None
        plateau = self.phase.plateau
        sign = 1 if self.monitor[1] == "max" else -1
        delta = plateau.min_delta if plateau else 0.0
        self.wait += 1
        is_best = self.best is None or sign * value > sign * self.best + delta
        if is_best:
            self.best, self.wait = value, 0
        if plateau and self.wait >= plateau.patience and self._past_floor(plateau, at):
            self._ended = f"as {plateau.monitor} didn't improve in {self.wait} validations"
        return is_best

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
            "best": self.best,
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
            self.best, self.wait = state["best"], state["wait"]
        if old == new:
            self._ended = state["ended"]
        return same


def _compared_by(plateau: dict[str, Any] | None) -> tuple[str, str]:
    return (plateau["monitor"], plateau["mode"]) if plateau else ("val/loss", "min")
