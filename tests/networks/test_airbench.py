"""The whitening layer whitens, stays as it is, and the network goes through all of the project."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from project.approaches import FineTuning, FullTraining
from project.networks import Airbench
from tests.conftest import Run
from tests.finetuning.schedules import last

WHITEN = "network.backbone.whiten.0.weight"
WHITEN_BIAS = "network.backbone.whiten.0.bias"
TINY = (
    *("fit", "--model=FullTraining", "--model.network=Airbench", "--model.network.widths=[4,8]"),
    *("--model.optimizer=AdamW", "--model.optimizer.lr=0.01", "--model.optimizer.weight_decay=0.5"),
    *(
        "--data=Digits",
        "--data.limit_per_class=8",
        "--data.batch_size=32",
        "--trainer.logger=false",
    ),
)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 9, 9), (3, 28, 20)])
def test_it_fits_any_large_enough_image(shape: tuple[int, int, int]) -> None:
    network = Airbench(shape, 7, widths=(4, 6, 8))
    assert network(torch.zeros(2, *shape)).shape == (2, 7)
    assert list(network.layer_groups()) == ["whiten", "block1", "block2", "block3", "head"]


def test_it_has_the_size_of_the_published_network() -> None:
    """Which is 1,972,792, and has no bias in its head."""
    network = Airbench((3, 32, 32), 10, widths=(64, 256, 256))
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_972_792 + 10


def test_it_refuses_images_that_are_too_small() -> None:
    with pytest.raises(ValueError, match=r"8×28 are too small for 3 blocks; .* 9×9 or more"):
        Airbench((1, 8, 28), 10)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_first_layer_whitens(channels: int) -> None:
    torch.manual_seed(0)
    images = torch.randn(64, channels, 16, 16) + 3 * torch.rand(64, channels, 1, 1)
    network = Airbench((channels, 16, 16), 10)
    network.initialize(images)
    outputs = network.backbone.whiten[0](images)
    half, negative = outputs.transpose(0, 1).flatten(1).chunk(2)
    torch.testing.assert_close(negative, -half)
    assert half.mean(dim=1).abs().max() < 1e-2
    assert (torch.cov(half) - torch.eye(4 * channels)).abs().max() < 1e-2


def test_blocks_start_out_by_handing_their_inputs_on() -> None:
    network = Airbench((1, 16, 16), 10, widths=(8, 12))
    images = torch.randn(2, 8, 16, 16)
    torch.testing.assert_close(network.backbone.block2[0](images)[:, :8], images)


def test_whitening_stays_and_a_resumed_run_ends_the_same(run: Callable[..., Run]) -> None:
    average = "--trainer.callbacks={class_path: EMAWeightAveraging, init_args: {decay: 0.9}}"
    first = run(*TINY, average, "--trainer.max_epochs=1").path
    resumed = last(run("fit", f"--ckpt_path={first}", "--trainer.max_epochs=2").path)
    whole = last(run(*TINY, average, "--trainer.max_epochs=2").path)
    for state in ("state_dict", "current_model_state"):
        for key, value in whole[state].items():
            assert torch.equal(value, resumed[state][key]), (state, key)
    before, after = last(first)["current_model_state"], whole["current_model_state"]
    assert torch.equal(before[WHITEN], after[WHITEN])
    assert not torch.equal(before[WHITEN_BIAS], after[WHITEN_BIAS])


def test_the_chain_from_a_complete_training(run: Callable[..., Run], tmp_path: Path) -> None:
    """Fine-tuning starts from the whitening of the run, and doesn't look at its own images."""
    fitted = run(*TINY, "--trainer.max_epochs=1")
    tuned = run(
        *("fit", "--model=FineTuning", f"--model.backbone={fitted.path}", "--data=Digits"),
        *("--data.limit_per_class=3", "--trainer.max_epochs=1", "--trainer.logger=false"),
    )
    assert torch.equal(tuned.best["state_dict"][WHITEN], fitted.best["state_dict"][WHITEN])
    model = FineTuning(10, (1, 8, 8), backbone=str(fitted.path))
    assert {f"network.{name}" for name in model.layer_groups.select("all")} == {
        name for name, _ in model.named_parameters()
    }


def test_the_optimizer_of_a_complete_training_leaves_the_whitening_out() -> None:
    model = FullTraining(10, (3, 32, 32), network=Airbench, decay_norm_and_bias=False)
    weight = model.network.get_parameter(WHITEN.removeprefix("network."))
    groups = model.parameter_groups()
    assert not any(weight is parameter for group in groups for parameter in group["params"])
    assert model.num_trained() == sum(p.numel() for p in model.parameters()) - weight.numel()
