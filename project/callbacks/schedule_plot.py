"""Draws a fine-tuning schedule: which layer groups train when, with which learning rates."""

from collections.abc import Sequence
from pathlib import Path

import torch

from project.callbacks.plots import MOST_NAMED, drawing, new_figure, short
from project.finetuning.preview import PhasePreview

POINTS = 200  # of the learning rates of a phase


@drawing()
def draw_schedule(
    phases: Sequence[PhasePreview],
    groups: Sequence[str],
    path: Path,
    unit: str = "optimizer step",
) -> None:
    """Draw a row for each group, the output of the network at the top.

    Args:
        phases: The phases.
        groups: Names of the optimizer groups, input first.
        path: PNG file to write.
        unit: What is counted along the schedule.
    """
    from matplotlib.colors import LogNorm

    ends = torch.tensor([phase.resolved.steps for phase in phases]).cumsum(0).tolist()
    edges, columns = [0.0], []
    for phase, end in zip(phases, ends):
        steps = phase.resolved.steps
        points = min(steps, POINTS)
        at = torch.arange(points) * steps // max(points, 1)
        nothing = torch.full((points,), torch.nan)
        rates = [phase.learning_rates.get(group) for group in groups]
        columns.append(torch.stack([nothing if one is None else one[at] for one in rates]))
        edges += [end - steps + (point + 1) * steps / points for point in range(points)]
    values = torch.cat(columns, dim=1).float()
    values[values <= 0] = torch.nan  # a warm-up from zero
    known = values[~values.isnan()]
    high = float(known.max()) if len(known) else 1.0
    low = max(float(known.min()) if len(known) else 1.0, high / 1e4)
    norm = LogNorm(low * 0.999, high * 1.001, clip=True)
    figure = new_figure(9, 2 + 0.28 * min(len(groups), MOST_NAMED))
    axes = figure.subplots()
    axes.set_facecolor("lightgrey")
    mesh = axes.pcolormesh(edges, range(len(groups) + 1), values.numpy(), norm=norm, cmap="viridis")
    figure.colorbar(mesh, label="learning rate", format=lambda rate, _: f"{rate:.0e}")
    for number, (phase, end) in enumerate(zip(phases, ends)):
        start = end - phase.resolved.steps
        axes.axvline(start, color="white", linewidth=1.5)
        height = len(groups) * 1.02 + (number % 2) * 0.07 * len(groups)
        words = phase.resolved.phase.length_in_words()
        epochs = f", {words} epoch{'s'[words == '1' :]}" if words else ""
        label = short(phase.resolved.phase.name, 14) + epochs
        wide = phase.resolved.steps > ends[-1] / 8
        shown = label if wide else short(phase.resolved.phase.name, 10)
        axes.text(start, height, shown, fontsize=8, va="bottom")
    if len(groups) <= MOST_NAMED:
        middles = [place + 0.5 for place in range(len(groups))]
        axes.set_yticks(middles, [short(group) for group in groups], fontsize=8)
    else:
        axes.set_ylabel(f"{len(groups)} groups, the network's input at the bottom")
        axes.set_yticks([])
    axes.set_xlabel(f"{unit}; grey is frozen")
    figure.suptitle("What trains when, and with which learning rate", fontsize=10)
    figure.savefig(path, dpi=120)
