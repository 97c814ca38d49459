"""Put faults into trainings, and compare what they leave behind: ``python -m benchmarks.faults``.

Three ways train the same MLP for three epochs of 11 steps on about 1,300 images of 8×8 pixels:
plain Lightning with its LightningCLI, the way of lightning-hydra-template, and this project. A
fault is put in from outside, in the same way for all: a hook of torch on the network sends a
signal, makes a gradient NaN or fills the disk, and another process kills. What counts is what is on
the disk afterwards and what a process that goes on does, not what is said.

A way without an option for going on is given the newest ``last.ckpt`` by hand, but for the row of
the same command. The table is printed, and put into docs/reliability.md where all ways were tried
in full. The template's way needs ``hydra-core`` (in an environment of its own: ``pip install -e .
hydra-core``); without it, its column is left out. ``--quick`` kills twice.
"""

import argparse
import contextlib
import csv
import importlib
import importlib.metadata
import importlib.util
import mmap
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from benchmarks.__main__ import cpu
from benchmarks.peers import hydra_way, lightning_cli
from benchmarks.table import row, with_table
from project.cli import main as project_main

PAGE = Path(__file__).parent.parent / "docs" / "reliability.md"
KILLS, QUICK_KILLS = 12, 2
STOP = 17  # step at which a training is stopped: inside the second epoch
TIMEOUT = 120  # seconds
DISK_MB = 64
ELSEWHERE = "/dev/shm"  # another file system, for temporary files
CANARY = "canary_module"

Fit = Callable[..., None]


def our_fit(often: bool, ranks: int = 1) -> None:
    """Train, or go on."""
    project_main(
        [
            *("fit", "--run_dir=run", "--resume=auto", "--data.batch_size=128"),
            *("--model.network=MLP", "--model.network.hidden=[2048]", "--trainer.max_epochs=3"),
            *("--trainer.logger=CSVLogger", "--trainer.log_every_n_steps=1"),
            *(["--checkpoint.every_n_steps=1"] if often else []),
            *lightning_cli.on(ranks),
        ]
    )


def our_evaluate(checkpoint: Path) -> None:
    """Validate a checkpoint."""
    project_main(["validate", f"--ckpt_path={checkpoint}", "--trainer.logger=false"])


@dataclass(frozen=True)
class Way:
    """An adapter. Each function works in the current folder, in a process of its own.

    Args:
        name: What the table calls it.
        package: What has to be installed.
        fit: Trains; is told whether to save at each step, and the number of ranks if it is two.
        resume: Goes on, in the way that is nearest to hand.
        evaluate: Validates a checkpoint.
    """

    name: str
    package: str
    fit: Fit
    resume: Fit
    evaluate: Callable[[Path], None]


WAYS = (
    Way("LightningCLI", "lightning", lightning_cli.fit, lightning_cli.fit, lightning_cli.evaluate),
    Way(
        "lightning-hydra-template's way",
        "hydra",
        hydra_way.fit,
        hydra_way.resume,
        hydra_way.evaluate,
    ),
    Way("this project", "project", our_fit, our_fit, our_evaluate),
)


class Fault(NamedTuple):
    """What happens at a step of a training.

    Attributes:
        step: The step; counted from one in each process.
        signum: A signal that the process gets.
        validating: Whether it gets it in the first validation after that step.
        nan: Whether the gradient becomes NaN.
        full: Whether the disk of the current folder becomes full.
    """

    step: int
    signum: int = 0
    validating: bool = False
    nan: bool = False
    full: bool = False


