"""What the three approaches share: steps, loss, metrics, optimizer and prediction."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from project.approaches.metrics import EpochMetrics
from project.approaches.optimizers import (
    align_state,
    build_optimizer,
    change,
    configured,
    optimizer_errors,
)
from project.approaches.schedulers import Scheduler, Shared
from project.data import Batch
from project.errors import UserError
from project.networks import Network
from project.randomness import mix, run_seed
from project.upstream import allow_recompilation

NetworkFactory = Callable[[tuple[int, int, int], int], Network]


class ImageClassifier(L.LightningModule):
    """Base of all approaches. A subclass sets ``network`` after calling this constructor.

    Logged in training: ``train/loss`` and ``train/accuracy`` per epoch, ``train/loss_step``.
    Logged in validation and test: loss and accuracy, and precision, recall and F1 as the
    unweighted mean over the classes.

    Attributes:
        network: Maps images ``[B, C, H, W]`` to logits ``[B, num_logits]``.
        num_logits: 1 for one logit, else the number of classes.

    Args:
        num_classes: Number of classes; given by the data.
        image_shape: Shape ``(C, H, W)`` of one image; given by the data.
        class_names: Name of each class; given by the data.
        normalization: ``mean`` and ``std`` of the images; given by the data, kept for later use.
        optimizer: Any torch optimizer; null is Adam with a learning rate of 0.001.
        lr_scheduler: Changes the learning rate during training; null keeps it.
        label_smoothing: Share of the target that is spread over all classes, in training only
            (Szegedy et al., 2016).
        one_logit: For two classes: one output and binary cross entropy, instead of an output for
            each class.
        decay_norm_and_bias: Apply the optimizer's weight decay also to biases and to the
            parameters of norm layers.
        channels_last: Keep images and weights with the channels innermost in memory, which is
            faster for convolutions, most of all with ``trainer.precision: bf16-mixed``.
        compile_network: Let ``torch.compile`` make one program of the network. Each phase of a
            schedule takes half a minute of compiling or more, which pays off in long trainings on a
            GPU.
        flip_tta: Evaluate and predict by the mean of the logits of each image and its mirror image;
            not for images that mean something else in a mirror, such as digits.

    Raises:
        UserError: If ``one_logit`` is asked for data that hasn't two classes.
    """

    network: Network

    def __init__(
        self,
        num_classes: int,
        image_shape: tuple[int, int, int],
        class_names: tuple[str, ...] | None = None,
        normalization: dict[str, list[float]] | None = None,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: Scheduler | None = None,
        label_smoothing: float = 0.0,
        one_logit: bool = False,
        decay_norm_and_bias: bool = True,
        channels_last: bool = True,
        compile_network: bool = False,
        flip_tta: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        for name, value in list(self.hparams.items()):
            if callable(value) or is_dataclass(value):  # weights_only could not load them
                del self.hparams[name]
        if one_logit and num_classes != 2:
            raise UserError(
                f"model.one_logit: needs two classes, and the data has {num_classes}; "
                "set it to false"
            )
        self.num_classes = num_classes
        self.num_logits = 1 if one_logit else num_classes
        self.class_names = class_names or tuple(str(label) for label in range(num_classes))
        self.example_input_array = torch.zeros(1, *image_shape)
        self.label_smoothing = label_smoothing
        self.one_logit = one_logit
        self.channels_last = channels_last
        self.compile_network = compile_network
        self.flip_tta = flip_tta
        self._optimizer = Shared(optimizer) if optimizer else None
        self._lr_scheduler = lr_scheduler
        self._decay_norm_and_bias = decay_norm_and_bias
        self._configured: dict[str, Any] = {}
        self._loaded: dict[str, Any] | None = None
        self.train_metrics = EpochMetrics(num_classes)
        self.val_metrics = EpochMetrics(num_classes)
        self.test_metrics = EpochMetrics(num_classes)

    def setup(self, stage: str) -> None:
        """Lay the weights out in memory, compile, and set the weights that come from the data."""
        if self.channels_last:
            self.network.to(memory_format=torch.channels_last)
        if self.compile_network:
            allow_recompilation()
            self.network.compile()
        if stage == "fit":
            self.initialize()

    def initialize(self) -> None:
        """Let a network that has ``initialize`` set weights by training images.

        A checkpoint is loaded after this, and DDP copies the weights of the first rank after this.
        """
        initialize = getattr(self.network, "initialize", None)
        if initialize is not None:
            initialize(self.trainer.datamodule.sample())  # type: ignore[attr-defined]  # set late

    def forward(self, images: Tensor, depth: int = 0) -> Tensor:
        """Return logits ``[B, K]``, ``[B, 1]`` for one logit.

        Args:
            images: ``[B, C, H, W]``, or what the first ``depth`` stages of the network made of it.
            depth: Number of those stages.
        """
        images = self._in_layout(images)
        logits: Tensor = self.network(images, depth) if depth else self.network(images)
        return logits

    def prefix(self, images: Tensor, depth: int) -> Tensor:
        """Return what the first ``depth`` stages of the network make of ``[B, C, H, W]``."""
        return self.network.prefix(self._in_layout(images), depth)

    def _in_layout(self, images: Tensor) -> Tensor:
        if self.channels_last and images.ndim == 4:
            return images.contiguous(memory_format=torch.channels_last)
        return images

    def class_logits(self, logits: Tensor) -> Tensor:
        """Return logits ``[B, num_classes]``: one logit is that of class 1 against 0."""
        return torch.cat([torch.zeros_like(logits), logits], dim=1) if self.one_logit else logits

    def loss(self, logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the mean cross entropy.

        Args:
            logits: ``[B, K]``, or ``[B, 1]`` for one logit.
            targets: Labels, int64 ``[B]``, or probabilities, float ``[B, num_classes]``.
            label_smoothing: Share of the target that is spread over all classes.
        """
        if not self.one_logit:
            return functional.cross_entropy(logits, targets, label_smoothing=label_smoothing)
        positive = targets.to(logits.dtype) if targets.ndim == 1 else targets[:, 1]
        positive = positive * (1 - label_smoothing) + label_smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits.squeeze(1), positive)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed dropout and the like by epoch and step, so that a resumed run draws the same."""
        seed = mix(run_seed(), self.current_epoch, batch_idx, self.global_rank)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        elif self.device.type == "mps":
            torch.mps.manual_seed(seed)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the training loss of a batch."""
        images, targets = self.training_batch(batch)
        logits = self(images, batch.depth)
        loss = self.loss(logits, targets, self.label_smoothing)
        self.train_metrics.update(loss, self.class_logits(logits), batch.labels)
        if self._log_every_n_steps and (self.global_step + 1) % self._log_every_n_steps == 0:
            self.log("train/loss_step", loss.detach(), batch_size=len(images))
        return loss

    @property
    def _log_every_n_steps(self) -> int:
        steps: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set late
        return steps

    def training_batch(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return images and targets to train on; approaches may mix images here."""
        return batch.images, batch.labels

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the validation metrics."""
        self._evaluate(batch, self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Add a batch to the test metrics.

        Returns:
            ``indices``, ``labels`` and ``predictions``, int64 ``[B]``, and ``probabilities`` of the
            predictions, float32 ``[B]``.
        """
        logits = self._evaluate(batch, self.test_metrics)
        probabilities, predictions = logits.float().softmax(dim=1).max(dim=1)
        return {
            "indices": batch.indices,
            "labels": batch.labels,
            "predictions": predictions,
            "probabilities": probabilities,
        }

    def _evaluate(self, batch: Batch, metrics: EpochMetrics) -> Tensor:
        logits = self._evaluation_logits(batch.images, batch.depth)
        class_logits = self.class_logits(logits)
        metrics.update(self.loss(logits, batch.labels), class_logits, batch.labels)
        return class_logits

    def _evaluation_logits(self, images: Tensor, depth: int = 0) -> Tensor:
        logits: Tensor = self(images, depth)
        return (logits + self(images.flip(3))) / 2 if self.flip_tta else logits

    def on_validation_epoch_start(self) -> None:
        """Stop before a checkpoint is written if the training has become useless."""
        if not self.trainer.sanity_checking:
            self._stop_if_not_finite()

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics of the epoch."""
        self._log_epoch("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log_epoch("test", self.test_metrics)

    def on_train_epoch_end(self) -> None:
        """Log the training metrics of the epoch."""
        self._stop_if_not_finite()
        self._log_epoch("train", self.train_metrics)

    def _log_epoch(self, split: str, metrics: EpochMetrics) -> None:
        if not metrics.update_called:  # a resumed run may begin with the end of an epoch
            return
        values = metrics.compute()
        if split == "train":
            values = {name: values[name] for name in ("loss", "accuracy")}
        self.log_dict({f"{split}/{name}": value for name, value in values.items()}, sync_dist=True)
        metrics.reset()

    def _stop_if_not_finite(self) -> None:
        if not self.train_metrics.loss_sum.isfinite():
            raise UserError(
                f"the training loss became {self.train_metrics.loss_sum.item()} in epoch "
                f"{self.current_epoch + 1}; try a lower learning rate, trainer.gradient_clip_val "
                "or 32-bit precision (checkpoints of earlier epochs are kept)"
            )

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights.

        Raises:
            UserError: If they are of another network.
        """
        try:
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"the checkpoint is of another network: {reason[:400]}") from error

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return what the network says of a batch.

        Returns:
            ``indices`` int64 ``[B]``, ``probabilities`` float32 ``[B, num_classes]``, and
            ``class``, the name of the most probable class of each image.
        """
        probabilities = (
            self.class_logits(self._evaluation_logits(batch.images)).float().softmax(dim=1)
        )
        predicted = probabilities.argmax(dim=1).tolist()
        return {
            "indices": batch.indices,
            "probabilities": probabilities,
            "class": [self.class_names[label] for label in predicted],
        }

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and the scheduler that the config names.

        Raises:
            UserError: If they refuse their arguments.
        """
        optimizer = self._build_optimizer()
        scheduler = self._build_scheduler(optimizer, self.total_steps)
        self._configured = configured(optimizer, scheduler)
        if self._lr_scheduler is None or scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": scheduler,
                "interval": self._lr_scheduler.interval,
                "frequency": self._lr_scheduler.frequency,
                "monitor": self._lr_scheduler.monitor,
            },
        }

    @property
    def has_lr_scheduler(self) -> bool:
        """Whether the config names a learning rate scheduler."""
        return self._lr_scheduler is not None

    def total_steps(self) -> float:
        """Return the number of optimizer steps of the whole training."""
        return self.trainer.estimated_stepping_batches

    def _build_optimizer(self) -> Optimizer:
        try:
            trainer: L.Trainer | None = self.trainer
        except RuntimeError:  # it is not attached to one
            trainer = None
        with optimizer_errors():
            return build_optimizer(self._optimizer, self.parameter_groups, trainer)

    def _build_scheduler(
        self, optimizer: Optimizer, total_steps: Callable[[], float]
    ) -> LRScheduler | None:
        return self._lr_scheduler.build(optimizer, total_steps) if self._lr_scheduler else None

    def scheduled_learning_rates(self, steps: int, steps_per_epoch: int) -> Tensor:
        """Return the learning rate of each optimizer step, float32 ``[steps]``, without training.

        ``ReduceLROnPlateau`` is taken to see no plateau.

        Raises:
            UserError: If the scheduler can't go that far.
        """
        optimizer = self._build_optimizer()
        scheduler = self._build_scheduler(optimizer, lambda: steps)
        rates = []
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*lr_scheduler.step.*before.*optimizer.step.*")
            for step in range(1, steps + 1):
                rates.append(optimizer.param_groups[0]["lr"])
                if self._lr_scheduler is not None and scheduler is not None:
                    self._lr_scheduler.step_in_advance(scheduler, step, steps_per_epoch)
        return torch.tensor(rates)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep how optimizer and scheduler were configured, beside the state they are in now."""
        checkpoint["configured"] = self._configured

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember how the optimizer of the checkpoint was configured."""
        self._loaded = checkpoint.get("configured")

    def on_train_start(self) -> None:
        """Let the config win where it gives optimizer or scheduler another value.

        Loading their state loads their learning rate and the like, too.

        Raises:
            UserError: If the optimizer is another one, for which the state is no use.
        """
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, Optimizer)
        align_state(optimizer)
        if self._loaded is not None:
            change(optimizer, self.lr_schedulers(), self._loaded, self._configured)

    def num_trained(self) -> int:
        """Return the number of parameters that the training changes."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameters that are trained, in groups with and without weight decay."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if self._decay_norm_and_bias:
            return [{"params": trained}]
        return [
            {"params": [parameter for parameter in trained if parameter.ndim > 1]},
            {
                "params": [parameter for parameter in trained if parameter.ndim <= 1],
                "weight_decay": 0.0,
            },
        ]
