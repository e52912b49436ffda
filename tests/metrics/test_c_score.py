"""gaze.metrics.c_score against a literal loop over all pairs."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

import gaze.metrics.c_score
from gaze.metrics.c_score import CScore, c_score

K, H, W = 3, 4, 6


def _data(n: int = 50, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Maps, logits, labels; some maps empty, class 2 with one correct image, a row of padding."""
    g = torch.Generator().manual_seed(seed)
    target = torch.randint(2, (n,), generator=g)
    target[0] = 2
    cam = (torch.rand(n, H, W, generator=g) - 0.3).relu()
    cam[3::8] = 0
    logits = 2 * torch.randn(n, K, generator=g)
    logits[0, 2], logits[:, 2] = 5, logits[:, 2] - 9 * (target != 2)
    target[7:8] = -1
    return cam, logits, target


def _literal(cam: Tensor, logits: Tensor, target: Tensor, min_samples: int = 2) -> float:
    confidence, maps = logits.double().softmax(1).numpy(), cam.double().numpy()
    values = []
    for c in range(K):
        own = [i for i in range(len(cam)) if target[i] == c and logits[i].argmax() == c]
        pairs = list(combinations(own, 2))
        if not pairs or len(own) < min_samples:
            continue
        weights = [confidence[i, c] * confidence[j, c] for i, j in pairs]
        overlaps = []
        for i, j in pairs:
            union = np.maximum(maps[i], maps[j]).sum()
            overlaps.append(np.minimum(maps[i], maps[j]).sum() / union if union else 0)
        values.append(np.average(overlaps, weights=weights))
    return float(np.mean(values)) if values else float("nan")


@pytest.mark.parametrize("rows", [3, 256])
@pytest.mark.parametrize("min_samples", [1, 2, 14, 99])
def test_the_metric_is_the_literal_loop_over_pairs(min_samples, rows, monkeypatch):
    monkeypatch.setattr(gaze.metrics.c_score, "ROWS", rows)
    data, metric = _data(), CScore(K, min_samples)
    for cam, logits, target in zip(*(t.split([9, 1, 30, 10]) for t in data), strict=True):
        metric.update(cam, logits, target)
    assert metric.compute().item() == pytest.approx(_literal(*data, min_samples), rel=1e-6, nan_ok=True)
    metric.reset()
    other = _data(20, seed=4)
    metric.update(*other)
    assert metric.compute().item() == pytest.approx(_literal(*other, min_samples), rel=1e-6, nan_ok=True)


def test_equal_maps_score_one_disjoint_and_empty_ones_zero():
    label, sure = torch.zeros(3, dtype=torch.int64), torch.full((3,), 0.9)
    eye = torch.eye(9).view(9, 3, 3)
    assert c_score(eye[[2, 2, 2]], sure, label, 1) == 1
    assert c_score(eye[:3], sure, label, 1) == 0
    assert c_score(torch.zeros(3, 3, 3), sure, label, 1) == 0


def test_a_sure_pair_counts_more():
    cam = torch.eye(4).view(4, 2, 2)[[0, 0, 1]]  # the first two agree
    label = torch.zeros(3, dtype=torch.int64)
    weights = torch.tensor([0.9, 0.8, 0.5])
    expected = 0.72 / (0.72 + 0.45 + 0.40)
    assert c_score(cam, weights, label, 1).item() == pytest.approx(expected)


def test_it_has_the_gradient_of_finite_differences():
    cam, _, _ = _data(6)
    maps = cam.double().add(0.1).requires_grad_()
    weights = torch.linspace(0.3, 0.9, 6, dtype=torch.float64).requires_grad_()
    label = torch.tensor([0, 1, 0, 1, 0, 2])
    assert torch.autograd.gradcheck(lambda m, w: c_score(m, w, label, 2), (maps, weights))


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_nothing_to_compare_is_nan():
    metric = CScore(K)
    assert metric.compute().isnan()
    metric.update(torch.zeros(0, H, W), torch.zeros(0, K), torch.zeros(0, dtype=torch.int64))
    assert metric.compute().isnan()
    cam, logits, target = _data(1)
    metric.update(cam, logits, target)
    assert metric.compute().isnan()


def test_maps_that_are_all_empty_have_no_score():
    cam, logits, target = _data()
    metric = CScore(K)
    metric.update(torch.zeros_like(cam), logits, target)
    assert metric.compute().isnan()


def test_predictions_without_confidence_are_refused():
    cam, logits, target = _data()
    with pytest.raises(ValueError, match=r"needs logits \(B, 3\), got \(50,\)"):
        CScore(K).update(cam, logits.argmax(1), target)


def test_maps_with_a_graph_leave_none_in_the_states():
    cam, logits, target = _data()
    metric = CScore(K)
    metric.update(cam.requires_grad_(), logits.requires_grad_(), target)
    assert not metric.maps[0].requires_grad and not metric.confidence[0].requires_grad
