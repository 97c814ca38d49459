"""Records the config and the environment of a run, in its directory and in every logger."""

import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import CSVLogger

from project import config_text
from project.approaches import ImageClassifier
from project.environment import git_commit, versions


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
        path.write_text(self.config, encoding="utf-8")
        record: dict[str, Any] = {
            **config_text.load(self.config),
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
