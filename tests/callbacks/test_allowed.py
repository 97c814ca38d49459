"""Numbers that Lightning takes, and does something else with."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from jsonargparse import Namespace

from project.callbacks.allowed import LEAST, check_trainer_config
from project.errors import UserError
from tests.conftest import CONFIGS

STOPPING = "lightning.pytorch.callbacks.EarlyStopping"


@pytest.mark.parametrize("option", LEAST)
def test_least(option: str) -> None:
    check_trainer_config(Namespace({option: LEAST[option]}))
    with pytest.raises(UserError, match=f"must be at least {LEAST[option]}$") as raised:
        check_trainer_config(Namespace({option: LEAST[option] - 1}))
    assert raised.value.key == f"trainer.{option}"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("option", ["limit_val_batches", "overfit_batches", "val_check_interval"])
def test_finite(option: str, value: float) -> None:
    with pytest.raises(UserError, match="must be a finite number"):
        check_trainer_config(Namespace({option: value}))


@pytest.mark.parametrize(
    ("option", "value"), [("patience", -1), ("min_delta", math.nan), ("min_delta", math.inf)]
)
@pytest.mark.parametrize("listed", [False, True])
def test_early_stopping(option: str, value: Any, listed: bool) -> None:
    options = Namespace({"monitor": "val/loss", option: value})
    one = Namespace(class_path=STOPPING, init_args=options)
    timed = Namespace(class_path="lightning.pytorch.callbacks.ModelSummary")
    with pytest.raises(UserError) as raised:
        check_trainer_config(Namespace(callbacks=[timed, one] if listed else one))
    assert raised.value.key == f"trainer.callbacks{'[1]' if listed else ''}.{option}"


@pytest.mark.parametrize("package", ["mlflow", "tensorboard"])
def test_a_logger_says_what_it_needs(
    package: str, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("project.callbacks.allowed.find_spec", lambda name: None)
    found = fails("fit", f"--config={CONFIGS}/loggers/{package}.yaml")
    assert found.endswith(f"needs {package}: pip install -e '.[{package}]'")
