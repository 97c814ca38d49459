"""The checkpoints of a run: the best one and the last one."""

import math
import pickle
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from weakref import proxy

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from torch import Tensor

from project.approaches import ImageClassifier
from project.approaches.metrics import natural_mode
from project.approaches.selection import NOISE_OF, Rule, Selection, Validated
from project.callbacks.loop_state import (
    as_stopped,
    forget_interruption,
    interrupt_validation,
    stops,
    validates_now,
)
from project.checkpoint_format import a_count, a_number, check_form
from project.checkpoints import DamagedError, WholeCheckpoints, load_checkpoint
from project.console import readable, show
from project.durations import seconds_of
from project.errors import UserError
from project.run_files import BEST, CHECKPOINTS, LAST
from project.saving import copy
from project.upstream.lightning import callbacks_of, follow_weights, uploads_checkpoints

STATE = {  # what a checkpoint has of BestAndLast
    "monitor": (str, None),
    "mode": str,
    "score": (a_number, None),
    "scores": {str: a_number},
    "step": a_count,
}
REFERENCE = {"score": a_number, "values": (Tensor, None)}
VALIDATION = "val/"  # what the names of validation metrics begin with
PICKLES_FAIL = (pickle.PickleError, TypeError, AttributeError)  # what pickle raises at an object
EPOCH = ("train/", "workload/")  # the same of metrics that are known at the end of an epoch


