"""How many wrong labels ``inspect`` finds; ``python -m`` this module measures it on a FOLDER.

Of some training labels, each becomes another class by chance. Counted is how many of these are
among the first of the list, which is as long as there are wrong labels. If cleanlab can be
imported, it ranks the same probabilities.
"""

import argparse
import importlib.util
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from project.commands.inspect.command import Request, _built, _features
from project.commands.inspect.images import find
from project.commands.probing import held_out_probabilities
from project.commands.suspects import FOLDS, judge

Ranking = Callable[[Tensor, Tensor], Tensor]


def flipped(labels: Tensor, classes: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return labels of which a share is wrong, and which these are, int64 ``[N]`` and ``[F]``."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    step = torch.randint(1, classes, (len(chosen),), generator=generator)
    noisy = labels.clone()
    noisy[chosen] = (labels[chosen] + step) % classes
    return noisy, chosen


def ours(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Rank as ``inspect`` does: the suspects, then the others by their margin."""
    judged = judge(probabilities, labels)
    rank = judged.margin.clone()
    rank[judged.suspects] -= 2  # before all others
    return rank.argsort(stable=True)


def cleanlab(filter_by: str) -> Ranking:
    """Return what ranks as cleanlab does, by the normalised margin."""
    found: Any = importlib.import_module("cleanlab.filter")

    def rank(probabilities: Tensor, labels: Tensor) -> Tensor:
        issues = found.find_label_issues(
            labels.numpy(),
            probabilities.numpy(),
            filter_by=filter_by,
            return_indices_ranked_by="normalized_margin",
            n_jobs=1,
        )
        return torch.tensor(issues.copy())

    return rank


def test_wrong_labels_of_clear_classes_are_found() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    features = torch.randn(300, 8, generator=generator) + 4 * torch.eye(3, 8)[labels]
    noisy, wrong = flipped(labels, 3, 0.05, seed=0)
    first = ours(held_out_probabilities(features, noisy, 3, FOLDS), noisy)[: len(wrong)]
    assert torch.isin(wrong, first).double().mean() >= 0.9


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--weights", default="DEFAULT")
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    data: dict[str, object] = {
        "class_path": "ImageFolder",
        "init_args": {"root": arguments.folder},
    }
    model, source = _built(Request(weights=arguments.weights), data)
    source.setup_lazily()
    found = find(source, 10**9)
    images = found.of("train", "val")
    features, labels = _features(model, source, found, images), found.labels[images]
    classes = len(found.class_names)
    rankings: dict[str, Ranking] = {"inspect": ours}
    if importlib.util.find_spec("cleanlab"):
        for name in ("confident_learning", "prune_by_noise_rate"):
            rankings[f"cleanlab, {name}"] = cleanlab(name)
    shares: dict[str, list[float]] = {name: [] for name in rankings}
    for seed in range(arguments.seeds):
        noisy, wrong = flipped(labels, classes, arguments.share, seed)
        probabilities = held_out_probabilities(features, noisy, classes, FOLDS)
        for name, rank in rankings.items():
            first = rank(probabilities, noisy)[: len(wrong)]
            shares[name].append(torch.isin(wrong, first).double().mean().item())
    print(f"{len(labels):,} images, {arguments.share:.0%} of the labels wrong")
    for name, values in shares.items():
        print(f"{name}: {statistics.mean(values):.3f} {[round(value, 3) for value in values]}")


if __name__ == "__main__":
    main()
