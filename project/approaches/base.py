"""The base of the three approaches: steps, loss, metrics and prediction."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MetricCollection

from project import trust
from project.approaches.losses import ClassWeights, CrossEntropy, check_loss, loss_of_config
from project.approaches.metrics import EpochMetrics, MetricFactory, metrics_of_config, scalars
from project.approaches.mixing import Mixing
from project.approaches.optimized import OptimizedModule
from project.approaches.schedulers import Scheduler
from project.approaches.selection import MOST_IMAGES, NOISE_OF, Rule
from project.checkpoints import ADVICE, find_checkpoint, load_checkpoint
from project.console import readable
from project.data import Batch, data_of
from project.data.ranks import of_all_ranks
from project.errors import UserError
from project.networks import Network
from project.networks.base import one_image_explained
from project.randomness import mix, run_seed
from project.upstream.torch import allow_recompilation

NetworkFactory = Callable[[tuple[int, int, int], int], Network]


class ImageClassifier(OptimizedModule, ABC):
    """Base of all approaches; a network, how it is trained, and how it is measured.

    A subclass sets ``network`` after calling this constructor.

    Logged in training: ``train/loss`` and ``train/accuracy`` per epoch, ``train/loss_step``.
    Logged in validation and test, as ``val/…`` and ``test/…``: loss, accuracy, balanced accuracy,
    precision, recall and F1 as the unweighted (macro) mean over the classes, and the ``metrics`` of
    the config.

    Attributes:
        network: Maps images ``[B, C, H, W]`` to logits ``[B, num_logits]``.
        num_logits: 1 with ``one_logit``, otherwise the number of classes.
        pretrained: Whether the training starts from a pretrained network.
        temperature: Divides the logits of a test or a prediction that is calibrated.
        selection: How the best of its validations is chosen, as ``checkpoint.selection`` says it.

    Args:
        num_classes: Number of classes; given by the data.
        image_shape: Shape ``(C, H, W)`` of one image; given by the data.
        class_names: Name of each class; given by the data.
        normalization: ``mean`` and ``std`` of the images; given by the data, kept for later use.
        optimizer: Any torch optimizer; None is Adam with a learning rate of 0.001.
        lr_scheduler: Changes the learning rate during training; None keeps it constant.
        loss: A module that maps logits ``[B, K]`` and targets to a scalar. Targets are labels,
            int64 ``[B]``, or with mixup and cutmix in training probabilities, float ``[B, K]``; K
            is the number of classes, also with ``one_logit``. None is cross entropy. A checkpoint
            doesn't say which loss it was trained with; the config does.
        metrics: Further metrics for validation and test, by name; each is a torchmetrics class that
            takes the number of classes first, and is updated with the probabilities ``[B, K]`` of
            the classes and the labels, int64 ``[B]``.
        label_smoothing: Fraction of the target that is spread evenly over all classes, in training
            only (Szegedy et al., 2016).
        class_weights: How much the images of each class count in the loss, in training only.
            ``balanced`` lets all classes count alike, each image in inverse proportion to the size
            of its class (King and Zeng, 2001). ``effective`` lets small classes count alike, and
            those of many more than 1,000 images in proportion to their size (Cui et al., 2019). Or
            the weight of each class by its name, 1 for those that are missing. The mean weight over
            the images of an epoch is made 1.
        focal_gamma: Exponent of the focal loss, in training only: the loss of an image is
            multiplied by (1 - p)^gamma, where p is the predicted probability of its label (Lin et
            al., 2017, who take 2).
        mixup: Parameter of the Beta distribution of the weights with which pairs of images are
            blended, and their targets with them, in training only; 0 blends none (Zhang et al.,
            2018).
        cutmix: Parameter of the Beta distribution of the sizes of rectangles that are pasted from
            one image into another, likewise; 0 pastes none (Yun et al., 2019). If both are given,
            one of them is chosen at random for each batch.
        one_logit: For two classes: one output and binary cross entropy, instead of an output for
            each class.
        decay_norm_and_bias: Apply the optimizer's weight decay also to biases and to the
            parameters of norm layers.
        channels_last: Store images and weights in torch's channels-last memory format, which is
            faster for convolutions, most of all with ``trainer.precision: bf16-mixed``.
        compile_network: Compile the network with ``torch.compile``. Each phase of a fine-tuning
            schedule is compiled anew, which takes half a minute or more. That pays off in long
            trainings on a GPU.
        flip_tta: Evaluate and predict with the mean of the logits of each image and its mirror
            image. Unsuitable for images whose meaning changes in a mirror, such as digits.

    Raises:
        UserError: If ``one_logit`` is used with data that doesn't have two classes,
            an option of cross entropy with a loss of your own, or a metric has the name of a
            built-in one.
    """

    network: Network
    pretrained = False
    temperature = 1.0
    selection: Rule = "minimum"

    @abstractmethod
    def __init__(
        self,
        num_classes: int,
        image_shape: tuple[int, int, int],
        class_names: tuple[str, ...] | None = None,
        normalization: dict[str, list[float]] | None = None,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: Scheduler | None = None,
        loss: nn.Module | None = None,
        metrics: dict[str, MetricFactory] | None = None,
        label_smoothing: float = 0.0,
        class_weights: ClassWeights = "none",
        focal_gamma: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        one_logit: bool = False,
        decay_norm_and_bias: bool = True,
        channels_last: bool = True,
        compile_network: bool = False,
        flip_tta: bool = False,
    ) -> None:
        super().__init__(optimizer, lr_scheduler, decay_norm_and_bias)
        if hasattr(type(self), "loss"):
            raise UserError(
                "has a method loss, which the option model.loss would hide; name it compute_loss",
                f"model: {type(self).__name__}",
            )
        self.save_hyperparameters(logger=False, ignore=["loss", "metrics"])
        for name, value in list(self.hparams.items()):
            if callable(value) or is_dataclass(value):  # weights_only could not load them
                del self.hparams[name]
        if one_logit and num_classes != 2:
            raise UserError(
                f"needs two classes, and the data has {num_classes}; set it to false",
                key="model.one_logit",
            )
        options: dict[str, Any] = {
            "label_smoothing": label_smoothing,
            "class_weights": class_weights,
            "focal_gamma": focal_gamma,
        }
        if loss is not None:
            check_loss(loss, **options)
        self.num_classes = num_classes
        self.num_logits = 1 if one_logit else num_classes
        self.class_names = class_names or tuple(str(label) for label in range(num_classes))
        self.example_input_array = torch.zeros(1, *image_shape)
        self.loss = loss
        self.cross_entropy = CrossEntropy(self.class_names, one_logit, **options)
        self.mixing = Mixing(mixup, cutmix, num_classes)
        self.one_logit = one_logit
        self.channels_last = channels_last
        self.compile_network = compile_network
        self.flip_tta = flip_tta
        self.train_metrics = EpochMetrics(num_classes)
        self.val_metrics = EpochMetrics(num_classes)
        self.test_metrics = EpochMetrics(num_classes)
        self.more_val_metrics = metrics_of_config(metrics, num_classes)
        self.more_test_metrics = metrics_of_config(metrics, num_classes)
        self._validated: list[dict[str, Tensor]] = []  # what is known of the images of each batch

    def setup(self, stage: str) -> None:
        """Set the memory format, compile, and initialize what depends on the training images."""
        if self.channels_last:
            self.network.to(memory_format=torch.channels_last)
        if self.compile_network:
            allow_recompilation()
            self.network.compile()
        if stage == "fit":
            self.initialize()
            if self.cross_entropy.weights is not None:
                data = data_of(self.trainer)
                self.cross_entropy.weigh(data.class_sizes(), data.class_shares())

    def _build_optimizer(self) -> Optimizer:
        optimizer = super()._build_optimizer()
        held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        if self.loss is not None and not held.issuperset(self.loss.parameters()):
            raise UserError(
                f"{type(self.loss).__name__} has parameters of its own, and "
                f"{type(self).__name__} trains the parameters of the network only",
                key="model.loss",
            )
        return optimizer

    def initialize(self) -> None:
        """Call the network's ``initialize``, if it has one, with training images.

        After this, a checkpoint is loaded, or DDP copies the weights of the first rank to all.
        """
        initialize = getattr(self.network, "initialize", None)
        if initialize is not None:
            initialize(data_of(self.trainer).sample())

    def forward(self, images: Tensor, depth: int = 0) -> Tensor:
        """Return logits ``[B, num_logits]``.

        Args:
            images: ``[B, C, H, W]``, or the output of the first ``depth`` stages of the network.
            depth: Number of those stages.

        Raises:
            UserError: If the network returns something else.
        """
        images = self._in_layout(images)
        logits = self.network(images, depth) if depth else self.network(images)
        if not isinstance(logits, Tensor) or logits.shape[1:] != (self.num_logits,):
            given = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            name = type(self.network).__name__
            raise UserError(
                f"{name} returns {given}, and not logits [{len(images)}, {self.num_logits}]",
                "model.network",
            )
        return logits

    def prefix(self, images: Tensor, depth: int) -> Tensor:
        """Return the output of the first ``depth`` stages of the network for ``[B, C, H, W]``."""
        return self.network.prefix(self._in_layout(images), depth)

    def _in_layout(self, images: Tensor) -> Tensor:
        if self.channels_last and images.ndim == 4:
            return images.contiguous(memory_format=torch.channels_last)
        return images

    def class_logits(self, logits: Tensor) -> Tensor:
        """Return logits ``[B, num_classes]``; a single logit gets a 0 beside it, for class 0."""
        return torch.cat([torch.zeros_like(logits), logits], dim=1) if self.one_logit else logits

    def compute_loss(self, logits: Tensor, targets: Tensor, training: bool = False) -> Tensor:
        """Return the loss of the config, or the mean cross entropy, as a scalar.

        Args:
            logits: ``[B, num_logits]``.
            targets: Labels, int64 ``[B]``, or probabilities, float ``[B, num_classes]``.
            training: Whether to train on it: with ``label_smoothing``, ``class_weights`` and
                ``focal_gamma``.

        Raises:
            UserError: If the loss of the config doesn't return a scalar.
        """
        if self.loss is not None:
            return loss_of_config(self.loss, self.class_logits(logits), targets)
        loss: Tensor = self.cross_entropy(logits, targets, training)
        return loss

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed by epoch and step, so that a resumed run repeats dropout and other random draws."""
        seed = mix(run_seed(), self.current_epoch, batch_idx, self.global_rank)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        elif self.device.type == "mps":
            torch.mps.manual_seed(seed)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the training loss of a batch."""
        images, targets = self.training_batch(batch)
        with one_image_explained():
            logits = self(images, batch.depth)
        loss = self.compute_loss(logits, targets, training=True)
        self.train_metrics.update(loss, self.class_logits(logits), batch.labels)
        if self._log_every_n_steps and (self.global_step + 1) % self._log_every_n_steps == 0:
            self.log("train/loss_step", loss.detach(), batch_size=len(images))
        return loss

    @property
    def _log_every_n_steps(self) -> int:
        steps: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set late
        return steps

    def training_batch(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return images and targets to train on; an approach may change them here.

        Targets are labels, int64 ``[B]``, or with mixup and cutmix probabilities, ``[B, K]``.
        """
        return self.mixing(batch) if self.mixing else (batch.images, batch.labels)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Add a batch to the validation metrics.

        Returns:
            As :meth:`test_step`.
        """
        logits = self._evaluate(batch, self.val_metrics, self.more_val_metrics)
        if self.selection == "noise_aware":
            scores = self.class_logits(logits)
            right = scores.argmax(dim=1) == batch.labels
            losses = self.cross_entropy.of_images(logits, batch.labels)
            self._validated.append(
                {"indices": batch.indices, "losses": losses, "right": right.float()}
            )
        return self._predicted(batch, logits)

    def validated_values(self, monitor: str) -> Tensor | None:
        """Return what a metric of the last validation is the mean of, over all ranks.

        Args:
            monitor: The metric.

        Returns:
            float32 ``[N]`` on the CPU, in the order of the images. None if the metric is no mean
            of a known value of each image, or if there are too many of them.
        """
        name = NOISE_OF.get(monitor)
        if not self._validated or name is None or (name == "losses" and self.loss is not None):
            return None  # a loss of one's own gives a mean alone
        columns = [(batch["indices"].cpu(), batch[name].cpu()) for batch in self._validated]
        parts = of_all_ranks(columns, self.trainer.world_size)
        indices, values = (torch.cat([part[side] for part in parts]) for side in (0, 1))
        return values[indices.argsort()] if len(values) <= MOST_IMAGES else None

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Add a batch to the test metrics.

        Returns:
            ``indices`` and ``labels``, int64 ``[B]``, and ``logits``, float32 ``[B, num_classes]``.
        """
        logits = self._evaluate(batch, self.test_metrics, self.more_test_metrics)
        return self._predicted(batch, logits)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return the predictions for a batch.

        Returns:
            ``indices`` int64 ``[B]``, ``probabilities`` float32 ``[B, num_classes]``, and
            ``class``, the name of the most probable class of each image.
        """
        probabilities = self.predicted_logits(batch.images).float().softmax(dim=1)
        predicted = probabilities.argmax(dim=1).tolist()
        return {
            "indices": batch.indices,
            "probabilities": probabilities,
            "class": [self.class_names[label] for label in predicted],
        }

    def _predicted(self, batch: Batch, logits: Tensor) -> dict[str, Tensor]:
        scores = self.class_logits(logits).float()
        return {"indices": batch.indices, "labels": batch.labels, "logits": scores}

    def _evaluate(self, batch: Batch, metrics: EpochMetrics, more: MetricCollection) -> Tensor:
        logits = self.evaluation_logits(batch.images, batch.depth)
        class_logits = self.class_logits(logits)
        metrics.update(self.compute_loss(logits, batch.labels), class_logits, batch.labels)
        if more:
            more.update(class_logits.float().softmax(dim=1), batch.labels)
        return logits

    def evaluation_logits(self, images: Tensor, depth: int = 0) -> Tensor:
        """Return logits ``[B, num_logits]`` as validation, test and prediction take them.

        Args:
            images: As for :meth:`forward`.
            depth: Likewise.
        """
        logits: Tensor = self(images, depth)
        if self.flip_tta:
            logits = (logits + self(images.flip(3))) / 2
        return logits if self.temperature == 1 else logits / self.temperature

    def predicted_logits(self, images: Tensor) -> Tensor:
        """Return logits ``[B, num_classes]`` as test and prediction take them.

        Args:
            images: As for :meth:`forward`.
        """
        return self.class_logits(self.evaluation_logits(images))

    def on_validation_epoch_start(self) -> None:
        """Stop before a checkpoint is written if the training loss is not finite."""
        self._validated.clear()
        if not self.trainer.sanity_checking:
            self._stop_if_not_finite()

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics of the epoch."""
        self._log_epoch("val", self.val_metrics, self.more_val_metrics)

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log_epoch("test", self.test_metrics, self.more_test_metrics)

    def on_train_epoch_end(self) -> None:
        """Log the training metrics of the epoch."""
        self._stop_if_not_finite()
        self._log_epoch("train", self.train_metrics)

    def _log_epoch(
        self, split: str, metrics: EpochMetrics, more: MetricCollection | None = None
    ) -> None:
        if not metrics.update_called:  # a resumed run may begin with the end of an epoch
            return
        values = metrics.compute()
        if split == "train":
            values = {name: values[name] for name in ("loss", "accuracy")}
        metrics.reset()
        if more:
            values |= scalars(more)
            more.reset()
        self.log_dict({f"{split}/{name}": value for name, value in values.items()}, sync_dist=True)

    def _stop_if_not_finite(self) -> None:
        if not self.train_metrics.loss_sum.isfinite():
            raise UserError(
                f"the training loss became {self.train_metrics.loss_sum.item()} in epoch "
                f"{self.current_epoch + 1}; {ADVICE} (checkpoints of earlier epochs are kept)"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the training metrics of an epoch that isn't over."""
        super().on_save_checkpoint(checkpoint)
        if self.train_metrics.update_called:
            reduce, metrics = self.trainer.strategy.reduce, self.train_metrics
            checkpoint["train_metrics"] = {
                name: reduce(value.clone(), reduce_op="sum")
                for name, value in metrics.sums().items()
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue the training metrics of an epoch that isn't over."""
        super().on_load_checkpoint(checkpoint)
        self.train_metrics.reset()
        if self.global_rank == 0 and (state := checkpoint.get("train_metrics")):
            self.train_metrics.restore(state)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights.

        Raises:
            UserError: If they belong to another network.
        """
        try:
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        except RuntimeError as error:
            reason = str(error).splitlines()[1:] or [str(error)]  # the first names the class
            short = reason[0].strip()
            short = short if len(short) < 200 else f"{short[:200]} …"
            raise UserError(f"the checkpoint is of another network: {short}") from error

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # weights_only: only True ever loads
        cls,
        checkpoint_path: str | Path,
        *args: Any,
        trust_packages: Sequence[str] = (),
        **kwargs: Any,
    ) -> "ImageClassifier":
        """Return the model of a checkpoint; on this base class, of the class that it names.

        Nothing is downloaded: the checkpoint has the weights.

        Args:
            checkpoint_path: The checkpoint, or a run directory, whose best one is taken.
            args: As for Lightning's own.
            trust_packages: Packages of one's own that the checkpoint may name: importing them runs
                their code.
            kwargs: As for Lightning's own: hyperparameters to replace, and ``map_location``.

        Raises:
            UserError: If it can't be opened, is of another class, or names what isn't trusted.
        """
        path = find_checkpoint(checkpoint_path)
        hparams = load_checkpoint(path).get("hyper_parameters", {})
        with trust.command():
            trust.trust_packages(trust_packages)
            trust.distrust(path, hparams)
            name = hparams.get("_class_path")
            found = cls if name is None else trust.class_in(path, name, ImageClassifier)  # type: ignore[type-abstract]
            if not issubclass(found, cls):
                raise UserError(f"{readable(path)} is of {found.__name__}, not of {cls.__name__}")
            if inspect.isabstract(found):
                raise UserError(
                    f"{readable(path)} doesn't say of which class it is; call load_from_checkpoint "
                    f"on that class, not on {found.__name__}"
                )
            if "weights" in hparams:
                kwargs.setdefault("weights", None)
            kwargs["weights_only"] = True
            load: Any = super(ImageClassifier, found).load_from_checkpoint
            model: ImageClassifier = load(path, *args, **kwargs)
        return model
