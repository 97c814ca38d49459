"""What the ranks of a distributed run have in common: their data, and their mistakes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import distributed

from project.console import readable
from project.errors import UserError


def num_ranks() -> int:
    """Return how many processes train together, 1 before they have found each other."""
    ready = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if ready else 1


def is_first() -> bool:
    """Whether this process is the first of those that train together."""
    return num_ranks() == 1 or distributed.get_rank() == 0


@contextmanager
def one_error() -> Iterator[None]:
    """Let an error of one rank end all of them; those that went on would wait for it.

    All ranks have to come here. Nothing inside may wait for another rank.

    Raises:
        UserError: On the ranks that had no error, with the message of the first that had one.
    """
    mine: Exception | None = None
    try:
        yield
    except Exception as error:
        mine = error
    told = gathered(None if mine is None else str(mine) or type(mine).__name__)
    if mine is not None:
        raise mine
    for rank, message in enumerate(told):
        if message is not None:
            raise UserError(f"rank {rank}: {message}")


def check_equal(facts: Mapping[str, Any]) -> None:
    """Compare facts of all ranks.

    Args:
        facts: Value of each fact, by its name; the same names on all ranks.

    Raises:
        UserError: On all ranks, with the first fact that isn't the same.
    """
    first, *others = gathered(facts)
    for name, value in first.items():
        for rank, other in enumerate(others, start=1):
            if other[name] != value:
                one, another = _difference(value, other[name])
                raise UserError(
                    f"the ranks have different {name}: rank 0 has {one}, rank {rank} has "
                    f"{another}; all of them need the same data and config",
                    "data",
                )


def gathered(value: Any) -> list[Any]:
    """Return the values of all ranks, on each of them."""
    values: list[Any] = [value] * num_ranks()
    if len(values) > 1:
        distributed.all_gather_object(values, value)
    return values


def of_all_ranks(rows: list[Any], world_size: int) -> list[Any]:
    """Return the rows of all ranks one after the other, on each of them.

    Args:
        rows: Those of this rank.
        world_size: Number of ranks, as the trainer has it.
    """
    return rows if world_size == 1 else [row for part in gathered(rows) for row in part]


def _difference(one: Any, another: Any) -> tuple[str, str]:
    """Return how two values differ, in a few words."""
    if isinstance(one, str) and isinstance(another, str) and len(one) == len(another) == 64:
        return f"SHA-256 {one[:8]}…", f"{another[:8]}…"
    lists = isinstance(one, list | tuple) and isinstance(another, list | tuple)
    if lists and len(one) != len(another):
        return f"{len(one):,}", f"{len(another):,}"
    for place, pair in enumerate(zip(one, another) if lists else ()):
        if pair[0] != pair[1]:
            return f"{readable(str(pair[0]))} as number {place + 1}", readable(str(pair[1]))
    return str(one), str(another)
