"""Signals that end a command: the first one in good order, a second one at once.

What the first signal does depends on what runs:

- While the program starts, nothing is there that has to be cleaned up, and the process ends.
- In a loop over batches, it is remembered until the batch is over: see :func:`agreed`.
- Everywhere else it raises :class:`Stopped` right there, so that files and processes are cleaned
  up by whoever holds them.

A thread sees each signal as well. Python runs a handler only between two of its own instructions,
so that a process that waits for another rank inside a library would never notice.

This module needs the standard library alone, because it is imported before everything else.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from types import FrameType
from typing import Any, Self

WORDS: dict[int, str] = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "ended by SIGHUP",
    signal.SIGUSR1: "ended by SIGUSR1",
}
SECOND = 1.0  # seconds; until then it is the same one: a terminal and a launcher both send theirs
BLOCKED = 2.0  # seconds after which a rank has to have noticed a signal outside of a loop
STUCK = 10.0  # seconds that it then has to clean up
EVERY = 10  # batches on a GPU, where an agreement waits for all that is computed
FIRST_RANK = "PROJECT_FIRST_RANK"  # process that has started this one as a further rank
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
ANEW = "the same command starts anew"


class Stopped(SystemExit):
    """Ends the command because a signal asks for it; its code is 128 and the signal's number."""


