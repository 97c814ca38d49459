"""Running something in a process of its own, and taking its time."""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TIMEOUT = 1800  # seconds; the longest contender takes a few minutes


class RunError(Exception):
    """A process that ended with an error; its message is the end of what it wrote."""


def environment(threads: int) -> dict[str, str]:
    """Return the environment that every process gets, whoever's work it does."""
    count = str(threads)
    return os.environ | {
        "OMP_NUM_THREADS": count,
        "TF_NUM_INTRAOP_THREADS": count,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "WANDB_MODE": "offline",  # nobody wants these runs in an account
    }


def run(command: list[str], threads: int) -> tuple[str, float]:
    """Run a command in the root of the repository; return its output and the seconds it took.

    Raises:
        RunError: If it can't be started, ends with an error, or doesn't end.
    """
    start = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment(threads),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunError(str(error)) from error
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise RunError("\n".join([f"exit code {done.returncode}", *lines[-8:]]))
    return done.stdout, seconds


def last_json(output: str) -> dict[str, Any]:
    """Return what the last line of an output holds."""
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found
