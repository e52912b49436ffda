"""gaze.consistency.distances against NumPy, SciPy and torchmetrics; edges; derivatives; and as metrics against a
literal loop.
"""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import braycurtis, jensenshannon
from scipy.stats import pearsonr
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torchmetrics.functional.image import structural_similarity_index_measure

from gaze.cam.methods import normalize_cam
from gaze.choices import DISTANCES
from gaze.consistency.deviation import gaze_deviation
from gaze.consistency.distances import unit_map
from gaze.consistency.loss import GazeConsistencyLoss
from gaze.metrics.consistency import SUMMED, GazeConsistency

K, H, W = 3, 5, 7
RANGE = {"pearson": 2.0, "ssim": 2.0, "l2": (H * W) ** -0.5}  # the others: 1
BY_FORM = ("pearson", "js", "soft_iou")  # these look at the form of a map alone


def _maps(n: int, seed: int = 0, size: tuple[int, int] = (H, W)) -> Tensor:
    """Normalised maps with many cells that are exactly zero, as a CAM's are."""
    g = torch.Generator().manual_seed(seed)
    return normalize_cam((torch.rand(n, *size, generator=g, dtype=torch.float64) - 0.3).relu())


REFERENCE = {
    "squared": lambda a, b: ((a - b) ** 2).mean(),
    "l2": lambda a, b: np.linalg.norm(a - b) / a.size,
    "l1": lambda a, b: np.abs(a - b).mean(),
    "pearson": lambda a, b: 1 - pearsonr(a, b).statistic,
    "js": lambda a, b: jensenshannon(a, b, base=2) ** 2,
    # Bray-Curtis is (sum max - sum min) / (sum max + sum min)
    "soft_iou": lambda a, b: 1 - (1 - braycurtis(a, b)) / (1 + braycurtis(a, b)),
}


# ---- values


def test_a_deviation_is_numpys_or_scipys():
    for name in REFERENCE:
        a, b = _maps(5, 1), _maps(5, 2)
        expected = [REFERENCE[name](x.flatten().numpy(), y.flatten().numpy()) for x, y in zip(a, b, strict=True)]
        np.testing.assert_allclose(gaze_deviation(a, b, name), expected, rtol=1e-12)
        np.testing.assert_allclose(gaze_deviation(a, b[0], name)[0], expected[0], rtol=1e-12)


def test_ssim_is_torchmetrics_with_the_window_that_fits():
    for size, window in [
        ((28, 28), 11),
        ((11, 40), 11),
        ((10, 28), 9),
        ((7, 7), 7),
        ((5, 6), 5),
        ((4, 4), 3),
        ((112, 112), 11),
    ]:
        a, b = _maps(3, 1, size), _maps(3, 2, size)
        b[0] = 0.9 * a[0] + 0.05
        sigma = 1.5 * window / 11  # from which torchmetrics finds its window
        assert int(3.5 * sigma + 0.5) * 2 + 1 == window
        expected = structural_similarity_index_measure(
            a[:, None], b[:, None], sigma=sigma, data_range=1.0, reduction="none"
        )
        torch.testing.assert_close(gaze_deviation(a, b, "ssim"), 1 - expected, rtol=1e-9, atol=1e-12)


def test_ssim_has_a_value_on_the_smallest_maps():
    a, b = _maps(4, 1, (2, 2)), _maps(4, 2, (2, 2))
    light = (2 * a * b + 1e-4) / (a**2 + b**2 + 1e-4)  # a window of one cell
    torch.testing.assert_close(gaze_deviation(a, b, "ssim"), 1 - light.mean((1, 2)))


def test_a_deviation_is_symmetric_zero_for_equals_and_within_its_range():
    for name in DISTANCES:
        a, b = _maps(50, 1), _maps(50, 2)
        deviation = gaze_deviation(a, b, name)
        torch.testing.assert_close(deviation, gaze_deviation(b, a, name))
        torch.testing.assert_close(gaze_deviation(a, a, name), torch.zeros(50, dtype=a.dtype), rtol=0, atol=1e-12)
        extremes = gaze_deviation(a, (a == 0).double(), name)  # where one gazes the other does not
        assert extremes.mean() > 1.1 * deviation.mean() and deviation.min() >= 0
        assert extremes.max() <= RANGE.get(name, 1.0) + 1e-12


def test_a_deviation_does_not_depend_on_the_batch():
    for name in DISTANCES:
        a, b = _maps(6, 1).float(), _maps(6, 2).float()
        alone = torch.cat([gaze_deviation(a[i : i + 1], b[i], name) for i in range(6)])
        torch.testing.assert_close(gaze_deviation(a, b, name), alone, rtol=1e-6, atol=1e-7)


def test_the_height_of_a_map_is_no_part_of_its_form():
    for name in ["pearson", "js"]:
        a, b = _maps(4, 1), _maps(4, 2)
        torch.testing.assert_close(gaze_deviation(0.3 * a, b, name), gaze_deviation(a, b, name))


# ---- flat and empty maps


