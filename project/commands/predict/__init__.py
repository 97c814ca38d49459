"""``python -m project predict MODEL PICTURE …``; for an exported file, torch is never imported."""

from collections.abc import Sequence

from project.commands.predict.command import predict, predict_alone

__all__ = ["is_of_pictures", "predict", "predict_alone"]


def is_of_pictures(arguments: Sequence[str]) -> bool:
    """Whether a command line begins with ``predict MODEL``; ``predict --…`` is Lightning's."""
    return len(arguments) > 1 and arguments[0] == "predict" and arguments[1][:1] != "-"
