"""Training steps whose gradient isn't finite: they end the run, or are left out."""

import cmath
import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from project.approaches import ImageClassifier
from project.checkpoints import ADVICE, WholeCheckpoints, not_finite
from project.console import readable, show
from project.data import Batch, data_of
from project.data.ranks import of_all_ranks
from project.environment import COMMAND
from project.errors import UserError
from project.run_files import CHECKPOINTS, CONFIG, LAST
from project.saving import write
from project.upstream.torch import any_not_finite

EVERY = 10  # steps on a GPU, after which the CPU looks at what was found in those before them
FOUND = "not_finite.json"


class FiniteSteps(L.Callback):
    """Looks at the gradient before each optimizer step; no checkpoint is written after a bad one.

    On a GPU, where nothing should wait for the result of a step, it looks back: at every tenth step
    at those before the last ten, and at all of them before a validation or a checkpoint. With
    16-bit floats, the loss scaler leaves such steps out itself.

    Args:
        max_skipped_steps: So many steps of a run are left out, with a line, before one ends it.
    """

    def __init__(self, max_skipped_steps: int = 0) -> None:
        self.max_skipped_steps = max_skipped_steps
        self.skipped = 0
        self._indices: list[Tensor] = []  # of the images since the last optimizer step
        self._steps: dict[int, tuple[int, list[Tensor]]] = {}  # that nobody has looked at
        self._bad: Tensor | None = None  # the first bad one of these, on the GPU
        self._earlier: tuple[int, Tensor, torch.cuda.Event] | None = None  # the same, at a step
        self._infinite: set[str] = set()
        self._sums: dict[str, Tensor] = {}  # the training metrics before this step

    def state_dict(self) -> dict[str, Any]:
        """Return how many steps were left out."""
        return {"skipped": self.skipped}

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Count on in a resumed run."""
        if trainer.state.fn == "fit":
            self.skipped = checkpoint["callbacks"].get(self.state_key, self.state_dict())["skipped"]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Know what is infinite by intention, such as a mask."""
        state, saves = pl_module.state_dict(), trainer.strategy.checkpoint_io
        self._infinite = {name for name in state if not_finite({name: state[name]})}
        if isinstance(saves, WholeCheckpoints):
            saves.infinite = self._infinite

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Remember the images, and the metrics that a step may spoil."""
        if self.max_skipped_steps and not self._indices:
            self._sums = {name: sums.clone() for name, sums in _sums(pl_module).items()}
        self._indices.append(batch.indices)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Look at the gradient, which is that of all ranks and batches of the step.

        Raises:
            UserError: If it isn't finite, and no step may be left out any more.
        """
        images, self._indices = self._indices, []
        gradients = [
            parameter.grad
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        if getattr(trainer.precision_plugin, "scaler", None) is not None or not gradients:
            return
        if surely_finite(gradients):
            return
        found = any_not_finite(gradients)
        late = found.is_cuda and not self.max_skipped_steps
        if not late and not found:
            return
        step = trainer.global_step + 1
        self._steps[step] = trainer.fit_loop.epoch_loop.batch_idx, images
        if late:
            none = torch.full_like(found, -1, dtype=torch.int64)
            first = none if self._bad is None else self._bad
            self._bad = torch.where((first < 0) & found.bool(), step, first)
            if step % EVERY == 0:
                self._look_at_earlier(trainer, pl_module, step, self._bad)
        else:
            self._leave_out(trainer, pl_module, optimizer, step)
            self._steps.clear()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look back before the weights are validated."""
        self._look_back(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Look back before the weights are saved."""
        self._look_back(trainer, pl_module)

    def _look_at_earlier(
        self, trainer: L.Trainer, pl_module: L.LightningModule, step: int, bad: Tensor
    ) -> None:
        """Look at what was on its way to the CPU at the last such look; it is there by now."""
        if self._earlier is not None:
            until, first, arrived = self._earlier
            arrived.synchronize()
            if int(first) >= 0:
                raise self._error(trainer, pl_module, int(first))
            self._steps = {number: of for number, of in self._steps.items() if number > until}
        first, arrived = bad.to("cpu", non_blocking=True), torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        self._earlier = step, first, arrived

    def _look_back(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        first, self._bad, self._earlier = self._bad, None, None
        if first is not None and (step := int(first)) >= 0:
            raise self._error(trainer, pl_module, step)
        self._steps.clear()

    def _leave_out(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer, step: int
    ) -> None:
        """Leave a step out, if that is allowed and undoes it."""
        buffers = {n: b for n, b in pl_module.named_buffers() if n not in self._infinite}
        undone = self.skipped < self.max_skipped_steps and not not_finite(buffers)
        if not trainer.strategy.reduce_boolean_decision(undone):  # buffers differ between ranks
            raise self._error(trainer, pl_module, step)
        self.skipped += 1
        optimizer.zero_grad(set_to_none=True)  # without a gradient, nothing is updated
        for name, sums in _sums(pl_module).items():
            sums.copy_(self._sums[name])
        if trainer.is_global_zero:
            most = f"{self.skipped} of at most {self.max_skipped_steps}"
            show(f"step {step} is left out, as its gradient isn't finite ({most})")

    def _error(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> UserError:
        """Write a report on the step, and return the error that names it."""
        assert isinstance(pl_module, ImageClassifier)
        data = data_of(trainer)
        assert data.train_images is not None
        batch, images = self._steps[step]
        run, loss = Path(trainer.default_root_dir), pl_module.train_metrics.loss_sum.item()
        bad = _bad_gradients(pl_module)
        indices = [index % len(data.train_images) for part in images for index in part.tolist()]
        files = [
            index if (path := data.train_images.path(index)) is None else readable(path)
            for index in of_all_ranks(indices, trainer.world_size)
        ]
        last = run / CHECKPOINTS / LAST
        resumed = ["--ckpt_path", str(last)] if last.exists() else []
        again = [*COMMAND, "fit", "--config", str(run / CONFIG), *resumed]
        replay = shlex.join([*again, "--trainer.detect_anomaly", "true"])
        found = {"epoch": trainer.current_epoch + 1, "batch": batch + 1, "step": step}
        if trainer.is_global_zero:
            report = {**found, "gradients": bad, "images": files, "replay": replay}
            write(run / FOUND, json.dumps(report, indent=2) + "\n")
        loss_is = f"the training loss became {loss}"
        what = f"the gradient of {bad[0]} isn't finite" if bad and math.isfinite(loss) else loss_is
        place = ", ".join(f"{name} {number}" for name, number in found.items())
        return UserError(
            f"{what} in {place}; {ADVICE}. Checkpoints before it are kept; its images are in "
            f"{readable(run / FOUND)}. To see where it comes from: {readable(replay)}"
        )


def surely_finite(gradients: Sequence[Tensor]) -> bool:
    """Return whether all values are finite, as far as a quick look tells.

    A sum is finite only if each value is, and takes half the time of a look at each; that of finite
    values may be too large. A GPU isn't asked, as that would wait for it.

    Args:
        gradients: Of any shapes.
    """
    on_cpu = all(gradient.is_cpu for gradient in gradients)
    return on_cpu and cmath.isfinite(sum(gradient.sum().item() for gradient in gradients))


def _bad_gradients(model: L.LightningModule) -> list[str]:
    """Return the names of the parameters whose gradient isn't finite."""
    gradients = ((name, parameter.grad) for name, parameter in model.named_parameters())
    return [name for name, gradient in gradients if not_finite({name: gradient})]


def _sums(model: L.LightningModule) -> dict[str, Tensor]:
    assert isinstance(model, ImageClassifier)
    return model.train_metrics.sums()
