"""What each phase of a schedule trains, at which learning rates, and what it costs."""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from project.approaches import FineTuning

if TYPE_CHECKING:
    from project.callbacks.finetuning import FineTuningSchedule


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
    schedule: "FineTuningSchedule", model: FineTuning, steps_per_epoch: int | None
) -> list[PhasePreview]:
    """Return what each phase of a schedule will do.

    Args:
        schedule: The schedule, bound to the model.
        model: The model.
        steps_per_epoch: Optimizer steps of an epoch; null if the data isn't there, and learning
            rates are then those of epochs of 100 steps.
    """
    nominal = steps_per_epoch or 100
    lengths = [phase.length(nominal) for phase in schedule.phases]
    scheduled = torch.split(model.scheduled_learning_rates(sum(lengths), nominal), lengths)
    cost = _Cost(model)
    full = cost.gflop({name for name, _ in model.network.named_parameters()})
    rows = []
    for number, phase in enumerate(schedule.phases):
        names = schedule.trained[number]
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
                gflop=(gflop := cost.gflop(names, phase.cache_features)),
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


def _convolution_backward(
    grad_out: Any, images: Any, weight: Any, *arguments: Any, out_shape: Any, **_: Any
) -> int:
    """Count a convolution's backward pass; torch takes grouped convolutions for dense ones."""
    transposed, output_mask = arguments[4], arguments[7]
    passes: int = output_mask[0] + output_mask[1]
    return passes * conv_flop_count(images, weight, grad_out, transposed=transposed)


CORRECTED = {torch.ops.aten.convolution_backward: _convolution_backward}


class _Cost:
    """Counts operations on a copy of the network on the meta device: shapes without values."""

    def __init__(self, model: FineTuning) -> None:
        assert isinstance(model.example_input_array, Tensor)
        self.images = model.example_input_array.to("meta")
        tensors: dict[int, Tensor] = {}
        for parameter in model.network.parameters():
            tensors[id(parameter)] = nn.Parameter(parameter.to("meta"))
        for buffer in model.network.buffers():
            tensors[id(buffer)] = buffer.to("meta")
        self.network = copy.deepcopy(model.network, tensors).eval()  # copies no values

    def gflop(self, trained: set[str], cached: bool = False) -> float | None:
        """Return 1e9 operations for one image; null if an operation needs values.

        Args:
            trained: Names of the parameters that train.
            cached: Whether what the frozen stages before them make of it is known already.
        """
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name in trained)
        depth = self.network.frozen_depth() if cached else 0
        for cut in dict.fromkeys((depth, 0)):  # not every backbone can be cut
            try:
                inputs = self.network.prefix(self.images, cut) if cut else self.images
                with FlopCounterMode(display=False, custom_mapping=CORRECTED) as counter:
                    logits = self.network(inputs, cut) if cut else self.network(inputs)
                    logits.sum().backward()
            except Exception:  # a forward method may raise anything
                continue
            return float(counter.get_total_flops()) / 1e9
        return None


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
