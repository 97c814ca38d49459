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

from project.class_paths import init_args_of, short_name, those_of
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
            _place(profiler, run_dir, "trainer.profiler", filename="profile")
    for checkpoint in those_of(trainer.callbacks, ModelCheckpoint):
        _place(checkpoint, run_dir / CHECKPOINTS, "trainer.callbacks")


def _place(owner: Namespace, folder: Path, key: str, **defaults: str) -> None:
    """Give an owner of files a folder and other options, where it takes and lacks them."""
    options = init_args_of(owner)
    if options.get("dirpath") is not None:
        _make(options.dirpath, f"{key}.{short_name(owner)}.dirpath")
    for name, default in {"dirpath": str(folder), **defaults}.items():
        if name in options:  # a subclass may have others
            options[name] = options[name] or default


def _make(folder: str, key: str) -> None:
    """Make a folder now, not when the training is over."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} can't be made: {error.strerror}", key) from error
