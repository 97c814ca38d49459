"""The study of a sweep: what Optuna keeps of its trials, and which values it draws for one."""

import math
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study as OptunaStudy
from optuna.trial import FrozenTrial, Trial, TrialState

from project import config_text
from project.commands.sweep.settings import Sweep
from project.errors import UserError
from project.saving import write
from project.upstream.optuna import running_trial

JOURNAL = "study.journal"
IDENTITY = "folder.txt"
FORGOTTEN = timedelta(minutes=1)  # of a trial whose process was killed while it drew
RESULTS = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped early",
    TrialState.FAIL: "failed",
}


class Numbered(BaseSampler):
    """Draws for each trial from a generator of its own, so that a resumed sweep repeats nothing.

    Args:
        sweep: The sweep.
        seed: Seed of all generators.
    """

    def __init__(self, sweep: Sweep, seed: int) -> None:
        self._sweep = sweep
        self._seed = seed
        self._one: BaseSampler = RandomSampler()

    def before_trial(self, study: OptunaStudy, trial: FrozenTrial) -> None:
        """Take the generator of a trial."""
        seed = (self._seed * 1_000_003 + trial.number) % 2**32
        if self._sweep.method == "bayes":
            self._one = TPESampler(seed=seed)
        else:
            self._one = RandomSampler(seed=seed)

    def infer_relative_search_space(
        self, study: OptunaStudy, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the parameters that are drawn together."""
        return self._one.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: OptunaStudy, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw parameters together."""
        return self._one.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: OptunaStudy,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw a parameter alone, or take it from the grid."""
        if self._sweep.method == "grid":
            return self._sweep.combination(trial.number)[param_name]
        return self._one.sample_independent(study, trial, param_name, param_distribution)


@dataclass(frozen=True)
class Result:
    """A trial that is finished.

    Attributes:
        number: Its number.
        state: ``complete``, ``stopped early`` or ``failed``.
        values: The values of the parameters as the command line takes them.
        score: Its metric, None if it failed.
        seconds: How long its processes took.
        error: Why it failed; else empty.
    """

    number: int
    state: str
    values: Mapping[str, str]
    score: float | None
    seconds: float
    error: str


class Study:
    """The trials of a sweep.

    Args:
        sweep: The sweep.
        folder: Its folder.
        storage: Where Optuna keeps the study: a URL, or a file; None is a file in the folder.
        seed: Seed of what is drawn.

    Raises:
        UserError: If the storage can't be used, or holds another sweep.
    """

    def __init__(self, sweep: Sweep, folder: Path, storage: str | None, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.sweep = sweep
        self._folder = _identity(folder)
        place = storage or str(folder / JOURNAL)
        try:
            self._study = optuna.create_study(
                storage=place if "://" in place else JournalStorage(JournalFileBackend(place)),
                sampler=Numbered(sweep, seed),
                pruner=_pruner(sweep),
                study_name=sweep.name,
                direction="maximize" if sweep.maximize else "minimize",
                load_if_exists=True,
            )
        except Exception as error:  # of any database
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise UserError(f"{place} can't be used: {reason}", "storage") from error
        self._check(place)

    def _check(self, place: str) -> None:
        now = config_text.in_line(self.sweep.identity)
        before = self._study.user_attrs.get("sweep")
        if before is None:
            self._study.set_user_attr("sweep", now)
        elif before != now:
            old, new = config_text.load(before), config_text.load(now)
            changed = ", ".join(key for key in new if new[key] != old.get(key))
            raise UserError(
                f"{place} holds the sweep {self.sweep.name} with another {changed}; "
                "choose another --output, or another name in the file"
            )

    def ask(self) -> Trial:
        """Return a new trial, with its values."""
        return self._draw(self._study.ask())

    def _draw(self, trial: Trial) -> Trial:
        """Draw the values of a trial that it lacks; those that it has stay."""
        trial.set_user_attr("folder", self._folder)
        values = {one.name: one.text(one.draw(trial)) for one in self.sweep.parameters}
        trial.set_user_attr("values", values)
        return trial

    def unfinished(self) -> list[int]:
        """Return the numbers of the trials in this folder that have no result."""
        found = []
        for one in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            folder, began = one.user_attrs.get("folder"), one.datetime_start or datetime.now()
            forgotten = folder is None and datetime.now() - began > FORGOTTEN
            if folder == self._folder or forgotten:
                found.append(one.number)
        return found

    def again(self, number: int) -> Trial | None:
        """Return a trial that has no result yet, None if it has one by now."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.number == number:
                return self._draw(running_trial(self._study, trial))
        return None

    @property
    def count(self) -> int:
        """Number of trials, with those that run, also elsewhere."""
        return len(self._study.get_trials(deepcopy=False))

    @property
    def finished(self) -> int:
        """Number of trials with a result."""
        return len(self._study.get_trials(deepcopy=False, states=tuple(RESULTS)))

    def report(self, trial: Trial, scores: Mapping[int, float]) -> bool:
        """Tell Optuna of the validations of a trial; return whether it ends early.

        Args:
            trial: The trial.
            scores: The metric after each validation, counted from 1.
        """
        halving = self.sweep.halving
        known = self._frozen(trial).intermediate_values
        best: float | None = None
        for step, score in sorted(scores.items()):
            if halving and not halving.strict:
                better = max if self.sweep.maximize else min
                best = score = score if best is None else better(best, score)
            if step not in known:
                trial.report(score, step)
                if trial.should_prune():
                    return True
        return False

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[trial.number]

    def finish(
        self, trial: Trial, score: float | None = None, error: str = "", seconds: float = 0.0
    ) -> Result:
        """Record the result of a trial.

        Args:
            trial: The trial.
            score: Its metric; without it, and without an error, it was stopped early.
            error: Why it failed.
            seconds: How long its processes took.
        """
        trial.set_user_attr("seconds", seconds)
        if error:
            trial.set_user_attr("error", error)
        state = TrialState.FAIL if error else TrialState.COMPLETE
        if not error and score is None:
            state = TrialState.PRUNED
        self._study.tell(trial, score if state is TrialState.COMPLETE else None, state=state)
        return _result(self._frozen(trial))

    def results(self) -> list[Result]:
        """Return the finished trials, in the order of their numbers."""
        found = self._study.get_trials(deepcopy=False, states=tuple(RESULTS))
        return [_result(trial) for trial in found]

    def best(self) -> Result | None:
        """Return the trial with the best score of those that came to their end."""
        with suppress(ValueError):  # there is none
            return _result(self._study.best_trial)
        return None

    def importances(self) -> dict[str, float]:
        """Return the share of each parameter in how good a trial is, the largest first.

        It is PED-ANOVA (Watanabe et al., 2023, https://arxiv.org/abs/2304.10255); empty for fewer
        trials than it needs.
        """
        with suppress(ValueError, RuntimeError):
            if len(self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) > 3:
                found: dict[str, float] = optuna.importance.get_param_importances(self._study)
                return found
        return {}


def _pruner(sweep: Sweep) -> BasePruner:
    if sweep.halving is None:
        return NopPruner()
    return SuccessiveHalvingPruner(
        min_resource=sweep.halving.first, reduction_factor=sweep.halving.eta
    )


def _result(trial: FrozenTrial) -> Result:
    score = trial.value
    if score is None and trial.state is TrialState.PRUNED and trial.intermediate_values:
        last = trial.intermediate_values[max(trial.intermediate_values)]
        score = last if math.isfinite(last) else None
    return Result(
        number=trial.number,
        state=RESULTS[trial.state],
        values=trial.user_attrs.get("values", {}),
        score=score,
        seconds=trial.user_attrs.get("seconds", 0.0),
        error=trial.user_attrs.get("error", ""),
    )


def _identity(folder: Path) -> str:
    """Return what tells a folder from those of other machines that share the storage."""
    path = folder / IDENTITY
    if not path.is_file():
        write(path, secrets.token_hex(8) + "\n")
    return path.read_text().strip()
