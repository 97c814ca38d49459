"""What a signal does to a run: where its loops end, and how it goes on."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities.exceptions import SIGTERMException

from project import signals
from project.callbacks.checkpoint import best_and_last
from project.environment import COMMAND
from project.run_files import CHECKPOINTS, LAST
from project.runs import this_job
from project.signals import FIRST_RANK, Stopped
from project.upstream.lightning import own_signals, requeue_signal, started_ranks, stop_after_batch


def share_signals(trainer: L.Trainer) -> None:
    """Let a trainer leave signals to the command, and the command know of the trainer's ranks."""
    own_signals(trainer)
    signals.now.ranks = started_ranks(trainer)
    signals.now.first = trainer.is_global_zero
    if trainer.world_size > 1:
        os.environ.setdefault(FIRST_RANK, str(os.getpid()))  # for those that it starts


class StopOnSignal(L.Callback):
    """Ends a run at the end of a batch, on all ranks at the same one, and says how it goes on.

    ``last.ckpt`` is then from exactly there. A validation inside a training is left unfinished; the
    resumed run begins it again.
    """

    def __init__(self) -> None:
        self._fits = False  # whether the command trains, also while it tests what it has trained

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Listen to the signal of SLURM."""
        self._fits = self._fits or stage == "fit"
        if self._fits and (signum := requeue_signal(trainer)):
            signals.now.listen_to(signum)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let signals act at once again."""
        signals.now.act()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let signals wait for the end of a batch."""
        signals.now.wait()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """End the training; the checkpoint is written by the callback that writes all of them."""
        if signals.agreed(trainer, batch_idx):
            stop_after_batch(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Don't begin a validation of a training that ends."""
        signals.now.wait()
        if trainer.received_sigterm:
            self._stop_validation(trainer, pl_module)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """End a validation."""
        if signals.agreed(trainer, batch_idx):
            self._stop_validation(trainer, pl_module, begun=True)

    def _stop_validation(
        self, trainer: L.Trainer, pl_module: L.LightningModule, begun: bool = False
    ) -> None:
        checkpoint = best_and_last(trainer)
        if trainer.state.fn == "fit" and checkpoint:
            checkpoint.save_in_validation(trainer, pl_module, begun)
        raise Stopped(signals.now.code)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let signals wait for the end of a batch."""
        signals.now.wait()

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """End a test."""
        signals.stop_where_agreed(trainer, batch_idx)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let signals wait for the end of a batch."""
        signals.now.wait()

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """End a prediction."""
        signals.stop_where_agreed(trainer, batch_idx)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Say how the run can be continued."""
        if not isinstance(exception, Stopped | SIGTERMException):
            return
        advice = _how_to_go_on(trainer)
        if self._fits and signals.now.received == requeue_signal(trainer):
            job = str(this_job())
            advice = f"{advice}; SLURM job {job} goes into the queue again"
            if trainer.is_global_zero:
                signals.now.afterwards = lambda: _requeue(job)
        signals.now.advice = advice


def _how_to_go_on(trainer: L.Trainer) -> str:
    run = Path(trainer.default_root_dir)
    saved = (run / CHECKPOINTS / LAST).exists()
    if trainer.state.fn == "fit":
        if saved:
            again = shlex.join([*COMMAND, "fit", "--resume", str(run)])
            return f"at step {trainer.global_step}; go on with: {again}"
        return f"before step {trainer.global_step + 1}; {signals.ANEW}"
    test = shlex.join([*COMMAND, "test", "--ckpt_path", str(run)])
    return f"the training is saved; test it with: {test}" if saved else signals.ANEW


def _requeue(job: str) -> None:
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        print(f"scontrol requeue {job} failed: {str(reason).strip()}", file=sys.stderr)