class Listening:
    """The handlers of a command, as a context manager.

    A signal that is ignored already, as by ``nohup``, stays ignored.

    Args:
        starting: Whether a signal ends the process right away, because it is still importing.

    Attributes:
        received: Number of the signal, 0 without one.
        agreed: Whether all ranks stop, at the same place.
        advice: What the person can do next.
        afterwards: Called once everything is written.
        ranks: Returns the further ranks that this process has started.
        first: Whether this process is the first rank, the one that speaks.
    """

    def __init__(self, starting: bool = False) -> None:
        self.received = 0
        self.agreed = False
        self.advice = ANEW
        self.afterwards: Callable[[], None] = lambda: None
        self.ranks: Callable[[], Sequence[Popen[Any]]] = lambda: ()
        self.first = all(os.environ.get(name, "0") == "0" for name in RANKS)
        self._starting = starting
        self._waits = False  # for the end of a batch
        self._over = False  # what runs now is the end of the command
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Install the handlers; elsewhere than in the main thread, Python has none."""
        global now
        self._outer, now = now, self
        if threading.current_thread() is threading.main_thread():
            reader, self._writer = socket.socketpair()
            self._writer.setblocking(False)
            self._unraisable, sys.unraisablehook = sys.unraisablehook, self._raise_again
            self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(reader,), daemon=True).start()
            for signum in WORDS:
                self.listen_to(signum)
        return self

    def __exit__(self, *_: object) -> None:
        """Put the handlers back that were there."""
        global now
        now = self._outer
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        if self._before:
            sys.unraisablehook = self._unraisable
            signal.set_wakeup_fd(self._wakeup)
            self._writer.close()

    def listen_to(self, signum: int) -> None:
        """Take a signal for one that ends the command."""
        listens = threading.current_thread() is threading.main_thread()
        if listens and signum not in self._before and signal.getsignal(signum) != signal.SIG_IGN:
            self._before[signum] = signal.signal(signum, self._handle)

    @property
    def code(self) -> int:
        """The exit code of a command that doesn't come to its end.

        Lightning kills the first rank once another one has failed, so that these exit with 0.
        """
        if self.received and _is_further_rank():
            return 0
        return 128 + self.received if self.received else 1

    @property
    def has_ranks(self) -> bool:
        """Whether other processes may wait for this one."""
        return bool(_process_group() or self.ranks() or _is_further_rank())

    def wait(self) -> None:
        """Let a loop act on signals at the end of its batches, from now on."""
        self._waits = True

    def act(self) -> None:
        """Let signals act at once again, after a loop.

        Several ranks go on to wait: one of them alone must not leave.

        Raises:
            Stopped: If there was a signal.
        """
        if not self.has_ranks:
            self._waits = False
            if self.received:
                raise Stopped(self.code)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.received:
            return  # the thread decides whether this is a second one
        self.received = signum
        if self._starting:
            if not self._over:
                self.tell()
            os._exit(self.code)
        if not self._waits:
            raise Stopped(self.code)

    def _watch(self, reader: socket.socket) -> None:
        """Pass the first signal on to the other ranks, and end everything at a second one."""
        first = 0.0
        with reader:
            while received := reader.recv(16):
                for signum in received:
                    if signum not in self._before:
                        continue
                    if not first:
                        first = time.monotonic()
                        self._pass_on(signum)
                    elif time.monotonic() > first + SECOND:
                        end_at_once(128 + signum)

    def _pass_on(self, signum: int) -> None:
        if _is_further_rank():
            with suppress(ProcessLookupError):
                os.kill(os.getppid(), signum)
        for rank in self.ranks():
            rank.send_signal(signum)
        if self.has_ranks and not self._waits:
            self._later(BLOCKED, self._end_if_blocked, signum)

    def _later(self, seconds: float, function: Callable[[int], None], signum: int) -> None:
        timer = threading.Timer(seconds, function, (signum,))
        timer.daemon = True
        timer.start()

    def _end_if_blocked(self, signum: int) -> None:
        """End a rank that waits inside a library for one that has left or has never come."""
        if self.received:
            self._later(STUCK, self._end_if_stuck, signum)
        else:
            self._end_if_stuck(signum)

    def _end_if_stuck(self, signum: int) -> None:
        if not self._over:
            self.received = signum
            self.tell()
            end_at_once(self.code)

    def _raise_again(self, dropped: Any) -> None:
        """Raise once more what Python has dropped, because it was raised in a finalizer."""
        if dropped.exc_type is Stopped:
            self._later(0.02, self._repeat, self.received)
        else:
            self._unraisable(dropped)

    def _repeat(self, signum: int) -> None:
        self.received = 0
        signal.pthread_kill(threading.main_thread().ident or 0, signum)

    def finish(self) -> None:
        """Let a signal end what remains of the process without a word."""
        self._over = True

    def tell(self) -> None:
        """Say on the first rank what has ended the command, and what can be done next."""
        self._over = True
        if self.first:
            print(f"{WORDS.get(self.received, 'stopped')}: {self.advice}", file=sys.stderr)


now = Listening()  # the innermost one


def agreed(trainer: Any, batch: int = 0) -> bool:
    """Return whether there was a signal on any rank; all ranks have to ask at the same place.

    Args:
        trainer: The trainer.
        batch: Number of the batch; several ranks on GPUs look at every tenth only.
    """
    received = now.received
    if trainer.world_size > 1 and not now.agreed:
        import torch

        device = trainer.strategy.root_device
        if device.type == "cuda" and batch % EVERY:
            return False
        mine = torch.tensor(received, device=device)
        received = int(trainer.strategy.reduce(mine, reduce_op="max"))
    if received:  # else there may be a signal meanwhile, for the next batch
        now.received = received
        now.agreed = True
    return now.agreed


def stop_where_agreed(trainer: Any, batch: int = 0) -> None:
    """End the command if there was a signal on any rank.

    Raises:
        Stopped: Then, on all ranks.
    """
    if agreed(trainer, batch):
        raise Stopped(now.code)


def leave_ranks() -> None:
    """Let go of the other ranks, so that none of them waits for this one.

    The first rank has written everything when the others leave, and waits for those that it has
    started.
    """
    if group := _process_group():
        with suppress(Exception):  # of ranks that have left
            if now.agreed:
                group.barrier()
            if group.get_backend() == "gloo":  # the others get an error where they wait
                group.destroy_process_group()
    for rank in now.ranks():
        try:
            rank.wait(STUCK)
        except TimeoutExpired:
            rank.kill()


def _process_group() -> Any:
    """Return the module with which ranks talk to each other, None where there is one rank."""
    module: Any = sys.modules.get("torch.distributed")
    return module if module and getattr(module, "is_initialized", bool)() else None


def _is_further_rank() -> bool:
    return os.environ.get(FIRST_RANK) == str(os.getppid()) and "LOCAL_RANK" in os.environ


def own_group(worker: int = 0) -> None:
    """Let signals to the group of the process leave a worker of a DataLoader alone.

    It ends with the process that has started it, which first finishes its batch.
    """
    signal.set_wakeup_fd(-1)
    for signum in WORDS:
        if signum != signal.SIGTERM:  # torch's own handler
            signal.signal(signum, signal.SIG_IGN)
    os.setpgrp()


def end_at_once(code: int) -> None:
    """End this process and all that it has started, without any cleaning up."""
    for process in _started_by(os.getpid()):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    os._exit(code)


def _started_by(process: int) -> list[int]:
    """Return the processes that a process has started, and those that these have; on Linux."""
    parents = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(file.parent.name)] = int(file.read_text().rpartition(")")[2].split()[1])
    found = [process]
    for one in found:  # which grows
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]
