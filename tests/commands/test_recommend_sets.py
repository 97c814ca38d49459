# part: compare benchmarks
"""The data sets on which the rules of ``recommend`` were set and tested."""

from dataclasses import replace
from pathlib import Path

from PIL import Image

from benchmarks.sets import REST, SETS, ImageSet, make, source_of
from benchmarks.sets_measure import RESULTS
from benchmarks.sets_table import calibration, read, record, summary, table
from project.commands.recommend.decision import RIGHT
from tests.conftest import CONFIGS

PAGE = CONFIGS.parent / "docs" / "choosing.md"


def test_set_is_made_of_some_classes_and_the_rest(tmp_path: Path, pets: Path) -> None:
    (pets / "train" / "cat").rename(pets / "train" / "ape")
    (pets / "test" / "cat").rename(pets / "test" / "ape")
    one = ImageSet("grey", "", "own", each=5, classes=("dog", REST), size=16, grey=True)
    data = source_of(one, {"own": pets})
    make(one, data, tmp_path / "made")
    found = sorted(str(path.relative_to(tmp_path / "made")) for path in tmp_path.rglob("made/*/*"))
    assert found == ["test/dog", "test/rest", "train/dog", "train/rest"]
    files = [*(tmp_path / "made" / "train").rglob("*.png")]
    assert len(files) == 10 and len([*(tmp_path / "made" / "test").rglob("*.png")]) == 8
    for file in files:
        with Image.open(file) as image:
            assert (image.size, image.mode) == ((16, 16), "L")
    before = files[0].stat().st_mtime_ns
    make(one, data, tmp_path / "made")  # it is there
    assert files[0].stat().st_mtime_ns == before


def test_halves_of_the_sets_are_of_every_source() -> None:
    for half in (True, False):
        assert {one.source for one in SETS if one.sets_rules is half} == {
            *("clipart", "stamps", "fashion", "digits")
        }


def test_page_says_what_the_rules_say() -> None:
    """Whoever changes a rule sees here what that does to the choices: see ``sets_table``."""
    outcomes, page = read(RESULTS), PAGE.read_text()
    halves = [[one for one in outcomes if one.of.sets_rules is half] for half in (True, False)]
    for part in (*map(table, halves), summary(outcomes), calibration(outcomes)):
        assert part in page, f"docs/choosing.md isn't up to date with:\n{part}"
    assert record(halves[1]) == RIGHT


def test_regret() -> None:
    one = replace(
        read(RESULTS)[0],
        accuracies={"scratch": 0.7, "probe": 0.88, "lp_ft": 0.89},
        seconds={"scratch": 1.0, "probe": 10.0, "lp_ft": 40.0},
    )
    assert [round(one.behind(name), 2) for name in one.accuracies] == [0.19, 0.01, 0]
    assert [one.is_right(name) for name in one.accuracies] == [False, True, True]
    assert (one.dearer("probe"), one.dearer("lp_ft")) == (1, 4)


# end
