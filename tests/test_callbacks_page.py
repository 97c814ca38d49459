"""Each row of docs/callbacks.md runs as it stands there, and each class of Lightning's has one."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import callbacks

from tests.conftest import Run
from tests.test_extending import blocks

PAGE = (Path(__file__).parent.parent / "docs" / "callbacks.md").read_text()
SECTIONS = dict(section.split("\n", 1) for section in PAGE.split("\n## ")[1:])
BASES = {"BasePredictionWriter", "Callback", "Checkpoint", "ProgressBar"}  # do nothing themselves
DATA = ("--data.limit_per_class=4", "--data.batch_size=16", "--test_after_fit=false")
SCHEDULE = {
    "class_path": "FineTuningSchedule",
    "init_args": {
        "phases": [
            {"name": "head", "train": ["head"], "epochs": 1},
            {"name": "all", "train": "all", "epochs": 1},
        ]
    },
}

pytestmark = pytest.mark.filterwarnings("ignore")


def spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def rows(title: str) -> list[Any]:
    table = re.findall(r"^\| (.*?) +\|$", SECTIONS[title], re.MULTILINE)[1:]
    cells = [re.split(r" \|(?: |$)", row) for row in table]
    return [pytest.param(*row, id=row[0]) for row in cells if not row[0].startswith("---")]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Write a config with what a cell says under ``trainer``."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_functions.py").write_text(blocks(PAGE, "python")[0])

    def write(cell: str, *schedule: Any) -> Path:
        trainer = yaml.safe_load("\n".join(spans(cell)))
        if schedule:
            trainer["callbacks"] = [*schedule, *trainer.get("callbacks", [])]
        (tmp_path / "row.yaml").write_text(
            yaml.safe_dump({"trainer": {"logger": False, "max_epochs": 1, **trainer}})
        )
        return tmp_path / "row.yaml"

    yield write
    sys.modules.pop("my_functions", None)


@pytest.mark.sampled(5)
@pytest.mark.parametrize(("what", "cell", "said", "_"), rows("What works"))
def test_what_works(
    what: str, cell: str, said: str, _: str, run: Callable[..., Run], config: Callable[..., Path]
) -> None:
    finished = run("fit", "--config", config(cell), *DATA)
    assert finished.summary["parameters_total"]
    assert spans(said)
    for one in spans(said):
        if one.startswith("RUN/"):
            assert (finished.path / one.removeprefix("RUN/")).exists(), one
        else:
            assert one in finished.out


@pytest.mark.parametrize(("what", "cell", "instead"), rows("What is refused"))
def test_what_is_refused(
    what: str, cell: str, instead: str, fails: Callable[..., str], config: Callable[..., Path]
) -> None:
    message = fails("fit", "--config", config(cell), *DATA, "--run_dir=run")
    assert what.partition(",")[0] in message
    for one in spans(instead):
        assert one in message


@pytest.mark.parametrize(
    ("what", "cell", "instead"), rows("What a FineTuningSchedule refuses besides")
)
def test_what_a_schedule_refuses(
    what: str, cell: str, instead: str, fails: Callable[..., str], config: Callable[..., Path]
) -> None:
    model = ("--model=FineTuning", "--model.network=CNN", "--model.network.channels=[4,8]")
    options = (*model, "--model.network.padding=1", "--trainer.max_epochs=null", "--run_dir=run")
    message = fails("fit", "--config", config(cell, SCHEDULE), *DATA, *options)
    assert what in message
    for one in spans(instead):
        assert one in message


def test_every_callback_has_a_row() -> None:
    assert set(callbacks.__all__) - BASES <= set(re.findall(r"\w+", PAGE))
    written = {word for word in callbacks.__all__ if re.search(rf"^\| {word}\b", PAGE, re.M)}
    assert written == set(callbacks.__all__) - BASES
