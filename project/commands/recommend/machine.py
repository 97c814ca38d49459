"""The machine: processor cores, memory, GPUs, and pretrained weights that are on the disk."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from project.environment import available_cores, bfloat16_speedup


@dataclass(frozen=True)
class Machine:
    """Facts about the machine.

    Attributes:
        cores: Number of processor cores that this process may use.
        memory_mb: Free memory in 10^6 bytes, of the first GPU if there is one.
        devices: Names of the GPUs.
        bfloat16: Whether convolutions are faster in bfloat16 than in float32; measured on a CPU.
    """

    cores: int
    memory_mb: float
    devices: tuple[str, ...]
    bfloat16: bool

    def __str__(self) -> str:
        """Return the facts in words."""
        gpus = ", ".join(self.devices) or "no GPU"
        faster = "bfloat16" if self.bfloat16 else "float32"
        return f"{self.cores} cores; {gpus}; {self.memory_mb:,.0f} MB free; {faster} is faster"


def find_machine() -> Machine:
    """Return what this process can use."""
    devices = tuple(torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count()))
    free = torch.cuda.mem_get_info(0)[0] if devices else _free_memory()
    if devices:
        faster = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        faster = bfloat16_speedup() > 1
    return Machine(available_cores(), free / 1e6, devices, faster)


def _free_memory() -> float:
    """Return the bytes available without swapping, or all memory if the system doesn't say."""
    info = Path("/proc/meminfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def weights_at_hand() -> list[str]:
    """Return names of the published weights that were downloaded before."""
    hub = Path(torch.hub.get_dir(), "checkpoints")
    hugging_face = Path(
        os.environ.get("HF_HUB_CACHE")
        or Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"), "hub")
    )
    files = [path.name for path in hub.glob("*.pth")]
    repositories = [
        path.name.removeprefix("models--").replace("--", "/")
        for path in hugging_face.glob("models--timm--*")
        if any(path.glob("snapshots/*/*"))
    ]
    return sorted(files) + sorted(repositories)
