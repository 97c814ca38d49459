"""Where profilers and checkpoints of a config's own go: into the run directory."""

from pathlib import Path

from jsonargparse import Namespace
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.profilers import (
    AdvancedProfiler,
    Profiler,
    PyTorchProfiler,
    SimpleProfiler,
)

from project.class_paths import those_of
from project.errors import UserError

PROFILERS: dict[str, type[Profiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
}
CHECKPOINTS = "more_checkpoints"  # beside the run's own, whose names they may have


def send_into(run_dir: Path, trainer: Namespace) -> None:
    """Send the files of profilers and checkpoints that have no place yet into a run directory.

    Lightning prints the report of a profiler that has no file, at a level that is not shown; and it
    chooses the place of a checkpoint by the logger.

    Args:
        run_dir: The run directory.
        trainer: Config of the trainer; it is changed.

    Raises:
        UserError: If a folder that the config names can't be made.
    """
    if kind := PROFILERS.get(str(trainer.profiler)):
        class_path = f"{kind.__module__}.{kind.__name__}"
        trainer.profiler = Namespace(class_path=class_path, init_args=Namespace())
        trainer.profiler.init_args.update(Namespace(dirpath=None, filename=None))
    for kind in PROFILERS.values():
        for profiler in those_of(trainer.profiler, kind):
            profiler.init_args.dirpath = profiler.init_args.get("dirpath") or str(run_dir)
            profiler.init_args.filename = profiler.init_args.get("filename") or "profile"
            _make(profiler.init_args.dirpath, "trainer.profiler.dirpath")
    for checkpoint in those_of(trainer.callbacks, ModelCheckpoint):
        if checkpoint.init_args.get("dirpath") is None:
            checkpoint.init_args.dirpath = str(run_dir / CHECKPOINTS)
        else:
            _make(checkpoint.init_args.dirpath, "trainer.callbacks.ModelCheckpoint.dirpath")


def _make(folder: str, key: str) -> None:
    """Make a folder now, not when the training is over."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} can't be made: {error.strerror}", key) from error
