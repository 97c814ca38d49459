"""``python -m project export``: a classifier as one file that proves itself on the test images."""

from project.commands.export.command import export

__all__ = ["export"]
