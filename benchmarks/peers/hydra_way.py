"""The way of lightning-hydra-template: Hydra makes every object, in a dated folder of its own.

The module and the data are those of :mod:`benchmarks.peers.lightning_cli`. It needs ``hydra-core``.
Source: https://github.com/ashleve/lightning-hydra-template, whose pieces are named in
``hydra_way.yaml``.
"""

import sys
from pathlib import Path
from typing import Any

import lightning as L


def run(words: list[str]) -> None:
    """Compose the config with what a command line says, make the objects, and use them."""
    import hydra

    @hydra.main(version_base="1.3", config_path=".", config_name="hydra_way")
    def main(config: Any) -> None:
        L.seed_everything(config.seed, workers=True)
        data, model = (hydra.utils.instantiate(config[name]) for name in ("data", "model"))
        callbacks, loggers = (
            [hydra.utils.instantiate(entry) for entry in config[name].values()]
            for name in ("callbacks", "logger")
        )
        trainer = hydra.utils.instantiate(config.trainer, callbacks=callbacks, logger=loggers)
        if config.train:
            trainer.fit(model=model, datamodule=data, ckpt_path=config.ckpt_path)
        else:
            trainer.validate(model=model, datamodule=data, ckpt_path=config.ckpt_path)

    sys.argv = ["train.py", *words]
    main()


def options(often: bool, ranks: int) -> list[str]:
    """Return what a command line says."""
    saving = ["callbacks.model_checkpoint.every_n_train_steps=1"] if often else []
    return saving + ([f"trainer.devices={ranks}", "+trainer.strategy=ddp"] if ranks > 1 else [])


def fit(often: bool, ranks: int = 1) -> None:
    """Train in a new folder."""
    run(options(often, ranks))


def resume(often: bool, ranks: int = 1) -> None:
    """Train in a new folder, from the newest last checkpoint of all folders."""
    found = sorted(Path.cwd().rglob("last*.ckpt"), key=lambda path: path.stat().st_mtime)
    run([*options(often, ranks), *(f"ckpt_path={path}" for path in found[-1:])])


def evaluate(checkpoint: Path) -> None:
    """Validate a checkpoint."""
    run(["train=false", f"ckpt_path={checkpoint}"])
