"""The best validation is one whose advantage isn't luck."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from project.approaches.selection import Rule, Selection, Validated
from tests.conftest import Run
from tests.finetuning.schedules import equal
from tests.ranks import Ranks

FLAT = torch.zeros(100)
SPREAD = torch.tensor([-1.0, 1.0]).repeat(50)  # a mean of 0 with a standard error of 0.1


def chosen(rule: Rule, values: Sequence[Tensor], mode: str = "min") -> int:
    """Which of several validations is the best in the end, by what their metrics are means of."""
    selection, last = Selection(rule, mode), -1
    for number, value in enumerate(values):
        if selection.takes(Validated(value.mean().item(), value)):
            last = number
    return last


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ([FLAT, FLAT + 1], {"minimum": 0, "noise_aware": 0, "last": 1}),  # surely worse
        ([FLAT + 1, FLAT], {"minimum": 1, "noise_aware": 1, "last": 1}),
        ([FLAT, FLAT], {"minimum": 0, "noise_aware": 1, "last": 1}),  # alike
        ([FLAT, SPREAD + 0.05], {"minimum": 0, "noise_aware": 1, "last": 1}),  # half an error
        ([FLAT, SPREAD + 0.2], {"minimum": 0, "noise_aware": 0, "last": 1}),  # two errors
        # in pairs, what images have in common doesn't count
        ([SPREAD, SPREAD + 0.05], {"minimum": 0, "noise_aware": 0, "last": 1}),
        # all are compared with the lowest: many small steps don't lead far away from it
        (
            [FLAT, SPREAD + 0.08, SPREAD + 0.16, SPREAD + 0.24],
            {"minimum": 0, "noise_aware": 1, "last": 3},
        ),
        (
            [FLAT + 2, FLAT + 1, SPREAD + 1.05, FLAT + 3],
            {"minimum": 1, "noise_aware": 2, "last": 3},
        ),
        ([torch.zeros(1), torch.ones(1)], {"minimum": 0, "noise_aware": 0, "last": 1}),  # an image
    ],
)
@pytest.mark.parametrize("mode", ["min", "max"])
def test_which_one_is_the_best(values: list[Tensor], best: dict[Rule, int], mode: str) -> None:
    signed = [value if mode == "min" else -value for value in values]
    assert {rule: chosen(rule, signed, mode) for rule in best} == best


def test_with_many_images_it_is_the_best_metric() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(100_000, generator=generator)
    values = [base + shift + 0.1 * torch.randn(100_000, generator=generator)
              for shift in (0.3, 0.1, 0.0, 0.01, 0.02)]  # fmt: skip
    assert chosen("noise_aware", values) == chosen("minimum", values) == 2


def test_what_is_no_number_or_unknown_is_not_taken_for_luck() -> None:
    selection = Selection("noise_aware", "min")
    assert not selection.takes(Validated(float("nan")))
    assert selection.takes(Validated(1.0)) and not selection.takes(Validated(1.0))
    assert not selection.takes(Validated(1.1, FLAT)) and selection.takes(Validated(0.9, FLAT))
    assert not selection.takes(Validated(0.95, FLAT[:50]))  # of other images


COMMON = ("fit", "--trainer.max_epochs=5", "--trainer.logger=false", "--data.limit_per_class=10")
COMMON += ("--data.batch_size=20", "--model.optimizer=SGD", "--model.optimizer.lr=0.9")
COMMON += ("--test_after_fit=false", "--data.val_fraction=0.02")


@pytest.mark.parametrize("monitor", ["val/loss", "val/accuracy"])
def test_values_of_images_have_the_metric_as_their_mean(
    monitor: str, run: Callable[..., Run]
) -> None:
    options = (*COMMON, f"--checkpoint.monitor={monitor}")
    aware, plain = (
        run(*options, f"--checkpoint.selection={s}") for s in ("noise_aware", "minimum")
    )
    last = torch.load(aware.path / "checkpoints" / "last.ckpt", weights_only=True)
    reference = last["callbacks"]["BestAndLast"]["reference"]
    assert reference["score"] == plain.summary[monitor]
    assert reference["values"].mean().item() == pytest.approx(reference["score"], rel=1e-5)
    assert aware.best["global_step"] >= plain.best["global_step"]


def test_a_resumed_training_compares_with_the_same(run: Callable[..., Run]) -> None:
    options = (*COMMON, "--checkpoint.selection=noise_aware", "--model.optimizer.lr=4")
    whole, part = run(*options), run(*options, "--trainer.max_epochs=4")
    rest = run(*options, "--trainer.max_epochs=5", f"--ckpt_path={part.path}")
    files = (one.path / "checkpoints" / "last.ckpt" for one in (whole, part, rest))
    states = [torch.load(file, weights_only=True)["callbacks"]["BestAndLast"] for file in files]
    assert equal(states[0]["reference"], states[1]["reference"])  # none of the last epoch is better
    assert equal(states[0]["reference"], states[2]["reference"])
    assert states[0]["step"] == states[2]["step"]


def test_other_metrics_are_refused(fails: Callable[..., str]) -> None:
    said = fails(*COMMON, "--checkpoint.selection=noise_aware", "--checkpoint.monitor=val/f1")
    assert said.startswith("checkpoint.selection: noise_aware knows the noise of val/loss")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_two_ranks_choose_as_one(run: Callable[..., Run], ranks: Ranks) -> None:
    options = (*COMMON, "--checkpoint.selection=noise_aware")
    one = run(*options)
    done = ranks(*options, "--data.batch_size=10", "--run_dir=two")
    assert done.code == 0, done.said
    two = torch.load(Path("two/checkpoints/best.ckpt"), weights_only=True)
    assert two["global_step"] == one.best["global_step"]
    values = [best["callbacks"]["BestAndLast"]["reference"]["values"] for best in (two, one.best)]
    torch.testing.assert_close(values[0], values[1], atol=1e-4, rtol=1e-4)
