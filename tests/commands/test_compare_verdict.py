"""What the results of a comparison mean, against values worked out by hand."""

import numpy as np
import pytest
from scipy import stats

from project.commands.compare.findings import find
from project.commands.compare.results import rows_of
from project.commands.compare.statistics import crossings, difference, trend
from project.commands.compare.verdict import Verdict, verdict
from tests.commands.made_up import NAN, broken, data, first, made_up, row

NEVER = np.zeros(10, bool)


def test_difference_of_seeds_alone() -> None:
    """Each image is right with two of three seeds, so that only the seeds differ."""
    right = [first(10, 10), first(7, 10), ~first(7, 10)]
    one = row(*(made_up("one", correct, seed) for seed, correct in enumerate(right)))
    other = row(*(made_up("other", NEVER, seed) for seed in (2, 0, 1)))
    found = difference(one, other)
    expected = stats.ttest_rel([1.0, 0.7, 0.3], [0, 0, 0])
    assert (found.mean, found.p) == pytest.approx((2 / 3, expected.pvalue))
    assert found.error == pytest.approx(2 / 3 / expected.statistic)
    assert found.seeds == 3


def test_difference_of_images_alone() -> None:
    one, other = made_up("one", first(8, 10)), made_up("other", ~first(4, 10))
    found = difference(row(one), row(other))
    expected = stats.ttest_rel(one.correct.astype(float), other.correct.astype(float))
    assert (found.mean, found.p) == pytest.approx((0.2, expected.pvalue))


def test_difference_takes_pairs() -> None:
    """The mean is that of the seeds that both have, in whichever order they are."""
    one = row(made_up("one", first(9, 10), 1), made_up("one", first(1, 10), 5))
    other = row(made_up("other", first(5, 10), 0), made_up("other", first(8, 10), 1))
    found, back = difference(one, other), difference(other, one)
    assert (found.mean, found.seeds) == (pytest.approx(0.1), 1)
    assert (back.mean, back.p) == (pytest.approx(-found.mean), pytest.approx(found.p))
    assert difference(one, row(made_up("other", first(5, 10), 2))).seeds == 0


def test_no_difference() -> None:
    one, other = (row(*(made_up(n, first(6 + s, 10), s) for s in range(3))) for n in ("a", "b"))
    assert (difference(one, other).mean, difference(one, other).p) == (0, 1)


def test_difference_is_seldom_found_where_there_is_none() -> None:
    """Images are hard or easy and seeds lucky or not, for two contenders that are the same."""
    random = np.random.default_rng(0)
    found = 0
    for _ in range(300):
        hard = random.normal(size=60)
        one, other = (
            row(
                *(
                    made_up(n, hard + random.normal() / 2 < random.normal(size=60), s)
                    for s in range(4)
                )
            )
            for n in ("one", "other")
        )
        found += difference(one, other).p < 0.05
    assert found <= 300 * 0.07


def test_trend() -> None:
    """An error of 0.2 with 100 images and of 0.1 with 400 is 2 / sqrt(images)."""
    found = trend([row(made_up("a", first(16, 20))), row(made_up("a", first(18, 20), images=400))])
    assert found is not None
    assert found.exponent == pytest.approx(-0.5)
    assert found.accuracy(1600) == pytest.approx(0.95)
    assert trend([row(made_up("a", first(16, 20)))]) is None


@pytest.mark.parametrize("middle", [(), (200,)])
def test_crossing(middle: tuple[int, ...]) -> None:
    """0.1 ahead with 100 images and 0.1 behind with 400 is level halfway, on a log scale."""
    results = [
        *(
            made_up("few", first(count, 20), images=images)
            for images, count in ((100, 16), (400, 18))
        ),
        *(
            made_up("many", first(count, 20), images=images)
            for images, count in ((100, 14), (400, 20))
        ),
        *(
            made_up(name, first(17, 20), images=images)
            for images in middle
            for name in ("few", "many")
        ),
    ]
    (found,) = crossings(rows_of(results))
    assert (found.before, found.after, found.clear) == ("few", "many", False)
    assert (found.images, found.accuracy) == pytest.approx((200, 0.85))


def test_clear_crossing() -> None:
    """The same shares of many more test images."""
    counts = {("few", 100): 1600, ("few", 400): 1800, ("many", 100): 1400, ("many", 400): 2000}
    results = [made_up(name, first(n, 2000), images=size) for (name, size), n in counts.items()]
    assert [crossing.clear for crossing in crossings(rows_of(results))] == [True]


def decided(*results: object) -> Verdict:
    return verdict(find(rows_of(results)), data(), "two cores")  # type: ignore[arg-type]


def test_cheaper_of_equals() -> None:
    found = decided(
        made_up("slow", first(901, 1000), process_seconds=90.0),
        made_up("fast", np.roll(first(900, 1000), 7), process_seconds=9.0),
    )
    assert found.winner == "fast"
    assert "fast: 0.900 test accuracy on 100 training images, 9.0 s per run." in found.headline
    assert "within the noise" in found.differences[0]


def test_source_is_part_of_the_cost() -> None:
    found = decided(
        made_up("alone", first(900, 1000), process_seconds=90.0),
        made_up("chain", first(900, 1000), process_seconds=9.0, source_seconds=100.0),
    )
    assert found.winner == "alone"


def test_real_difference_wins() -> None:
    found = decided(
        made_up("slow", first(930, 1000), process_seconds=900.0),
        made_up("fast", first(900, 1000), process_seconds=9.0),
    )
    assert found.winner == "slow"
    assert "0.030 ± 0.005 less than slow (p < 0.001, one seed): a real" in found.differences[0]


def test_large_difference_is_no_tie() -> None:
    found = decided(
        made_up("slow", first(9, 10), process_seconds=900.0),
        made_up("fast", first(8, 10), process_seconds=9.0),
    )
    assert found.winner == "slow"
    assert "too uncertain to be sure" in found.differences[0]


def test_failures_are_counted() -> None:
    factors = dict(decided(made_up("a", first(9, 10)), broken("a", 1), broken("b")).factors)
    assert factors["experience"].endswith("Runs failed: a (1) and b (1).")
    assert decided(broken("a"), broken("b")).headline == "No run succeeded."


def test_factors_of_one_contender_with_two_seeds() -> None:
    results = [made_up("a", first(n, 10), s, gflop_per_image=NAN) for s, n in enumerate((8, 9))]
    factors = dict(decided(*results).factors)
    assert factors["resources"] == "On two cores, a takes 15 s per run and 812 MB."
    assert factors["experience"].startswith("a depends least on chance (± 0.071 over seeds). No")


def test_worth_of_a_pretrained_backbone() -> None:
    found = decided(
        made_up("tuned", first(95, 100), pretrained=True), made_up("own", first(80, 100))
    )
    assert "worth +0.150 accuracy here (tuned against own)" in dict(found.factors)["data"]
    assert "at 0.150 less accuracy" in dict(found.factors)["objective"]
    assert found.more_data == ["Unknown: this needs at least two training-set sizes."]


def test_more_data() -> None:
    """Errors of 0.2 and 0.14 go on as 0.098, those of 0.3 and 0.15 as 0.075."""
    counts = {("steady", 100): 80, ("steady", 400): 86, ("steep", 100): 70, ("steep", 400): 85}
    results = [made_up(name, first(n, 100), images=size) for (name, size), n in counts.items()]
    found = decided(*results)
    assert found.winner == "steady"
    assert "steady reaches 0.883 with twice the images, and 0.902 with four" in found.more_data[0]
    assert found.more_data[1] == "With 4 times the images, steep would be ahead, at about 0.925."
