"""What loss and metrics do with labels, predictions and maps that do not fit: one behaviour of all of them."""

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score
from torch._subclasses.fake_tensor import FakeTensorMode

from gaze.cam.methods import normalize_cam
from gaze.consistency.deviation import gaze_deviation
from gaze.consistency.loss import GazeConsistencyLoss
from gaze.metrics.c_score import CScore
from gaze.metrics.classification import CohenKappa
from gaze.metrics.consistency import (
    BalancedGazeConsistency,
    ClassGaze,
    GazeConsistency,
    GazeEmptyFraction,
    GazeEntropy,
    GazeEpsilonSquared,
    GazeEtaSquared,
)
from gaze.metrics.lesion import GazeMaskEnergy, GazeMaskLift, GazePointing, mask_lift
from gaze.metrics.watched import WatchedMetric

K, N, H, W = 2, 12, 4, 6
MASKED = (GazeMaskEnergy, GazeMaskLift, GazePointing)
METRICS = {
    **{distance: lambda k, d=distance: GazeConsistency(k, d) for distance in ("squared", "l2", "pearson", "soft_iou")},
    "grid": lambda k: GazeConsistency(k, common_grid=2),
    "all": lambda k: BalancedGazeConsistency(k, "all"),
    **{kind.__name__: kind for kind in (BalancedGazeConsistency, GazeEtaSquared, GazeEpsilonSquared, GazeEntropy)},
    **{kind.__name__: kind for kind in (GazeEmptyFraction, ClassGaze, CScore, *MASKED, CohenKappa)},
}
LOSSES = {reference: lambda k, r=reference: GazeConsistencyLoss(k, reference=r) for reference in ("ema", "batch")}
ALL = METRICS | LOSSES


def fed(made, cam, preds, target, mask):
    """The object after a batch, and what it says of it."""
    if isinstance(made, GazeConsistencyLoss):
        return made, made(cam, preds, target)
    if isinstance(made, CohenKappa):
        made.update(preds, target)
    elif isinstance(made, CScore) and preds.ndim == 1 and not preds.is_floating_point():  # it wants confidences
        inside = preds.long().clamp(0, made.num_classes - 1)
        made.update(cam, 3 * torch.nn.functional.one_hot(inside, made.num_classes).float(), target)
    else:
        made.update(cam, preds, target, *([mask] if isinstance(made, MASKED) else []))
    return made, made.compute()


def batch(seed: int = 0):
    """Maps, predicted classes, two of them wrong, true classes, masks."""
    g = torch.Generator().manual_seed(seed)
    target = torch.arange(N) % K
    preds = torch.where(torch.arange(N) < 2, 1 - target, target)
    return torch.rand(N, H, W, generator=g), preds, target, (torch.rand(N, 1, 8, 8, generator=g) < 0.4).float()


def value(name, cam, preds, target, mask):
    return fed(ALL[name](K), cam, preds, target, mask)[1]


# ---- networks with one logit


@pytest.mark.parametrize("name", sorted(set(ALL) - {"CScore"}))  # which refuses all but (B, K)
def test_one_logit_is_refused_and_the_message_says_what_works(name):
    cam, preds, target, mask = batch()
    logit = (preds * 2.0 - 1)[:, None] * torch.linspace(0.5, 3, N)[:, None]
    for scores in (logit, logit.sigmoid(), logit[:, 0], logit.sigmoid()[:, 0]):
        with pytest.raises(ValueError, match=r"^preds .*got float32 \(12.*one logit.*preds=\(logit > 0\).flatten\(\)"):
            value(name, cam, scores, target, mask)
    expected = value(name, cam, torch.cat([torch.zeros_like(logit), logit], 1), target, mask)
    for classes in ((logit > 0).flatten(), (logit.sigmoid() > 0.5).flatten()):  # what the message says
        torch.testing.assert_close(value(name, cam, classes, target, mask), expected)


def test_scores_of_another_number_of_classes_are_refused():
    cam, _, target, mask = batch()
    for name in set(ALL) - {"CScore"}:
        with pytest.raises(ValueError, match=r"scores \(B, 2\), got float32 \(12, 3\). num_classes=2 must be"):
            value(name, cam, torch.rand(N, 3), target, mask)