def test_flat_and_empty_maps_have_the_documented_value_and_finite_gradients():
    for name in DISTANCES:
        for dtype in [torch.float32, torch.float64]:
            some = _maps(1, 1)[0].to(dtype)
            zero, flat = torch.zeros_like(some), torch.full_like(some, 0.7)
            pairs = [(zero, zero), (zero, some), (some, zero), (flat, some), (some, flat), (flat, flat), (some, some)]
            a, b = (torch.stack(maps).requires_grad_() for maps in zip(*pairs, strict=True))
            deviation = gaze_deviation(a, b, name)
            for gradient in torch.autograd.grad(deviation.sum(), (a, b)):
                assert gradient.isfinite().all()
                assert gradient[-1].abs().max() < 1e-3  # least where they are equal
            if name in BY_FORM:
                assert deviation[:3].tolist() == [1, 1, 1]
            else:
                assert deviation[0] == 0 and deviation[1:3].min() > 0.02
            if name == "pearson":
                assert deviation[:6].tolist() == [1] * 6
            else:
                assert deviation[5].abs() < 1e-6


def test_a_flat_map_has_no_direction_at_any_size_and_precision():
    for value in (1e-3, 0.1, 0.7, 1.0):
        for side in (4, 28, 112):
            assert not unit_map(torch.full((1, side, side), value)).any()
    spike = torch.full((1, 112, 112), 0.5)
    spike[0, 3, 4] += 0.01
    assert unit_map(spike).square().sum() == pytest.approx(1)


# ---- derivatives


@pytest.mark.parametrize("name", DISTANCES)
def test_a_deviation_has_the_derivatives_of_finite_differences(name):
    g = torch.Generator().manual_seed(5)
    a, b = (torch.rand(2, 3, 4, generator=g, dtype=torch.float64).add(0.05).requires_grad_() for _ in range(2))
    assert gradcheck(lambda x, y: gaze_deviation(x, y, name), (a, b))
    assert gradgradcheck(lambda x, y: gaze_deviation(x, y, name), (a, b))


@pytest.mark.parametrize("name", DISTANCES)
def test_the_loss_of_maps_with_empty_cells_falls_along_its_gradient(name):
    loss = GazeConsistencyLoss(1, name, "batch")
    raw = (torch.rand(6, H, W, generator=torch.Generator().manual_seed(1)) - 0.3).requires_grad_()
    label = torch.zeros(6, dtype=torch.int64)
    values = []
    for _ in range(30):
        value = loss(normalize_cam(raw.relu()), label, label)
        (gradient,) = torch.autograd.grad(value, raw)
        raw = (raw - 0.02 * gradient / gradient.norm()).detach().requires_grad_()
        values.append(value.item())
    assert values[-1] < 0.97 * values[0]


# ---- as a metric


def _evaluated(n: int = 70) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(2)
    target = torch.randint(K, (n,), generator=g)
    preds = torch.where(torch.rand(n, generator=g) < 0.7, target, (target + 1) % K)
    cam = _maps(n, 3).float() * 0.5 + 0.2 * _maps(K, 4).float()[target]
    cam[::9], cam[4] = 0, 0.3
    target[5] = -1
    return cam, preds, target


def _literal(name: str, cam: Tensor, preds: Tensor, target: Tensor, min_samples: int) -> float:
    """Means first, then deviations, one image after the other."""
    values = []
    for c in range(K):
        own = cam[(target == c) & (preds == c)].double()
        if len(own) >= min_samples:
            values += [gaze_deviation(one[None], own.mean(0), name).item() for one in own]
    return float(np.mean(values)) if values else float("nan")


def test_the_metric_is_the_literal_loop_in_any_batches():
    for name in DISTANCES:
        for min_samples in [1, 2, 17]:
            data = _evaluated()
            metric = GazeConsistency(K, name, min_samples)
            for cam, preds, target in zip(*(t.split([13, 1, 40, 16]) for t in data), strict=True):
                metric.update(cam, preds, target)
            assert metric.compute().item() == pytest.approx(_literal(name, *data, min_samples), rel=1e-6, nan_ok=True)
            metric.reset()
            metric.update(*data)
            assert metric.compute().item() == pytest.approx(_literal(name, *data, min_samples), rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("name", DISTANCES)
def test_what_the_metric_keeps_is_what_it_says(name):
    cam, preds, target = _evaluated()
    metric = GazeConsistency(K, name)

    def size() -> int:
        states = metric.metric_state.values()
        return sum(s.nbytes for state in states for s in (state if isinstance(state, list) else [state]))

    metric.update(cam, preds, target)
    once = size()
    metric.update(cam, preds, target)
    assert size() - once == (0 if name in SUMMED else 70 * (4 * H * W + 8))


def test_no_correct_image_is_nan():
    for name in sorted({*DISTANCES} - {"squared"}):
        cam, _, target = _evaluated()
        metric = GazeConsistency(K, name)
        metric.update(cam, (target + 1) % K, target)
        assert metric.compute().isnan()
