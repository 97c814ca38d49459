"""The package, the machine and the versions that a result depends on."""

import ctypes
import os
import platform
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from project import __version__

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
PACKAGE = __name__.partition(".")[0]
COMMAND = ("python", "-m", PACKAGE)  # what a person types


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    packages = ("torch", "torchvision", "lightning", "torchmetrics")
    return {
        PACKAGE: __version__,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def git_commit() -> str | None:
    """Return the commit of the code, with ``-dirty`` if files differ; None outside of git."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def device_name(device: torch.device) -> str:
    """Return the name of a device as results give it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' if threads > 1 else ''}, {platform.machine()}"


def available_cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def processor_seconds() -> tuple[float, float]:
    """Return how long the threads of this process have computed, and waited for a processor.

    Only Linux tells; elsewhere both are 0. A thread that ended doesn't count any more.
    """
    ran, waited = 0, 0
    for file in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError):  # the thread has just ended
            own, others, _ = file.read_text().split()
            ran, waited = ran + int(own), waited + int(others)
    return ran / 1e9, waited / 1e9


def keep_freed_memory() -> None:
    """Let malloc keep the memory of freed tensors for the next ones, where that is glibc's.

    It returns what takes 32 MB or more to the system at once, and gets it anew, full of zeros, in
    the next step. With large images on a CPU, that may take more time than all computation. The
    peak memory grows by what then lies between the tensors, up to a quarter of it. Whoever sets
    variables of malloc (see ``man mallopt``), or ``PROJECT_MALLOC=system``, is left alone.
    (PyTorch's tuning guide has another allocator preloaded for the same reason, which a program
    can't do for itself.)
    """
    told = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if os.environ.get("PROJECT_MALLOC") == "system" or told:
        return
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


class Threads(ThreadPoolExecutor):
    """A thread pool that cancels what hasn't begun if its block ends with an exception."""

    def __exit__(self, kind: Any, *_: object) -> None:
        """Wait for what has begun."""
        self.shutdown(cancel_futures=kind is not None)


def bfloat16_speedup() -> float:
    """Return the speed of this CPU's convolutions in bfloat16, as a multiple of that in float32.

    Having the instructions is not enough: a processor may run them at half the rate.
    """
    seconds = []
    for dtype in (torch.float32, torch.bfloat16):
        images = torch.zeros(8, 64, 28, 28, dtype=dtype)
        images = images.contiguous(memory_format=torch.channels_last)
        weight = torch.zeros(64, 64, 3, 3, dtype=dtype)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            functional.conv2d(images, weight, padding=1)
            times.append(time.perf_counter() - start)
        seconds.append(min(times))
    return seconds[0] / seconds[1]


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory in 10^6 bytes: of the GPU if that is used, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss includes what a large parent had when it started this process
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
