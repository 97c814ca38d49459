"""Random numbers as a pure function of what they are for.

Nothing here has a state: the same seed, epoch and image give the same numbers on every device, in
every process, before and after a resume.
"""

import os

import torch
from torch import Tensor

_MASK = (1 << 64) - 1


def run_seed() -> int:
    """Return the seed that ``seed_everything`` was given, 0 if it wasn't called."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def mix(*numbers: int) -> int:
    """Return a well-mixed seed in [0, 2^63) from any integers, e.g. ``mix(seed, epoch)``."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def uniform(keys: Tensor, count: int, seed: int) -> Tensor:
    """Return ``count`` numbers in [0, 1) for each key, float32 ``[B, count]``, on the keys' device.

    SplitMix64 (Steele, Lea and Flood, 2014) over a counter, in wrapping int64 arithmetic.

    Args:
        keys: int64 ``[B]``, e.g. the index of each image.
        count: How many numbers each key needs.
        seed: Result of :func:`mix`.
    """
    counters = keys[:, None] * count + torch.arange(count, device=keys.device)
    state = (counters + 1) * _signed(0x9E3779B97F4A7C15) + seed
    state = (state ^ _shift(state, 30)) * _signed(0xBF58476D1CE4E5B9)
    state = (state ^ _shift(state, 27)) * _signed(0x94D049BB133111EB)
    state = state ^ _shift(state, 31)
    return _shift(state, 40).float() / (1 << 24)


def _signed(number: int) -> int:
    return number - (1 << 64)


def _shift(state: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's own keeps the sign."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)
