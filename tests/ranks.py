"""Two processes that train together, and run one command after the other: starting takes seconds.

``python -m tests.ranks`` is such a process. It reads a folder and a command line from each line of
its input, and answers with exit code and output.
"""

import io
import json
import os
import socket
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TWO = ("--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp")


@dataclass
class Done:
    """What the ranks answered: their exit code, and what each of them said."""

    code: int
    said: str
    said_by_second: str


class Ranks:
    """The two processes, as a launcher of a cluster starts them."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.processes = [self._start(rank, port) for rank in range(2)]

    def _start(self, rank: int, port: int) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "tests.ranks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"LOCAL_RANK": str(rank), "MASTER_PORT": str(port)},
        )

    def __call__(self, *args: Any, folders: tuple[Path | str, Path | str] = ("", "")) -> Done:
        """Run a command line on both ranks, in the working directory of the test.

        Args:
            args: The command line.
            folders: Working directory of each rank, below that of the test.
        """
        for process, folder in zip(self.processes, folders):
            command = [*map(str, args), "--pictures=0", *TWO]  # which take as long as the training
            request = json.dumps([str(Path.cwd() / folder), command])
            assert process.stdin is not None
            print(request, file=process.stdin, flush=True)
        answers = [json.loads(process.stdout.readline()) for process in self.processes]  # type: ignore[union-attr]
        assert answers[0][0] == answers[1][0], answers
        return Done(*answers[0], answers[1][1])

    def close(self) -> None:
        """End the processes, which wait for each other."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self.processes:
            process.wait(30)
            process.stdout.close()  # type: ignore[union-attr]


def serve() -> None:
    """Run what the input says."""
    from project.cli import main

    for line in sys.stdin:
        folder, args = json.loads(line)
        os.chdir(folder)
        said, code = io.StringIO(), 0
        with redirect_stdout(said), redirect_stderr(said):
            try:
                main(args)
            except SystemExit as end:
                code = int(end.code or 0)
        print(json.dumps([code, said.getvalue()]), flush=True)


if __name__ == "__main__":
    serve()
