"""``python -m project compare``: contenders × seeds × training-set sizes, and a report on them."""

from project.commands.compare.command import compare

__all__ = ["compare"]
