"""A backbone from a complete training, and a schedule for it."""

from pathlib import Path

import pytest

from project.cli import main
from tests.callbacks.schedules import SCHEDULE


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a complete training, with two stages that have batch norm."""
    path = tmp_path_factory.mktemp("backbone") / "run"
    main(
        [
            *("fit", "--model=FullTraining", "--model.network=CNN", "--run_dir", str(path)),
            *("--model.network.channels=[4,8]", "--model.network.batch_norm=true"),
            *("--model.network.hidden=[]", "--data=Digits", "--data.limit_per_class=10"),
            *("--trainer.max_epochs=1", "--trainer.logger=false", "--test_after_fit=false"),
        ]
    )
    return path


@pytest.fixture
def schedule(tmp_path: Path, backbone: Path) -> tuple[str, ...]:
    """Arguments of a run of three phases."""
    file = tmp_path / "schedule.yaml"
    file.write_text(SCHEDULE)
    return ("fit", "--config", str(file), f"--model.backbone={backbone}")
