"""What Optuna has no public name for."""

from typing import Any


def running_trial(study: Any, trial: Any) -> Any:
    """Return the trial of an Optuna study that a killed process had begun, to go on with it.

    Optuna has no public name for the id: https://github.com/optuna/optuna/issues/2949

    Args:
        study: The study.
        trial: The trial as the study lists it.
    """
    from optuna.trial import Trial

    return Trial(study, trial._trial_id)