# ---- labels


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.uint8, torch.bool])
def test_whole_numbers_of_any_type_are_labels_and_predictions(dtype):
    cam, preds, target, mask = batch()
    for name in ALL:
        expected = value(name, cam, preds, target, mask)
        torch.testing.assert_close(value(name, cam, preds.to(dtype), target.to(dtype), mask), expected)


def test_labels_that_are_no_class_an_image_are_refused():
    cam, preds, target, mask = batch()
    for labels, message in (
        (target.float(), r"got float32 \(12,\). Give target.flatten\(\).long\(\)"),
        (target[:, None], r"got int64 \(12, 1\). Give target.flatten\(\).long\(\)"),
        (torch.eye(3)[target], r"got float32 \(12, 3\). One-hot rows: give target.argmax\(1\). Several labels"),
    ):
        for name in ALL:
            with pytest.raises(ValueError, match="^target must be one class an image, .*" + message):
                value(name, cam, preds, labels, mask)


@pytest.mark.parametrize("padding", [-1, -100])
def test_a_label_below_zero_is_nobodys(padding):
    cam, preds, target, mask = batch()
    target[[3, 7]] = padding
    cam[3], mask[7] = 50, 255  # whatever stands there
    rows = target >= 0
    for name in ALL:
        expected = value(name, cam[rows], preds[rows], target[rows], mask[rows])
        for given in (preds, torch.where(rows, preds, padding)):
            torch.testing.assert_close(value(name, cam, given, target, mask), expected)


def test_kappa_with_padding_is_scikit_learns_without():
    g = np.random.default_rng(0)
    target, preds = g.integers(-1, 4, 200), g.integers(0, 4, 200)
    kappa = CohenKappa(4)
    kappa.update(torch.from_numpy(preds), torch.from_numpy(target))
    rows = target >= 0
    assert kappa.compute().item() == pytest.approx(cohen_kappa_score(target[rows], preds[rows]), abs=1e-6)
    other = CohenKappa(4, ignore_index=3)
    other.update(torch.from_numpy(preds), torch.from_numpy(target))
    rows &= target != 3
    assert other.compute().item() == pytest.approx(cohen_kappa_score(target[rows], preds[rows]), abs=1e-6)


@pytest.mark.parametrize("name", METRICS)
def test_a_class_that_does_not_exist_is_an_error_in_compute_until_reset(name):
    cam, preds, target, mask = batch()
    wrong = {"label": (preds, target + 1), "both": (preds * 2, target * 2), "prediction": (preds * 2, target)}
    for kind, (p, t) in wrong.items():
        if kind == "prediction" and name in ("all", "CScore"):  # which does not look at it; whose scores have no third
            continue
        made = METRICS[name](K)
        with pytest.raises(ValueError, match=r"^Images whose true or predicted class is outside 0..1: [1-9]"):
            fed(made, cam, p, t, mask)
        made.reset()
        torch.testing.assert_close(fed(made, cam, preds, target, mask)[1], value(name, cam, preds, target, mask))


@pytest.mark.parametrize("name", LOSSES)
def test_a_class_that_does_not_exist_is_an_error_of_the_loss(name):
    cam, _, target, mask = batch()
    with pytest.raises(ValueError, match="target holds a class above 1"):
        value(name, cam, target * 2, target * 2, mask)


# ---- maps


def test_maps_with_a_channel_or_of_other_images_are_refused():
    cam, preds, target, mask = batch()
    for name in set(ALL) - {"CohenKappa"}:
        with pytest.raises(
            ValueError, match=r"Maps must be \(B, H, W\).*got float32 \(12, 1, 4, 6\). Give cam\[:, 0\]"
        ):
            value(name, cam[:, None], preds, target, mask)
        with pytest.raises(ValueError, match="of the same images, got 12, 12, 11 of them"):
            value(name, cam[1:], preds, target, mask)
    for function in (normalize_cam, lambda maps: gaze_deviation(maps, maps), lambda maps: mask_lift(maps, mask)):
        with pytest.raises(ValueError, match=r"Maps must be \(B, H, W\)"):
            function(cam[:, None])


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"CohenKappa"}))
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_maps_that_are_not_finite_are_left_out_and_counted(name, bad):
    cam, preds, target, mask = batch()
    cam[0, 0, 0], cam[5] = bad, bad  # of a wrong image, one cell; of a correct one
    good = torch.tensor([i for i in range(N) if i != 5 and (i > 0 or name != "all")])
    clean = torch.where(cam.isfinite(), cam, 0)
    expected = value(name, clean[good], preds[good], target[good], mask[good])
    made = METRICS[name](K)
    with pytest.warns(UserWarning, match=f"^Images left out, .* NaN or infinite: {2 if name == 'all' else 1}\\."):
        torch.testing.assert_close(fed(made, cam, preds, target, mask)[1], expected)
    assert made.left_out == (2 if name == "all" else 1)


