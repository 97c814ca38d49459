"""What each phase of a schedule trains, at which learning rates, and what it costs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor

from project.approaches import FineTuning
from project.finetuning.resolved import ResolvedPhase, ResolvedSchedule, norm_parameters
from project.networks.flops import NetworkCost


@dataclass(frozen=True)
class PhasePreview:
    """One phase before it is run.

    Attributes:
        resolved: The phase, and what it trains.
        parameters: Number of parameters that train.
        norm: What happens to norm layers that train; empty if the phase trains none.
        gflop: 1e9 floating point operations of forward and backward pass for one image, without
            what is cached; None if the network can't be traced without data.
        fraction: ``gflop`` as a fraction of what training everything costs; None likewise.
        learning_rates: Of each optimizer group that trains, for each optimizer step, ``[steps]``.
    """

    resolved: ResolvedPhase
    parameters: int
    norm: str
    gflop: float | None
    fraction: float | None
    learning_rates: dict[str, Tensor]


def preview(
    schedule: ResolvedSchedule, model: FineTuning, augmented: bool, steps_per_epoch: int
) -> list[PhasePreview]:
    """Return what each phase of a schedule will do.

    Args:
        schedule: The schedule.
        model: The model that it was resolved for.
        augmented: Whether training images are augmented, so that only views of them can be cached.
        steps_per_epoch: Optimizer steps of an epoch.

    Raises:
        UserError: If the learning rate scheduler can't go through all phases.
    """
    lengths = [phase.steps for phase in schedule.phases]
    scheduled = torch.split(model.scheduled_learning_rates(sum(lengths), steps_per_epoch), lengths)
    assert isinstance(model.example_input_array, Tensor)
    _, channels, height, width = model.example_input_array.shape
    cost = NetworkCost(model.network, (channels, height, width))
    full = cost.training([name for name, _ in model.network.named_parameters()])
    norms = norm_parameters(model)
    return [
        _preview(phase, rates, cost, full, augmented, model, norms)
        for phase, rates in zip(schedule.phases, scheduled)
    ]


def _preview(
    resolved: ResolvedPhase,
    scheduled: Tensor,
    cost: NetworkCost,
    full: float | None,
    augmented: bool,
    model: FineTuning,
    norms: set[str],
) -> PhasePreview:
    phase, trained = resolved.phase, resolved.trained
    cached = phase.cache_features and (phase.views is not None or not augmented)
    cached = cached and not model.mixing
    sizes = [p.numel() for name, p in model.network.named_parameters() if name in trained]
    factors = [resolved.lr_factors(step) for step in range(resolved.steps)]
    gflop = cost.training(trained, cached)
    return PhasePreview(
        resolved=resolved,
        parameters=sum(sizes),
        norm=phase.norm if norms & model.layer_groups.select(phase.train) else "",
        gflop=gflop,
        fraction=gflop / full if gflop and full else None,
        learning_rates={
            group: scheduled * torch.tensor([factor[group] for factor in factors])
            for group in resolved.groups
        },
    )


def tables(
    rows: Sequence[PhasePreview], schedule: ResolvedSchedule, counted: bool = True
) -> list[Table]:
    """Return a table of the phases, and one of the learning rates in them.

    Args:
        rows: The phases.
        schedule: The schedule that they are of.
        counted: Whether the steps of an epoch are known, not assumed.
    """
    phases = Table(title="phases; GFLOP for an image, and the share of a training of everything")
    for name in ("phase", "trains", "norm", "parameters", "GFLOP", "epochs", "steps"):
        phases.add_column(name, justify="left" if name in ("phase", "trains", "norm") else "right")
    for row in rows:
        phase = row.resolved.phase
        cost = "?"
        if row.gflop is not None and row.fraction is not None:
            cost = f"{row.gflop:.3g} ({row.fraction:.0%})"
        steps = f"{row.resolved.steps:,}" if counted or phase.steps else "?"
        phases.add_row(
            Text(phase.name),
            Text(phase.what()),
            row.norm.replace("_", " "),
            f"{row.parameters:,}",
            cost,
            phase.length_in_words(),
            steps,
        )
    rates = Table(title="learning rates at start, peak and end")
    rates.add_column("group")
    for row in rows:
        rates.add_column(Text(row.resolved.phase.name))
    for group in schedule.groups.layer_group:
        cells = []
        for row in rows:
            curve = row.learning_rates.get(group)
            values = () if curve is None else (curve[0], curve.max(), curve[-1])
            texts = [f"{float(value):.2g}" for value in values]
            cells.append(" ".join(texts if len(set(texts)) > 1 else texts[:1]) or "frozen")
        rates.add_row(Text(group), *cells)
    return [phases, rates]