class Seen:
    """What a process did, in memory that it shares: steps, and whether it used known weights."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8)

    def set(self, steps: int, used: bool) -> None:
        """Say what has been done."""
        self._memory[:8] = struct.pack("ii", steps, used)

    @property
    def steps(self) -> int:
        """Number of training steps that were begun."""
        return int(struct.unpack("ii", self._memory[:8])[0])

    @property
    def used(self) -> bool:
        """Whether the first step began with the weights that were looked for."""
        return bool(struct.unpack("ii", self._memory[:8])[1])


def put_in(fault: Fault | None, seen: Seen, weights: Tensor | None) -> None:
    """Have torch call hooks at the first and last layer of every network of this process."""
    done = False

    def before(module: nn.Module, inputs: Any) -> None:
        nonlocal done
        if not isinstance(module, nn.Linear):
            return
        training = module.training and torch.is_grad_enabled()
        if training and seen.steps == 0 and weights is not None:
            own = module.weight.detach()
            if own.shape == weights.shape and torch.equal(bits(own), bits(weights)):
                seen.set(0, True)
        if module.out_features != 10:
            return
        if training:
            seen.set(seen.steps + 1, seen.used)
        if fault is None or done or fault.step > seen.steps or fault.validating == training:
            return
        done = True
        if fault.full:
            free = shutil.disk_usage(".").free
            room = newest().stat().st_size // 2
            Path("filler").write_bytes(bytes(free - room))
        if fault.signum:
            os.kill(os.getpid(), fault.signum)

    def not_finite(module: nn.Module, gradients: Any) -> Any:
        if fault and seen.steps == fault.step and getattr(module, "out_features", 0) == 10:
            return tuple(torch.full_like(gradient, float("nan")) for gradient in gradients)
        return None

    hooks.register_module_forward_pre_hook(before)
    if fault and fault.nan:
        hooks.register_module_full_backward_pre_hook(not_finite)


def bits(values: Tensor) -> Tensor:
    """Return the bits of floats as integers, because NaN isn't equal to itself."""
    return values.contiguous().view(torch.int32)


class Process:
    """A function that runs in a fork, where imports are already done.

    Args:
        function: What runs.
        folder: Its current folder, which keeps what it says in ``said.txt``.
        fault: What happens in it.
        weights: Weights whose use is noticed.
        tmp: Folder for temporary files.
    """

    def __init__(
        self,
        function: Callable[[], None],
        folder: Path,
        fault: Fault | None = None,
        weights: Tensor | None = None,
        tmp: str | None = None,
    ) -> None:
        self.seen = Seen()
        sys.stdout.flush()
        self._number = os.fork()
        if not self._number:
            code = 1
            try:
                os.chdir(folder)
                said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(said, 1)
                os.dup2(said, 2)
                sys.path.insert(0, str(folder))
                os.environ["TMPDIR"] = tempfile.tempdir = tmp or str(folder)
                put_in(fault, self.seen, weights)
                function()
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
            except KeyboardInterrupt:
                code = 128 + signal.SIGINT
            except BaseException:
                traceback.print_exc()
            finally:
                for stream in (sys.stdout, sys.stderr):
                    with contextlib.suppress(OSError, ValueError):
                        stream.flush()
                os._exit(code)

    def kill(self) -> None:
        """``kill -9``."""
        os.kill(self._number, signal.SIGKILL)

    def wait_for_step(self, step: int) -> None:
        """Wait until it has begun a step, or has ended."""
        self.wait(lambda: self.seen.steps >= step)

    def wait(self, until: Callable[[], bool]) -> None:
        """Wait until something is so, or it has ended."""
        limit = time.monotonic() + TIMEOUT
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while not until() and not os.waitid(os.P_PID, self._number, options):
            if time.monotonic() > limit:
                return
            time.sleep(0.0005)

    def end(self) -> int:
        """Wait, and return the exit code as a shell gives it; one that hangs is killed."""
        limit = time.monotonic() + TIMEOUT
        while True:
            number, status = os.waitpid(self._number, os.WNOHANG)
            if number:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            if time.monotonic() > limit:
                self.kill()
            time.sleep(0.005)


class TwoRanks:
    """The processes of two ranks that train together, in place of one.

    Args:
        function: What each runs.
        folder: Their current folder.
        fault: What happens in the second one.
    """

    def __init__(
        self, function: Callable[[], None], folder: Path, fault: Fault | None = None
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]

        def as_rank(rank: int) -> None:
            where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
            os.environ |= where | {"NODE_RANK": "0", "LOCAL_RANK": str(rank)}
            function()

        faults = (None, fault)
        self._ranks = [Process(partial(as_rank, rank), folder, faults[rank]) for rank in (0, 1)]
        self.seen = self._ranks[0].seen

    def end(self) -> int:
        """Wait for both, and return the largest exit code."""
        return max([rank.end() for rank in self._ranks])


