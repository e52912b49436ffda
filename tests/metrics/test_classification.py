"""gaze.metrics.classification: means over classes, against scikit-learn."""

import warnings

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score

from gaze.metrics.classification import BalancedAccuracy, MacroF1


@pytest.mark.parametrize("classes", [(0, 1, 2, 3), (0, 3), (2,)])
def test_means_over_classes_are_scikit_learns(classes):
    draw = torch.Generator().manual_seed(0)
    target = torch.tensor(classes)[torch.randint(len(classes), (200,), generator=draw)]
    preds = torch.where(torch.rand(200, generator=draw) < 0.6, target, torch.randint(3, (200,), generator=draw))
    balanced, f1 = BalancedAccuracy(4), MacroF1(4)
    for part in (slice(0, 90), slice(90, 200)):
        balanced.update(preds[part], target[part])
        f1.update(preds[part], target[part])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are predicted and do not occur
        expected = balanced_accuracy_score(target, preds)
    assert balanced.compute().item() == pytest.approx(expected)
    assert f1.compute().item() == pytest.approx(f1_score(target, preds, average="macro"))


def test_without_images_they_are_0():
    assert BalancedAccuracy(3).compute() == MacroF1(3).compute() == 0
