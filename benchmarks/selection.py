"""Measure what each rule of ``checkpoint.selection`` gives on the test images.

``python -m benchmarks.selection --seeds 5 NAME --config … --data.root FOLDER`` trains once for each
seed, as ``python -m project fit`` with these options does. After each validation it also looks at
the test images, so that all rules are compared on the very same trainings. Each seed's results are
in ``runs/selection/NAME_SEED.json``, and those that are there aren't measured again; the last line
is a row of a table in Markdown: mean ± standard deviation over the seeds, in percent.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any, get_args

import lightning as L
import torch
from torch import Tensor

from project.approaches import ImageClassifier
from project.approaches.selection import Rule, Selection, Validated
from project.cli import main
from project.data.base import ImageDataModule

FOLDER = Path("runs/selection")
MOST = 1000  # test images that are looked at after each validation
RULES: tuple[Rule, ...] = get_args(Rule)


class EachEpoch(L.Callback):
    """Finds the losses of all validation images and the test accuracy after each validation.

    Args:
        file: Gets which validation each rule chose, and the test accuracy of that.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)
        self.losses: list[Tensor] = []  # float32 [N] of each validation
        self.accuracies: list[float] = []  # of the test images

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure both."""
        assert isinstance(pl_module, ImageClassifier)
        if trainer.sanity_checking:
            return
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]  # set late
        self.losses.append(_values(pl_module, data, "val")[0])
        self.accuracies.append(_values(pl_module, data, "test")[1].mean().item())

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write what each rule would have chosen."""
        found = {rule: chosen(rule, self.losses) for rule in RULES}
        torch.save(self.losses, self.file.with_suffix(".pt"))
        self.file.write_text(
            json.dumps({"chosen": found, "accuracies": self.accuracies, "val": len(self.losses[0])})
        )


def chosen(rule: Rule, losses: list[Tensor]) -> int:
    """Return the number of the validation that a rule chooses, from 0 on."""
    selection = Selection(rule, "min")
    takes = [selection.takes(Validated(values.mean().item(), values)) for values in losses]
    return max(number for number, taken in enumerate(takes) if taken)


@torch.no_grad()
def _values(model: ImageClassifier, data: ImageDataModule, split: str) -> tuple[Tensor, Tensor]:
    """Return the loss of each image, and whether it is classified rightly."""
    images = data.val_images if split == "val" else data.test_images
    assert images is not None
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    order = order if split == "val" else order[:MOST]
    losses, right = [], []
    was_training = model.training
    model.eval()
    for indices in order.sort().values.split(250):
        batch = images[indices]
        logits = model.evaluation_logits(data.transform(batch.images, batch.indices, None))
        losses.append(model.cross_entropy.of_images(logits, batch.labels))
        right.append(model.class_logits(logits).argmax(dim=1) == batch.labels)
    model.train(was_training)
    return torch.cat(losses), torch.cat(right).float()


def measure(name: str, seeds: int, options: list[str]) -> dict[int, Any]:
    """Train for each seed that isn't measured yet, and return the results of all."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    callback = {"class_path": "benchmarks.selection.EachEpoch"}
    results = {}
    for seed in range(1, seeds + 1):
        file = FOLDER / f"{name}_{seed}.json"
        if not file.exists():
            added = json.dumps(callback | {"init_args": {"file": str(file)}})
            main(["fit", *options, f"--seed_everything={seed}", f"--trainer.callbacks+={added}"])
        results[seed] = json.loads(file.read_text())
    return results


def row(name: str, results: dict[int, Any]) -> str:
    """Return a row of a table in Markdown."""
    cells = []
    for rule in RULES:
        found = [100 * one["accuracies"][one["chosen"][rule]] for one in results.values()]
        spread = statistics.stdev(found) if len(found) > 1 else 0.0
        cells.append(f"{statistics.mean(found):.1f} ± {spread:.1f}")
    return f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("name")
    arguments, rest = parser.parse_known_args()
    print(row(arguments.name, measure(arguments.name, arguments.seeds, rest)))
