"""Fine-tuning: a pretrained model adapted to a small data set of your own."""

import math
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from torch.optim import Optimizer

from project.approaches.base import ImageClassifier
from project.approaches.pretrained import is_checkpoint, load_network
from project.errors import UserError
from project.networks import LibraryNetwork, Network, dense_head
from project.networks.freezing import Norm, evaluate_frozen, norm_layers, train_only
from project.networks.groups import group_of_parameters, matching

Train = int | str | list[str]


class FineTuning(ImageClassifier):
    """A pretrained backbone and a new head.

    The backbone is frozen: it gets no gradients, and its norm and dropout layers stay in evaluation
    mode. With a ``FineTuningSchedule`` among the callbacks, that decides what trains when, and the
    optimizer holds a group for each layer group from the first step on.

    Args:
        backbone: A torchvision name such as ``vgg16``, ``timm/`` and a timm name, or the run
            directory or checkpoint of a ``FullTraining``.
        weights: ``DEFAULT`` or another name of published weights, a file (safetensors or a state
            dict), or null for random weights. Null also where ``backbone`` is a checkpoint, which
            brings its own.
        hidden: Sizes of the dense layers between backbone and logits.
        dropout: Share of the inputs of each dense layer that is dropped in training.
        lr_decay: The learning rate of a layer group is that of the optimizer times ``lr_decay`` to
            the power of its distance from the head (Howard and Ruder, 2018).
        group_lr: Learning rates of layer groups by name, instead.
        decay_norm_and_bias: Apply the optimizer's weight decay also to biases and to the
            parameters of norm layers.
        num_classes: Number of classes; given by the data.
        image_shape: Shape ``(C, H, W)`` of one image; given by the data.
        kwargs: Options of every approach.

    Raises:
        UserError: If backbone and weights don't exist or don't fit.
    """

    pretrained = True

    def __init__(
        self,
        num_classes: int,
        image_shape: tuple[int, int, int],
        backbone: str = "vgg16",
        weights: str | None = None,
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
        self.network = self.build_network(image_shape, backbone, weights, hidden, dropout)
        self._layer_groups = self.network.layer_groups()
        self._layer_group = group_of_parameters(self.network, self._layer_groups)
        self._group = dict(self._layer_group)  # of the optimizer: finer where globs cut
        self._owner = {name: name for name in self._layer_groups}  # their layer groups
        self.lr_decay = lr_decay
        self.group_lr = group_lr or {}
        self._check_learning_rates()
        self._scheduled = False
        self.scheduled_steps: int | None = None  # of all phases
        self._lr_factors: Mapping[str, float] = {}
        self.set_trained(self.trained_by(["head"]))

    def build_network(
        self,
        image_shape: tuple[int, int, int],
        backbone: str,
        weights: str | None,
        hidden: tuple[int, ...],
        dropout: float,
    ) -> Network:
        """Return the backbone with a new head; a subclass may bring a network of its own."""
        if not is_checkpoint(backbone):
            return LibraryNetwork(image_shape, self.num_logits, backbone, weights, hidden, dropout)
        if weights is not None:
            raise UserError(f"model.weights: {backbone} brings its own weights; leave weights null")
        network = load_network(backbone)
        features = network.num_features(image_shape, backbone)
        network.head = dense_head(features, self.num_logits, hidden, dropout)
        return network

    def initialize(self) -> None:
        """Leave the weights as they are: they are pretrained."""

    def layer_groups(self) -> dict[str, list[str]]:
        """Return the layer groups from input to output, by names of submodules of ``network``."""
        return self._layer_groups

    def trained_by(self, train: Train, norm: Norm = "eval") -> set[str]:
        """Return the names of the parameters of ``network`` that a phase trains.

        Args:
            train: ``all``, how many of the last layer groups, or names of layer groups and globs
                of modules.
            norm: What happens to the norm layers of the backbone that keep statistics: with
                ``eval`` their parameters are left out.

        Raises:
            UserError: If a name or a glob means nothing, or there are fewer layer groups.
        """
        groups = list(self.layer_groups())
        if train == "all":
            train = groups
        elif isinstance(train, int):
            if not 1 <= train <= len(groups):
                raise UserError(
                    f"the last {train} layer groups, of {len(groups)}: {', '.join(groups)}"
                )
            train = groups[-train:]
        elif isinstance(train, str):
            train = [train]
        trained = {name for wanted in train for name in self._named(wanted)}
        if norm == "eval":
            for layer in norm_layers(self.network.backbone):
                trained -= {f"backbone.{layer}.weight", f"backbone.{layer}.bias"}
        return trained

    def _named(self, wanted: str) -> set[str]:
        groups = list(self.layer_groups())
        if wanted in groups:
            return {name for name, group in self._layer_group.items() if group == wanted}
        if found := matching(self._layer_group, wanted):
            return found
        close = get_close_matches(wanted, groups, n=2)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(groups)}"
        raise UserError(f"{wanted!r} is no layer group and matches no module; {hint}")

    def begin_schedule(self, names: Iterable[str], trained: set[str]) -> None:
        """Put all parameters into the optimizer, and part the layer groups that globs cut.

        Args:
            names: All layer groups and globs that the phases train.
            trained: Names of the parameters that any phase trains.
        """
        self._scheduled = True
        self._ever_trained = trained
        globs = {name: self._named(name) for name in names if name not in self.layer_groups()}
        for group in self.layer_groups():
            members = [name for name in self._layer_group if self._layer_group[name] == group]
            labels = {
                name: ":".join([group, *(glob for glob, found in globs.items() if name in found)])
                for name in members
            }
            if len(set(labels.values())) > 1:
                self._group |= labels
                self._owner |= dict.fromkeys(labels.values(), group)

    def groups_of(self, names: Collection[str]) -> list[str]:
        """Return the groups of the optimizer that hold any of these parameters, input first."""
        order = list(self.layer_groups())
        found = {self._group[name]: order.index(self._layer_group[name]) for name in names}
        return sorted(found, key=lambda group: (found[group], group))

    def optimizer_groups(self) -> list[str]:
        """Return all groups of the optimizer, input first."""
        return self.groups_of(list(self._group))

    def has_trainable_norm(self, train: Train) -> bool:
        """Whether norm layers that keep statistics are among what a phase trains."""
        return self.trained_by(train, "train") != self.trained_by(train, "eval")

    def num_trained(self) -> int:
        """Return the number of parameters that the training changes, in any phase."""
        if not self._scheduled:
            return super().num_trained()
        named = self.network.named_parameters()
        return sum(p.numel() for name, p in named if name in self._ever_trained)

    def set_trained(self, names: Collection[str], norm: Norm = "eval") -> None:
        """Train these parameters of ``network``, and freeze all others.

        Args:
            names: Result of :meth:`trained_by`.
            norm: Mode of the norm layers of the backbone that keep statistics: all but ``train``
                normalise with the statistics they have, and don't change them.
        """
        self._norm = norm
        train_only(self.network, names)
        self.train(self.training)

    def train(self, mode: bool = True) -> "FineTuning":
        """Set the mode; what is frozen always evaluates."""
        super().train(mode)
        evaluate_frozen(self.network)
        if self._norm != "train":
            for layer in norm_layers(self.network.backbone).values():
                layer.eval()
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return a group for each layer group, from input to output, with and without decay."""
        groups: dict[str, dict[str, Any]] = {}
        for name, parameter in self.network.named_parameters():
            if not (self._scheduled or parameter.requires_grad):
                continue
            label, options = self._group[name], {}
            if parameter.ndim <= 1 and not self._decay_norm_and_bias:
                label, options = f"{label}/no_decay", {"weight_decay": 0.0}
            start = {"params": [], "name": label, "group": self._group[name], **options}
            groups.setdefault(label, start)["params"].append(parameter)
        order = self.optimizer_groups()
        return sorted(groups.values(), key=lambda group: order.index(group["group"]))

    def _build_optimizer(self) -> Optimizer:
        optimizer = super()._build_optimizer()
        self._base_lr: float = optimizer.defaults["lr"]
        return optimizer

    def total_steps(self) -> float:
        """Return the number of optimizer steps of the whole training."""
        return self.scheduled_steps or super().total_steps()

    def configure_optimizers(self) -> Any:
        """Build optimizer and scheduler.

        The scheduler works on ``scheduled_lr`` of each group; ``lr``, which the optimizer takes, is
        that times the factors of the layer group, and 0 for a frozen group.
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
            name = group["group"]
            factor = (
                self._lr_factors.get(name, 0.0) if self._scheduled else self.lr_multiplier(name)
            )
            trained = any(parameter.requires_grad for parameter in group["params"])
            group["lr"] = group["scheduled_lr"] * factor if trained else 0.0

    def lr_multiplier(self, group: str) -> float:
        """Return the learning rate of an optimizer group, as a multiple of the optimizer's own."""
        layer_group = self._owner[group]
        if layer_group in self.group_lr:
            if self._base_lr == 0:
                raise UserError("model.group_lr: needs an optimizer with lr greater than 0")
            return self.group_lr[layer_group] / self._base_lr
        groups = list(self.layer_groups())
        depth = len(groups) - 1 - groups.index(layer_group)
        return math.pow(self.lr_decay, depth)

    def _check_learning_rates(self) -> None:
        if not 0 < self.lr_decay <= 1:
            raise UserError(f"model.lr_decay: {self.lr_decay} must be in (0, 1]")
        groups = list(self.layer_groups())
        for name, lr in self.group_lr.items():
            if name not in groups:
                known = ", ".join(groups)
                raise UserError(f"model.group_lr: no layer group {name!r}; known are {known}")
            if lr < 0:
                raise UserError(f"model.group_lr: {lr} of {name} must be at least 0")
