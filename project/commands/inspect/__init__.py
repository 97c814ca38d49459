"""``python -m project inspect``: suspect labels, near-duplicates and broken files of a data set."""

from project.commands.inspect.command import inspect

__all__ = ["inspect"]
