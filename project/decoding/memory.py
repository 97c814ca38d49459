"""What threads that decode at once may take of memory together."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Memory:
    """Lets threads go on as long as what they need fits into memory together.

    They go on in the order in which they came, so that a large image isn't kept waiting by small
    ones.

    Args:
        most: Bytes that all of them have; one that needs more goes on alone.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._used = 0
        self._turn = threading.Lock()
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, num_bytes: int) -> Iterator[None]:
        """Wait until so many bytes are free, and hold them."""
        with self._turn, self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + num_bytes <= self._most)
            self._used += num_bytes
        try:
            yield
        finally:
            with self._changed:
                self._used -= num_bytes
                self._changed.notify()
