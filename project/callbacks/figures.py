"""Pictures of a run: PNG files in its directory, and the same in W&B."""

from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from project.approaches import ImageClassifier

MAX_CLASSES = 100  # more can't be read


class Figures(L.Callback):
    """Draws the confusion matrix of the test as ``confusion_matrix.png``."""

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the confusion matrix."""
        assert isinstance(pl_module, ImageClassifier)
        if trainer.global_rank != 0 or pl_module.num_classes > MAX_CLASSES:
            return
        path = Path(trainer.default_root_dir, "confusion_matrix.png")
        draw_confusion_matrix(
            pl_module.test_metrics.total_confusion.cpu(), pl_module.class_names, path
        )
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("test/confusion_matrix", [str(path)])


def draw_confusion_matrix(confusion: Tensor, class_names: tuple[str, ...], path: Path) -> None:
    """Draw counts, coloured by the share of each label.

    Args:
        confusion: Counts ``[K, K]``, labels by predictions.
        class_names: Name of each class.
        path: PNG file to write.
    """
    from matplotlib.figure import Figure  # slow to import, and needed at the very end only

    share = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    side = max(4.0, 1.5 + 0.45 * len(class_names))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the label", shrink=0.8)
    ticks = range(len(class_names))
    axes.set_xticks(ticks, class_names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, class_names)
    axes.set(xlabel="prediction", ylabel="label", title=f"{int(confusion.sum()):,} test images")
    if len(class_names) <= 30:
        for row in ticks:
            for column in ticks:
                if count := int(confusion[row, column]):
                    color = "white" if share[row, column] > 0.5 else "black"
                    axes.text(
                        column, row, f"{count:,}", ha="center", va="center", color=color, fontsize=8
                    )
    figure.savefig(path, dpi=150)
