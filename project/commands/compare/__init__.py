"""``python -m project compare``: trains contenders on the same data and reports on them."""

from project.commands.compare.command import compare

__all__ = ["compare"]
