"""Deletion, insertion, ROAD, randomisation and stability against literal loops and what must come out."""

import copy

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from gaze.backbones.levels import build_backbone
from gaze.metrics.faithfulness import (
    area,
    blur,
    cascade,
    centred_maps,
    deletion_insertion,
    layer_groups,
    linear_imputation,
    noise_change,
    pixel_ranks,
    random_maps,
    road,
)


@pytest.fixture
def images():
    return torch.rand(5, 2, 12, 10, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def weight():
    return torch.randn(2, 12, 10, generator=torch.Generator().manual_seed(2))


def linear(weight):
    return lambda images: (images * weight.to(images)).sum((1, 2, 3))


def test_curves_are_those_of_a_literal_loop(images, weight):
    maps, steps = torch.rand(5, 12, 10, generator=torch.Generator().manual_seed(3)), 7  # on the image's own grid
    found = deletion_insertion(linear(weight), images, maps, steps)
    blurred = blur(images)
    for i in range(5):
        order = np.argsort(-maps[i].flatten().numpy(), kind="stable")  # no ties
        for k in range(steps + 1):
            gone, kept = images[i].flatten(1).clone(), blurred[i].flatten(1).clone()
            for pixel in order[: round(k / steps * 120)]:
                gone[:, pixel] = images[i].mean((1, 2))
                kept[:, pixel] = images[i].flatten(1)[:, pixel]
            for curve, value in ((found.deletion, gone), (found.insertion, kept)):
                assert curve[i, k].item() == pytest.approx((value * weight.flatten(1)).sum().item(), abs=1e-4)
    np.testing.assert_allclose(
        area(found.deletion), np.trapezoid(found.deletion.numpy(), found.share.numpy(), axis=1), rtol=1e-5
    )


def test_ranks_are_a_permutation_and_ties_have_no_place():
    flat = pixel_ranks(torch.zeros(2, 4, 4), (8, 8))
    assert (flat.flatten(1).sort(1).values == torch.arange(64)).all()
    assert (flat[0] == flat[1]).all()
    assert abs(spearmanr(flat[0].flatten(), range(64)).statistic) < 0.3  # not in reading order
    spot = torch.zeros(1, 4, 4)
    spot[0, 0, 0] = 1
    assert pixel_ranks(spot, (8, 8))[0, 0, 0] < 4
    assert pixel_ranks(spot, (8, 8)).flatten().topk(39).values.min() > 24  # what is 0 comes last


def test_the_true_contribution_beats_random_and_reversed_maps():
    random = torch.Generator().manual_seed(0)
    images, weight = torch.rand(16, 1, 12, 12, generator=random), torch.randn(1, 12, 12, generator=random)
    score = linear(weight)
    true = ((images - images.mean((2, 3), keepdim=True)) * weight)[:, 0]  # what deletion takes away
    areas = {
        name: area(deletion_insertion(score, images, maps).deletion)
        for name, maps in (("true", true), ("random", random_maps(true)), ("reversed", -true))
    }
    assert (areas["true"] < areas["random"]).all() and (areas["random"] < areas["reversed"]).all()
    gains = (images - blur(images))[:, 0] * weight[0]
    inserted = [area(deletion_insertion(score, images, maps).insertion) for maps in (gains, random_maps(gains), -gains)]
    assert (inserted[0] > inserted[1]).all() and (inserted[1] > inserted[2]).all()


def dense_imputation(image, missing):
    """The paper's equations, written down one by one and solved as a dense system. One channel."""
    height, width = image.shape
    holes = [tuple(place) for place in np.argwhere(missing)]
    a, b = np.zeros((len(holes), len(holes))), np.zeros(len(holes))
    for row, (y, x) in enumerate(holes):
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if (dy, dx) == (0, 0) or not (0 <= y + dy < height and 0 <= x + dx < width):
                    continue
                w = 1 / 12 if dy and dx else 1 / 6
                a[row, row] += w
                if missing[y + dy, x + dx]:
                    a[row, holes.index((y + dy, x + dx))] -= w
                else:
                    b[row] += w * image[y + dy, x + dx]
    filled = image.copy()
    filled[missing] = np.linalg.solve(a, b)
    return filled


@pytest.mark.parametrize("share", [0.05, 0.5, 0.97])
def test_imputation_is_that_of_a_dense_solve(images, share):
    images = images.double()
    missing = torch.rand(5, 12, 10, generator=torch.Generator().manual_seed(4)) < share
    found = linear_imputation(images, missing, tolerance=1e-12)
    for i in range(5):
        for channel in range(2):
            expected = dense_imputation(images[i, channel].numpy(), missing[i].numpy())
            np.testing.assert_allclose(found[i, channel], expected, atol=1e-9)
    single = linear_imputation(images.float(), missing)
    torch.testing.assert_close(single.double(), found, atol=2e-3, rtol=0)
    assert (single.permute(0, 2, 3, 1)[~missing] == images.float().permute(0, 2, 3, 1)[~missing]).all()


def test_imputation_is_that_of_pytorch_grad_cam(images):
    road_of = pytest.importorskip("pytorch_grad_cam.metrics.road")
    missing = torch.rand(5, 12, 10, generator=torch.Generator().manual_seed(4)) < 0.6
    found = linear_imputation(images, missing)
    for image, hole, own in zip(images, missing, found, strict=True):
        theirs = road_of.NoisyLinearImputer(noise=0)(image, (~hole).float())
        torch.testing.assert_close(own, theirs, atol=2e-3, rtol=0)


def test_imputation_reaches_every_corner_and_needs_a_pixel():
    images = torch.zeros(2, 1, 9, 9)
    images[1] = 0.25
    missing = torch.ones(2, 9, 9, dtype=torch.bool)
    missing[:, 0, 0] = False
    torch.testing.assert_close(linear_imputation(images, missing), images)  # one known pixel: its value everywhere
    nothing = torch.zeros_like(missing)
    assert (linear_imputation(images, nothing) == images).all()
    with pytest.raises(ValueError, match="at least one known pixel"):
        linear_imputation(images, torch.ones_like(missing))
    with pytest.raises(ValueError, match="need missing"):
        linear_imputation(images, missing[:1])


def test_road_removes_the_pixels_meant(images):
    seen = []

    def score(batch):
        seen.append(batch)
        return batch.sum((1, 2, 3))

    maps = torch.arange(120.0).view(1, 12, 10).expand(5, -1, -1)
    found = road(score, images, maps, shares=(0.25, 0.5))
    assert found.morf.shape == found.lerf.shape == (5, 2)
    changed = [(batch != images).any(1)[0] for batch in seen]  # morf, lerf of 0.25, then of 0.5
    assert [int(c.sum()) for c in changed] == [30, 30, 60, 60]
    assert changed[0].flatten()[-30:].all() and changed[1].flatten()[:30].all()
    assert (changed[2] ^ changed[3]).all()


def test_road_knows_the_true_contribution():
    y, x = np.mgrid[:16, :16]
    blob = torch.tensor(np.exp(-((y - 5) ** 2 + (x - 9) ** 2) / 8.0), dtype=torch.float32)
    images = torch.stack([blob * s for s in (1.0, 0.7, 0.5)])[:, None]
    found = road(linear(blob[None]), images, images[:, 0])
    assert (found.lerf.mean(1) > found.morf.mean(1) + 1).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: deletion_insertion(len, x, torch.zeros(4, 3, 3)), "one map"),
        (lambda x: deletion_insertion(len, x, torch.zeros(5, 3, 3), 0), "steps=0"),
        (lambda x: road(len, x, torch.zeros(5, 3, 3), (1.0,)), "between 0 and 1"),
        (lambda x: road(len, x, torch.full((5, 3, 3), torch.nan)), "must be finite"),
        (lambda x: deletion_insertion(len, x, torch.full((5, 3, 3), torch.inf)), "must be finite"),
    ],
)
def test_what_does_not_fit_is_refused(images, call, message):
    with pytest.raises(ValueError, match=message):
        call(images)


