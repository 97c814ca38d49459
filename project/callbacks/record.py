"""Records the config and the environment of a run in every logger."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import CSVLogger

from project import config_text
from project.approaches import ImageClassifier
from project.console import readable
from project.environment import git_commit, versions


class RunRecord(L.Callback):
    """Gives the loggers the whole config, and what else a result depends on.

    Args:
        config: The complete config as YAML, without the paths of this run.
        run_dir: The run directory.
    """

    def __init__(self, config: str, run_dir: Path) -> None:
        self.config = config
        self.run_dir = run_dir
        self._logged = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Log, once, on the first rank, before anything is trained."""
        if trainer.global_rank != 0 or self._logged:
            return
        self._logged = True
        record: dict[str, Any] = {
            **config_text.load(self.config),
            "run_dir": str(self.run_dir),
            "versions": versions(),
            "git": git_commit(),
            "parameters": parameters(pl_module),
        }
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger):  # config.yaml is beside it already
                logger.log_hyperparams(_readable(record))


def _readable(value: Any) -> Any:
    """Return a config in which every text is UTF-8, as W&B demands; a path may be none."""
    if isinstance(value, dict):
        return {_readable(key): _readable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_readable(item) for item in value]
    return readable(value) if isinstance(value, str) else value


def parameters(pl_module: L.LightningModule) -> dict[str, int]:
    """Return the number of parameters, in total and trained."""
    assert isinstance(pl_module, ImageClassifier)
    total = sum(parameter.numel() for parameter in pl_module.parameters())
    return {"total": total, "trained": pl_module.num_trained()}
