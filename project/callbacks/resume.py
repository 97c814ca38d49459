"""What a run takes over from the checkpoint that it resumes, and what it forgets."""

import math
from collections.abc import Mapping
from inspect import signature
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, WeightAveraging
from torch import Tensor

from project.approaches import ImageClassifier
from project.callbacks.checkpoint import VALIDATION, BestAndLast
from project.console import readable, show
from project.data import ImageDataModule
from project.finetuning import FineTuningSchedule
from project.randomness import run_seed
from project.upstream.lightning import callbacks_of, resume_by_epochs


class Resume(L.Callback):
    """Lets the config win over the checkpoint, and says what doesn't go on as it was.

    A checkpoint holds what a run has measured and how far it is. What the config of the resumed run
    gives to a callback stays as it is there. What was best, and since when, is forgotten if the
    validation measures something else now.

    Args:
        config: The complete config.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._ended = False  # by EarlyStopping
        self._validation: dict[str, Any] = {}
        self._order: dict[str, Any] = {}
        self._gradients: dict[str, Tensor] = {}
        self._said = ""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Look at the data, once."""
        if stage == "fit":
            self._validation = _validation(trainer, pl_module, self._config)
            self._order = _order(trainer)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save what was validated, what decides the order, and gradients that are accumulated."""
        checkpoint["validation"] = self._validation
        checkpoint["order"] = self._order
        checkpoint["compared"] = _compared(trainer, self._config)
        if _accumulates(trainer):
            checkpoint["gradients"] = {
                name: trainer.strategy.reduce(parameter.grad.clone(), reduce_op="mean")
                for name, parameter in pl_module.named_parameters()
                if parameter.grad is not None
            }

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Change the states of other callbacks before they load them."""
        if trainer.state.fn != "fit" or trainer.ckpt_path is None:
            return
        resume_by_epochs(trainer)
        states = checkpoint["callbacks"]
        present = {one.state_key: one for one in callbacks_of(trainer, L.Callback)}
        for key in states.keys() - present.keys():
            del states[key]
            _say(trainer, f"the checkpoint has a state of {key}, which this run doesn't have")
        before, now = checkpoint.get("compared", {}), _compared(trainer, self._config)
        for key, state in states.items():
            stopped = isinstance(present[key], EarlyStopping) and state.get("stopping_reason")
            if stopped and before.get(key) == now[key]:
                self._ended = True
            _keep_options(present[key], state)
        for key in now.keys() & before.keys():
            if _without_patience(before[key]) != _without_patience(now[key]):
                _say(trainer, f"the options of {key} are others: what it has compared is forgotten")
                if key in states:
                    states[key] = present[key].state_dict()
                else:
                    _forget_plateaus(checkpoint)
        if changes := _changes(checkpoint.get("validation"), self._validation):
            _say(trainer, f"the validation is another one ({changes}): what was best is forgotten")
            for key in states:
                states[key] = _without_best(present[key], states[key])
            _forget_plateaus(checkpoint)
        averaged = checkpoint.get("current_model_state")
        if averaged and not callbacks_of(trainer, WeightAveraging):
            _say(trainer, "it holds an average of weights: the run goes on from the weights alone")
            pl_module.load_state_dict(averaged)
        self._gradients = checkpoint.get("gradients", {})
        self._continue_epoch(checkpoint)

    def _continue_epoch(self, checkpoint: dict[str, Any]) -> None:
        """Find the batch of the epoch to go on with, if the checkpoint is from inside one."""
        loop, before = checkpoint["loops"]["fit_loop"], checkpoint.get("order")
        epoch, batches = loop["epoch_progress"]["current"], loop["epoch_loop.batch_progress"]
        if before is None or epoch["started"] == epoch["processed"] or batches["is_last_batch"]:
            return
        if changes := _changes({"sampling": "natural", **before}, self._order):
            size, seen = self._order["batch"], batches["current"]["processed"] * before["batch"]
            most = self._order["steps_per_epoch"] or math.ceil(self._order["images"] / size)
            limit = self._order["limit_train_batches"]
            most = min(most, limit) if isinstance(limit, int) else int(most * limit)
            place = max(min(seen // size, most - 1), 0)
            ahead = place - batches["current"]["processed"]
            for counts in (batches["current"], batches["total"]):
                counts.update({name: count + ahead for name, count in counts.items()})
            self._said = (
                f"; the epoch has another order or other batches now ({changes}): it continues at "
                f"image {place * size:,}, and may repeat some images or leave some out"
            )

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Don't go on where EarlyStopping has ended the training."""
        if self._ended:
            trainer.should_stop = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say where a run resumes, and continue to accumulate gradients."""
        for name, parameter in pl_module.named_parameters():
            if name in self._gradients:
                parameter.grad = self._gradients[name].to(parameter.device)
        if trainer.global_step:
            at = f"resumes in epoch {trainer.current_epoch + 1}, after step {trainer.global_step}"
            _say(trainer, f"{at}{self._said}")


def _accumulates(trainer: Any) -> bool:
    """Return whether the next optimizer step takes gradients of batches that are over."""
    batches = trainer.fit_loop.epoch_loop.batch_progress
    begun = batches.current.processed % trainer.accumulate_grad_batches
    return bool(begun and not batches.is_last_batch)


def _say(trainer: L.Trainer, text: str) -> None:
    if trainer.is_global_zero:
        show(readable(text))


def _validation(
    trainer: Any, model: L.LightningModule, config: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what decides the results of a validation, beside the weights."""
    assert isinstance(model, ImageClassifier)
    data: ImageDataModule = trainer.datamodule
    options = config["model"].get("init_args", {})
    return {
        "images": data.val_images.content() if data.val_images else None,
        "image_shape": list(data.image_shape),
        "normalization": data.normalization,
        "limit_val_batches": _limit(trainer.limit_val_batches, data.fitting_eval_batch_size),
        "loss": options.get("loss"),
        "metrics": options.get("metrics"),
        "flip_tta": model.flip_tta,
        "precision": trainer.precision,
    }


def _compared(trainer: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that decide what counts as better, by the owner of what was best."""
    compared = {
        callback.state_key: {
            name: str(getattr(callback, name))
            for name in signature(EarlyStopping.__init__).parameters
            if hasattr(callback, name) and name not in ("verbose", "log_rank_zero_only")
        }
        for callback in callbacks_of(trainer, EarlyStopping)
    }
    scheduler = config["model"].get("init_args", {}).get("lr_scheduler") or {}
    options = scheduler.get("scheduler", {}).get("init_args") or {}
    names = ("mode", "threshold", "threshold_mode")
    limits = {name: options[name] for name in names if name in options}
    return {**compared, "model.lr_scheduler": {"monitor": scheduler.get("monitor"), **limits}}


def _without_patience(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "patience"}


def _limit(batches: float, batch_size: int) -> str:
    """Return the part of the validation images that is used; of batches, an integer is a number."""
    return f"{batches * batch_size} images" if isinstance(batches, int) else f"{batches}"


def _order(trainer: Any) -> dict[str, Any]:
    """Return what decides which images a batch has, beside the epoch."""
    data: ImageDataModule = trainer.datamodule
    assert data.train_images is not None
    return {
        "batch": data.batch_size * trainer.world_size,
        "images": len(data.train_images),
        "steps_per_epoch": data.steps_per_epoch,
        "sampling": data.sampling,
        "limit_train_batches": trainer.limit_train_batches,
        "seed": run_seed(),
    }


def _changes(before: dict[str, Any] | None, now: dict[str, Any]) -> str:
    """Return which values differ; empty without any values before."""
    if before is None:
        return ""
    differing = [name for name in now if now[name] != before.get(name)]
    return ", ".join(
        f"{name}: {before.get(name)} before, {now[name]} now" if name != "images" else "images"
        for name in differing
    )


def _keep_options(callback: L.Callback, state: dict[str, Any]) -> None:
    """Let the options of the config win over those in a state, such as EarlyStopping's patience."""
    if isinstance(callback, BestAndLast | FineTuningSchedule):  # which look at the differences
        return
    for name in signature(type(callback).__init__).parameters.keys() & state.keys():
        if hasattr(callback, name):
            state[name] = getattr(callback, name)


def _without_best(callback: L.Callback, state: dict[str, Any]) -> dict[str, Any]:
    if isinstance(callback, BestAndLast) and callback.of_validation:
        return {}
    if isinstance(callback, EarlyStopping) and callback.monitor.startswith(VALIDATION):
        return callback.state_dict()
    if isinstance(callback, FineTuningSchedule):
        return {**state, "best": None, "reference": None, "wait": 0, "best_weights": {}}
    return state


def _forget_plateaus(checkpoint: dict[str, Any]) -> None:
    """Reset what ReduceLROnPlateau compares with."""
    checkpoint.get("monitored", {}).clear()
    for scheduler in checkpoint["lr_schedulers"]:
        if "num_bad_epochs" in scheduler:
            scheduler["num_bad_epochs"] = 0
            scheduler["best"] = math.inf if scheduler["mode"] == "min" else -math.inf
