"""``LearningRateFinder`` and ``BatchSizeFinder``: they search before the run, not within it.

Within a run, Lightning's finders change a learning rate or a batch size that neither the learning
rate scheduler, nor the layer groups, nor ``config.yaml`` get to know. Here, each searches with a
trainer of its own, and what it finds is written into the config. The run then starts as if the
config had said so from the beginning.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from jsonargparse import Namespace
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.tuner.tuning import Tuner
from lightning.pytorch.utilities.seed import isolate_rng

from project.class_paths import is_a, listed, short_name, those_of
from project.console import show
from project.errors import UserError
from project.finetuning import FineTuningSchedule
from project.trust import resolve_name
from project.upstream.lightning import callbacks_of

FINDERS = (BatchSizeFinder, LearningRateFinder)  # a learning rate is found for a batch size


class Built(NamedTuple):
    """What a config names, ready to train."""

    trainer: Any
    model: Any
    data: Any


def take_finders(trainer: Namespace) -> list[Namespace]:
    """Remove the finders from the callbacks of a trainer's config, and return them."""
    found = [callback for kind in FINDERS for callback in those_of(trainer.callbacks, kind)]
    if found:
        rest = [callback for callback in listed(trainer.callbacks) if callback not in found]
        trainer.callbacks = rest or None
    return found


def search(finder: Namespace, config: Namespace, build: Callable[[Namespace], Built]) -> None:
    """Search, and write what is found into the config.

    Args:
        finder: Config of the finder.
        config: Config of the run; it is changed.
        build: Returns the objects that a config names.

    Raises:
        UserError: If the options of the finder are wrong, it can't search for this run, or it
            finds nothing.
    """
    with _by(finder):
        _check(finder)
    if config.trainer.fast_dev_run:
        show(f"{short_name(finder)}: nothing is searched for with trainer.fast_dev_run")
        return
    search_for = _find_batch_size if is_a(finder, BatchSizeFinder) else _find_learning_rate
    with TemporaryDirectory() as folder, isolate_rng():
        built = build(_trial(config, folder))
        with _by(finder):
            if built.trainer.world_size > 1:
                raise UserError("works on one device; run it with trainer.devices: 1")
            search_for(finder.init_args, config, built)
    del built
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def _by(finder: Namespace) -> Iterator[None]:
    """Say which finder it is, unless an error has a key already and so is not about it."""
    try:
        yield
    except UserError as error:
        if not error.key:
            error.key = "trainer.callbacks"
            error.message = f"{short_name(finder)}: {error.message}"
        raise


def _check(finder: Namespace) -> None:
    kind = resolve_name(finder.class_path)
    if kind not in FINDERS:
        raise UserError("a subclass would search within the training; use the finder itself")
    options = finder.init_args
    for name, right in {"attr_name": "", "batch_arg_name": "batch_size"}.items():
        if options.get(name, right) != right:
            raise UserError(
                f"{name} has no effect; it finds "
                f"{'model.optimizer.lr' if name == 'attr_name' else 'data.batch_size'}"
            )
    for name in ("init_val", "max_val", "max_trials", "steps_per_trial", "num_training_steps"):
        if options.get(name, 1) < 1:
            raise UserError(f"{name}: {options[name]} must be at least 1")
    if "min_lr" in options and not 0 < options.min_lr < options.max_lr:
        raise UserError(f"min_lr: {options.min_lr:g} must be between 0 and max_lr")
    try:
        kind(**vars(options))
    except (ValueError, AssertionError) as error:
        raise UserError(str(error)) from error


def _trial(config: Namespace, folder: str) -> Namespace:
    """Return the config of a trial: the same training, endless, without anything around it."""
    trial = config.clone()
    trial.trainer.update(
        Namespace(
            callbacks=those_of(config.trainer.callbacks, FineTuningSchedule) or None,
            logger=False,
            profiler=None,
            enable_progress_bar=False,
            default_root_dir=folder,
            max_epochs=-1,
            max_steps=-1,
            min_epochs=None,
            min_steps=None,
            max_time=None,
        )
    )
    trial.model.init_args.lr_scheduler = None
    return trial


def _find_batch_size(options: Namespace, config: Namespace, built: Built) -> None:
    for schedule in callbacks_of(built.trainer, FineTuningSchedule):
        if len(schedule.phases) > 1 or schedule.phases[0].cache_features:
            raise UserError(
                "measures the first phase of a FineTuningSchedule only; run it with the phase "
                "that trains the most as the only one, without cache_features"
            )
    data = built.data
    data.prepare_data()
    data.setup("fit")
    most = min(options.max_val, len(data.train_images))
    before, first = data.batch_size, min(options.init_val, most)
    data.batch_size = first  # Lightning would try the batch size of the config first
    try:
        found = Tuner(built.trainer).scale_batch_size(
            built.model,
            datamodule=data,
            mode=options.mode,
            steps_per_trial=options.steps_per_trial,
            init_val=first,
            max_trials=options.max_trials,
            margin=options.margin,
            # Lightning returns the first size that reaches max_val without having tried it
            max_val=2 * most,
        )
    except ZeroDivisionError as error:  # it halves the size as long as memory is full
        raise UserError("memory is full with one image in a batch") from error
    found = min(found or first, most)
    reached = "" if found < len(data.train_images) else ", which is all training images"
    config.data.init_args.batch_size = found
    show(f"BatchSizeFinder: data.batch_size {found:,}{reached} (it was {before:,})")


def _find_learning_rate(options: Namespace, config: Namespace, built: Built) -> None:
    if callbacks_of(built.trainer, FineTuningSchedule):
        raise UserError(
            "doesn't know the learning rates of a FineTuningSchedule; run it without one"
        )
    if getattr(built.model, "group_lr", None):
        raise UserError("changes the learning rates of model.group_lr, too; leave one of them out")
    try:
        finder: Any = Tuner(built.trainer).lr_find(
            built.model,
            datamodule=built.data,
            min_lr=options.min_lr,
            max_lr=options.max_lr,
            num_training=options.num_training_steps,
            mode=options.mode,
            early_stop_threshold=options.early_stop_threshold,
            update_attr=False,
        )
    except UserError as error:
        if not error.key:
            error.message += f"; max_lr is {options.max_lr:g}"
        raise
    found = finder.suggestion()
    if found is None:
        raise UserError("finds none; raise num_training_steps, or min_lr and max_lr")
    found = float(f"{found:.3g}")
    optimizer = config.model.init_args.optimizer
    before = built.model.configure_optimizers().defaults["lr"]
    if options.update_attr:
        if optimizer is None:
            optimizer = Namespace(class_path="torch.optim.Adam", init_args=Namespace())
            config.model.init_args.optimizer = optimizer
        optimizer.init_args.lr = found
    kept = f"it was {before:g}" if options.update_attr else f"update_attr: false keeps {before:g}"
    show(f"LearningRateFinder: model.optimizer.lr {found:g} ({kept})")
