"""What the results of a comparison mean, against values worked out by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional

from project.approaches.metrics import EpochMetrics
from project.commands.compare import metrics
from project.commands.compare.findings import find
from project.commands.compare.metrics import (
    ACCURACY,
    OF_CLASSES,
    Metric,
    metric_of,
    of_classes,
    resampled,
)
from project.commands.compare.results import Result, rows_of
from project.commands.compare.statistics import LUCK, Difference, crossings, difference, trend
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


@pytest.mark.parametrize("figure", OF_CLASSES)
def test_means_over_classes_are_those_of_the_test(figure: str) -> None:
    """With a class that is predicted and isn't there, and one that is neither."""
    random = np.random.default_rng(1)
    labels, predictions = random.choice([0, 1, 2, 4], 60), random.choice([0, 1, 2, 3], 60)
    epoch = EpochMetrics(6)
    logits = functional.one_hot(torch.from_numpy(predictions), 6).float()
    epoch.update(torch.tensor(0.0), logits, torch.from_numpy(labels))
    counts = (np.bincount(x, minlength=6) for x in (labels[labels == predictions], predictions))
    assert of_classes(figure, *counts, np.bincount(labels, minlength=6)) == pytest.approx(
        epoch.compute()[figure].item()
    )


def test_bootstrap_is_paired_and_within_classes() -> None:
    """The variance of a mean recall is known; that of results that are the same is 0."""
    labels = np.repeat([0, 1], [100, 10])
    wrong = np.isin(np.arange(110), [*range(30), 100, 101])
    guesses = np.where(wrong, 1 - labels, labels)
    one = replace(made_up("one", ~wrong), labels=labels, predictions=guesses)
    own = resampled(one, "balanced_accuracy")
    expected = (0.3 * 0.7 / 100 + 0.2 * 0.8 / 10) / 4
    assert own.var() == pytest.approx(expected, rel=0.2)
    assert own.mean() == pytest.approx(0.75, abs=0.02)
    other = replace(one, contender="other")
    assert difference(row(one), row(other), Metric("balanced_accuracy")).of_images == 0


def test_small_is_good() -> None:
    """Of a loss; and what test images do to it is unknown."""
    losses = {"one": (0.2, 0.3), "other": (0.5, 0.7)}
    one, other = (
        row(*(made_up(n, NEVER, seed, loss=loss) for seed, loss in enumerate(losses[n])))
        for n in losses
    )
    found = difference(one, other, Metric("loss"))
    expected = stats.ttest_rel(losses["other"], losses["one"])
    assert (found.mean, found.p) == pytest.approx((0.35, expected.pvalue))
    found = find([other, one], Metric("loss"))
    assert found.top == [one, other] and not found.trends


@pytest.mark.parametrize(
    ("name", "sizes", "figure"),
    [
        (None, [100, 34], "accuracy"),
        (None, [100, 33], "f1"),
        ("accuracy", [100, 1], "accuracy"),
        ("macro_f1", [9, 9], "f1"),
        ("test/auroc", [9, 9], "auroc"),
    ],
)
def test_metric(name: str | None, sizes: list[int], figure: str) -> None:
    metric = metric_of(name, sizes)
    assert metric.figure == figure
    assert ("very unequal, 33 to 100" in metric.why) == (name is None and figure == "f1")


def test_projection_leaves_the_noise_of_the_images() -> None:
    found = Difference(0.1, 4, of_seeds=4e-4, of_images=2e-4, of_one=5e-4, images=100)
    assert found.error == pytest.approx((1e-4 + 2e-4) ** 0.5)
    assert found.projected(4).error == pytest.approx(found.error)
    assert found.projected(10**9).error == pytest.approx(1e-4**0.5)  # 2e-4 - (5e-4 - 2e-4) / 3
    assert found.projected(10**9, 4).error == pytest.approx((1e-4 / 4) ** 0.5)


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


