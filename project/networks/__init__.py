"""Plain ``torch.nn`` networks: no Lightning in here."""

from project.networks.airbench import Airbench
from project.networks.backbone import LibraryNetwork, input_spec
from project.networks.base import InputSpec, Network, dense_head
from project.networks.cnn import CNN
from project.networks.mlp import MLP

__all__ = [
    "CNN",
    "MLP",
    "Airbench",
    "InputSpec",
    "LibraryNetwork",
    "Network",
    "dense_head",
    "input_spec",
]
