"""The networks have the sizes that they promise."""

import pytest
import torch

from project.networks import CNN, MLP, LibraryNetwork


def size(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_reference_networks_have_the_reference_sizes() -> None:
    assert size(MLP((1, 28, 28), 10)) == 109_386
    assert size(CNN((3, 32, 32), 10)) == 122_570


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 20)])
@pytest.mark.parametrize("options", [{}, {"padding": 1, "batch_norm": True, "dropout": 0.1}])
def test_cnn_fits_any_large_enough_image(
    shape: tuple[int, int, int], options: dict[str, bool]
) -> None:
    network = CNN(shape, 7, channels=(4, 8), **options)
    assert network(torch.zeros(2, *shape)).shape == (2, 7)
    assert list(network.layer_groups()) == ["stage1", "stage2", "head"]


def test_cnn_refuses_images_that_are_too_small() -> None:
    with pytest.raises(ValueError, match=r"6×6 are too small for 3 convolutions; .*padding: 1"):
        CNN((1, 6, 6), 10)


def test_mlp_layers_are_its_groups() -> None:
    network = MLP((1, 4, 4), 3, hidden=(8, 6), dropout=0.1)
    assert network(torch.zeros(5, 1, 4, 4)).shape == (5, 3)
    assert list(network.layer_groups()) == ["dense1", "dense2", "head"]


def test_library_network_takes_grey_images() -> None:
    network = LibraryNetwork((1, 32, 32), 4, "resnet18").eval()
    grey = torch.randn(2, 1, 32, 32)
    assert torch.equal(network(grey), network(grey.expand(-1, 3, -1, -1)))


def test_glorot_starts_as_keras_does() -> None:
    network = CNN((3, 32, 32), 10, glorot=True)
    weight = network.backbone.get_submodule("stage2.0").weight
    limit = (6 / (9 * (32 + 64))) ** 0.5
    assert 0.98 * limit < weight.abs().max() <= limit
    assert all(not p.any() for name, p in network.named_parameters() if name.endswith("bias"))
