"""Ranges of the options of data modules."""

from project.errors import UserError

LIMITS: dict[str, tuple[float, float]] = {  # of options; beyond, a library or the machine fails
    "batch_size": (1, 10**6),
    "eval_batch_size": (1, 10**6),
    "num_workers": (0, 1024),
    "limit_per_class": (1, 10**12),
    "steps_per_epoch": (1, 10**7),
    "image_size": (1, 16_384),
    "decode_size": (1, 16_384),
    "cache_gb": (0, 10**6),
    "device_gb": (0, 10**6),
    "memory_gb": (0, 10**6),
    "unpacked_gb": (0, 10**6),
    "unpacked_files": (1, 10**9),
    "max_bad_fraction": (0, 1),
}


def check_limits(**options: float | None) -> None:
    """Compare numbers that a config gives with :data:`LIMITS`; None is allowed.

    Raises:
        UserError: If one is out of range, or not a number.
    """
    for name, value in options.items():
        low, high = LIMITS[name]
        if value is not None:
            check(name, value, value >= low, f"at least {low:,}")
            check(name, value, value <= high, f"at most {high:,}")


def check(name: str, value: object, valid: bool, right: str) -> None:
    """Refuse the value of an option of the data, unless it is valid.

    Raises:
        UserError: Which says what would be right.
    """
    if not valid:
        raise UserError(f"data.{name}: {value} must be {right}")