class BestAndLast(ModelCheckpoint):
    """Keeps ``checkpoints/best.ckpt`` and ``checkpoints/last.ckpt`` in the run directory.

    The best checkpoint is written right after the validation that measured its weights, before
    anything can change them. If nothing is ever validated, the last weights count as the best.

    The last checkpoint is written after each epoch, and where a training stops inside an epoch: a
    resumed run then continues in the middle of that epoch.

    Args:
        monitor: Metric that decides which weights are the best.
        mode: Whether small or large values of it are good; None knows it of the built-in metrics.
        selection: Which validation is the best. ``minimum`` takes the best metric. With few
            validation images that is luck: ``noise_aware`` takes the last one that is no worse by
            more than the standard error of the difference over the images; with ``val/accuracy``,
            and with ``val/loss`` unless ``model.loss`` is one's own. ``last`` takes the last one.
        every_n_steps: Write ``last.ckpt`` also after every n optimizer steps; None writes it after
            every epoch only.
        every: Write it also when so much time is over since the last time, such as 90s, 5m or
            1h30m.
        background: Write checkpoints while the training goes on. The weights and the state of the
            optimizer are in memory twice then, while a checkpoint is written.

    Attributes:
        best: Scores of the best checkpoint: its validation metrics, and the training metrics of
            its epoch once that is over; and that epoch, counted from 1.
    """

    def __init__(
        self,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] | None = None,
        selection: Rule = "minimum",
        every_n_steps: int | None = None,
        every: str | None = None,
        background: bool = False,
    ) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise UserError(
                f"{every_n_steps} must be at least 1, or null", "checkpoint.every_n_steps"
            )
        mode = mode or natural_mode(monitor)
        super().__init__(filename="best", monitor=monitor, mode=mode or "min", save_last=True)
        self._mode_is_known = mode is not None
        if selection == "noise_aware" and monitor not in NOISE_OF:
            raise UserError(
                f"noise_aware knows the noise of {' and '.join(NOISE_OF)}, and not of {monitor}",
                "checkpoint.selection",
            )
        self.selection = Selection(selection, self.mode)
        self.every_n_steps = every_n_steps
        self.seconds = math.inf if every is None else seconds_of(every, "checkpoint.every")
        self.background = background
        self.best: dict[str, float] = {}
        self._best_step = 0  # optimizer steps before it was measured
        self._last_step = 0  # optimizer steps before last.ckpt was written
        self._last_time = time.monotonic()  # when it was written
        self._save_after_validation = False
        self._not_a_number = False  # whether a validation gave none

    @property
    def state_key(self) -> str:
        """Key of the state in a checkpoint, whatever is monitored: a run has one such callback."""
        return type(self).__name__

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Choose the folder, and let checkpoints be whole or absent."""
        io = trainer.strategy.checkpoint_io
        if type(io) is TorchCheckpointIO:  # not one of the config's own
            trainer.strategy.checkpoint_io = WholeCheckpoints(self.background)
        if isinstance(pl_module, ImageClassifier):
            pl_module.selection = self.selection.rule
        self.dirpath = str(Path(trainer.default_root_dir, CHECKPOINTS).resolve())
        super().setup(trainer, pl_module, stage)

    @property
    def of_validation(self) -> bool:
        """Whether a metric of the validation decides."""
        return str(self.monitor).startswith(VALIDATION)

    @property
    def _folder(self) -> Path:
        return Path(str(self.dirpath))

    def state_dict(self) -> dict[str, Any]:
        """Return what is known of the best checkpoint."""
        score = None if self.best_model_score is None else self.best_model_score.item()
        return {
            "monitor": self.monitor,
            "mode": self.mode,
            "score": score,
            "scores": dict(self.best),
            "step": self._best_step,
        } | ({} if self.selection.rule == "minimum" else {"reference": self._reference})

    @property
    def _reference(self) -> dict[str, Any] | None:
        best = self.selection.reference
        return None if best is None else {"score": best.score, "values": best.values}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: what a resumed run takes over depends on more than the state."""

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take over the best checkpoint of the run that is resumed, if it still counts."""
        if trainer.state.fn != "fit" or trainer.ckpt_path is None:
            return
        state = checkpoint["callbacks"].get(self.state_key)
        if not state:
            return
        file = Path(trainer.ckpt_path).parent / BEST
        best = {}
        with suppress(DamagedError):  # then it counts as gone
            best = load_checkpoint(file) if file.is_file() else {}
        own = best.get("callbacks", {}).get(self.state_key)
        for source, found in ((trainer.ckpt_path, state), (file, own)):
            if found:
                check_form(found, STATE, f"callbacks.{self.state_key}", source)
        if state.get("score") is None and (not own or own.get("score") is None):
            return
        reason = self._outdated(own, checkpoint["global_step"])
        if reason or own is None:
            if trainer.is_global_zero:
                show(readable(f"{file}: {reason}; the best is looked for anew"))
            return
        # of the same checkpoint, the state may know more: the metrics of its whole epoch
        same = all(own[name] == state[name] for name in ("score", "step"))
        self._take(state if same else own)
        self._refer(state.get("reference"), trainer.ckpt_path)
        if trainer.is_global_zero and file.parent.resolve() != self._folder:
            self._folder.mkdir(parents=True, exist_ok=True)
            copy(file, self._folder / file.name)

    def _outdated(self, own: Any, step: int) -> str:
        """Return why the best checkpoint of a resumed run doesn't count; empty if it does."""
        if not own or own.get("score") is None:
            return "the best checkpoint is gone"
        if (own["monitor"], own["mode"]) != (self.monitor, self.mode):
            before, now = f"{own['monitor']} ({own['mode']})", f"{self.monitor} ({self.mode})"
            return f"was chosen by {before}, and now it is {now} that decides"
        if own["step"] > step:
            return f"is of step {own['step']}, and the run resumes at step {step}"
        return ""

    def _refer(self, state: Any, source: str | Path) -> None:
        """Go on with what validations are compared with."""
        best = Validated(float(self.best_model_score or 0))
        if state is not None:
            check_form(state, REFERENCE, f"callbacks.{self.state_key}.reference", source)
            best = Validated(**state)
        self.selection.reference = best

    def _take(self, state: dict[str, Any]) -> None:
        self.best_model_path = str(self._folder / BEST)
        self.best_model_score = torch.tensor(state["score"])
        self.best = dict(state["scores"])
        self._best_step = state["step"]

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write the last checkpoint within an epoch."""
        if trainer.is_last_batch:
            return
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        due = stepped and (
            (self.every_n_steps and trainer.global_step % self.every_n_steps == 0)
            or self._is_time(trainer)
        )
        if due or trainer.received_sigterm or stops(trainer):
            # Lightning would skip this validation after a resume
            self._save_after_validation = validates_now(trainer)
            if not self._save_after_validation:
                self._save_last(trainer, pl_module)

    def _is_time(self, trainer: L.Trainer) -> bool:
        if self.seconds == math.inf:
            return False
        due = time.monotonic() >= self._last_time + self.seconds
        return trainer.strategy.reduce_boolean_decision(due, all=False)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        self._last_time = time.monotonic()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let an average that has not begun be the weights; forget an interrupted validation."""
        follow_weights(trainer, pl_module)
        forget_interruption(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the best checkpoint if it is this one."""
        if trainer.state.fn != "fit":
            return
        if self.of_validation:
            self._compare(trainer, pl_module)
        stopped = stops(trainer) and not trainer.is_last_batch
        if self._save_after_validation or (stopped and self._last_step != trainer.global_step):
            self._save_last(trainer, pl_module)
        self._save_after_validation = False

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the last checkpoint after every epoch, and complete the scores of the best one."""
        with as_stopped(trainer):
            if not self.of_validation and trainer.is_last_batch:  # of a whole epoch
                self._compare(trainer, pl_module)
            if self.best_model_path and not any(name.startswith(EPOCH) for name in self.best):
                self.best |= scores(trainer, *EPOCH)
            if trainer.is_last_batch or self._last_step != trainer.global_step:
                self._save_last(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let the last weights be the best if no validation has chosen others."""
        if self.best_model_path or not self.last_model_path:
            return
        self.best = scores(trainer, *EPOCH)
        self._best_step = trainer.global_step
        self.best_model_path = str(self._folder / BEST)
        if trainer.is_global_zero:
            trainer.strategy.checkpoint_io.teardown()  # which may still write it
            last, best = Path(self.last_model_path), Path(self.best_model_path)
            shutil.copytree(last, best) if last.is_dir() else copy(last, best)
            nan = f"{self.monitor} was never a number" if self._not_a_number else ""
            reason = nan or f"nothing was validated ({_why_not(trainer)})"
            show(f"{reason}: the last weights count as the best")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the last checkpoint along where a finished run is resumed in another directory."""
        idle = not self.last_model_path and trainer.ckpt_path is not None
        last = self._folder / LAST
        if idle and trainer.is_global_zero and not last.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            copy(Path(str(trainer.ckpt_path)), last)

    def save_in_validation(
        self, trainer: L.Trainer, pl_module: L.LightningModule, begun: bool
    ) -> None:
        """Write the last checkpoint in a validation, so that a resumed run repeats it.

        Args:
            trainer: The trainer.
            pl_module: The model.
            begun: Whether averages of the weights are validated in place of the weights.
        """
        for average in callbacks_of(trainer, WeightAveraging) if begun else ():
            average.on_validation_epoch_end(trainer, pl_module)
        interrupt_validation(trainer)
        self._save_last(trainer, pl_module)

    def _compare(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the best checkpoint if the metric is better than ever."""
        metrics = trainer.callback_metrics
        if self.monitor not in metrics:
            raise UserError(
                f"there is no {self.monitor!r}; known are {', '.join(sorted(metrics))}",
                "checkpoint.monitor",
            )
        if not self._mode_is_known:
            raise UserError(
                f"say whether small or large values of {self.monitor} are good: min or max",
                "checkpoint.mode",
            )
        score = metrics[self.monitor].detach().cpu()
        self._not_a_number = math.isnan(score.item())
        if not _writes(trainer):
            return
        assert isinstance(pl_module, ImageClassifier)
        values = pl_module.validated_values(str(self.monitor))
        better = self.selection.takes(Validated(score.item(), values))
        if not trainer.strategy.reduce_boolean_decision(better):
            return
        self.best_model_score = self.current_score = score
        self.best_model_path = str(self._folder / BEST)
        self.best = scores(trainer, *((VALIDATION,) if self.of_validation else EPOCH))
        self.best["epoch"] = trainer.current_epoch + 1
        self._best_step = trainer.global_step
        self._save(self.best_model_path, trainer, pl_module)

    def _save_last(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if _writes(trainer):
            self._last_step = trainer.global_step
            self._last_time = time.monotonic()
            self.last_model_path = str(self._folder / LAST)
            self._save(self.last_model_path, trainer, pl_module)

    def _save(self, path: str, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        follow_weights(trainer, pl_module)
        try:
            trainer.save_checkpoint(path)
        except PICKLES_FAIL as error:
            _blame(trainer, error)
            raise
        if trainer.is_global_zero:
            if any(map(uploads_checkpoints, trainer.loggers)):
                trainer.strategy.checkpoint_io.teardown()
            for logger in trainer.loggers:
                logger.after_save_checkpoint(proxy(self))


def _blame(trainer: L.Trainer, error: Exception) -> None:
    """Name the callback whose state can't be saved.

    Raises:
        UserError: If it is that of a callback.
    """
    for callback in callbacks_of(trainer, L.Callback):
        try:
            pickle.dumps(callback.state_dict())
        except PICKLES_FAIL as reason:
            raise UserError(
                f"{type(callback).__name__}: what its state_dict returns can't be saved "
                f"({reason}); it must be tensors, numbers and texts, in lists and dictionaries",
                "trainer.callbacks",
            ) from error


def scores(trainer: L.Trainer, *prefixes: str) -> dict[str, float]:
    """Return the metrics of an epoch whose names begin with one of these."""
    return {
        name: value.item()
        for name, value in trainer.callback_metrics.items()
        if name.startswith(prefixes) and name != "train/loss_step"
    }


def best_and_last(trainer: L.Trainer) -> BestAndLast | None:
    """Return the run's own checkpoint callback; a config may have added others."""
    return next(iter(callbacks_of(trainer, BestAndLast)), None)


def _writes(trainer: Any) -> bool:
    return not (trainer.fast_dev_run or trainer.sanity_checking)


def _why_not(trainer: Any) -> str:
    if not trainer.datamodule.val_images:
        return "there are no validation images"
    if not trainer.limit_val_batches:
        return "trainer.limit_val_batches: 0"
    if trainer.check_val_every_n_epoch not in (None, 1):
        return f"trainer.check_val_every_n_epoch: {trainer.check_val_every_n_epoch}"
    return "the training was too short"