def test_a_mask_that_is_not_finite_is_left_out_too():
    cam, preds, target, mask = batch()
    mask[5, 0, 0, 0] = math.nan
    good = torch.arange(N) != 5
    for kind in MASKED:
        with pytest.warns(UserWarning, match=r"NaN or infinite: 1\."):
            found = fed(kind(K), cam, preds, target, mask)[1]
        torch.testing.assert_close(found, fed(kind(K), cam[good], preds[good], target[good], mask[good])[1])


@pytest.mark.parametrize("name", LOSSES)
def test_a_map_that_is_not_finite_spoils_neither_this_step_nor_a_later_one(name):
    cam, preds, target, _ = batch()
    good = torch.arange(N) != 5
    poisoned, clean = LOSSES[name](K), LOSSES[name](K)
    for bad in (math.nan, math.inf):
        maps = cam.clone()
        maps[0], maps[5, 2, 2] = bad, bad  # the first image is wrong and does not count anyway
        maps.requires_grad_()
        loss = poisoned(maps, preds, target)
        torch.testing.assert_close(loss, clean(cam[good], preds[good], target[good]))
        loss.backward()
        assert maps.grad.isfinite().all() and not maps.grad[[0, 5]].any() and maps.grad[6:].any()
    torch.testing.assert_close(poisoned.class_gaze, clean.class_gaze)
    torch.testing.assert_close(poisoned(cam, preds, target), clean(cam, preds, target))


def test_a_batch_of_nothing_but_such_maps_leaves_the_class_gaze_alone():
    cam, preds, target, _ = batch()
    loss = GazeConsistencyLoss(K)
    loss(cam, preds, target)
    before = loss.class_gaze.clone()
    assert loss(torch.full_like(cam, math.nan), preds, target) == 0
    assert torch.equal(loss.class_gaze, before)


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"CohenKappa"}))
def test_maps_out_of_range_are_an_error_in_compute_until_reset(name):
    cam, preds, target, mask = batch()
    for change, beyond in (
        (lambda c: c * 50, 48),
        (lambda c: c - 1, 0.9),
        (lambda c: torch.where(c == c.max(), 7, c), 6),
    ):
        made = METRICS[name](K)
        with pytest.raises(ValueError, match=rf"needs maps in \[0, 1\]; these go {beyond}.*normalize_cam"):
            fed(made, change(cam), preds, target, mask)
        made.reset()
        torch.testing.assert_close(fed(made, cam, preds, target, mask)[1], value(name, cam, preds, target, mask))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value(name, cam / cam.amax() * 1.0005, preds, target, mask)  # rounding


def test_masks_of_0_and_255_are_an_error():
    cam, preds, target, mask = batch()
    for kind in MASKED:
        with pytest.raises(ValueError, match=r"these go 254 beyond.*divide by 255"):
            fed(kind(K), cam, preds, target, mask * 255)


# ---- no wait for the host


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("name", METRICS)
def test_update_never_waits_for_the_host(name):
    with FakeTensorMode():  # has shapes and no values: .item(), nonzero, unique and `if tensor` raise
        made = METRICS[name](K)
        cam, target, mask = torch.rand(N, H, W), torch.randint(K, (N,)), torch.rand(N, 1, 8, 8)
        scores = torch.rand(N, K)
        for _ in range(2):
            if isinstance(made, WatchedMetric):
                made.update(cam, scores, target, *([mask] if isinstance(made, MASKED) else []))
            else:
                made.update(scores, target)
