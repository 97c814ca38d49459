"""The command line: the table of commands, and what a mistake ends in."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from inspect import getdoc
from typing import NoReturn

import torch
from lightning.pytorch.cli import ArgsType
from lightning.pytorch.utilities.exceptions import SIGTERMException

from project.commands.compare import compare
from project.commands.plan import plan
from project.commands.recommend import recommend
from project.console import accept_all_characters, readable
from project.errors import UserError
from project.failures import fault, machine
from project.lightning_cli import ProjectCLI
from project.upstream import QUIET

COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "plan": plan,
    "compare": compare,
    "recommend": recommend,
}
"""The commands beside ``fit``, ``validate``, ``test`` and ``predict``; each takes what follows."""


def main(args: ArgsType = None) -> None:
    """Run the command line.

    Args:
        args: Arguments; None takes those of the process.

    Raises:
        SystemExit: With 2 for a mistake in config or data, 130 when interrupted, 143 when
            terminated.
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
    given = sys.argv[1:] if args is None else args
    failed = 1
    try:
        if isinstance(given, list) and given and given[0] in COMMANDS:
            COMMANDS[given[0]](given[1:])
        else:
            ProjectCLI(args, other_commands=_descriptions())
        failed = 0
    except SIGTERMException:
        sys.exit(143)  # Lightning would exit with 0
    except KeyboardInterrupt:
        _end_interrupted()
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # Lightning exits with 1
            _end_interrupted()
        raise
    except Exception as error:
        told = error if isinstance(error, UserError) else None
        if told is None and not hasattr(error, "__notes__"):  # a note says already whose it is
            told = machine(error)
        if told is None or os.environ.get("PROJECT_TRACEBACK"):
            if told is None and not hasattr(error, "__notes__"):
                fault(error)
            raise
        print(f"error: {readable(str(told))}", file=sys.stderr)
        sys.exit(2)
    finally:
        if "wandb" in sys.modules:
            sys.modules["wandb"].finish(exit_code=failed)


def _end_interrupted() -> NoReturn:
    print("error: interrupted", file=sys.stderr)
    sys.exit(130)


def _descriptions() -> dict[str, str]:
    """Return the first line of what each command says of itself."""
    return {name: (getdoc(run) or "").partition("\n")[0] for name, run in COMMANDS.items()}
