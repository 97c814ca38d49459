"""Fine-tuning: a pretrained model adapted to a small data set of your own."""

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any

from torch.optim import Optimizer

from project.approaches.base import ImageClassifier, NetworkFactory
from project.approaches.optimizers import base_lr
from project.approaches.pretrained import is_checkpoint, load_network
from project.errors import UserError, under
from project.networks import LibraryNetwork, Network, dense_head
from project.networks.freezing import Norm, evaluate_frozen, norm_layers, train_only
from project.networks.groups import LayerGroups, OptimizerGroups

DEFAULT_BACKBONE = "vgg16"


class FineTuning(ImageClassifier):
    """A pretrained backbone and a new head.

    The backbone is frozen: it gets no gradients, and its norm and dropout layers stay in evaluation
    mode. With a ``FineTuningSchedule`` among the callbacks, that decides what trains when, and the
    optimizer holds a group for each layer group from the first step on.

    Args:
        backbone: A torchvision name such as ``vgg16``, ``timm/`` and a timm name, ``hf-hub:`` and
            the name of a model on the hub that timm reads, or the run directory or checkpoint of a
            ``FullTraining``. A transformer's position embeddings are resampled to the image size.
        weights: ``DEFAULT`` or another name of published weights, a file (safetensors or a state
            dict), or None for random weights. None also where ``backbone`` is a checkpoint, which
            brings its own.
        backbone_args: Arguments of the architecture, as torchvision or timm names them, such as
            ``{drop_path_rate: 0.1}``.
        network: A ``Network`` of your own with a pretrained backbone, in place of ``backbone`` and
            ``weights``; its head is replaced by a new one.
        hidden: Sizes of the dense layers between backbone and logits.
        dropout: Fraction of the inputs of each dense layer that is dropped in training.
        lr_decay: The learning rate of a layer group is that of the optimizer times ``lr_decay`` to
            the power of its distance from the head (Howard and Ruder, 2018).
        group_lr: Learning rates of layer groups by name, in place of that.
        decay_norm_and_bias: Apply the optimizer's weight decay also to biases and to the
            parameters of norm layers.
        num_classes: Number of classes; given by the data.
        image_shape: Shape ``(C, H, W)`` of one image; given by the data.
        kwargs: Options of every approach.

    Attributes:
        layer_groups: The layer groups of the network.

    Raises:
        UserError: If backbone and weights don't exist or don't fit each other.
    """

    pretrained = True

    def __init__(
        self,
        num_classes: int,
        image_shape: tuple[int, int, int],
        backbone: str = DEFAULT_BACKBONE,
        weights: str | None = None,
        backbone_args: dict[str, Any] | None = None,
        network: NetworkFactory | None = None,
        hidden: tuple[int, ...] = (),
        dropout: float = 0.0,
        lr_decay: float = 1.0,
        group_lr: dict[str, float] | None = None,
        decay_norm_and_bias: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            image_shape=image_shape,
            decay_norm_and_bias=decay_norm_and_bias,
            **kwargs,
        )
        with under("model"):
            if network is not None:
                given = {"weights": weights, "backbone": backbone, "backbone_args": backbone_args}
                for key, value in given.items():
                    if value not in (None, DEFAULT_BACKBONE):
                        raise UserError("has no effect beside model.network; remove one", key)
                self.network = self._with_new_head(network, image_shape, hidden, dropout)
            else:
                self._backbone_args = backbone_args
                self.network = self.build_network(image_shape, backbone, weights, hidden, dropout)
        parameters = [name for name, _ in self.network.named_parameters()]
        with under("model"):
            self.layer_groups = LayerGroups(self.network.layer_groups(), parameters)
        self.lr_decay = lr_decay
        self.group_lr = group_lr or {}
        self._check_learning_rates()
        head = self.layer_groups.select("head")
        groups = self.layer_groups.optimizer_groups().only(head)
        self.attach(groups, head, {"head": self.lr_multiplier("head")})
        self.set_trained(head)

    def _with_new_head(
        self,
        build: NetworkFactory,
        image_shape: tuple[int, int, int],
        hidden: tuple[int, ...],
        dropout: float,
    ) -> Network:
        with under("network"):
            network = build(image_shape, self.num_logits)
            features = network.num_features(image_shape)
        network.head = dense_head(features, self.num_logits, hidden, dropout)
        return network

    def build_network(
        self,
        image_shape: tuple[int, int, int],
        backbone: str,
        weights: str | None,
        hidden: tuple[int, ...],
        dropout: float,
    ) -> Network:
        """Return the backbone with a new head; a subclass may return another network."""
        if not is_checkpoint(backbone):
            with under("", name="backbone"):
                return LibraryNetwork(
                    *(image_shape, self.num_logits, backbone, weights, hidden, dropout),
                    backbone_args=self._backbone_args,
                )
        if self._backbone_args:
            raise UserError(f"{backbone} brings its own; remove them", "backbone_args")
        if weights is not None:
            raise UserError(f"{backbone} brings its own weights; leave weights null", "weights")
        network = load_network(backbone)
        with under("", name="backbone"):
            features = network.num_features(image_shape)
        network.head = dense_head(features, self.num_logits, hidden, dropout)
        return network

    def initialize(self) -> None:
        """Leave the weights as they are: they are pretrained."""

    def attach(
        self,
        groups: OptimizerGroups,
        trained: Collection[str],
        lr_factors: Mapping[str, float],
        total_steps: int | None = None,
    ) -> None:
        """Say before a training what it is going to change.

        Args:
            groups: The groups of the optimizer, which holds them from the first step on.
            trained: Names of the parameters of ``network`` that train at any time.
            lr_factors: Factors of the scheduled learning rates of optimizer groups in the first
                step; of groups that are missing, the learning rate is 0.
            total_steps: Optimizer steps of the whole training; None leaves that to the trainer.
        """
        self._groups = groups
        self._ever_trained = frozenset(trained)
        self._lr_factors = lr_factors
        self._total_steps = total_steps

    def num_trained(self) -> int:
        """Return the number of parameters that the training changes at any time."""
        named = self.network.named_parameters()
        return sum(p.numel() for name, p in named if name in self._ever_trained)

    def set_trained(self, names: Collection[str], norm: Norm = "eval") -> None:
        """Train these parameters of ``network``, and freeze all others.

        Args:
            names: Names of parameters.
            norm: Mode of the norm layers of the backbone that keep statistics. With ``train`` they
                normalise with the statistics of the batch and update their own; else they normalise
                with their own and leave them as they are.
        """
        self._norm = norm
        train_only(self.network, names)
        self.train(self.training)

    def train(self, mode: bool = True) -> "FineTuning":
        """Set the mode; what is frozen is always in evaluation mode."""
        super().train(mode)
        evaluate_frozen(self.network)
        if self._norm != "train":
            for layer in norm_layers(self.network.backbone).values():
                layer.eval()
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups from input to output, with and without weight decay.

        Raises:
            UserError: If a parameter trains that the optimizer doesn't hold.
        """
        held = self._groups
        groups: dict[str, dict[str, Any]] = {}
        for name, parameter in self.network.named_parameters():
            if name not in held.group_of:
                if parameter.requires_grad:
                    raise UserError(f"{name} trains, but is in no optimizer group; see attach()")
                continue
            label, options = held.group_of[name], {}
            if parameter.ndim <= 1 and not self._decay_norm_and_bias:
                label, options = f"{label}/no_decay", {"weight_decay": 0.0}
            start = {"params": [], "name": label, "group": held.group_of[name], **options}
            groups.setdefault(label, start)["params"].append(parameter)
        order = list(held.layer_group)
        return sorted(groups.values(), key=lambda group: order.index(group["group"]))

    def total_steps(self) -> float:
        """Return the number of optimizer steps of the whole training."""
        return self._total_steps or super().total_steps()

    def configure_optimizers(self) -> Any:
        """Build optimizer and scheduler.

        The scheduler works on ``scheduled_lr`` of each group; ``lr``, which the optimizer takes, is
        that times the factor of the group, and 0 for a frozen group.
        """
        configured: Any = super().configure_optimizers()
        optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
        for group in optimizer.param_groups:
            group["scheduled_lr"] = group["lr"]
        self._apply_learning_rates(optimizer)
        return configured

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Compare the groups of the optimizer by name: torch would match them by position.

        Raises:
            UserError: If a run is resumed with other groups.
        """
        super().on_load_checkpoint(checkpoint)
        if not (self.trainer.training and checkpoint.get("optimizer_states")):
            return
        saved = [group.get("name") for group in checkpoint["optimizer_states"][0]["param_groups"]]
        now = [group["name"] for group in self.parameter_groups()]
        if saved != now:
            raise UserError(
                f"the optimizer of the checkpoint has the groups {', '.join(map(str, saved))}, and "
                f"not {', '.join(now)}: its FineTuningSchedule or decay_norm_and_bias was another"
            )

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Let the scheduler change its own learning rates, then apply the factors to them."""
        for group in scheduler.optimizer.param_groups:
            group["lr"] = group["scheduled_lr"]
        super().lr_scheduler_step(scheduler, metric)
        for group in scheduler.optimizer.param_groups:
            group["scheduled_lr"] = group["lr"]
        self._apply_learning_rates(scheduler.optimizer)

    def set_lr_factors(self, factors: Mapping[str, float]) -> None:
        """Multiply the scheduled learning rates of optimizer groups by these factors."""
        self._lr_factors = factors
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, Optimizer)
        self._apply_learning_rates(optimizer)

    def _apply_learning_rates(self, optimizer: Optimizer) -> None:
        for group in optimizer.param_groups:
            factor = self._lr_factors.get(group["group"], 0.0)
            trained = any(parameter.requires_grad for parameter in group["params"])
            group["lr"] = group["scheduled_lr"] * factor if trained else 0.0

    @cached_property
    def _base_lr(self) -> float:
        return base_lr(self._optimizer)

    def lr_multiplier(self, layer_group: str) -> float:
        """Return the learning rate of a layer group, as a multiple of the optimizer's own.

        Raises:
            UserError: If the optimizer's own is 0.
        """
        if layer_group not in self.group_lr:
            return self.lr_decay ** self.layer_groups.distance(layer_group)
        if self._base_lr == 0:
            raise UserError("needs an optimizer with lr greater than 0", "model.group_lr")
        return self.group_lr[layer_group] / self._base_lr

    def _check_learning_rates(self) -> None:
        if not 0 < self.lr_decay <= 1:
            raise UserError(f"{self.lr_decay} must be in (0, 1]", "model.lr_decay")
        for name, lr in self.group_lr.items():
            if name not in self.layer_groups.names:
                known = ", ".join(self.layer_groups.names)
                raise UserError(f"no layer group {name!r}; known are {known}", "model.group_lr")
            if lr < 0:
                raise UserError(f"{lr} of {name} must be at least 0", "model.group_lr")
