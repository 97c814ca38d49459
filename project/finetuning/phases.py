"""The phases of a fine-tuning schedule, and presets of them."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any, Literal

from project.approaches.metrics import natural_mode
from project.errors import UserError
from project.networks.freezing import Norm
from project.networks.groups import Train

Preset = Literal["probe", "lp_ft", "gradual", "full"]
DEFAULT_EPOCHS = 10  # of a training that nothing else limits


@dataclass
class Plateau:
    """The length of a phase that ends when a validation metric stops improving.

    Args:
        max_epochs: Largest number of epochs of the phase.
        min_epochs: Smallest number of epochs of the phase.
        monitor: The metric.
        mode: Whether small or large values of it are good.
        patience: Number of validations without improvement that end the phase. With
            ``checkpoint.selection: noise_aware``, what may be luck is no improvement.
        min_delta: Smallest change of the metric that is an improvement.
    """

    max_epochs: int
    min_epochs: int = 1
    monitor: str = "val/loss"
    mode: Literal["min", "max"] = "min"
    patience: int = 2
    min_delta: float = 0.0


@dataclass
class Phase:
    """A part of the training in which the same parameters train.

    Give one of ``epochs``, ``steps`` and ``plateau``.

    Args:
        name: Name of the phase.
        train: ``all``, how many of the last layer groups, or layer groups by name and globs of
            modules such as ``backbone.layer4.*.bn*``. All else is frozen.
        epochs: Length in epochs.
        steps: Length in optimizer steps.
        plateau: Length that ends when a metric stops improving.
        lr_scale: Multiplies all learning rates.
        warmup_steps: Optimizer steps of linear warm-up of the parameters that the phase before
            didn't train; at most half of the phase.
        shape: How the learning rates fall within the phase; None is ``cosine``, and ``constant``
            where the model has an ``lr_scheduler`` of its own.
        norm: What trains of the backbone's norm layers that keep statistics, such as batch norm:
            ``eval`` leaves statistics, weight and bias as they are, ``affine_only`` trains weight
            and bias, ``train`` also normalises with the batch and updates the statistics.
        restore_best: End with the weights of the phase's best validation, by the metric of
            ``plateau``, else by ``val/loss``, and as ``checkpoint.selection`` chooses it.
        cache_features: Compute the features once that the frozen layers before the first trained
            one give, and train on these.
        views: Number of random views of each training image whose features are computed; the
            epochs take turns among them. Needed where ``data.augment`` augments the images.
    """

    name: str
    train: Train
    epochs: int | None = None
    steps: int | None = None
    plateau: Plateau | None = None
    lr_scale: float = 1.0
    warmup_steps: int = 0
    shape: Literal["constant", "cosine", "linear"] | None = None
    norm: Norm = "eval"
    restore_best: bool = False
    cache_features: bool = False
    views: int | None = None

    @property
    def max_epochs(self) -> int | None:
        """Largest number of epochs; None for a phase in steps."""
        return self.plateau.max_epochs if self.plateau else self.epochs

    def length(self, steps_per_epoch: int) -> int:
        """Return the largest number of optimizer steps."""
        return self.steps or (self.max_epochs or 0) * steps_per_epoch

    def length_in_words(self) -> str:
        """Return the number of epochs in words."""
        if self.plateau:
            return f"{self.plateau.min_epochs} to {self.plateau.max_epochs}"
        return str(self.epochs or "")

    def names(self) -> list[str]:
        """Return the layer groups and globs that the phase names."""
        if isinstance(self.train, int) or self.train == "all":
            return []
        return [self.train] if isinstance(self.train, str) else self.train

    def what(self) -> str:
        """Return what trains, in words."""
        if isinstance(self.train, int):
            return f"the last {self.train} layer groups"
        return ", ".join(self.train) if isinstance(self.train, list) else self.train

    def lr_factor(self, step: int, length: int, shape: str, new: bool) -> float:
        """Return the factor of a learning rate in the phase.

        Args:
            step: Optimizer steps since the phase began.
            length: Optimizer steps of the whole phase.
            shape: How the learning rate falls.
            new: Whether the phase before didn't train its parameters.
        """
        warmup_steps = min(self.warmup_steps, length // 2)
        warmup = (step + 1) / (warmup_steps + 1) if new else 1.0
        progress = min(step / length, 1.0)
        falling = {
            "constant": 1.0,
            "linear": 1 - progress,
            "cosine": (1 + math.cos(math.pi * progress)) / 2,
        }
        return self.lr_scale * min(warmup, 1.0) * falling[shape]


def preset_phases(preset: Preset, epochs: int) -> tuple[Phase, ...]:
    """Return the phases of a preset.

    Args:
        preset: ``probe`` trains the head alone; ``lp_ft`` then trains all, with small learning
            rates and norm statistics as they are (Kumar et al., 2022); ``gradual`` adds layer
            groups from the head downwards (Howard and Ruder, 2018); ``full`` trains all at once.
            While the head alone trains, features are cached if images aren't augmented.
        epochs: Length of all phases together.

    Raises:
        UserError: If there are fewer epochs than phases.
    """
    phases = {
        "probe": [Phase("probe", ["head"], cache_features=True)],
        "lp_ft": [
            Phase("probe", ["head"], cache_features=True),
            Phase("all", "all", lr_scale=0.3, warmup_steps=10, norm="affine_only"),
        ],
        "gradual": [
            Phase("head", ["head"], cache_features=True),
            Phase("last 2", 2, lr_scale=0.5, warmup_steps=10, norm="affine_only"),
            Phase("last 3", 3, lr_scale=0.4, warmup_steps=10, norm="affine_only"),
            Phase("all", "all", lr_scale=0.3, warmup_steps=10, norm="affine_only"),
        ],
        "full": [Phase("all", "all", lr_scale=0.3, warmup_steps=10, norm="affine_only")],
    }[preset]
    if epochs < len(phases):
        raise UserError(f"{epochs} is too few for the {len(phases)} phases of {preset}", "epochs")
    short = max(round(epochs * 0.3), 1) if len(phases) == 2 else epochs // len(phases)
    for phase in phases[:-1]:
        phase.epochs = short
    phases[-1].epochs = epochs - short * (len(phases) - 1)
    return tuple(phases)


def check_phases(phases: Sequence[Phase]) -> None:
    """Refuse phases that contradict themselves, before there is a model.

    Raises:
        UserError: Naming the key, what is wrong and what would be right.
    """
    if not phases:
        raise UserError("there are none; give at least one, or a preset", "phases")
    names: list[str] = []
    for number, phase in enumerate(phases):
        key = f"phases[{number}]"

        def refuse(name: str, reason: str, key: str = key) -> None:
            raise UserError(reason, f"{key}.{name}")

        if phase.name in names:
            refuse("name", f"{phase.name!r} is the name of another phase, too")
        names.append(phase.name)
        lengths = [name for name in ("epochs", "steps", "plateau") if getattr(phase, name)]
        for name in ("epochs", "steps"):
            value = getattr(phase, name)
            if value is not None and value < 1:
                refuse(name, f"{value} must be at least 1")
        if len(lengths) != 1:
            given = " and ".join(lengths) or "none"
            raise UserError(f"needs one of epochs, steps and plateau; given is {given}", key)
        if phase.plateau:
            _check_plateau(phase.plateau, f"{key}.plateau")
        if phase.train == []:
            refuse("train", "nothing; name layer groups, or all")
        if phase.lr_scale <= 0 or not math.isfinite(phase.lr_scale):
            refuse("lr_scale", f"{phase.lr_scale} must be greater than 0")
        if phase.warmup_steps < 0:
            refuse("warmup_steps", f"{phase.warmup_steps} must be at least 0")
        if phase.steps and phase.warmup_steps >= phase.steps:
            refuse("warmup_steps", f"{phase.warmup_steps} of only {phase.steps} steps")
        if phase.views is not None and phase.views < 1:
            refuse("views", f"{phase.views} must be at least 1")
        if phase.views is not None and not phase.cache_features:
            refuse("views", "are of cached features; set cache_features: true")


def _check_plateau(plateau: Plateau, key: str) -> None:
    if plateau.min_epochs < 1:
        raise UserError(f"{plateau.min_epochs} must be at least 1", f"{key}.min_epochs")
    if plateau.max_epochs < plateau.min_epochs:
        raise UserError(
            f"{plateau.max_epochs} is less than min_epochs {plateau.min_epochs}",
            f"{key}.max_epochs",
        )
    if plateau.patience < 1:
        raise UserError(f"{plateau.patience} must be at least 1", f"{key}.patience")
    if plateau.mode == "min" and natural_mode(plateau.monitor) == "max":
        raise UserError(
            f"min takes the worst {plateau.monitor} for the best; use mode: max", f"{key}.mode"
        )
    if not plateau.min_delta >= 0:  # nor nan
        raise UserError(f"{plateau.min_delta} must be at least 0", f"{key}.min_delta")


def differences(old: list[dict[str, Any]], new: Sequence[Phase]) -> list[str]:
    """Return a line for each key in which two schedules differ.

    Args:
        old: The phases of the one, as dictionaries.
        new: The phases of the other.
    """
    lines = []
    now = [asdict(phase) for phase in new]
    for number, (before, after) in enumerate(zip_longest(old, now)):
        key = f"phases[{number}]"
        if before is None or after is None:
            lines.append(f"{key}: {(before or after)['name']} is {'new' if after else 'gone'}")
            continue
        lines += [
            f"{key}.{name}: {before.get(name)} is now {value}"
            for name, value in after.items()
            if value != before.get(name)
        ]
    return lines
