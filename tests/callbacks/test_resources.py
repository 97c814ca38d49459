"""What a training costs."""

import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import CONFIGS

PEAK = """
import torch
from project.environment import peak_memory_mb
print(peak_memory_mb(torch.device("cpu")))
"""


@pytest.mark.slow
def test_peak_memory_is_not_that_of_the_process_that_started_it() -> None:
    """As ``ru_maxrss`` would have it, where ``compare`` or ``recommend`` hold data themselves."""
    held = np.ones(150_000_000)  # 1.2 GB
    done = subprocess.run(
        [sys.executable, "-c", PEAK], check=True, stdout=subprocess.PIPE, cwd=CONFIGS.parent
    )
    assert 100 < float(done.stdout) < held.nbytes / 1e6