def test_baselines():
    maps = torch.zeros(3, 5, 7)
    assert random_maps(maps).shape == maps.shape and not (random_maps(maps)[0] == random_maps(maps)[1]).all()
    centred = centred_maps(maps)
    assert centred.shape == maps.shape and centred[0].argmax() == 2 * 7 + 3
    torch.testing.assert_close(centred, centred.flip((1, 2)))


# ---- randomisation


def test_cascade_resets_exactly_the_layers_meant():
    net = build_backbone("level2", 3).eval()
    with torch.no_grad():
        for buffer in net.buffers():
            buffer.add_(1)
    before, names = copy.deepcopy(net.state_dict()), []
    state = torch.random.get_rng_state()
    for name, randomised in cascade(net):
        names.append(name)
        changed = {key for key, value in randomised.state_dict().items() if not (value == before[key]).all()}
        meant = ("head.3.", "features.12.", "features.8.", "features.4.", "features.0.")[: len(names)]
        norms = {"features.12.": "features.13.", "features.8.": "features.9.", "features.4.": "features.5."}
        allowed = (*meant, *(norms[m] for m in meant if m in norms), *(["features.1."] if len(names) == 5 else []))
        assert changed and all(key.startswith(allowed) for key in changed)
        assert all(any(key.startswith(m) for key in changed) for m in meant)
    assert names == ["head.3", "features.12", "features.8", "features.4", "features.0"]
    assert all((value == before[key]).all() for key, value in net.state_dict().items())  # the run's own is untouched
    assert (torch.random.get_rng_state() == state).all()
    again = [w.state_dict()["features.0.weight"].clone() for _, w in cascade(net)][-1]
    assert (again == randomised.state_dict()["features.0.weight"]).all()
    other = [w.state_dict()["features.0.weight"].clone() for _, w in cascade(net, seed=1)][-1]
    assert not (again == other).all()


