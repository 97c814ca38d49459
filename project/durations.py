"""Lengths of time as text, such as ``1h30m`` and ``2 min 5 s``."""

import re

from project.errors import UserError

UNITS = {"h": 3600, "m": 60, "s": 1}


def seconds_of(text: str, key: str) -> float:
    """Parse ``45s``, ``30m``, ``2h`` or ``1h30m`` into seconds.

    Args:
        text: The length of time.
        key: Key of the config that has this value, for the message.

    Raises:
        UserError: If the text has another form or means 0 seconds.
    """
    parts = re.fullmatch(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", text.replace(" ", ""))
    counts = [int(count or 0) for count in parts.groups()] if parts else []
    seconds = sum(count * unit for count, unit in zip(counts, UNITS.values()))
    if not seconds:
        raise UserError(f"{text!r} must be a length of time, such as 45s, 30m or 1h30m", key)
    return float(seconds)


def duration(seconds: float) -> str:
    """Return a length of time in words: ``8.3 s``, ``2 min 5 s``, ``1 h 20 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
