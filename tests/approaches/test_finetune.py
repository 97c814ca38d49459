"""Backbones from everywhere, frozen for real, and the chain from a complete training."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from project.approaches import FineTuning
from project.approaches.pretrained import pretrained_input_spec
from project.errors import UserError
from tests.conftest import CONFIGS, Run


def test_frozen_backbone_stays_bit_for_bit(run: Callable[..., Run], pets: Path) -> None:
    args = (
        *("fit", "--model=FineTuning", "--model.backbone=mobilenet_v3_small", "--data=ImageFolder"),
        *(f"--data.root={pets}", "--data.image_size=32", "--data.batch_size=4"),
        *("--trainer.logger=false", "--model.dropout=0.1"),
    )
    once = run(*args, "--trainer.max_epochs=1").best["state_dict"]
    last = run(*args, "--trainer.max_epochs=3").path / "checkpoints" / "last.ckpt"
    later = torch.load(last, weights_only=True)["state_dict"]
    for key, value in once.items():
        if key.startswith("network.backbone."):  # weights, and the statistics of its batch norm
            assert torch.equal(value, later[key]), key
    assert not torch.equal(once["network.head.2.weight"], later["network.head.2.weight"])


def test_frozen_backbone_evaluates_while_the_head_trains() -> None:
    model = FineTuning(2, (3, 32, 32), backbone="mobilenet_v3_small", dropout=0.5)
    model.train()
    assert not any(module.training for module in model.network.backbone.modules())
    assert all(module.training for module in model.network.head.modules())
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"network.head.2.weight", "network.head.2.bias"}


def test_learning_rate_of_a_group_needs_no_optimizer_that_is_built() -> None:
    adam = partial(torch.optim.Adam, lr=0.02)
    model = FineTuning(
        2, (3, 32, 32), backbone="resnet18", optimizer=adam, group_lr={"head": 0.1}, lr_decay=0.5
    )
    assert model.lr_multiplier("head") == pytest.approx(5)
    assert model.lr_multiplier("layer4") == pytest.approx(0.5)
    default = FineTuning(2, (3, 32, 32), backbone="resnet18", group_lr={"stem": 0.01})
    assert default.lr_multiplier("stem") == pytest.approx(10)  # of Adam's 0.001


def test_what_trains_must_be_in_the_optimizer() -> None:
    """Else it would get gradients and never move."""
    model = FineTuning(2, (3, 32, 32), backbone="resnet18")
    model.set_trained(model.layer_groups.select("all"))
    with pytest.raises(UserError, match="conv1.weight trains, but is in no optimizer group"):
        model.parameter_groups()


STAGES = ["stage1", "stage2", "stage3", "stage4", "stage5"]
BLOCKS = ["stem", "blocks1", "blocks2", "blocks3", "blocks4"]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("backbone", "shape", "features", "groups"),
    [
        ("vgg16", (3, 150, 150), 8192, ["block1", "block2", "block3", "block4", "block5"]),
        ("resnet18", (3, 64, 64), 512, ["stem", "layer1", "layer2", "layer3", "layer4"]),
        ("mobilenet_v2", (3, 64, 64), 1280, STAGES),
        ("mobilenet_v3_small", (1, 64, 64), 1024, STAGES),
        ("efficientnet_b0", (3, 64, 64), 1280, STAGES),
        ("convnext_tiny", (3, 64, 64), 768, STAGES[:4]),
        ("swin_t", (3, 64, 64), 768, STAGES[:4]),
        ("vit_b_16", (3, 224, 224), 768, BLOCKS),
        ("regnet_y_400mf", (3, 64, 64), 440, ["stem", "block1", "block2", "block3", "block4"]),
        ("timm/resnet10t", (3, 64, 64), 512, ["stem", *STAGES[:4]]),
        ("timm/tf_efficientnet_lite0", (3, 64, 64), 1280, ["stem", *STAGES, "stage6", "stage7"]),
        ("timm/vit_tiny_patch16_224", (3, 224, 224), 192, BLOCKS),
        ("timm/convnext_atto", (3, 64, 64), 320, ["stem", *STAGES[:4]]),
    ],
)
def test_library_backbones(
    backbone: str, shape: tuple[int, int, int], features: int, groups: list[str]
) -> None:
    model = FineTuning(7, shape, backbone=backbone)
    assert model(torch.zeros(2, *shape)).shape == (2, 7)
    assert model.network.head[-1].in_features == features  # type: ignore[index]
    assert model.layer_groups.names == (*groups, "head")
    owner = model.layer_groups.group_of
    assert list(dict.fromkeys(owner.values())) == [*groups, "head"]  # from input to output


@pytest.mark.sampled(3)  # one of each suffix
@pytest.mark.parametrize("name", ["resnet18", "vgg11", "timm/resnet10t"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_from_a_file(name: str, suffix: str, tmp_path: Path) -> None:
    import timm
    from torchvision import models

    torch.manual_seed(1)
    whole = (
        timm.create_model(name.removeprefix("timm/"))
        if name.startswith("timm/")
        else models.get_model(name, weights=None)
    ).eval()
    file = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(whole.state_dict(), file)
    model = FineTuning(2, (3, 64, 64), backbone=name, weights=str(file)).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = model.network.backbone(images).flatten(1)
        if name == "vgg11":
            expected = whole.features(images).flatten(1)
        elif name == "resnet18":
            whole.fc = torch.nn.Identity()
            expected = whole(images)
        else:
            expected = whole.forward_head(whole.forward_features(images), pre_logits=True)
    torch.testing.assert_close(features, expected)


def test_misfit_weights_are_listed(tmp_path: Path) -> None:
    from torchvision import models

    state = models.resnet18(weights=None).state_dict()
    del state["layer1.0.conv1.weight"]
    state["layer9.weight"] = torch.zeros(1)
    state["bn1.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "wrong.pt")
    with pytest.raises(UserError) as error:
        FineTuning(2, (3, 64, 64), backbone="resnet18", weights=str(tmp_path / "wrong.pt"))
    assert "1 missing (layer1.0.conv1.weight)" in str(error.value)
    assert "1 unknown (layer9.weight)" in str(error.value)
    assert "1 of another shape (bn1.bias)" in str(error.value)


def test_published_weights_are_downloaded_from_their_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from torchvision import models

    asked = []

    def state_dict(self: models.ResNet18_Weights, **options: object) -> dict[str, torch.Tensor]:
        asked.append((self, options["check_hash"]))
        state: dict[str, torch.Tensor] = models.resnet18(weights=None).state_dict()
        return state

    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", state_dict)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("project.networks.backbone.answers", lambda url: True)
    FineTuning(2, (3, 64, 64), backbone="resnet18", weights="IMAGENET1K_V1")
    assert asked == [(models.ResNet18_Weights.IMAGENET1K_V1, True)]
    monkeypatch.setattr("project.networks.backbone.answers", lambda url: False)
    with pytest.raises(UserError, match="could not be downloaded .no answer.; put https://"):
        FineTuning(2, (3, 64, 64), backbone="resnet18", weights="IMAGENET1K_V1")
    assert len(asked) == 1  # it doesn't wait for what torch would try


def test_input_follows_the_weights() -> None:
    vgg = pretrained_input_spec("vgg16", "IMAGENET1K_V1")
    assert (vgg.channels, vgg.size, vgg.mean) == (3, (224, 224), (0.485, 0.456, 0.406))
    timm = pretrained_input_spec("timm/tf_efficientnet_lite0", None)
    assert (timm.size, timm.mean, timm.std) == ((224, 224), (0.5,) * 3, (0.5,) * 3)


def test_complete_training_feeds_fine_tuning(run: Callable[..., Run], mnist: Path) -> None:
    source = run(
        *("fit", "--model=FullTraining", "--data=MNIST", f"--data.root={mnist}"),
        *("--data.mean=0.2", "--trainer.max_epochs=1", "--trainer.logger=false"),
    )
    tuned = run(
        *("fit", "--model=FineTuning", f"--model.backbone={source.path}", "--data=Digits"),
        *("--data.limit_per_class=10", "--trainer.max_epochs=1", "--trainer.logger=false"),
    )
    hparams = tuned.best["hyper_parameters"]
    assert hparams["image_shape"] == (1, 28, 28) and hparams["normalization"]["mean"] == [0.2]
    for key, value in source.best["state_dict"].items():
        if key.startswith("network.backbone."):
            assert torch.equal(value, tuned.best["state_dict"][key])
    assert run("test", "--ckpt_path", tuned.path).summary["test/loss"] == pytest.approx(
        tuned.summary["test/loss"]
    )


def test_checkpoint_backbone_takes_no_other_weights(
    run: Callable[..., Run], fails: Callable[..., str]
) -> None:
    source = run(
        *("fit", "--config", CONFIGS / "quickstart.yaml", "--model=FullTraining"),
        *("--trainer.max_epochs=1", "--trainer.logger=false"),
    )
    message = fails(
        "fit", "--model=FineTuning", f"--model.backbone={source.path}", "--model.weights=DEFAULT"
    )
    assert "brings its own weights; leave weights null" in message


def test_evaluation_does_not_need_the_weights_again(
    run: Callable[..., Run], pets: Path, tmp_path: Path
) -> None:
    from torchvision import models

    file = tmp_path / "weights.pt"
    torch.save(models.resnet18(weights=None).state_dict(), file)
    fitted = run(
        *("fit", "--model=FineTuning", "--model.backbone=resnet18", f"--model.weights={file}"),
        *("--data=ImageFolder", f"--data.root={pets}", "--data.image_size=32"),
        *("--trainer.max_epochs=1", "--trainer.logger=false"),
    )
    file.unlink()
    tested = run("test", "--ckpt_path", fitted.path)
    assert tested.summary["test/loss"] == pytest.approx(fitted.summary["test/loss"])
