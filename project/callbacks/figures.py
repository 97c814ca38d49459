"""Pictures of a run: PNG files in its directory, and the same in W&B."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from project.approaches import ImageClassifier
from project.console import show

MAX_CLASSES = 100  # more can't be read


class Figures(L.Callback):
    """Draws the confusion matrix of the test as ``confusion_matrix.png``.

    A picture that can't be drawn is one line: what was trained must not be lost for it.
    """

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the confusion matrix."""
        assert isinstance(pl_module, ImageClassifier)
        if trainer.global_rank != 0:
            return
        path = Path(trainer.default_root_dir, "confusion_matrix.png")
        confusion = pl_module.test_metrics.total_confusion
        if confusion is None or pl_module.num_classes > MAX_CLASSES:
            classes = f"{pl_module.num_classes:,} classes"
            show(f"{path.name}: not drawn, as {classes} are more than {MAX_CLASSES}")
            return
        with allowed_to_fail(path.name):
            draw_confusion_matrix(confusion.cpu(), pl_module.class_names, path)
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.log_image("test/confusion_matrix", [str(path)])


@contextmanager
def allowed_to_fail(name: str) -> Iterator[None]:
    """Say in one line that a picture can't be drawn, whatever the reason, and go on."""
    try:
        yield
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        show(f"warning: {name} can't be drawn: {reason}")


@contextmanager
def drawing() -> Iterator[None]:
    """Draw names as they are: a dollar is no formula, and a letter that a font lacks no warning."""
    from matplotlib import rc_context  # slow to import, like all of matplotlib

    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def short(name: str, most: int = 24) -> str:
    """Return a name, cut to at most ``most`` characters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


@drawing()
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
    names = [short(name) for name in class_names]
    axes.set_xticks(ticks, names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, names)
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