def test_parameters_without_a_reset_are_shuffled():
    class Token(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.arange(50.0))
            self.linear = nn.Linear(50, 2)

    net = Token()
    assert [name for name, _ in layer_groups(net)] == ["linear", "Token"]
    *_, (_, last) = cascade(net)
    assert not (last.token == net.token).all()
    assert (last.token.sort().values == net.token).all()


# ---- noise


def test_change_under_noise_is_that_of_a_literal_loop(images):
    def gaze(batch):
        return batch.abs().mean(1), (batch.sum((1, 2, 3)) > 0).long()

    change, kept = noise_change(gaze, images, 0.3, draws=6)
    random, (maps, preds) = torch.Generator().manual_seed(0), gaze(images)
    rows = []
    for _ in range(6):
        moved, then = gaze(images + 0.3 * torch.randn(images.shape, generator=random))
        rows.append(
            [
                (m - o).norm() / o.norm() if a == b else torch.nan
                for m, o, a, b in zip(moved, maps, then, preds, strict=True)
            ]
        )
    np.testing.assert_allclose(change, np.nanmean(np.array(rows, dtype=float), axis=0), rtol=1e-5)
    np.testing.assert_allclose(kept, (~np.isnan(np.array(rows, dtype=float))).mean(0))


def test_a_draw_that_changes_the_prediction_counts_for_nothing_even_where_its_map_is_not_finite(images):
    def gaze(batch, spoilt=torch.nan):
        maps, preds = batch.abs().mean(1), (batch.sum((1, 2, 3)) > 0).long()
        changed = preds != (images.sum((1, 2, 3)) > 0).long()
        return torch.where(changed[:, None, None], spoilt, maps), preds

    change, kept = noise_change(gaze, images, 0.3, draws=6)
    expected, _ = noise_change(lambda x: gaze(x, 1.0), images, 0.3, draws=6)
    assert (kept < 1).any()
    torch.testing.assert_close(change, expected, equal_nan=True)


def test_no_noise_no_change_and_a_zero_map_has_none(images):
    change, kept = noise_change(lambda x: (x.abs().mean(1), torch.zeros(len(x))), images, 0.0)
    assert (change == 0).all() and (kept == 1).all()
    change, _ = noise_change(lambda x: (torch.zeros(len(x), 3, 3), torch.zeros(len(x))), images, 0.1)
    assert change.isnan().all()
