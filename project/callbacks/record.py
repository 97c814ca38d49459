"""Writes down what a run is made of, beside the run and in every logger."""

import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger
from torch.nn import functional

from project import __version__
from project.approaches import ImageClassifier


class RunRecord(L.Callback):
    """Writes ``config.yaml`` and gives the loggers the whole config.

    Args:
        config: The complete config as YAML, without the paths of this run.
        run_dir: The run directory.
    """

    def __init__(self, config: str, run_dir: Path) -> None:
        self.config = config
        self.run_dir = run_dir
        self._written = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write and log, once, on the first rank, before anything is trained."""
        path = self.run_dir / "config.yaml"
        if trainer.global_rank != 0 or self._written:
            return
        self._written = True
        for name in ("config.yaml", "metrics.csv", "summary.json"):  # of the run that is resumed
            if (old := self.run_dir / name).exists():
                old.rename(old.with_stem(f"{old.stem}-until-{time.strftime('%Y%m%d-%H%M%S')}"))
        path.write_text(self.config)
        record: dict[str, Any] = {
            **yaml.safe_load(self.config),
            "run_dir": str(self.run_dir),
            "versions": versions(),
            "git": git_commit(),
            "parameters": parameters(pl_module),
        }
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger):  # config.yaml is beside it already
                logger.log_hyperparams(record)


def parameters(pl_module: L.LightningModule) -> dict[str, int]:
    """Return the number of parameters, in total and trained."""
    assert isinstance(pl_module, ImageClassifier)
    total = sum(parameter.numel() for parameter in pl_module.parameters())
    return {"total": total, "trained": pl_module.num_trained()}


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    packages = ("torch", "torchvision", "lightning", "torchmetrics")
    return {
        "project": __version__,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def cpu_has_bfloat16() -> bool:
    """Whether the CPU has instructions for bfloat16, which are emulated at great cost if not."""
    query = getattr(torch.cpu, "get_capabilities", None)  # older releases of torch can't tell
    return query is None or any(value for name, value in query().items() if "bf16" in name)


def bfloat16_speedup() -> float:
    """Return how many times as fast as in float32 this CPU convolves in bfloat16.

    Having the instructions is not enough: a processor may have them at half the rate.
    """
    seconds = []
    for dtype in (torch.float32, torch.bfloat16):
        images, weight = (
            torch.zeros(8, 64, 28, 28, dtype=dtype),
            torch.zeros(64, 64, 3, 3).to(dtype),
        )
        images = images.contiguous(memory_format=torch.channels_last)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            functional.conv2d(images, weight, padding=1)
            times.append(time.perf_counter() - start)
        seconds.append(min(times))
    return seconds[0] / seconds[1]


def device_name(device: torch.device) -> str:
    """Return what a result was computed on, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads, {platform.machine()}"


def git_commit() -> str | None:
    """Return the commit of the code, with ``-dirty`` if files differ; null outside of git."""
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
