"""Seeds are added until a choice is settled: how often that is wrong, and what a stop changes."""

import csv
import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks.until_sure import FIRST, LAST, Case, sequential, simulate
from project.cli import main
from project.commands.compare import command, read
from project.commands.compare.choice import choose, leads_of, level_of, settling
from project.commands.compare.runs import Runs
from project.commands.compare.sequential import level_of_looks, nominal_level
from project.commands.compare.settings import Cell
from project.commands.compare.statistics import Difference

COSTS = {"full": 6.0, "probe": 1.0}


def test_level_of_a_single_look_is_the_error() -> None:
    assert nominal_level(0.05, 5, 5) == pytest.approx(0.05, rel=0.03)


def test_level_keeps_the_error_of_all_looks() -> None:
    """By t-tests of scipy after each seed, of other random numbers."""
    draws = np.random.default_rng(5).normal(size=(4000, 12))
    looks = [stats.ttest_1samp(draws[:, :n], 0, axis=1, alternative="less") for n in range(3, 13)]
    smallest = np.min([look.pvalue for look in looks], axis=0)
    assert (smallest < nominal_level(0.05, 3, 12)).mean() == pytest.approx(0.05, abs=0.01)
    assert (smallest < 0.05).mean() > 0.12


CASES = {
    "alike, the first is dearer": Case((0.0, 0.0), (6.0, 1.0), 0.01),
    "the better one is dearer": Case((0.0, 0.0101), (6.0, 1.0), 0.01),
    "three, noise of the images": Case((0.0, 0.0, 0.02), (6.0, 2.0, 1.0), 0.01, images=0.005),
    "skewed": Case((0.0, 0.0101), (6.0, 1.0), 0.01, skewed=True),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_wrong_verdicts_are_as_rare_as_stated(case: Case) -> None:
    """The margin is a point; benchmarks/until_sure.py has more cases, more often."""
    level = level_of_looks(len(case.gaps), FIRST, LAST)
    assert simulate(case, 200, partial(sequential, level=level)).wrong <= 0.05 + 0.02


def test_without_correction_wrong_verdicts_are_frequent() -> None:
    case = CASES["alike, the first is dearer"]
    assert simulate(case, 200, partial(sequential, level=level_of(2))).wrong > 0.08


def test_a_clear_gap_takes_few_seeds() -> None:
    case = Case((0.0, 0.01, 0.05), (6.0, 5.0, 1.0), 0.005)
    found = simulate(case, 50, partial(sequential, level=level_of_looks(3, FIRST, LAST)))
    assert found.settled == 1 and found.seeds < 9


def lead(mean: float, std: float, seeds: int = 5, images: float = 0.0) -> Difference:
    return Difference(mean, seeds, std**2, images**2, images**2, 1000)


@pytest.mark.parametrize(
    ("gap", "std", "name", "settled"),
    [
        (0.05, 0.001, "full", True),
        (0.05, 0.06, "full", False),
        (0.005, 0.012, "probe", False),
        (0.005, 0.001, "probe", True),  # worse, but by less than the margin, and cheaper
        (0.012, 0.005, "full", True),  # that it is better is sure, by how much is not
        (-0.005, 0.001, "probe", True),
    ],
)
def test_choice_of_two(gap: float, std: float, name: str, settled: bool) -> None:
    leads = leads_of({("full", "probe"): lead(gap, std)})
    names = ["full", "probe"] if gap >= 0 else ["probe", "full"]
    choice = choose(names, COSTS, leads, 0.05)
    assert (choice.name, choice.settled) == (name, settled)
    if not settled:
        more = settling(choice, COSTS, leads, 0.05)
        assert more is not None and more.seeds > 5 and not more.images


def test_no_number_of_seeds_makes_up_for_few_images() -> None:
    leads = leads_of({("full", "probe"): lead(0.02, 0.02, images=0.02)})
    choice = choose(["full", "probe"], COSTS, leads, 0.05)
    more = settling(choice, COSTS, leads, 0.05)
    assert more is not None and 1000 < more.images < 20000


# Through the command, with runs that write what a training would

SHARES = {"full": (0.80, 0.03), "lp_ft": (0.79, 0.03), "probe": (0.60, 0.03)}  # mean, std
IMAGES, STOP = 2000, "stop"
COMPARISON = """
data: {class_path: Digits}
seeds: [0, 1, 2]
until_sure: true
max_seeds: 12
images_per_class: [10, 20]
metric: accuracy
contenders: {full: {config: a.yaml}, lp_ft: {config: a.yaml}, probe: {config: a.yaml}}
"""


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cells that ran, each of which takes no time; ``stop`` and a number end it after these."""
    names: list[str] = []

    def run(runs: Runs, cell: Cell) -> None:
        if names[:1] == [STOP] and len(names) == int(names[1]) + 2:
            raise KeyboardInterrupt
        mean, std = SHARES[cell.contender]
        random = np.random.default_rng([*cell.contender.encode(), cell.seed])
        right = np.random.default_rng(0).permutation(IMAGES) < IMAGES * random.normal(mean, std)
        folder = runs.run_dir(cell)
        folder.mkdir(parents=True)
        (folder / "config.yaml").touch()
        with (folder / "test_predictions.csv").open("w", newline="") as file:
            rows = [(n, n % 10, (n + int(not ok)) % 10) for n, ok in enumerate(right)]
            csv.writer(file).writerows([("image", "label", "prediction"), *rows])
        costs = dict.fromkeys((*read.COSTS, "train_images_per_second"), 1.0)
        costs["process_seconds"] = {"full": 60.0, "lp_ft": 50.0, "probe": 10.0}[cell.contender]
        images = {"train": {"images": 10 * int(cell.size), "sha256": "1"}}
        summary = {"test/accuracy": float(right.mean()), "data": images, "approach": "FullTraining"}
        (folder / "summary.json").write_text(json.dumps(summary | costs | {"pretrained": False}))
        names.append(cell.name)

    monkeypatch.setattr(Runs, "_run", run)
    monkeypatch.setattr(command, "write_report", lambda *_: None)  # its plots take seconds
    (tmp_path / "a.yaml").write_text("model: TrainFromScratch\n")
    (tmp_path / "c.yaml").write_text(COMPARISON)
    return names


def verdict(*more: str, output: str = "out") -> dict[str, Any]:
    main(["compare", "--config=c.yaml", f"--output={output}", *more])
    found: dict[str, Any] = json.loads((Path(output) / "results.json").read_text())
    return found


def test_only_what_is_open_gets_further_seeds(ran: list[str]) -> None:
    """On the largest training set alone; and what is out stays out."""
    found = verdict()
    counts = Counter(tuple(name.split()[:2]) for name in ran)
    assert all(counts[name, "10"] == 3 for name in SHARES)
    assert counts["probe", "20"] == 3 < counts["full", "20"] == counts["lp_ft", "20"] <= 12
    assert found["verdict"]["running"] != ["full", "lp_ft", "probe"]
    assert "each, and no further ones, as " in found["verdict"]["grounds"]
    order = [int(name.split()[-1]) for name in ran]
    assert order == sorted(order)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("after", [1, 18, 19, 20])
def test_the_same_verdict_after_a_stop(after: int, ran: list[str]) -> None:
    """Wherever it was stopped: within the first seeds, between two seeds and within one."""
    whole, names = verdict(output="whole"), sorted(ran)
    assert len(names) > after
    ran.clear()
    ran.extend([STOP, str(after)])
    with pytest.raises(SystemExit):
        verdict(output="stopped")
    assert len(ran) == after + 2
    del ran[:2]
    again = verdict(output="stopped")
    assert sorted(ran) == names
    assert again["verdict"] == whole["verdict"] and again["rows"] == whole["rows"]


@pytest.mark.parametrize(
    ("options", "why", "most"),
    [
        (["--max_seeds=4"], "as that is max_seeds: 4", 4),
        (["--total_time=14m"], "as another one would exceed total_time: 14m", 4),
    ],
)
def test_limits(options: list[str], why: str, most: int, ran: list[str]) -> None:
    """The first 18 runs take 12 minutes, a further seed of two contenders 110 seconds."""
    found = verdict(*options)["verdict"]
    assert why in found["grounds"] and not found["settled"]
    assert max(int(name.split()[-1]) for name in ran) == most - 1
