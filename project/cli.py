"""The command line: the table of commands, and what a mistake ends in."""

import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from inspect import getdoc

import torch
from lightning.pytorch.cli import ArgsType
from lightning.pytorch.utilities.exceptions import SIGTERMException

from project import signals
from project.commands.compare import compare
from project.commands.export import export
from project.commands.inspect import inspect
from project.commands.plan import plan
from project.commands.predict import is_of_pictures, predict
from project.commands.preview_data import preview_data
from project.commands.recommend import recommend
from project.commands.sweep import sweep
from project.console import accept_all_characters, lines
from project.environment import keep_freed_memory
from project.errors import UserError
from project.failures import fault, machine
from project.lightning_cli import ProjectCLI
from project.signals import Listening, Stopped
from project.upstream.lightning import QUIET

COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "plan": plan,
    "preview-data": preview_data,
    "recommend": recommend,
    "compare": compare,
    "sweep": sweep,
    "inspect": inspect,
    "export": export,
}
"""The commands beside ``fit``, ``test``, ``validate`` and ``predict``; each takes what follows."""


def main(args: ArgsType = None) -> None:
    """Run the command line.

    Args:
        args: Arguments; None takes those of the process.

    Raises:
        SystemExit: With 2 for a mistake in config or data, with 128 and its number for a signal.
    """
    accept_all_characters()
    logging.raiseExceptions = False  # W&B's log is in the locale's encoding, which may lack a name
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in QUIET:
        warnings.filterwarnings("ignore", message)
    os.environ.setdefault("WANDB_SILENT", "true")
    torch.set_float32_matmul_precision("high")
    if not torch.cuda.is_available():  # or optimizers load the GPU's library again in each step
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
        keep_freed_memory()
    with Listening() as listening:
        code = 1
        try:
            code = _run(args, listening)
        finally:
            if "wandb" in sys.modules:
                sys.modules["wandb"].finish(exit_code=code)
        if listening.received:
            listening.afterwards()
            signals.leave_ranks()
        if code:
            sys.exit(code)


def _run(args: ArgsType, listening: Listening) -> int:
    """Run the command line, and return its exit code; a fault of the program is raised."""
    given = sys.argv[1:] if args is None else args
    try:
        if isinstance(given, list) and is_of_pictures(given):
            predict(given[1:])
        elif isinstance(given, list) and given and given[0] in COMMANDS:
            COMMANDS[given[0]](given[1:])
        else:
            ProjectCLI(args, other_commands=_descriptions())
    except (Stopped, SIGTERMException, KeyboardInterrupt) as stopped:
        return _stopped(stopped, listening)
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # Lightning exits with 1
            return _stopped(end.__context__, listening)
        raise
    except Exception as error:
        if listening.received and listening.has_ranks:  # another rank has left
            return _stopped(error, listening)
        told = error if isinstance(error, UserError) else None
        if told is None and not hasattr(error, "__notes__"):  # a note says already whose it is
            told = machine(error)
        if told is None:
            if not hasattr(error, "__notes__"):
                fault(error)
            raise
        if os.environ.get("PROJECT_TRACEBACK"):
            traceback.print_exception(error)
        print(f"error: {lines(str(told))}", file=sys.stderr)
        return 2
    return 0


def _stopped(reason: BaseException, listening: Listening) -> int:
    """Say what has ended the command, and return its exit code."""
    if not listening.received:  # raised by code, or in a thread, where no handler can be
        interrupted = isinstance(reason, KeyboardInterrupt)
        listening.received = signal.SIGINT if interrupted else signal.SIGTERM
    listening.tell()
    return listening.code


def _descriptions() -> dict[str, str]:
    """Return the first line of what each command says of itself."""
    return {name: (getdoc(run) or "").partition("\n")[0] for name, run in COMMANDS.items()}
