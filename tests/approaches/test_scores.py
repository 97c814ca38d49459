"""The scores of a test are those of scikit-learn, whatever is missing, tied or alone."""

import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import Tensor

from project.approaches.scores import calibration_error, of_classes, of_ranking, places


def predicted(images: int, classes: int, present: int, ties: bool) -> tuple[Tensor, Tensor]:
    """Probabilities ``[N, K]`` that are better than chance, and labels of some of the classes."""
    generator = torch.Generator().manual_seed(images + classes)
    labels = torch.randint(present, (images,), generator=generator)
    logits = torch.randn(images, classes, generator=generator)
    logits[torch.arange(images), labels] += 1
    probabilities = logits.softmax(1)
    return ((probabilities * 8).round() / 8 if ties else probabilities), labels


CASES = {
    "ten": (1000, 10, 10, False),
    "two": (300, 2, 2, False),
    "ties": (500, 6, 6, True),
    "absent": (200, 6, 4, False),
    "absent and ties": (60, 9, 2, True),
    "one class": (20, 3, 1, False),
    "one image": (1, 4, 4, False),
    "no choice": (10, 1, 1, False),
    "more classes than images": (50, 200, 200, False),
}


@pytest.mark.parametrize("case", CASES)
def test_scores_of_classes_are_those_of_scikit_learn(case: str) -> None:
    probabilities, labels = predicted(*CASES[case])
    found = of_classes(probabilities, labels)
    classes = range(probabilities.shape[1])
    names = ("precision", "recall", "f1", "images")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = metrics.precision_recall_fscore_support(
            labels, probabilities.argmax(1), labels=classes, zero_division=np.nan
        )
    for name, values in zip(names, expected):
        np.testing.assert_allclose(found[name], values, err_msg=name)
    assert found["predicted"].sum() == len(labels)
    for label in classes:
        of_it, scores = (labels == label).numpy(), probabilities[:, label].numpy()
        auroc, precision = (found[name][label] for name in ("auroc", "average_precision"))
        if 0 < of_it.sum() < len(labels):
            assert auroc == pytest.approx(metrics.roc_auc_score(of_it, scores), abs=1e-6)
        else:
            assert auroc.isnan()
        if of_it.any():
            right = metrics.average_precision_score(of_it, scores)
            assert precision == pytest.approx(right, abs=1e-6)
        else:
            assert precision.isnan()


@pytest.mark.slow
def test_of_a_thousand_classes_the_means_are_those_of_scikit_learn() -> None:
    probabilities, labels = predicted(3000, 1000, 1000, False)
    labels[:1000] = torch.arange(1000)  # scikit-learn wants all of them
    found = of_ranking(of_classes(probabilities, labels))
    one_hot, double = np.eye(1000)[labels], probabilities.numpy()
    auroc = metrics.roc_auc_score(one_hot, double, average="macro")
    precision = metrics.average_precision_score(one_hot, double, average="macro")
    assert found["auroc"] == pytest.approx(auroc, abs=1e-5)
    assert found["average_precision"] == pytest.approx(precision, abs=1e-5)


@pytest.mark.parametrize("case", ["ten", "ties", "absent", "absent and ties"])
@pytest.mark.parametrize("most", [1, 2, 5])
def test_the_label_is_among_the_first_as_in_scikit_learn(case: str, most: int) -> None:
    probabilities, labels = predicted(*CASES[case])
    found = (places(probabilities, labels) < most).double().mean()
    classes = probabilities.shape[1]
    # of equal classes it takes the last first, a prediction takes the first
    right = metrics.top_k_accuracy_score(
        classes - 1 - labels.numpy(),
        probabilities.flip(1).numpy(),
        k=most,
        labels=range(classes),
    )
    assert found == pytest.approx(right)
    if most == 1:
        assert found == (probabilities.argmax(1) == labels).double().mean()


@pytest.mark.parametrize("case", CASES)
def test_calibration_error_is_the_mean_distance_over_bins(case: str) -> None:
    probabilities, labels = predicted(*CASES[case])
    confidences, predictions = probabilities.max(1)
    right = predictions == labels
    error = 0.0
    for low in np.arange(15) / 15:
        inside = ((confidences > low) & (confidences <= low + 1 / 15)).numpy()
        if inside.any():
            sure, true = confidences[inside].mean(), right[inside].float().mean()
            error += inside.mean() * abs(sure - true)
    assert calibration_error(confidences, right) == pytest.approx(float(error), abs=1e-5)
