"""``python -m project recommend``: chooses an approach before any is trained."""

from project.commands.recommend.command import recommend

__all__ = ["recommend"]
