"""Temperature scaling: probabilities that are as sure as they are right."""

import math
from copy import copy
from typing import Any

import lightning as L
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional

from project.approaches import ImageClassifier
from project.approaches.scores import calibration_error
from project.console import show
from project.data import ImageDataModule
from project.data.batches import BatchLoader, Images, Source
from project.data.ranks import of_all_ranks
from project.data.sampling import BatchSampler
from project.errors import UserError
from project.signals import stop_where_agreed

LIMIT = 20.0  # of a temperature, and 1 / it; a search that ends there has found no minimum
LEAST_STANDARD_ERRORS = 2.0  # by which the loss must get smaller


class TemperatureScaling(L.Callback):
    """Divides the logits of a test or a prediction by a number that the validation images give.

    The number, the temperature, makes their mean cross entropy smallest (Guo et al., 2017). It
    changes how sure a prediction is, and never which class is predicted.
    """

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the temperature, and use it.

        Raises:
            UserError: If there are no validation images.
        """
        self._calibrate(trainer, pl_module)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the temperature, and use it."""
        self._calibrate(trainer, pl_module)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go back to the logits as the network gives them."""
        assert isinstance(pl_module, ImageClassifier)
        pl_module.temperature = 1.0

    on_predict_end = on_test_end

    def _calibrate(self, trainer: Any, model: L.LightningModule) -> None:
        assert isinstance(model, ImageClassifier)
        images = _validation_images(trainer.datamodule)
        logits, labels = _evaluated(trainer, model, images)
        model.temperature = found = temperature(logits, labels)
        if trainer.global_rank == 0:
            before, after = (_described(logits / by, labels) for by in (1.0, found))
            show(
                f"calibrate: temperature {found:.3f}, by {len(labels):,} validation images: "
                f"{before} before, {after} after"
                if found != 1
                else f"calibrate: {len(labels):,} validation images don't tell how sure a "
                "prediction should be; probabilities stay as they are"
            )


def temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the number that logits have to be divided by for the smallest cross entropy.

    It is 1 if that has no minimum, as where all images are right, or is smaller by less than two
    standard errors of the difference: few images can tell a wrong one.

    Args:
        logits: ``[N, K]``.
        labels: int64 ``[N]``.
    """
    logits = logits.double()

    def losses(log: float) -> Tensor:
        return functional.cross_entropy(logits / math.exp(log), labels, reduction="none")

    found = minimize_scalar(
        lambda log: losses(log).mean().item(),
        bounds=(-math.log(LIMIT), math.log(LIMIT)),
        method="bounded",
        options={"xatol": 1e-4},
    )
    best: float = found.x
    gains = losses(0.0) - losses(best)
    told = gains.mean() > LEAST_STANDARD_ERRORS * gains.std() / math.sqrt(len(gains))
    return math.exp(best) if told and abs(best) < 0.99 * math.log(LIMIT) else 1.0


def _described(logits: Tensor, labels: Tensor) -> str:
    confidences, predictions = logits.softmax(1).max(1)
    error = calibration_error(confidences, predictions == labels)
    return f"calibration error {error:.4f}, loss {functional.cross_entropy(logits, labels):.4f}"


def _validation_images(data: ImageDataModule) -> Images:
    if data.val_images is None and data.train_images is None:  # only what predict_dir names is read
        data = copy(data)
        data.setup("validate")
    if not data.val_images:
        raise UserError(
            "needs validation images, and the data has none; set data.val_fraction", "calibrate"
        )
    return data.val_images


@torch.inference_mode()
def _evaluated(trainer: Any, model: ImageClassifier, images: Images) -> tuple[Tensor, Tensor]:
    """Return the logits of all ranks, float32 ``[N, K]``, and the labels, on the CPU."""
    data: ImageDataModule = trainer.datamodule
    sampler = BatchSampler(
        len(images),
        data.fitting_eval_batch_size,
        rank=trainer.global_rank,
        world_size=trainer.world_size,
    )
    mine: list[tuple[Tensor, Tensor]] = []
    for place, batch in enumerate(
        BatchLoader(Source(images), sampler, data.num_workers_for(images))
    ):
        stop_where_agreed(trainer, place)
        indices = batch.indices.to(model.device)
        transformed = data.transform(batch.images.to(model.device), indices, None)
        with trainer.precision_plugin.forward_context():
            logits = model.predicted_logits(transformed)
        mine.append((logits.float().cpu(), batch.labels))
    found = of_all_ranks(mine, trainer.world_size)
    return torch.cat([logits for logits, _ in found]), torch.cat([labels for _, labels in found])
