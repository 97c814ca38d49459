"""The callback that trains a model in phases."""

import math
from collections.abc import Sequence
from typing import Any

import lightning as L
from torch import Tensor

from project.approaches import FineTuning
from project.approaches.selection import Validated
from project.console import print_table, show
from project.errors import UserError
from project.finetuning.features import FeatureCache, train_on_images, use_images
from project.finetuning.phases import DEFAULT_EPOCHS, Phase, Preset, check_phases, preset_phases
from project.finetuning.preview import PhasePreview, preview, tables
from project.finetuning.progress import Position, Progress
from project.finetuning.ranks import check_ranks, train_phase
from project.finetuning.requirements import (
    check_length,
    check_model,
    check_trainer,
    steps_per_epoch,
)
from project.finetuning.resolved import ResolvedPhase, ResolvedSchedule, resolve
from project.upstream.lightning import restart_averages


class FineTuningSchedule(L.Callback):
    """Trains and freezes layer groups of a :class:`FineTuning` in phases.

    What trains is a function of the phase alone, so a resumed run trains what the uninterrupted one
    does. The optimizer holds all parameters from the first step on, so any learning rate scheduler
    goes through all phases. Under DDP the ranks compare their parameters at the start of each phase
    and after each epoch.

    Args:
        phases: What trains for how long.
        preset: ``probe``, ``lp_ft``, ``gradual`` or ``full`` in place of phases of your own.
        epochs: Length of a preset in epochs; None is ``trainer.max_epochs``, else 10.
        allow_changes: Let a run resume with another schedule than that of its checkpoint. It
            continues in the phase with the same name.

    Raises:
        UserError: If the phases contradict themselves.
    """

    resolved: ResolvedSchedule  # from setup() on
    previews: Sequence[PhasePreview] = ()  # on the first rank, from the start of training on

    def __init__(
        self,
        phases: tuple[Phase, ...] | None = None,
        preset: Preset | None = None,
        epochs: int | None = None,
        allow_changes: bool = False,
    ) -> None:
        if phases is None and preset is None:
            raise UserError("are missing; give them, or a preset", "phases")
        if phases is not None and (preset, epochs) != (None, None):
            right = "set preset: null and epochs: null, or phases: null"
            raise UserError(f"are given, and a preset; {right}", "phases")
        # not a list: jsonargparse merges one from two configs item by item
        epochs = DEFAULT_EPOCHS if epochs is None else epochs
        self.phases = preset_phases(preset, epochs) if preset else phases or ()
        check_phases(self.phases)
        self.allow_changes = allow_changes
        self.progress = Progress(self.phases)
        self._announced: int | None = None  # the phase whose beginning has been said
        self._reason = ""  # why the phase before that one is over
        self._best_weights: dict[str, Tensor] = {}

    def check(self, trainer: L.Trainer, model: L.LightningModule) -> FineTuning:
        """Refuse what can be known to fail before the data is there; nothing is changed.

        Raises:
            UserError: If the phases don't fit the model or the trainer.
        """
        tuned = check_model(model)
        check_trainer(trainer, self.phases)
        resolve(self.phases, tuned)
        return tuned

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Freeze what the first phase doesn't train, before DDP wraps the model."""
        if stage != "fit":
            return
        model = self.check(trainer, pl_module)
        steps = steps_per_epoch(trainer)
        epochs = check_length(trainer, self.phases, steps)
        self.resolved = resolve(self.phases, model, steps)
        self.resolved.attach_to(model)
        first = self.resolved.phases[0]
        model.set_trained(first.trained, first.phase.norm)
        if trainer.max_epochs in (None, -1):
            trainer.fit_loop.max_epochs = epochs
        if first.phase.cache_features:  # which visits the validation images itself
            trainer.num_sanity_val_steps = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the schedule, and where in it the training is."""
        return {**self.progress.state_dict(), "best_weights": self._best_weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where the checkpoint is.

        Raises:
            UserError: If its schedule is another one.
        """
        if self.progress.load_state_dict(state_dict, self.allow_changes):
            weights = state_dict["best_weights"]
            self._best_weights = weights if self.progress.phase.restore_best else {}
            if self.progress.phase.restore_best and not weights:
                self.progress.best = None  # its weights are not kept: the schedule was another one

    @property
    def _phase(self) -> ResolvedPhase:
        return self.resolved.phases[self.progress.number]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Freeze what the phase of a resumed run doesn't train."""
        model, progress = check_model(pl_module), self.progress
        if progress.number:
            train_phase(trainer, model, self._phase)
        if progress.start.step:  # earlier phases may have been longer, if the schedule has changed
            rest = sum(phase.steps for phase in self.resolved.phases[progress.number :])
            begun = math.ceil(progress.start.batch / trainer.accumulate_grad_batches)
            epochs = math.ceil((begun + rest) / steps_per_epoch(trainer))
            trainer.fit_loop.max_epochs = progress.start.epoch + epochs

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the phases, and cache the features that the first one needs."""
        model = check_model(pl_module)
        if trainer.global_rank == 0:
            augmented = getattr(trainer.datamodule, "augment", None) is not None  # type: ignore[attr-defined]  # set late
            rows = preview(self.resolved, model, augmented, steps_per_epoch(trainer))
            for table in tables(rows, self.resolved):
                print_table(table)
            self.previews = rows
        batch = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        batch %= int(trainer.num_training_batches)  # at the end of an epoch, of the next one
        at = _position(trainer, batch)
        if self.progress.finished(at):
            show("all phases are over; to go on, add a phase and set allow_changes")
            trainer.should_stop = True
        elif not self.progress.over(at):
            self._cache_features(trainer, model)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin the next phase if this one is over, before learning rates are logged."""
        self._begin_step(trainer, check_model(pl_module), batch_idx=0)
        self._log(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin the next phase if this one is over, and set the learning rates of the step."""
        self._begin_step(trainer, check_model(pl_module), batch_idx)
        if self._announced != self.progress.number:
            self._announce(trainer, pl_module)

    def _begin_step(self, trainer: L.Trainer, model: FineTuning, batch_idx: int) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._advance(trainer, model, batch_idx)
        step = trainer.global_step - self.progress.start.step
        model.set_lr_factors(self._phase.lr_factors(step))

    def _advance(self, trainer: L.Trainer, model: FineTuning, batch_idx: int) -> None:
        before = self.progress.phase.name
        reason = self.progress.advance(_position(trainer, batch_idx))
        if not reason:
            return
        self._restore_best(model)
        self._best_weights = {}
        train_phase(trainer, model, self._phase)
        self._cache_features(trainer, model)
        restart_averages(trainer)  # of weights of the phase before
        self._reason = f", as {before} ended {reason}"
        if batch_idx:
            self._log(trainer)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stop when the last phase is over."""
        at = _position(trainer, batch_idx + 1)
        if self.progress.over(at):
            self._stop_if(self.progress.finished(at), trainer)
            train_on_images(trainer)  # the next batch is loaded before its phase begins

    def _stop_if(self, finished: bool, trainer: L.Trainer) -> None:
        trainer.should_stop = trainer.should_stop or finished

    def _cache_features(self, trainer: L.Trainer, model: FineTuning) -> None:
        phase = self.progress.phase
        use_images(trainer)
        if phase.cache_features:
            said = FeatureCache(trainer, model, phase.views).fill()
            if trainer.global_rank == 0:
                show(said)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Go back to images: what comes after a training may change the network."""
        use_images(trainer)

    def _announce(self, trainer: L.Trainer, model: L.LightningModule) -> None:
        self._announced = number = self.progress.number
        if trainer.global_rank != 0:
            return
        total = sum(parameter.numel() for parameter in model.parameters())
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        phase = self.progress.phase
        show(
            f"phase {number + 1}/{len(self.phases)} {phase.name}: trains {phase.what()}, "
            f"{trained:,} of {total:,} parameters{self._reason}"
        )

    def _log(self, trainer: L.Trainer) -> None:
        for logger in trainer.loggers:
            logger.log_metrics({"phase": self.progress.number}, step=trainer.global_step)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look whether the metric still improves, and keep the best weights."""
        if trainer.state.fn != "fit":
            return
        self._check_monitors(trainer)
        if trainer.sanity_checking or self.progress.monitor is None:
            return
        monitor, model = self.progress.monitor[0], check_model(pl_module)
        value = trainer.strategy.reduce(trainer.callback_metrics[monitor], reduce_op="mean")
        new = Validated(float(value), model.validated_values(monitor))
        at = _position_after_batch(trainer)
        is_best = self.progress.validated(new, at, model.selection)
        if is_best and self.progress.phase.restore_best:
            self._best_weights = self._weights(model)
        if self.progress.over(at):
            train_on_images(trainer)  # the next batch is loaded before its phase begins
        self._stop_if(self.progress.finished(at), trainer)

    def _check_monitors(self, trainer: L.Trainer) -> None:
        known = ", ".join(sorted(trainer.callback_metrics))
        for number, phase in enumerate(self.phases):
            if phase.plateau and phase.plateau.monitor not in trainer.callback_metrics:
                raise UserError(
                    f"there is no {phase.plateau.monitor!r}; known are {known}",
                    f"phases[{number}].plateau.monitor",
                )

    def _weights(self, model: FineTuning) -> dict[str, Tensor]:
        """Copy what the phase changes: trained parameters, and all buffers."""
        names = self._phase.trained | {name for name, _ in model.network.named_buffers()}
        state = model.network.state_dict()
        return {name: state[name].clone() for name in sorted(names & state.keys())}

    def _restore_best(self, model: FineTuning) -> None:
        state = model.network.state_dict()
        for name, value in self._best_weights.items():
            state[name].copy_(value)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare the ranks, and end the last phase before the last checkpoint is written."""
        check_ranks(trainer, pl_module)
        at = Position(trainer.current_epoch + 1, 0, trainer.global_step)
        if self.progress.finished(at):
            self._restore_best(check_model(pl_module))
            trainer.should_stop = True


def _position(trainer: L.Trainer, batch: int) -> Position:
    return Position(trainer.current_epoch, batch, trainer.global_step)


def _position_after_batch(trainer: L.Trainer) -> Position:
    """Return where the training is after a batch; after the last one, in the next epoch."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    if progress.is_last_batch:
        return Position(trainer.current_epoch + 1, 0, trainer.global_step)
    return _position(trainer, progress.current.ready)
