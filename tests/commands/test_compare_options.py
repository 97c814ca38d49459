"""The options in which contenders differ, as a report shows them."""

from dataclasses import replace
from pathlib import Path

import yaml

from project.commands.compare.options import options_of
from project.commands.compare.results import rows_of
from project.commands.compare.tables import markdown
from tests.commands.made_up import made_up

SAME = {"seed_everything": 3, "trainer": {"max_epochs": 2}}
NETWORK = {"class_path": "a.b.CNN", "init_args": {"channels": [8, "|"]}}
PHASES = [{"name": "head", "epochs": 2, "views": None}, {"name": "all"}]
SCHEDULE = {"class_path": "a.Schedule", "init_args": {"phases": PHASES}}


def test_only_what_differs(tmp_path: Path) -> None:
    """Whatever the form of a config: nested classes, a list of them, phases, lists and null."""
    configs = {
        "scratch": {"model": {"class_path": "a.Scratch", "init_args": {"network": NETWORK}}},
        "tuned": {
            "model": {"class_path": "a.Tuning", "init_args": {"network": None}},
            "trainer": {"max_epochs": 2, "callbacks": [SCHEDULE, {"class_path": "a.EMA"}]},
            "seed_everything": 4,
        },
    }
    results = []
    for name, config in configs.items():
        (folder := tmp_path / name).mkdir()
        (folder / "config.yaml").write_text(yaml.safe_dump(SAME | config, sort_keys=False))
        results.append(replace(made_up(name, [True]), run_dir=folder))
    table = options_of(rows_of(results))
    assert table is not None and [name for name, _ in table.columns] == ["scratch", "tuned"]
    assert {line.name: tuple(line.cells) for line in table.lines} == {
        "model": ("Scratch", "Tuning"),
        "model.network": ("CNN", "null"),
        "model.network.channels": ('[8, "|"]', "–"),
        "trainer.callbacks.EMA": ("–", "used"),
        "trainer.callbacks.Schedule.phases": ("–", "name: head, epochs: 2; name: all"),
    }
    assert r'| model.network.channels | \[8, "\|"\] | – |' in markdown(table)


def test_no_table_without_configs_or_differences(tmp_path: Path) -> None:
    results = [replace(made_up(name, [True]), run_dir=tmp_path) for name in "ab"]
    assert options_of(rows_of(results)) is None
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(SAME))
    assert options_of(rows_of(results)) is None
    assert options_of(rows_of(results[:1])) is None
