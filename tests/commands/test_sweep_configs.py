"""The shipped sweeps: W&B's own agent starts the same runs as the command, and they run."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wandb.wandb_agent
import yaml

from project.commands.sweep.parameters import as_text
from project.commands.sweep.settings import Sweep, read_sweep
from project.commands.sweep.study import Study
from tests.conftest import CONFIGS, Run
from tests.test_configs import tiny

SWEEPS = sorted(path.stem for path in (CONFIGS / "sweeps").glob("*.yaml"))


@pytest.fixture(autouse=True)
def configs() -> None:
    """Sweeps name their configs as they are named from the top folder of the project."""
    Path("configs").symlink_to(CONFIGS)


def of_the_server(sweep: Sweep, values: dict[str, str]) -> dict[str, Any]:
    """Return the values of a trial as W&B's server sends them: numbers as numbers."""
    found: dict[str, Any] = {}
    for one in sweep.parameters:
        text = values[one.name]
        if one.choices is not None:
            value = one.options["values"][one.choices.index(text)]
        else:
            value = int(text) if text.isdecimal() else float(text)
        found[one.name] = {"value": value}
    return found


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Let W&B's agent start a run of a sweep file, and return the command line of its process."""
    started: list[list[str]] = []

    class Process:
        def __init__(self, command: list[str], env: dict[str, str], **_: Any) -> None:
            assert env["WANDB_RUN_ID"] == "abc"
            started.append(command)

    monkeypatch.setattr(wandb.wandb_agent, "AgentProcess", Process)
    never_closed = "save_config_file_from_dict"  # a file with the same values, for wandb.init
    monkeypatch.setattr(wandb.wandb_agent.config_util, never_closed, lambda *_: None)

    def start(path: Path, values: dict[str, Any]) -> list[str]:
        config = yaml.safe_load(path.read_text())
        own = wandb.wandb_agent.Agent(api=None, queue=None, sweep_id="x")
        own._sweep_command = config["command"]
        asked = {"type": "run", "run_id": "abc", "program": config["program"], "args": values}
        response = own._process_command(asked)
        assert "exception" not in response, response
        os.environ.pop("WANDB_SWEEP_PARAM_PATH")  # which monkeypatch would restore at the end
        return started[-1]

    return start


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", SWEEPS)
def test_the_agent_starts_what_the_command_starts(
    name: str,
    agent: Callable[..., list[str]],
    run: Callable[..., Run],
    mnist: Path,
    cifar10: Path,
    pets: Path,
    backbone: Path,
) -> None:
    path = Path("configs", "sweeps", f"{name}.yaml")
    sweep = read_sweep(path)
    study = Study(sweep, Path(), None, seed=0)
    for _ in range(5):
        values = study.ask().user_attrs["values"]
        command = agent(path, of_the_server(sweep, values))
        assert command[:4] == ["/usr/bin/env", "python", "-m", "project"]
        assert command[4:] == sweep.arguments(values)
    base = command[command.index("--config") + 1]
    _, _, *small = tiny(Path(base).stem, mnist, cifar10, pets, backbone)
    if "FineTuning" in Path(base).read_text():
        small += ["--data.image_size", 32]
    summary = run(*command[4:], *small).summary
    assert summary[sweep.metric] >= 0 and "test/accuracy" not in summary


@pytest.mark.parametrize("name", SWEEPS)
def test_first_lines_say_how_to_run_it(name: str) -> None:
    first = (CONFIGS / "sweeps" / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith(f"# python -m project sweep --config configs/sweeps/{name}.yaml")


@pytest.mark.parametrize("name", SWEEPS)
def test_values_are_the_same_text_for_the_agent(name: str) -> None:
    """W&B writes a value as Python does, such as None, which fit takes for a text."""
    found = yaml.safe_load((CONFIGS / "sweeps" / f"{name}.yaml").read_text())
    for options in found["parameters"].values():
        assert all(str(value) == as_text(value) for value in options.get("values", ()))
