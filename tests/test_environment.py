"""What the project does to its process."""

import os
import platform
import subprocess
import sys

import pytest

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
@pytest.mark.parametrize(
    ("changes", "kept"),
    [({}, True), ({"PROJECT_MALLOC": "system"}, False), ({"MALLOC_ARENA_MAX": "2"}, False)],
)
def test_memory_of_freed_tensors_is_kept(changes: dict[str, str], kept: bool) -> None:
    """In the end, tensors of 64 MB take the same pages, unless somebody wants it otherwise."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env=os.environ | changes,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (int(done.stdout) < HUGE_PAGES / 2) == kept
