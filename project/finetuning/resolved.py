"""A schedule resolved for a model: what each phase trains, and at which learning rates."""

from collections.abc import Sequence
from dataclasses import dataclass

from project.approaches import FineTuning
from project.errors import UserError, under
from project.finetuning.phases import Phase
from project.networks.freezing import norm_layers
from project.networks.groups import OptimizerGroups

NOMINAL_STEPS_PER_EPOCH = 100  # where the data isn't there to be counted


@dataclass(frozen=True)
class ResolvedPhase:
    """A phase, and what it means for a model.

    Attributes:
        phase: The phase.
        trained: Names of the parameters of the network that train.
        groups: Optimizer groups that train, input first.
        new: Those of them that the phase before didn't train.
        multipliers: Learning rate of each of them, as a multiple of the optimizer's own.
        shape: How the learning rates fall: ``constant``, ``cosine`` or ``linear``.
        steps: Largest number of optimizer steps.
    """

    phase: Phase
    trained: frozenset[str]
    groups: tuple[str, ...]
    new: frozenset[str]
    multipliers: dict[str, float]
    shape: str
    steps: int

    def lr_factors(self, step: int) -> dict[str, float]:
        """Return the factor of the scheduled learning rate of each optimizer group that trains.

        Args:
            step: Optimizer steps since the phase began.
        """
        return {
            group: self.multipliers[group]
            * self.phase.lr_factor(step, self.steps, self.shape, group in self.new)
            for group in self.groups
        }


@dataclass(frozen=True)
class ResolvedSchedule:
    """All phases, resolved for a model; see :func:`resolve`.

    Attributes:
        phases: The phases.
        groups: The groups of the optimizer, which holds all of them from the first step on.
    """

    phases: tuple[ResolvedPhase, ...]
    groups: OptimizerGroups

    @property
    def trained(self) -> frozenset[str]:
        """Names of the parameters that any phase trains."""
        return frozenset[str]().union(*(phase.trained for phase in self.phases))

    @property
    def total_steps(self) -> int:
        """Largest number of optimizer steps of all phases together."""
        return sum(phase.steps for phase in self.phases)

    def attach_to(self, model: FineTuning) -> None:
        """Tell the model which parameters its optimizer holds, and for how many steps."""
        model.attach(self.groups, self.trained, self.phases[0].lr_factors(0), self.total_steps)


def resolve(
    phases: Sequence[Phase], model: FineTuning, steps_per_epoch: int = NOMINAL_STEPS_PER_EPOCH
) -> ResolvedSchedule:
    """Find out what each phase trains; nothing is changed.

    Args:
        phases: The phases.
        model: The model.
        steps_per_epoch: Optimizer steps of an epoch.

    Raises:
        UserError: If the phases don't fit the model.
    """
    trained = [_trained_by(phase, number, model) for number, phase in enumerate(phases)]
    head = model.layer_groups.select("head")
    if never := head - set().union(*trained):
        names = ", ".join(sorted(never))
        raise UserError(f"no phase trains {names} of the new head", "phases")
    wanted = dict.fromkeys(name for phase in phases for name in phase.names())
    groups = model.layer_groups.optimizer_groups(wanted)
    multipliers = {
        group: model.lr_multiplier(layer_group) for group, layer_group in groups.layer_group.items()
    }
    resolved: list[ResolvedPhase] = []
    for number, (phase, parameters) in enumerate(zip(phases, trained)):
        own = tuple(groups.holding(parameters))
        before = resolved[-1].groups if resolved else ()
        resolved.append(
            ResolvedPhase(
                phase=phase,
                trained=frozenset(parameters),
                groups=own,
                new=frozenset(own) - set(before),
                multipliers={group: multipliers[group] for group in own},
                shape=_shape(phase, number, model),
                steps=phase.length(steps_per_epoch),
            )
        )
    return ResolvedSchedule(tuple(resolved), groups)


def _trained_by(phase: Phase, number: int, model: FineTuning) -> set[str]:
    key = f"phases[{number}].train"
    with under(f"phases[{number}]"):
        try:
            trained = model.layer_groups.select(phase.train)
        except UserError as error:
            raise UserError(error.message, "train") from error
    if phase.norm == "eval":
        trained -= norm_parameters(model)
    if not trained:
        raise UserError(
            "nothing but norm layers, which norm: eval leaves as they are; set norm: affine_only",
            key,
        )
    return trained


def norm_parameters(model: FineTuning) -> set[str]:
    """Return the names of the parameters of the backbone's norm layers that keep statistics."""
    layers = norm_layers(model.network.backbone)
    return {f"backbone.{layer}.{name}" for layer in layers for name in ("weight", "bias")}


def _shape(phase: Phase, number: int, model: FineTuning) -> str:
    if not model.has_lr_scheduler:
        return phase.shape or "cosine"
    if phase.shape not in (None, "constant"):
        raise UserError(
            f"{phase.shape}, but model.lr_scheduler shapes the learning rates already; leave one "
            "of them out",
            f"phases[{number}].shape",
        )
    return "constant"
