"""Compare how callbacks for gradual unfreezing keep ranks, resumed runs and learning rates right.

All peers train the same tiny network on the same tensors in the same three phases of two epochs:
the head; the head and block2; everything. ``BackboneFinetuning`` has two phases, so it unfreezes
both blocks in the second. In an environment of its own (``pip install -e . finetuning-scheduler``),
``python -m benchmarks.finetuning_peers`` prints one table in about two minutes:

- *ranks differ*: largest difference of a parameter between two DDP processes (gloo, CPU) at the end
  of an epoch after the first unfreezing.
- *resumed by*: largest difference of a final parameter between an uninterrupted run and one that
  was stopped an epoch after the last unfreezing and resumed, in either way that Lightning has; and
  how far the convolution of each block moves in the resumed part, and does without an interruption.
- *schedulers that survive*: those of torch which give each trained layer group at each step the
  rate that it has if all groups are in the optimizer from the start. Peers that add groups later
  have to be told their rates; it is tried with the group's base rate and with its rate at that step
  if it had been there from the start, and the better counts.
"""

import contextlib
import importlib.util
import io
import json
import logging
import math
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, Callback
from lightning.pytorch.callbacks import ModelCheckpoint as Checkpoint
from rich.console import Console
from rich.table import Table
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.optim import SGD, Optimizer
from torch.optim import lr_scheduler as lrs
from torch.utils.data import DataLoader

from project.approaches import FineTuning, Scheduler
from project.finetuning import FineTuningSchedule, Phase
from project.networks import Network

Rates = dict[str, float]
SchedulerFactory = Callable[[Optimizer], lrs.LRScheduler]

PHASES = (("head",), ("head", "block2"), ("head", "block2", "block1"))
PHASE_EPOCHS, IMAGES, BATCH_SIZE, CLASSES = 2, 32, 8, 3
EPOCHS = PHASE_EPOCHS * len(PHASES)
PHASE_STEPS = PHASE_EPOCHS * IMAGES // BATCH_SIZE
STEPS = PHASE_STEPS * len(PHASES)
CHECKPOINT = "last.ckpt"
LAYERS = {"head": "head", "block2": "backbone.block2", "block1": "backbone.block1"}
BASE_RATES: Rates = {"head": 0.1, "block2": 0.05, "block1": 0.025}

# here, so that it holds in the processes of DDP as well, which import this file
warnings.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
torch.set_num_threads(1)


def rates_of(optimizer: Optimizer, factor: float = 1.0) -> list[float]:
    """Return the learning rate of each parameter group, times a factor."""
    return [group["lr"] * factor for group in optimizer.param_groups]


SCHEDULERS: dict[str, SchedulerFactory] = {
    "OneCycleLR": lambda o: lrs.OneCycleLR(o, rates_of(o), total_steps=STEPS + 1),
    "LambdaLR": lambda o: lrs.LambdaLR(o, lambda step: 1 - step / (2 * STEPS)),
    "MultiplicativeLR": lambda o: lrs.MultiplicativeLR(o, lambda step: 0.97),
    "CyclicLR": lambda o: lrs.CyclicLR(o, rates_of(o, 0.1), rates_of(o), step_size_up=3),
    "CosineAnnealingLR": lambda o: lrs.CosineAnnealingLR(o, STEPS),
    "CosineAnnealingWarmRestarts": lambda o: lrs.CosineAnnealingWarmRestarts(o, 5),
    "StepLR": lambda o: lrs.StepLR(o, 3, 0.8),
    "MultiStepLR": lambda o: lrs.MultiStepLR(o, [5, 11, 19], 0.5),
    "ExponentialLR": lambda o: lrs.ExponentialLR(o, 0.95),
    "PolynomialLR": lambda o: lrs.PolynomialLR(o, STEPS),
    "ConstantLR": lambda o: lrs.ConstantLR(o, 0.5, STEPS - 4),
    "LinearLR": lambda o: lrs.LinearLR(o, 0.1, 1, STEPS - 4),
    "SequentialLR": lambda o: lrs.SequentialLR(
        o, [lrs.LinearLR(o, 0.1, 1, 4), lrs.CosineAnnealingLR(o, STEPS - 4)], [4]
    ),
    "ReduceLROnPlateau": lambda o: lrs.ReduceLROnPlateau(o, patience=2, factor=0.5, min_lr=0.003),
    "ReduceLROnPlateau (list)": lambda o: lrs.ReduceLROnPlateau(
        o, patience=2, factor=0.5, min_lr=rates_of(o, 0.1)
    ),
}


