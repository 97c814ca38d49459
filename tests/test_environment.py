"""What the project does to its process."""

import platform
import subprocess
import sys

import pytest

from project.environment import keep_freed_memory

FAULTS = """
import resource, torch
from project.environment import keep_freed_memory
keep_freed_memory()
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(2**26, dtype=torch.uint8).fill_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
HUGE_PAGES = 2**26 // 2**21  # the system may give these, too


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_memory_of_freed_tensors_is_kept() -> None:
    """In the end, tensors of 64 MB take the same pages."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < HUGE_PAGES / 2


@pytest.mark.parametrize("name", ["PROJECT_MALLOC", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_whoever_sets_malloc_is_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[None] = []
    monkeypatch.setattr("ctypes.CDLL", asked.append)
    monkeypatch.setenv(name, "system")
    keep_freed_memory()
    assert asked == []