@pytest.mark.parametrize(("metric", "times"), [(ACCURACY, 300), (Metric("f1"), 100)])
def test_difference_is_seldom_found_where_there_is_none(
    metric: Metric, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images are hard or easy and seeds lucky or not, for two contenders that are the same."""
    monkeypatch.setattr(metrics, "RESAMPLES", 50)
    random = np.random.default_rng(0)
    found = 0
    for _ in range(times):
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
        found += difference(one, other, metric).p < 0.05
    assert found <= times * 0.07


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


def runs(name: str, *counts: int, of: int = 1000, **other: Any) -> list[Result]:
    """A run for each seed, whose correct images are moved on a little from seed to seed."""
    return [
        made_up(name, np.roll(first(count, of), seed), seed, **other)
        for seed, count in enumerate(counts)
    ]


def test_cheaper_of_equals() -> None:
    found = decided(
        *runs("slow", 901, 902, 901, process_seconds=90.0),
        *runs("fast", 900, 901, 901, process_seconds=9.0),
    )
    assert (found.winner, found.settled) == ("fast", True)
    assert found.headline.startswith("Use fast: 0.901 ± 0.001 test accuracy over three seeds")
    assert "behind slow" in found.differences[0]


def test_source_is_part_of_the_cost() -> None:
    found = decided(
        *runs("alone", 900, 901, process_seconds=90.0),
        *runs("chain", 900, 901, process_seconds=9.0, source_seconds=100.0),
    )
    assert found.winner == "alone"


def test_real_difference_wins() -> None:
    found = decided(
        *runs("slow", 930, 931, 932, process_seconds=900.0),
        *runs("fast", 900, 901, 902, process_seconds=9.0),
    )
    assert (found.winner, found.settled) == ("slow", True)
    assert "0.030 ± 0.005 behind slow (p < 0.001, 3 seeds): a real" in found.differences[0]


def test_one_seed_settles_nothing() -> None:
    found = decided(
        *runs("slow", 930, process_seconds=900.0), *runs("fast", 600, process_seconds=9.0)
    )
    assert (found.winner, found.settled, found.running) == ("slow", False, ["slow", "fast"])
    assert found.differences == [
        "fast has 0.600, 0.330 behind slow with one seed, whose luck is unknown."
    ]


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
    assert (
        "The best one with a pretrained backbone, tuned, is 0.150 better than the best one "
        "without, own, which may be chance."
    ) in dict(found.factors)["data"]
    assert "whose test accuracy is 0.150 worse." in dict(found.factors)["objective"]
    assert found.more_data == ["Unknown: this needs at least two training-set sizes."]


def test_more_data() -> None:
    """Errors of 0.2 and 0.14 go on as 0.098, those of 0.3 and 0.15 as 0.075."""
    counts = {("steady", 100): 80, ("steady", 400): 86, ("steep", 100): 70, ("steep", 400): 85}
    results = [made_up(name, first(n, 100), images=size) for (name, size), n in counts.items()]
    found = decided(*results)
    assert found.winner == "steady"
    assert "steady reaches 0.883 with twice the images, and 0.902 with four" in found.more_data[0]
    assert found.more_data[1] == "With 4 times the images, steep would be ahead, at about 0.925."


def test_seeds_that_are_not_shared_tell_nothing() -> None:
    found = decided(made_up("tuned", first(95, 100), pretrained=True), made_up("own", NEVER, 1))
    assert "nan" not in str(found)


def test_sizes_with_the_same_images_are_one() -> None:
    """As of images_per_class: [50, 100], where there are 40 of each."""
    results = [replace(made_up("a", first(90, 100)), size=size) for size in ("50", "100")]
    found = decided(*results)
    assert found.differences == [] and "Unknown" in found.more_data[0]


def test_no_forecast_from_a_curve_that_falls() -> None:
    counts = {("steady", 100): 90, ("steady", 400): 86}
    results = [made_up(name, first(n, 100), images=size) for (name, size), n in counts.items()]
    assert decided(*results).more_data == [
        "No forecast: with more images, steady didn't get better (0.900, then 0.860 on 400)."
    ]


def test_a_constant_answer_is_named() -> None:
    lazy = replace(made_up("lazy", np.arange(99) % 3 == 1), predictions=np.ones(99, np.int64))
    (line,) = decided(made_up("good", first(95, 99)), lazy).differences
    assert line.startswith("lazy has 0.333, ")
    assert line.endswith(f"; all that it predicts is {data().class_names[1]}.")


def test_a_chance_is_that_of_the_t_distribution() -> None:
    lead = Difference(0.02, 4, 0.0004, 0.0001, 0.0001, 500)
    error, freedom = lead.error, lead.freedom
    assert lead.chance_above(0.0) == pytest.approx(1 - lead.p / 2)
    assert lead.chance_above(0.03) == pytest.approx(stats.t.cdf(-0.01 / error, freedom))
    assert np.isnan(replace(lead, seeds=1).chance_above(0.0))


def test_luck_of_a_single_seed_is_an_assumption() -> None:
    """It counts beside the noise of the images, and only where there is nothing better."""
    lead = Difference(-0.3, 1, NAN, 0.0009, 0.0009, 500)
    assert lead.upper(0.05) == np.inf
    assert lead.likely_upper(0.05) == pytest.approx(-0.3 + 1.6449 * np.hypot(LUCK, 0.03), abs=1e-4)
    assert replace(lead, images=0).likely_upper(0.05) == np.inf  # of a loss nothing is known
    several = replace(lead, seeds=3, of_seeds=0.001)
    assert several.likely_upper(0.05) == several.upper(0.05)
