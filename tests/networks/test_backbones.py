"""Backbones of timm at any image size: their weights, their layer groups, their arguments."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from project.errors import UserError
from project.networks import LibraryNetwork
from project.networks.groups import LayerGroups
from tests.conftest import Run

SMALL = {"depth": 4, "embed_dim": 48, "num_heads": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "vit_small_patch14_dinov2": SMALL,
    "vit_small_patch14_reg4_dinov2": SMALL,
    "vit_small_patch16_dinov3": SMALL,
    "vit_base_patch16_siglip_224": SMALL,
    "eva02_tiny_patch14_224": SMALL,
    "deit3_small_patch16_224": SMALL,
    "beit_base_patch16_224": SMALL,
    "convnextv2_atto": {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)},
    "swin_tiny_patch4_window7_224": {
        **{"depths": (1, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 1, 2, 2)}
    },
    "tf_efficientnet_lite0": {},
}
TOKENS = ("cls_token", "reg_token", "pos_embed", "patch_embed")


def network(name: str, size: int, **options: Any) -> LibraryNetwork:
    arguments = {**FAMILIES[name], **options.pop("backbone_args", {})}
    return LibraryNetwork((3, size, size), 5, f"timm/{name}", backbone_args=arguments, **options)


def saved(found: LibraryNetwork, path: Path) -> dict[str, Tensor]:
    state = {name: value.clone() for name, value in found.backbone.state_dict().items()}
    save_file(state, path)
    return state


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_are_taken_at_another_size(name: str, tmp_path: Path) -> None:
    small, large = (56, 84) if "patch14" in name else (64, 96)
    if name.startswith("swin"):  # whose windows have to fit
        small, large = 224, 192
    state = saved(network(name, small), tmp_path / "small.safetensors")
    found = network(name, large, weights=str(tmp_path / "small.safetensors"))
    for key, value in found.backbone.state_dict().items():
        if value.shape == state[key].shape:
            assert torch.equal(value, state[key]), key
        elif key == "pos_embed":
            prefix = getattr(found.backbone, "num_prefix_tokens", 1)
            prefix -= prefix and getattr(found.backbone, "no_embed_class", False) * prefix
            grid = found.backbone.patch_embed.grid_size
            expected = resample_abs_pos_embed(state[key], list(grid), num_prefix_tokens=prefix)
            torch.testing.assert_close(value, expected)
        else:
            assert "relative_position" in key, key
    images = torch.rand(2, 3, large, large)
    found(images).sum().backward()
    used = {key: p.grad is not None for key, p in found.named_parameters()}
    assert all(used[key] for key in used if "mask_token" not in key), used


@pytest.mark.parametrize("name", FAMILIES)
def test_layer_groups_go_from_input_to_output(name: str) -> None:
    found = network(name, 224)
    groups = found.layer_groups()
    parameters = [key for key, _ in found.named_parameters()]
    layers = LayerGroups(groups, parameters)
    names = list(groups)
    assert (names[0], names[-1]) == ("stem", "head") and len(names) >= 4
    for key in parameters:
        if any(token in key for token in TOKENS):
            assert layers.group_of[key] == "stem", key
        if key.startswith("backbone.blocks.0.") and "patch" in name:
            assert layers.group_of[key] == names[1], key


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"drop_path": 0.1}, "timm/vit_small_patch14_dinov2 has no argument drop_path; did you"),
        ({"img_size": 224}, "img_size is given by the other options"),
        ({"num_classes": 3}, "num_classes is given by the other options"),
        ({"depth": "many"}, "timm/vit_small_patch14_dinov2: "),
    ],
)
def test_wrong_arguments_are_refused_by_their_key(arguments: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        network("vit_small_patch14_dinov2", 56, backbone_args=arguments)
    assert str(error.value).startswith(f"backbone_args: {message}")


def test_weights_that_timm_cant_resample_are_refused(tmp_path: Path) -> None:
    options = {"embed_dim": 48, "depth": 2, "num_heads": 2}
    one = LibraryNetwork((3, 64, 64), 5, "timm/cait_xxs24_224", backbone_args=options)
    saved(one, path := tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="1 of another shape .pos_embed.; timm may not resample"):
        LibraryNetwork((3, 96, 96), 5, "timm/cait_xxs24_224", str(path), backbone_args=options)


def test_a_transformer_is_fine_tuned_at_the_size_of_the_data(
    run: Callable[..., Run], tmp_path: Path
) -> None:
    name = "vit_small_patch14_dinov2"
    saved(network(name, 56), weights := tmp_path / "weights.safetensors")
    fitted = run(
        *("fit", "--model=FineTuning", f"--model.backbone=timm/{name}", "--trainer.logger=false"),
        *(f"--model.backbone_args={json.dumps(FAMILIES[name])}", f"--model.weights={weights}"),
        *("--data.image_size=28", "--data.limit_per_class=5", "--trainer.max_epochs=1"),
        *("--trainer.callbacks=FineTuningSchedule", "--trainer.callbacks.preset=probe"),
    )
    weights.unlink()  # the checkpoint has them
    again = run("test", "--ckpt_path", fitted.path)
    assert again.summary["test/loss"] == pytest.approx(fitted.summary["test/loss"], abs=1e-6)


def test_a_hub_that_cant_be_reached_is_known_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits"))
    for name, key in (("timm/resnet18", "weights"), ("hf-hub:nobody/nothing", "name")):
        with pytest.raises(UserError, match=f"^{key}: .*could not be"):
            LibraryNetwork((3, 32, 32), 5, name, "DEFAULT")
    assert not constants.HF_HUB_OFFLINE


def test_an_architecture_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--me--mine"
    (folder / "snapshots" / "1").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("1")
    config = {"input_size": [3, 64, 64], "mean": [0.1, 0.2, 0.3], "std": [0.5] * 3}
    config |= {"classifier": "fc", "num_classes": 7}
    content = {"architecture": "resnet10t", "num_classes": 7, "pretrained_cfg": config}
    (folder / "snapshots" / "1" / "config.json").write_text(json.dumps(content))
    found = LibraryNetwork((3, 64, 64), 5, "hf-hub:me/mine", None)
    assert type(found.backbone).__name__ == "ResNet"
    assert LibraryNetwork.expected_input(name="hf-hub:me/mine").mean == (0.1, 0.2, 0.3)
    state = {name: value.clone() for name, value in found.backbone.state_dict().items()}
    save_file(state, folder / "snapshots" / "1" / "model.safetensors")
    again = LibraryNetwork((3, 64, 64), 5, "hf-hub:me/mine", "DEFAULT")
    assert torch.equal(next(again.backbone.parameters()), next(found.backbone.parameters()))
