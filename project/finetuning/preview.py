"""What each phase of a schedule trains, at which learning rates, and what it costs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from rich.table import Table
from torch import Tensor

from project.approaches import FineTuning
from project.networks.flops import NetworkCost

if TYPE_CHECKING:
    from project.finetuning.schedule import FineTuningSchedule


@dataclass
class PhasePreview:
    """One phase before it is run.

    Attributes:
        name: Name of the phase.
        train: What trains, in words.
        tensors: Number of parameter tensors that train.
        parameters: Number of parameters that train.
        norm: What happens to norm layers that train; empty if the phase trains none.
        gflop: 1e9 floating point operations of forward and backward pass for one image, without
            what is cached; null if the network can't be traced without data.
        share: ``gflop`` as a share of what training everything costs; null likewise.
        epochs: Length in epochs, as words.
        steps: Largest number of optimizer steps; null if the data isn't there.
        learning_rates: Of each optimizer group that trains, for each of these steps, ``[steps]``.
    """

    name: str
    train: str
    tensors: int
    parameters: int
    norm: str
    gflop: float | None
    share: float | None
    epochs: str
    steps: int | None
    learning_rates: dict[str, Tensor]


def preview(
    schedule: "FineTuningSchedule",
    model: FineTuning,
    steps_per_epoch: int | None,
    augmented: bool,
) -> list[PhasePreview]:
    """Return what each phase of a schedule will do.

    Args:
        schedule: The schedule, bound to the model.
        model: The model.
        steps_per_epoch: Optimizer steps of an epoch; null if the data isn't there, and learning
            rates are then those of epochs of 100 steps.
        augmented: Whether training images are, so that only views of them can be cached.
    """
    nominal = steps_per_epoch or 100
    lengths = [phase.length(nominal) for phase in schedule.phases]
    scheduled = torch.split(model.scheduled_learning_rates(sum(lengths), nominal), lengths)
    assert isinstance(model.example_input_array, Tensor)
    _, channels, height, width = model.example_input_array.shape
    cost = NetworkCost(model.network, (channels, height, width))
    full = cost.training({name for name, _ in model.network.named_parameters()})
    rows = []
    for number, phase in enumerate(schedule.phases):
        names = schedule.trained[number]
        cached = phase.cache_features and (phase.views is not None or not augmented)
        sizes = [p.numel() for name, p in model.network.named_parameters() if name in names]
        factors = [
            schedule.lr_factors(model, number, step, nominal) for step in range(lengths[number])
        ]
        rows.append(
            PhasePreview(
                name=phase.name,
                train=phase.what(),
                tensors=len(sizes),
                parameters=sum(sizes),
                norm=phase.norm if model.has_trainable_norm(phase.train) else "",
                gflop=(gflop := cost.training(names, cached)),
                share=gflop / full if gflop and full else None,
                epochs=phase.length_in_words(),
                steps=lengths[number] if steps_per_epoch or phase.steps else None,
                learning_rates={
                    group: scheduled[number] * torch.tensor([factor[group] for factor in factors])
                    for group in factors[0]
                },
            )
        )
    return rows


def tables(rows: list[PhasePreview], model: FineTuning) -> list[Table]:
    """Return a table of the phases, and one of the learning rates in them."""
    phases = Table(title="phases")
    columns = ("phase", "trains", "norm", "tensors", "parameters", "GFLOP/image", "of full")
    for name in (*columns, "epochs", "steps"):
        phases.add_column(name, justify="left" if name in ("phase", "trains", "norm") else "right")
    for row in rows:
        cost = ("?", "?")
        if row.gflop is not None and row.share is not None:
            cost = (f"{row.gflop:.3g}", f"{row.share:.0%}")
        steps = "?" if row.steps is None else f"{row.steps:,}"
        counts = (f"{row.tensors:,}", f"{row.parameters:,}")
        phases.add_row(row.name, row.train, row.norm, *counts, *cost, row.epochs, steps)
    rates = Table(title="learning rates at start, peak and end")
    rates.add_column("group")
    for row in rows:
        rates.add_column(row.name)
    for group in model.optimizer_groups():
        cells = []
        for row in rows:
            curve = row.learning_rates.get(group)
            values = () if curve is None else (curve[0], curve.max(), curve[-1])
            cells.append("  ".join(f"{float(value):.2g}" for value in values) or "frozen")
        rates.add_row(group, *cells)
    return [phases, rates]
