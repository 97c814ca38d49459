"""What there is to compute with: processors, memory, devices, and pretrained weights at hand."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from project.environment import available_cores, bfloat16_speedup


@dataclass(frozen=True)
class Machine:
    """The machine.

    Attributes:
        cores: Processors that this process may use.
        memory_mb: Memory in 10^6 bytes that is free: of the first GPU if there is one.
        devices: GPUs by name.
        bfloat16: Whether convolutions are faster in bfloat16, measured on a CPU.
    """

    cores: int
    memory_mb: float
    devices: tuple[str, ...]
    bfloat16: bool

    def __str__(self) -> str:
        """Return it in words."""
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
    """Return bytes that can be had without swapping; all there are where the system can't tell."""
    info = Path("/proc/meminfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def weights_at_hand() -> list[str]:
    """Return the published weights that earlier downloads have left: files and repositories."""
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
