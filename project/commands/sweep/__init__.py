"""``python -m project sweep``: searches hyperparameters as a sweep of W&B does, with no server."""

from project.commands.sweep.command import sweep

__all__ = ["sweep"]
