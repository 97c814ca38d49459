"""Scheduled unfreezing."""

import math
from dataclasses import asdict
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from project.approaches import FineTuning
from project.console import print_table, show
from project.data import ImageDataModule
from project.errors import UserError
from project.finetuning.features import FeatureCache
from project.finetuning.phases import (
    Phase,
    Preset,
    check_phases,
    differences,
    preset_phases,
)
from project.finetuning.preview import preview, tables
from project.finetuning.requirements import (
    check_length,
    check_ranks,
    check_trainer,
    steps_per_epoch,
)


class FineTuningSchedule(L.Callback):
    """Trains and freezes layer groups of a :class:`FineTuning` in phases.

    What trains is a function of the phase alone, so a resumed run trains what the uninterrupted one
    does. The optimizer holds all parameters from the first step on, so any learning rate scheduler
    goes through all phases. Under DDP the model is wrapped again whenever what trains changes (a
    wrapped model ignores what was frozen when it was wrapped:
    https://github.com/Lightning-AI/pytorch-lightning/issues/20340), and the ranks compare their
    parameters at each change and after each epoch.

    Args:
        phases: What trains for how long.
        preset: ``probe``, ``lp_ft``, ``gradual`` or ``full`` instead of phases of your own.
        epochs: Length of a preset in epochs; null is ``trainer.max_epochs``, else 10.
        allow_changes: Let a resumed run go on with another schedule than that of its checkpoint,
            where that was: in the same phase by name.

    Raises:
        UserError: If the phases contradict themselves.
    """

    def __init__(
        self,
        phases: tuple[Phase, ...] | None = None,
        preset: Preset | None = None,
        epochs: int | None = None,
        allow_changes: bool = False,
    ) -> None:
        if phases is None and preset is None:
            raise UserError("FineTuningSchedule: needs phases or a preset")
        if phases is not None and (preset, epochs) != (None, None):
            raise UserError(
                "FineTuningSchedule: has phases and a preset; set preset: null and epochs: null, "
                "or phases: null"
            )
        # not a list: jsonargparse merges one from two configs item by item
        self.phases = preset_phases(preset, epochs) if preset else phases or ()
        check_phases(self.phases)
        self.allow_changes = allow_changes
        self.phase = 0
        self._news: str | None = ""  # what there is to say about the phase at the next step
        self.trained: list[set[str]] = []  # names of parameters, for each phase
        self._groups: list[list[str]] = []  # names of optimizer groups, for each phase
        self._steps_per_epoch = 0
        self._start = (0, 0)  # epoch and batch in which the phase began
        self._start_step = 0
        self._ended = ""  # why the phase is over, once a validation has decided so
        self._wait = 0  # validations since the best one
        self._best: float | None = None
        self._best_weights: dict[str, Tensor] = {}

    def bind(self, model: L.LightningModule, trainer: L.Trainer) -> FineTuning:
        """Find out what each phase trains, and refuse what can't work.

        Raises:
            UserError: If the phases don't fit the model or the trainer.
        """
        if not isinstance(model, FineTuning):
            raise UserError(
                f"FineTuningSchedule: the model is {type(model).__name__}; it needs FineTuning"
            )
        check_trainer(trainer, self.phases)
        self.trained = []
        for number, phase in enumerate(self.phases):
            try:
                trained = model.trained_by(phase.train, phase.norm)
            except UserError as error:
                raise UserError(f"phases[{number}].train: {error}") from error
            if not trained:
                raise UserError(
                    f"phases[{number}].train: nothing but norm layers, which norm: eval leaves "
                    "as they are; set norm: affine_only"
                )
            self.trained.append(trained)
        head = model.trained_by(["head"])
        if never := head - set().union(*self.trained):
            raise UserError(f"phases: no phase trains {', '.join(sorted(never))} of the new head")
        model.begin_schedule(
            [name for phase in self.phases for name in phase.names()], set().union(*self.trained)
        )
        self._groups = [model.groups_of(names) for names in self.trained]
        for number, phase in enumerate(self.phases):
            if model.has_lr_scheduler and phase.shape not in (None, "constant"):
                raise UserError(
                    f"phases[{number}].shape: {phase.shape}, but model.lr_scheduler shapes the "
                    "learning rates already; leave one of them out"
                )
        return model

    def lr_factors(
        self, model: FineTuning, number: int, step: int, steps_per_epoch: int
    ) -> dict[str, float]:
        """Return the factor of the scheduled learning rate of each optimizer group that trains.

        Args:
            model: The model, after :meth:`bind`.
            number: The phase, from 0 on.
            step: Optimizer steps since the phase began.
            steps_per_epoch: Optimizer steps of an epoch.
        """
        phase = self.phases[number]
        before = self._groups[number - 1] if number else []
        shape = phase.shape or ("constant" if model.has_lr_scheduler else "cosine")
        length = phase.length(steps_per_epoch)
        return {
            group: model.lr_multiplier(group)
            * phase.lr_factor(step, length, shape, group not in before)
            for group in self._groups[number]
        }

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Freeze what the first phase doesn't train, before DDP wraps the model."""
        if stage != "fit":
            return
        model = self.bind(pl_module, trainer)
        model.set_trained(self.trained[0], self.phases[0].norm)
        self._steps_per_epoch = steps_per_epoch(trainer)
        epochs = check_length(trainer, self.phases, self._steps_per_epoch)
        model.scheduled_steps = sum(p.length(self._steps_per_epoch) for p in self.phases)
        if trainer.max_epochs in (None, -1):
            trainer.fit_loop.max_epochs = epochs
        if self.phases[0].cache_features:  # which goes over the validation images, or needn't
            trainer.num_sanity_val_steps = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the schedule, the phase, and where in it the training is."""
        return {
            "phases": [asdict(phase) for phase in self.phases],
            "phase": self.phase,
            "start": self._start,
            "start_step": self._start_step,
            "ended": self._ended,
            "wait": self._wait,
            "best": self._best,
            "best_weights": self._best_weights,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint is.

        Raises:
            UserError: If its schedule is another one.
        """
        name = state_dict["phases"][state_dict["phase"]]["name"]
        changes = differences(state_dict["phases"], self.phases)
        names = [phase.name for phase in self.phases]
        if changes and not self.allow_changes:
            raise UserError(
                f"the schedule is not that of the checkpoint: {'; '.join(changes)}. Resume with "
                "the old one, or set allow_changes of FineTuningSchedule"
            )
        if name not in names:
            raise UserError(f"the checkpoint is in phase {name!r}, which is gone from the schedule")
        self.phase = names.index(name)
        self._start = tuple(state_dict["start"])
        self._start_step = state_dict["start_step"]
        self._ended = state_dict["ended"]
        self._wait = state_dict["wait"]
        self._best = state_dict["best"]
        self._best_weights = state_dict["best_weights"]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Freeze what the phase of a resumed run doesn't train."""
        if self.phase:
            self._apply(trainer, pl_module)
        if self._start_step:  # earlier phases may have been longer, if the schedule has changed
            steps = sum(p.length(self._steps_per_epoch) for p in self.phases[self.phase :])
            longest = math.ceil((self._start_step + steps) / self._steps_per_epoch)
            trainer.fit_loop.max_epochs = longest

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the phases, and cache the features that the first one needs."""
        assert isinstance(pl_module, FineTuning)
        if trainer.global_rank == 0:
            augmented = getattr(trainer.datamodule, "augment", None) is not None  # type: ignore[attr-defined]  # set late
            rows = preview(self, pl_module, self._steps_per_epoch, augmented)
            for table in tables(rows, pl_module):
                print_table(table)
        batch = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        batch %= int(trainer.num_training_batches)  # at the end of an epoch, of the next one
        if self._in_last and self._over(trainer.current_epoch, batch, trainer.global_step):
            show("all phases are over; to go on, add a phase and set allow_changes")
            trainer.should_stop = True
        elif not self._over(trainer.current_epoch, batch, trainer.global_step):
            self._cache_features(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin the next phase if this one is over, before learning rates are logged."""
        self._begin_step(trainer, pl_module, batch_idx=0)
        self._log(trainer)
        data = trainer.datamodule  # type: ignore[attr-defined]  # set late
        if isinstance(data, ImageDataModule) and data.train_features:
            data.train_features.epoch = trainer.current_epoch

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin the next phase if this one is over, and set the learning rates of the step."""
        self._begin_step(trainer, pl_module, batch_idx)
        if self._news is not None:
            self._announce(trainer, pl_module)

    def _begin_step(self, trainer: L.Trainer, model: L.LightningModule, batch_idx: int) -> None:
        assert isinstance(model, FineTuning)
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._advance(trainer, model, batch_idx)
        step = trainer.global_step - self._start_step
        model.set_lr_factors(self.lr_factors(model, self.phase, step, self._steps_per_epoch))

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stop when the last phase is over."""
        if self._over(trainer.current_epoch, batch_idx + 1, trainer.global_step):
            trainer.should_stop = trainer.should_stop or self._in_last
            self._train_on_images(trainer)

    @property
    def _in_last(self) -> bool:
        return self.phase == len(self.phases) - 1

    def _over(self, epoch: int, batch: int, step: int) -> str:
        """Why the phase is over before this batch; empty if it isn't."""
        phase = self.phases[self.phase]
        epochs = phase.max_epochs
        if self._ended:
            return self._ended
        if phase.steps and step - self._start_step >= phase.steps:
            return f"after {phase.steps} steps"
        if epochs and (epoch, batch) >= (self._start[0] + epochs, self._start[1]):
            return f"after {epochs} epoch{'s' if epochs > 1 else ''}"
        return ""

    def _advance(self, trainer: L.Trainer, model: FineTuning, batch_idx: int) -> None:
        position = (trainer.current_epoch, batch_idx)
        reason = self._over(*position, trainer.global_step)
        if not reason or self._in_last:
            return
        over = self.phases[self.phase].name
        self._restore_best(model)
        self.phase += 1
        self._start, self._start_step = position, trainer.global_step
        self._ended, self._best, self._best_weights = "", None, {}
        self._wait = 0
        self._apply(trainer, model)
        self._cache_features(trainer, model)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set late
            if isinstance(callback, WeightAveraging) and callback._average_model is not None:
                callback._average_model.n_averaged.zero_()  # what it averaged is of another phase
        self._news = f", as {over} ended {reason}"
        if batch_idx:
            self._log(trainer)

    def _apply(self, trainer: L.Trainer, model: L.LightningModule) -> None:
        """Train what the phase trains, and nothing else."""
        assert isinstance(model, FineTuning)
        before = [parameter.requires_grad for parameter in model.parameters()]
        model.set_trained(self.trained[self.phase], self.phases[self.phase].norm)
        changed = before != [parameter.requires_grad for parameter in model.parameters()]
        strategy = trainer.strategy
        if changed and isinstance(strategy, DDPStrategy):
            strategy.model = model
            strategy.configure_ddp()
        check_ranks(trainer, model)

    def _cache_features(self, trainer: L.Trainer, model: FineTuning) -> None:
        phase = self.phases[self.phase]
        self._forget_features(trainer)
        if phase.cache_features:
            said = FeatureCache(trainer, model, phase.views).fill()
            if trainer.global_rank == 0:
                show(said)

    def _train_on_images(self, trainer: Any) -> None:
        """Load the next batch as images: a batch is there before the phase that it begins."""
        if isinstance(trainer.datamodule, ImageDataModule):
            trainer.datamodule.train_features = None

    def _forget_features(self, trainer: Any) -> None:
        if isinstance(trainer.datamodule, ImageDataModule):
            trainer.datamodule.train_features = trainer.datamodule.val_features = None

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Go back to images: what comes after a training may change the network."""
        self._forget_features(trainer)

    def _announce(self, trainer: L.Trainer, model: L.LightningModule) -> None:
        news, self._news = self._news, None
        if trainer.global_rank != 0:
            return
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
        trained, total = (sum(s for s, grad in sizes if grad), sum(s for s, _ in sizes))
        phase = self.phases[self.phase]
        show(
            f"phase {self.phase + 1}/{len(self.phases)} {phase.name}: trains {phase.what()}, "
            f"{trained:,} of {total:,} parameters{news}"
        )

    def _log(self, trainer: L.Trainer) -> None:
        for logger in trainer.loggers:
            logger.log_metrics({"phase": self.phase}, step=trainer.global_step)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look whether the metric still improves, and keep the best weights."""
        if trainer.state.fn != "fit":
            return
        self._check_monitors(trainer)
        if trainer.sanity_checking:
            return
        phase = self.phases[self.phase]
        plateau = phase.plateau
        if not (plateau or phase.restore_best):
            return
        monitor, mode = (plateau.monitor, plateau.mode) if plateau else ("val/loss", "min")
        value = trainer.strategy.reduce(trainer.callback_metrics[monitor], reduce_op="mean")
        score = float(value) if mode == "max" else -float(value)
        self._wait += 1
        if self._best is None or score > self._best + (plateau.min_delta if plateau else 0):
            self._best, self._wait = score, 0
            if phase.restore_best:
                self._best_weights = self._weights(pl_module)
        progress = trainer.fit_loop.epoch_loop.batch_progress
        position = (trainer.current_epoch, progress.current.ready)
        if progress.is_last_batch:
            position = (trainer.current_epoch + 1, 0)
        floor = (self._start[0] + plateau.min_epochs, self._start[1]) if plateau else (0, 0)
        if plateau and self._wait >= plateau.patience and position >= floor:
            self._train_on_images(trainer)
            self._ended = f"as {monitor} didn't improve in {self._wait} validations"
            trainer.should_stop = trainer.should_stop or self._in_last

    def _check_monitors(self, trainer: L.Trainer) -> None:
        known = ", ".join(sorted(trainer.callback_metrics))
        for number, phase in enumerate(self.phases):
            if phase.plateau and phase.plateau.monitor not in trainer.callback_metrics:
                monitor = phase.plateau.monitor
                raise UserError(
                    f"phases[{number}].plateau.monitor: there is no {monitor!r}; known are {known}"
                )

    def _weights(self, model: L.LightningModule) -> dict[str, Tensor]:
        """Copy what the phase changes: trained parameters, and all buffers."""
        assert isinstance(model, FineTuning)
        names = self.trained[self.phase] | {name for name, _ in model.network.named_buffers()}
        state = model.network.state_dict()
        return {name: state[name].clone() for name in sorted(names & state.keys())}

    def _restore_best(self, model: L.LightningModule) -> None:
        assert isinstance(model, FineTuning)
        state = model.network.state_dict()
        for name, value in self._best_weights.items():
            state[name].copy_(value)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare the ranks, and end the last phase before the last checkpoint is written."""
        check_ranks(trainer, pl_module)
        if self._in_last and self._over(trainer.current_epoch + 1, 0, trainer.global_step):
            self._restore_best(pl_module)
            trainer.should_stop = True