def newest(folder: Path = Path()) -> Path:
    """Return the newest last checkpoint.

    Raises:
        FileNotFoundError: If there is none.
    """
    found = sorted(folder.rglob("last*.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise FileNotFoundError(f"no last.ckpt in {folder}")
    return found[-1]


def load(path: Path) -> Any:
    """Load a checkpoint that may be damaged."""
    return torch.load(path, map_location="cpu", weights_only=True)


def whole(path: Path) -> bool:
    """Whether a checkpoint can be loaded."""
    try:
        load(path)
    except Exception:  # a damaged file raises anything
        return False
    return True


def same(one: Any, other: Any) -> bool:
    """Whether two states are equal bit by bit."""
    if isinstance(one, Tensor):
        return bool(one.numpy().tobytes() == other.numpy().tobytes())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


class Trial:
    """What the rows need to know of a way: how a training without a fault ends.

    Args:
        way: The way.
        folder: An empty folder.
        kills: How often to kill.

    Raises:
        RuntimeError: If a training without a fault fails.
    """

    def __init__(self, way: Way, folder: Path, kills: int) -> None:
        self.way = way
        self.kills = kills
        self._folder = folder
        self._number = 0
        path = self.new()
        process = self.train(path)
        if process.end():
            raise RuntimeError(f"{way.name} failed:\n{(path / 'said.txt').read_text()[-3000:]}")
        self.steps = process.seen.steps
        self._end = load(newest(path))

    def new(self) -> Path:
        """Return a new folder."""
        self._number += 1
        folder = self._folder / str(self._number)
        folder.mkdir()
        return folder

    def train(self, folder: Path, often: bool = False, **options: Any) -> Any:
        """Begin a training."""
        return Process(lambda: self.way.fit(often), folder, **options)

    def go_on(self, folder: Path, often: bool = False, **options: Any) -> Any:
        """Go on with a training."""
        return Process(lambda: self.way.resume(often), folder, **options)

    def exact(self, folder: Path) -> bool:
        """Whether weights and optimizer are those of the training without a fault."""
        end = load(newest(folder))
        return all(same(end[part], self._end[part]) for part in ("state_dict", "optimizer_states"))

    def after(self, folder: Path, steps: int, often: bool = False) -> str:
        """Go on after that many steps; return what is lost, and how it ends."""
        process = self.go_on(folder, often)
        if code := process.end():
            return f"doesn't go on (exit {code})"
        lost = steps + process.seen.steps - self.steps
        end = "bit-identical" if self.exact(folder) else "another end"
        return f"{lost} of {steps} steps lost, {end}"


class Pair(Trial):
    """The same on two ranks."""

    def train(self, folder: Path, often: bool = False, **options: Any) -> TwoRanks:
        """Begin a training."""
        return TwoRanks(lambda: self.way.fit(often, ranks=2), folder, **options)

    def go_on(self, folder: Path, often: bool = False, **options: Any) -> TwoRanks:
        """Go on with a training."""
        return TwoRanks(lambda: self.way.resume(often, ranks=2), folder, **options)


def killed(trial: Trial) -> str:
    """``kill -9`` at random moments of saves, after the first epoch."""
    pick, resumed, exact, torn = random.Random(0), 0, 0, 0
    elsewhere = ELSEWHERE if Path(ELSEWHERE).is_dir() else None
    for _ in range(trial.kills):
        folder = trial.new()
        with tempfile.TemporaryDirectory(dir=elsewhere) as tmp:
            process = trial.train(folder, often=True, tmp=tmp)
            process.wait_for_step(pick.randrange(trial.steps // 3 + 2, trial.steps - 1))
            before = sizes(folder, Path(tmp))
            process.wait(lambda: sizes(folder, Path(tmp)) != before)  # noqa: B023, it waits here
            time.sleep(pick.uniform(0, 0.02))
            process.kill()
            process.end()
            if trial.go_on(folder, often=True, tmp=tmp).end() == 0:
                resumed += 1
                exact += trial.exact(folder)
            else:
                torn += not whole(newest(folder))
    found = f"{resumed} of {trial.kills} go on, {exact} bit-identical"
    return found + (f"; {torn} × `last.ckpt` is torn" if torn else "")


def sizes(folder: Path, tmp: Path) -> set[tuple[str, int]]:
    """Return the size of each file that a save may be writing."""
    found = set()
    for path in (*folder.rglob("*.ckpt*"), *tmp.iterdir()):
        with contextlib.suppress(FileNotFoundError):  # it may have been renamed
            found.add((str(path), path.stat().st_size))
    return found


def full_disk(trial: Trial) -> str:
    """A disk that becomes full before a save; temporary files are on another."""
    folder = trial.new()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        return "not tried: mounting needs root"
    try:
        process = trial.train(folder, True, fault=Fault(STOP, full=True), tmp=tempfile.gettempdir())
        code = process.end()
        (folder / "filler").unlink()
        if not whole(newest(folder)):
            return f"no (exit {code})"
        return f"yes (exit {code}; {trial.after(folder, process.seen.steps, often=True)})"
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def stopped(trial: Trial, often: bool = True) -> Path:
    """Return the folder of a training that was killed at a step."""
    folder = trial.new()
    trial.train(folder, often, fault=Fault(STOP, signal.SIGKILL)).end()
    return folder


def damage(path: Path) -> Tensor:
    """Write 3 KB of random bytes into the largest weights; return the weights that are there now.

    Raises:
        ValueError: If they aren't in the file as they are in memory.
    """
    state = load(path)["state_dict"]
    weights: Tensor = max(state.values(), key=lambda value: value.numel())
    raw = weights.numpy().tobytes()
    content = path.read_bytes()
    if content.count(raw) == 0:
        raise ValueError(f"{path} doesn't hold its weights uncompressed")
    other = random.Random(1).randbytes(3000)
    at = len(raw) // 2 // 4 * 4
    raw_now = raw[:at] + other + raw[at + len(other) :]
    path.write_bytes(content.replace(raw, raw_now))
    return torch.frombuffer(bytearray(raw_now), dtype=torch.float32).reshape(weights.shape)


def damaged(trial: Trial) -> str:
    """A last checkpoint with 3 KB of random bytes in its weights."""
    folder = stopped(trial)
    weights = damage(newest(folder))
    process = trial.go_on(folder, often=True, weights=weights)
    code = process.end()
    if process.seen.used:
        return f"no (exit {code}, trains on from it)"
    if not process.seen.steps:
        return f"yes (exit {code})"
    return (
        f"yes (goes on from another, {'bit-identical' if trial.exact(folder) else 'another end'})"
    )


def not_finite(trial: Trial) -> str:
    """A gradient that is NaN in the last step."""
    folder = trial.new()
    code = trial.train(folder, fault=Fault(trial.steps, nan=True)).end()
    found = []
    for path in sorted(folder.rglob("*.ckpt")):
        values = load(path)["state_dict"].values()
        if not all(value.isfinite().all() for value in values if value.is_floating_point()):
            found.append(path.name)
    return f"no (exit {code}, in {', '.join(found)})" if found else f"yes (exit {code})"


def signalled(signum: int, validating: bool) -> Callable[[Trial], str]:
    """A signal, in a training that saves after each epoch."""

    def try_out(trial: Trial) -> str:
        folder = trial.new()
        process = trial.train(folder, fault=Fault(STOP, signum, validating))
        code = process.end()
        return f"exit {code}, {trial.after(folder, process.seen.steps)}"

    return try_out


def one_of_two_ranks(trial: Trial) -> str:
    """SIGTERM to one of two ranks, in a training that saves after each epoch."""
    pair = Pair(trial.way, trial.new(), trial.kills)
    folder, start = pair.new(), time.monotonic()
    process = pair.train(folder, fault=Fault(pair.steps // 2 + 1, signal.SIGTERM))
    code = process.end()
    ended = f"exit {code}" if time.monotonic() - start < TIMEOUT else f"hangs for {TIMEOUT} s"
    return f"{ended}, {pair.after(folder, process.seen.steps)}"


def again(trial: Trial) -> str:
    """The command of a killed training once more, as it was."""
    folder = stopped(trial)
    process = trial.train(folder, often=True)
    code = process.end()
    if code or process.seen.steps >= trial.steps:
        return f"no (exit {code}, {process.seen.steps} of {trial.steps} steps)"
    return f"yes ({process.seen.steps} of {trial.steps} steps left)"


def metrics(trial: Trial) -> str:
    """The rows of metrics.csv that a killed training had logged, after it has gone on."""
    folder = stopped(trial)
    trial.go_on(folder, often=True).end()
    found, files = set[int](), 0
    for path in folder.rglob("metrics.csv"):
        with path.open(newline="") as file:
            lines = list(csv.DictReader(file))
        files += bool(lines)
        for name in ("train/loss", "train/loss_step"):  # which one depends on the way
            found |= {int(line["step"]) for line in lines if line.get(name)}
    of_first = STOP - 1
    number = len(found & set(range(of_first)))
    return f"{number} of {of_first}" + (f", in {files} files" if files > 1 else "")


def foreign(trial: Trial) -> str:
    """A config beside a checkpoint that names a module that is there to be imported."""
    folder = stopped(trial)
    (folder / f"{CANARY}.py").write_text(
        "import lightning\nopen('imported', 'w')\nclass Canary(lightning.Callback): ...\n"
    )
    for path in [*folder.rglob("config.yaml")]:
        config = yaml.safe_load(path.read_text())
        config["trainer"]["callbacks"] = [{"class_path": f"{CANARY}.Canary"}]
        path.write_text(yaml.safe_dump(config))
    code = Process(lambda: trial.way.evaluate(newest(folder)), folder).end()
    return f"{'no' if any(folder.rglob('imported')) else 'yes'} (exit {code})"


class Touch:
    """Something that makes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, ("unpickled", "w")


def pickled(trial: Trial) -> str:
    """A checkpoint that holds a call, which unpickling carries out."""
    folder = stopped(trial)
    path = newest(folder)
    torch.save(load(path) | {"more": Touch()}, path)
    code = Process(lambda: trial.way.evaluate(path), folder).end()
    return f"{'no' if any(folder.rglob('unpickled')) else 'yes'} (exit {code})"


ROWS: Sequence[tuple[str, Callable[[Trial], str]]] = (
    ("`kill -9` at a random moment of a save, `TMPDIR` on another disk", killed),
    ("the disk is full at a save: does the checkpoint before it load?", full_disk),
    ("3 KB of random bytes in the weights of `last.ckpt`: are they noticed?", damaged),
    ("NaN gradient in the last step: are all checkpoints finite?", not_finite),
    ("SIGTERM in training", signalled(signal.SIGTERM, False)),
    ("SIGTERM in validation", signalled(signal.SIGTERM, True)),
    ("SIGINT in training", signalled(signal.SIGINT, False)),
    ("SIGINT in validation", signalled(signal.SIGINT, True)),
    ("SIGTERM to one of two ranks in training", one_of_two_ranks),
    ("`kill -9`, then the same command: does it go on?", again),
    ("steps before a `kill -9` that `metrics.csv` has after going on", metrics),
    ("a config beside a checkpoint names a module: is it left alone?", foreign),
    ("a checkpoint holds a pickled call: is it left alone?", pickled),
)


def cells(way: Way, kills: int) -> list[str]:
    """Return the cells of a way."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        trial = Trial(way, Path(name), kills)
        for title, try_out in ROWS:
            start = time.monotonic()
            try:
                found.append(try_out(trial))
            except Exception as error:  # what a way leaves can be anything
                found.append(f"{type(error).__name__}: {error}")
            seconds = time.monotonic() - start
            print(f"{way.name}: {title} {found[-1]} [{seconds:.0f} s]", file=sys.stderr)
    return found


def footnote(kills: int) -> str:
    """Return what has to be known to read the table."""
    packages = ("torch", "lightning", "hydra-core")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    python = sys.version.split()[0]
    return (
        f"One try each, but {kills} kills, whose moments differ each time. *Bit-identical* are "
        "weights and optimizer at the end to those of an uninterrupted training. A process that "
        "Lightning's own loaders feed goes on with another order of the images. LightningCLI goes "
        "on with `--ckpt_path last`; the "
        "template's way is given the newest `last.ckpt` by hand, saves where `val/acc` is the best "
        "so far (so not where it is that of NaN), and neither reads a config beside a checkpoint. "
        f"{time.strftime('%Y-%m-%d')}: {cpu()}, {os.cpu_count()} cores, one thread; "
        f"Python {python}, {versions}."
    )


def main() -> None:
    """Try all ways, print the table, and put it into the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_KILLS} kills, not {KILLS}")
    quick = parser.parse_args().quick
    kills = QUICK_KILLS if quick else KILLS
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)  # threads don't survive a fork
    for name in ("matplotlib.pyplot", "wandb"):  # else each process imports them anew
        importlib.import_module(name)
    columns = {}
    for way in WAYS:
        if importlib.util.find_spec(way.package) is None:
            print(f"{way.name} is left out: {way.package} isn't installed")
        else:
            columns[way.name] = cells(way, kills)
    table = Table("fault", *columns, show_lines=True)
    lines = [row(["", *columns]), row(["---"] * (len(columns) + 1))]
    for (title, _), *found in zip(ROWS, *columns.values(), strict=True):
        table.add_row(title, *found)
        lines.append(row([title, *found]))
    Console(width=160).print(table)
    if len(columns) == len(WAYS) and not quick:
        text = "\n".join([*lines, "", footnote(kills)])
        PAGE.write_text(with_table(PAGE.read_text(), text))


if __name__ == "__main__":
    main()
