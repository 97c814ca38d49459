"""Every shipped comparison runs through the command line, on small data in the real formats."""

import csv
from pathlib import Path

import pytest
import yaml

from project.cli import main
from project.commands.child_runs import NO_PICTURES
from project.commands.compare import command
from project.commands.compare.runs import Runs
from project.commands.compare.settings import Cell
from tests.conftest import CONFIGS

COMPARISONS = sorted(path.stem for path in CONFIGS.glob("compare*.yaml"))


@pytest.mark.parametrize("name", COMPARISONS)
def test_first_line_says_how_to_run_it(name: str) -> None:
    first = (CONFIGS / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith(f"# python -m project compare --config configs/{name}.yaml")


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparison(
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    mnist: Path,
    pets: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """One seed and one size of each contender, in this process."""
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    of_files = [*config["contenders"].values(), *config.get("sources", {}).values()]
    for one in of_files:  # their paths begin in the working directory, which other threads change
        one["config"] = str(CONFIGS.parent / one["config"])
    for contender in config["contenders"].values():
        if contender["config"].endswith("finetune_folder_best.yaml"):
            contender["options"] = {**contender.get("options", {}), "model.weights": None}
            contender["options"]["data.image_size"] = 32
            contender["options"]["model.backbone"] = "timm/test_efficientnet"  # 0.4 M parameters
    for source in config.get("sources", {}).values():
        source["options"] |= {"trainer.max_epochs": 1, "data.root": str(mnist)}
        if source["config"].endswith("quickstart.yaml"):
            del source["options"]["data.root"]
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config, sort_keys=False))

    def run_here(runs: Runs, cell: Cell) -> None:
        main([*runs.arguments(cell), NO_PICTURES])

    monkeypatch.setattr(Runs, "_run", run_here)
    monkeypatch.setattr(command, "check", lambda _: None)  # the runs read the same configs
    monkeypatch.setattr(command, "write_report", lambda *_: None)  # its plots take seconds
    root = mnist if config["data"]["class_path"] == "MNIST" else pets
    few = "--images_per_class=[20]" if "images_per_class" in config else "--train_fractions=[1]"
    output = tmp_path / "output"
    main(
        [
            *("compare", "--config", str(tmp_path / "tiny.yaml"), "--data.root", str(root)),
            *("--epochs=2", "--seeds=[0]", few, "--output", str(output)),
        ]
    )
    out = capfd.readouterr().out
    assert all(f"{contender} " in out for contender in config["contenders"])
    with (output / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["contender"] for row in rows] == list(config["contenders"])
    assert not any(row["error"] for row in rows), rows