class Batch(NamedTuple):
    """A batch with the names that ``project`` gives its parts."""

    images: Tensor
    labels: Tensor


def loader() -> DataLoader[Any]:
    """Return the same batches in the same order in each epoch."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(IMAGES, 3, 8, 8, generator=generator)
    labels = torch.randint(CLASSES, (IMAGES,), generator=generator)
    samples: Any = [Batch(*sample) for sample in zip(images, labels)]
    return DataLoader(samples, batch_size=BATCH_SIZE)


def tiny_network() -> tuple[nn.Sequential, nn.Sequential]:
    """Return a backbone of two blocks with batch norm and a head, always with the same weights."""
    torch.manual_seed(0)
    blocks: OrderedDict[str, nn.Module] = OrderedDict(
        (name, nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()))
        for name, channels in (("block1", 3), ("block2", 8))
    )
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))
    return nn.Sequential(blocks), head


class PlainModule(L.LightningModule):
    """The tiny network, and an optimizer that begins with what is trained at first.

    Args:
        scheduler: Builds the scheduler, which steps after every batch; ``None`` has none.
    """

    def __init__(self, scheduler: SchedulerFactory | None) -> None:
        super().__init__()
        self.backbone, self.head = tiny_network()
        self._scheduler = scheduler

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss."""
        return functional.cross_entropy(self.head(self.backbone(batch.images)), batch.labels)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss, without which finetuning-scheduler doesn't run."""
        self.log("val_loss", self.training_step(batch, batch_idx), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Return SGD, and the scheduler if there is one."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = SGD(trained, lr=BASE_RATES["head"], momentum=0.9)
        if self._scheduler is None:
            return optimizer
        config = {"scheduler": self._scheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": config | {"monitor": "constant"}}


@dataclass(frozen=True)
class Peer:
    """An adapter: what the measurements need to know of a peer.

    Args:
        name: What the table calls it.
        package: What has to be installed.
        callbacks: Takes the rates that layer groups begin with, and a folder; returns callbacks for
            the phases, one of which writes ``last.ckpt`` into the folder.
        module: Takes the scheduler and returns a module with the tiny network.
        prefix: Where in the module ``backbone`` and ``head`` are.
        phases: Layer groups that each phase trains.
        rates: Learning rate of each layer group without a scheduler.
        adds_groups: Whether it adds groups to the optimizer and has to be told their rates.
    """

    name: str
    package: str
    callbacks: Callable[[Rates, Path], list[Callback]]
    module: Callable[[SchedulerFactory | None], L.LightningModule] = PlainModule
    prefix: str = ""
    phases: Sequence[Sequence[str]] = PHASES
    rates: Rates = field(default_factory=BASE_RATES.copy)
    adds_groups: bool = True


def unchanged(epoch: int) -> float:
    """Return the factor by which ``BackboneFinetuning`` changes its rate."""
    return 1.0


def lightning_backbone(rates: Rates, folder: Path) -> list[Callback]:
    """``BackboneFinetuning``, as near as it gets to leaving the learning rate alone."""
    unfreeze = BackboneFinetuning(
        PHASE_EPOCHS, unchanged, backbone_initial_lr=rates["block2"], should_align=False
    )
    return [unfreeze, Checkpoint(folder, save_last=True, save_top_k=0)]


def finetuning_scheduler(rates: Rates, folder: Path) -> list[Callback]:
    """``FinetuningScheduler``; it refuses four of the schedulers without ``allow_untested``."""
    from finetuning_scheduler import FinetuningScheduler, FTSCheckpoint

    schedule = {
        depth: {"params": [rf"{LAYERS[phase[-1]]}\..*"], "lr": rates[phase[-1]]}
        | {"max_transition_epoch": (depth + 1) * PHASE_EPOCHS}
        for depth, phase in enumerate(PHASES)
    }
    unfreeze = FinetuningScheduler(
        schedule,
        restore_best=False,  # so that all peers train alike
        epoch_transitions_only=True,
        allow_untested=True,
        apply_lambdas_new_pgs=rates == BASE_RATES,  # else ``rates`` are already what they give
        logging_level=logging.ERROR,
        log_dir=folder,
    )
    return [unfreeze, FTSCheckpoint(folder, monitor="val_loss", save_last=True)]


class OurModule(FineTuning):
    """``FineTuning`` of the tiny network, with the scheduler as in :class:`PlainModule`."""

    def __init__(self, scheduler: SchedulerFactory | None) -> None:
        super().__init__(
            num_classes=CLASSES,
            image_shape=(3, 8, 8),
            optimizer=partial(SGD, lr=BASE_RATES["head"], momentum=0.9),
            lr_scheduler=Scheduler(scheduler, "step", monitor="constant") if scheduler else None,
            lr_decay=0.5,
        )

    def build_network(self, *options: Any) -> Network:
        """Return the tiny network."""
        return Network(*tiny_network())


def our_schedule(rates: Rates, folder: Path) -> list[Callback]:
    """``FineTuningSchedule``, without a shape of its own."""
    phases = [
        Phase(name, train, epochs=PHASE_EPOCHS, shape="constant", norm="affine_only")
        for name, train in (("probe", ["head"]), ("top", ["head", "block2"]), ("all", "all"))
    ]
    return [FineTuningSchedule(tuple(phases)), Checkpoint(folder, save_last=True, save_top_k=0)]


PEERS = (
    Peer(
        "Lightning BackboneFinetuning",
        "lightning",
        lightning_backbone,
        phases=(PHASES[0], PHASES[2], PHASES[2]),
        rates=BASE_RATES | {"block1": BASE_RATES["block2"]},
    ),
    Peer("finetuning-scheduler", "finetuning_scheduler", finetuning_scheduler),
    Peer("project", "project", our_schedule, OurModule, prefix="network.", adds_groups=False),
)


class Watch(Callback):
    """Records what is measured, and logs a metric that never gets better."""

    def __init__(self, prefix: str, folder: Path, epochs: int) -> None:
        self.prefix = prefix
        self.differences = folder / "differences.json"
        self.epochs = epochs
        self.rates: list[Rates] = []
        self._by_epoch: list[float] = []

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Record the learning rate of each trained group, namely that of its kernel."""
        pl_module.log("constant", 1.0)
        rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        rates = {}
        for name, path in LAYERS.items():
            layers = pl_module.get_submodule(self.prefix + path)
            kernel = next(p for p in layers.parameters() if p.ndim > 1)
            if kernel.requires_grad and id(kernel) in rate:
                rates[name] = rate[id(kernel)]
        self.rates.append(rates)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare the parameters of all ranks with those of the first, and stop if it is time."""
        if trainer.current_epoch + 1 == self.epochs:
            trainer.should_stop = True
        if trainer.world_size > 1:
            own = nn.utils.parameters_to_vector(pl_module.parameters()).detach()
            first = own.clone()
            distributed.broadcast(first, 0)
            difference = (own - first).abs().max()
            distributed.all_reduce(difference, op=distributed.ReduceOp.MAX)
            self._by_epoch.append(difference.item())
            self.differences.write_text(json.dumps(self._by_epoch))


def train(
    peer: Peer,
    folder: Path,
    rates: Rates | None = None,
    scheduler: SchedulerFactory | None = None,
    epochs: int = EPOCHS,
    ranks: int = 1,
    resume_by: Literal["argument", "attribute"] | None = None,
) -> tuple[L.LightningModule, Watch]:
    """Train the tiny network for a number of epochs; return it, and what was recorded."""
    folder.mkdir(exist_ok=True)
    module = peer.module(scheduler)
    watch = Watch(peer.prefix, folder, epochs)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp_spawn" if ranks > 1 else "auto",
        max_epochs=EPOCHS,
        callbacks=[*peer.callbacks(rates or peer.rates, folder), watch],
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    if resume_by == "attribute":
        trainer.ckpt_path = folder / CHECKPOINT
    argument = folder / CHECKPOINT if resume_by == "argument" else None
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.fit(module, loader(), loader(), ckpt_path=argument)
    return module, watch


def rank_difference(peer: Peer, folder: Path) -> str:
    """Return the largest difference between two ranks after the first unfreezing."""
    _, watch = train(peer, folder, ranks=2)
    return f"{max(json.loads(watch.differences.read_text())[PHASE_EPOCHS:]):.1e}"


def resume_difference(peer: Peer, folder: Path, resume_by: Literal["argument", "attribute"]) -> str:
    """Return how a resumed run differs from an uninterrupted one, and how its blocks move."""
    folder.mkdir()
    expected, _ = train(peer, folder / "whole")
    train(peer, folder / "parts", epochs=EPOCHS - 1)
    start = torch.load(folder / "parts" / CHECKPOINT, weights_only=False)["state_dict"]
    resumed, _ = train(peer, folder / "parts", resume_by=resume_by)
    right, end = expected.state_dict(), resumed.state_dict()

    def largest(first: dict[str, Tensor], second: dict[str, Tensor], names: Iterable[str]) -> str:
        return f"{max((first[name] - second[name]).abs().max().item() for name in names):.1e}"

    lines = [f"differs by {largest(right, end, dict(expected.named_parameters()))}"]
    for block in ("block2", "block1"):
        kernel = [f"{peer.prefix}{LAYERS[block]}.0.weight"]
        moves, moves_else = largest(end, start, kernel), largest(right, start, kernel)
        lines.append(f"{block}: {moves} of {moves_else}")
    return "\n".join(lines)


def right_rates(peer: Peer, scheduler: SchedulerFactory) -> list[Rates]:
    """Return each group's rate at each step if all groups are in the optimizer from the start."""
    parameters = {name: nn.Parameter(torch.zeros(1)) for name in peer.rates}
    groups = [{"params": [parameters[name]], "lr": rate} for name, rate in peer.rates.items()]
    optimizer = SGD(groups, lr=0.1, momentum=0.9)
    schedule: Any = scheduler(optimizer)
    plateau = isinstance(schedule, lrs.ReduceLROnPlateau)
    step = partial(schedule.step, 1.0) if plateau else schedule.step
    rates = []
    for _ in range(STEPS):
        rates.append(dict(zip(parameters, rates_of(optimizer))))
        optimizer.step()
        step()
    return rates


def fault(peer: Peer, scheduler: SchedulerFactory, folder: Path, from_base: bool) -> str:
    """Return what goes wrong with a scheduler; an empty string if nothing does."""
    right = right_rates(peer, scheduler)
    start = dict(peer.rates)
    for number, phase in reversed(list(enumerate(peer.phases))):
        if not from_base:
            start |= {name: right[number * PHASE_STEPS][name] for name in phase}
    try:
        _, watch = train(peer, folder, start, scheduler)
    except Exception as error:  # whatever a peer raises is its result
        return type(error).__name__
    for step, (found, expected) in enumerate(zip(watch.rates, right, strict=True)):
        for name in peer.phases[step // PHASE_STEPS]:
            if name not in found or not math.isclose(found[name], expected[name], rel_tol=1e-6):
                return "wrong rate"
    return ""


def surviving_schedulers(peer: Peer, folder: Path) -> str:
    """Return how many schedulers survive, and what goes wrong with the others."""
    faults: dict[str, list[str]] = {}
    for name, scheduler in SCHEDULERS.items():
        ways = (True, False) if peer.adds_groups else (True,)
        found = [fault(peer, scheduler, folder / f"{name} {way}", way) for way in ways]
        if all(found):
            faults.setdefault(found[-1], []).append(name)
    survive = len(SCHEDULERS) - sum(map(len, faults.values()))
    lines = [f"{kind}: {', '.join(names)}" for kind, names in faults.items()]
    return "\n".join([f"{survive} of {len(SCHEDULERS)}", *lines])


def row(peer: Peer) -> Sequence[str]:
    """Return the cells of a peer."""
    if importlib.util.find_spec(peer.package) is None:
        return peer.name, "not installed"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return (
            peer.name,
            rank_difference(peer, folder / "ranks"),
            resume_difference(peer, folder / "argument", "argument"),
            resume_difference(peer, folder / "attribute", "attribute"),
            surviving_schedulers(peer, folder),
        )


def main() -> None:
    """Measure all peers and print the table."""
    table = Table(show_lines=True)
    for heading in (
        "",
        "ranks differ",
        "resumed by\nfit(ckpt_path=…)",
        "resumed by\ntrainer.ckpt_path = …",
        "schedulers that survive",
    ):
        table.add_column(heading, overflow="fold")
    for peer in PEERS:
        table.add_row(*row(peer))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
