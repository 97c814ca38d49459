"""``python -m project recommend``: which approach fits the data, before any is trained."""

from project.commands.recommend.command import recommend

__all__ = ["recommend"]
