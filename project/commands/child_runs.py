"""Runs of a command that trains more than once: each in a process of its own."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch

from project.environment import PACKAGE, available_cores
from project.errors import UserError
from project.lightning_cli import ProjectCLI

NO_MODELS = {"WANDB_LOG_MODEL": "false"}  # in W&B: there is one of each run
NO_PICTURES = "--pictures=0"  # which would count as time of the training
GRACE_SECONDS = 20  # time for a run to write its last checkpoint


def check(arguments: Sequence[str]) -> None:
    """Read the config that a command line gives, before hours are spent on others.

    Args:
        arguments: The command line of a run, without the program.

    Raises:
        UserError: If there is a mistake in it.
    """
    said = io.StringIO()
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(said):
            ProjectCLI([*arguments, "--print_config"])
    except SystemExit as end:
        if end.code not in (0, None):
            raise UserError(said.getvalue().strip().removeprefix("error: ")) from None


def error_in(log: Path) -> str:
    """Return why a run failed: its error message, else the last line of its output."""
    try:
        lines = log.read_text("utf-8", "replace").splitlines()
    except OSError:
        return "was not run"
    messages = [line for line in lines if line.startswith("error: ")]
    last = [line.strip() for line in lines if line.strip()]
    return (messages or last or ["it printed nothing"])[-1].removeprefix("error: ")


class ChildRuns:
    """Starts runs, some of them at the same time, and ends them with the command.

    Args:
        group: W&B group of all runs.
        jobs: Number of runs at the same time.
    """

    def __init__(self, group: str, jobs: int) -> None:
        self.group = group
        self.jobs = jobs
        self._stopping = False
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(
        self, arguments: Sequence[str], log: Path, slot: int, lock: int, append: bool = False
    ) -> "subprocess.Popen[bytes]":
        """Start a run, which draws no pictures unless its config says so.

        Args:
            arguments: Its command line, without the program.
            log: File for its output.
            slot: Which of the runs at the same time this is, from 0.
            lock: Descriptor of a locked file; the run holds the lock until it ends.
            append: Whether the output is added to that of an earlier process.
        """
        command, *options = arguments
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab" if append else "wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", PACKAGE, command, NO_PICTURES, *options],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=NO_MODELS | os.environ | {"WANDB_RUN_GROUP": self.group} | self._share(slot),
                pass_fds=(lock,),
                start_new_session=True,  # Ctrl-C goes to this process alone, which ends its runs
            )
        self._processes.append(process)
        if self._stopping:  # it began in another thread meanwhile
            end(process)
        return process

    def _share(self, slot: int) -> dict[str, str]:
        """Return the environment of one of several parallel runs: its GPU or its threads."""
        if self.jobs == 1:
            return {}
        if count := torch.cuda.device_count():
            visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
            return {"CUDA_VISIBLE_DEVICES": visible.split(",")[slot % count]}
        return {"OMP_NUM_THREADS": str(max(available_cores() // self.jobs, 1))}

    def stop(self) -> None:
        """End the runs that are running, and those that begin meanwhile."""
        self._stopping = True
        running = [process for process in self._processes if process.poll() is None]
        for process in running:
            end(process)
        for process in running:
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def end(process: "subprocess.Popen[bytes]") -> None:
    """Let a run write its last checkpoint and end, with its ranks and workers."""
    os.killpg(process.pid, signal.SIGTERM)
