"""What holds for any map: ranges, shapes, and what must not change it (scale, order of images, flips)."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from gaze.cam.methods import normalize_cam, weighted_map
from gaze.cam.pool import pool_to_grid
from gaze.choices import DISTANCES
from gaze.consistency.deviation import gaze_deviation, map_entropy
from gaze.consistency.loss import GazeConsistencyLoss
from gaze.metrics.compare import compare_maps
from gaze.metrics.consistency import GazeConsistency

FLIPS = ((1,), (2,), (1, 2))
few = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def maps(draw, smallest: int = 1, batches: int = 1) -> tuple[Tensor, ...]:
    """Un-normalised maps (B, H, W) float64, >= 0, empty and flat ones among them; several of one shape."""
    shape = (draw(st.integers(2, 5)), draw(st.integers(smallest, 9)), draw(st.integers(smallest, 9)))
    values = st.floats(0, 1000, allow_subnormal=False) | st.just(0.0) | st.just(1.0)
    return tuple(torch.from_numpy(draw(hnp.arrays("float64", shape, elements=values))) for _ in range(batches))


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7, equal_nan=True)


@few
@given(maps(), st.floats(0.1, 1e3))
def test_a_normalised_map_spans_its_range_whatever_its_scale(drawn, factor):
    (cam,) = drawn
    scaled = normalize_cam(cam)
    assert scaled.shape == cam.shape and scaled.min() >= 0 and scaled.max() <= 1
    wide = cam.amax((1, 2)) - cam.amin((1, 2)) > 1e-3
    assert (scaled.amax((1, 2))[wide] > 0.99).all() and (scaled.amin((1, 2)) == 0).all()
    torch.testing.assert_close(normalize_cam(factor * cam)[wide], scaled[wide], rtol=0, atol=2e-4)
    for axes in FLIPS:
        close(normalize_cam(cam.flip(axes)), scaled.flip(axes))


@few
@given(maps(), st.integers(1, 8), st.integers(1, 8))
def test_pooling_keeps_the_mean_and_turns_with_the_map(drawn, rows, columns):
    (cam,) = drawn
    pooled = pool_to_grid(cam, (rows, columns))
    assert pooled.shape == (len(cam), rows, columns)
    close(pooled.mean((1, 2)), cam.mean((1, 2)))
    assert (pooled.amin((1, 2)) >= cam.amin((1, 2)) - 1e-6).all() and (
        pooled.amax((1, 2)) <= cam.amax((1, 2)) + 1e-6
    ).all()
    close(pool_to_grid(cam.mT, (columns, rows)), pooled.mT)
    for axes in FLIPS:
        close(pool_to_grid(cam.flip(axes), (rows, columns)), pooled.flip(axes))


@few
@given(maps(batches=2))
def test_a_deviation_is_of_each_pair_alone_symmetric_and_blind_to_flips(drawn):
    a, b = map(normalize_cam, drawn)
    order = torch.arange(len(a)).flip(0)
    for name in DISTANCES:
        deviation = gaze_deviation(a, b, name)
        assert deviation.shape == (len(a),) and deviation.min() >= -1e-9 and deviation.max() <= 2 + 1e-9, name
        close(gaze_deviation(b, a, name), deviation)
        close(gaze_deviation(a[order], b[order], name), deviation[order])
        for axes in FLIPS:
            close(gaze_deviation(a.flip(axes), b.flip(axes), name), deviation)


@few
@given(maps(smallest=2))
def test_entropy_is_blind_to_the_order_of_cells_and_to_scale(drawn):
    (cam,) = drawn
    entropy = map_entropy(cam)
    assert (entropy >= 0).all() and (entropy <= 1 + 1e-9).all()
    close(map_entropy(3 * cam), entropy)
    close(map_entropy(cam.flatten(1).flip(1).view_as(cam)), entropy)


@few
@given(maps(), st.integers(0, 2**31 - 1))
def test_loss_and_metric_do_not_see_the_order_of_images_and_flips(drawn, seed):
    cam = normalize_cam(drawn[0])
    generator = torch.Generator().manual_seed(seed)
    preds, target = (torch.randint(0, 2, (len(cam),), generator=generator) for _ in range(2))
    order = torch.randperm(len(cam), generator=generator)

    def both(cam: Tensor, preds: Tensor, target: Tensor) -> Tensor:
        metric = GazeConsistency(2)
        metric.update(cam, preds, target)
        loss = GazeConsistencyLoss(2, reference="batch")(cam, preds, target)
        return torch.stack([loss, metric.compute().double().nan_to_num()])

    plain = both(cam, preds, target)
    assert plain.min() >= 0 and plain.max() <= 1
    close(both(cam[order], preds[order], target[order]), plain)
    close(both(cam.flip(2), preds, target), plain)
    torch.testing.assert_close(*plain, rtol=1e-5, atol=1e-6)  # one definition, two implementations


@few
@given(maps(smallest=4, batches=2))
def test_pair_columns_turn_with_both_maps(drawn):
    a, b = drawn
    columns, flipped = compare_maps(a, b), compare_maps(a.flip(2), b.flip(2))
    for name in ("pearson", "sim", "js", "mad", "centroid_shift", "emd"):  # overlap gives ties to the first cells
        torch.testing.assert_close(flipped[name], columns[name], rtol=1e-5, atol=1e-5, equal_nan=True, msg=name)


@few
@given(maps(), st.integers(1, 4))
def test_a_weighted_map_is_linear_where_it_is_positive_in_either_memory_order(drawn, channels):
    (cam,) = drawn
    features = torch.stack([cam * (k + 1) for k in range(channels)], 1)  # (B, M, H, W)
    alpha = torch.linspace(-1, 2, channels, dtype=torch.float64).expand(len(cam), channels)
    expected = (features * alpha[:, :, None, None]).sum(1).relu()
    for order in (torch.contiguous_format, torch.channels_last):
        close(weighted_map(features.contiguous(memory_format=order), alpha), expected)
