"""Consistency of two views: known warps against plain grid_sample, flips and slices; finite differences."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from gaze.config.augmentation import AugmentationConfig
from gaze.consistency.views import seen_by_both, view_loss
from gaze.data.augment import random_affine, warp

WHOLE = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
FLIP = torch.tensor([[-1.0, 0, 0], [0, 1, 0]])
LEFT, RIGHT = (torch.tensor([[0.5, 0, x], [0, 1, 0]]) for x in (-0.5, 0.5))
THREE_QUARTERS = torch.tensor([[0.75, 0, -0.25], [0, 1, 0]])


def _maps(*maps):
    return torch.stack(maps)[:, None].double()


def _frames(*frames):
    return torch.stack(frames)[:, None].double()


def _loss(one, other, frames, **kwargs):
    label = torch.tensor([1])
    return view_loss(_maps(one, other), label.expand(2, 1), label, _frames(*frames), **kwargs)


def test_a_mirrored_view_has_the_mirrored_map():
    cam = torch.rand(5, 6)
    assert _loss(cam, cam.flip(1), (WHOLE, FLIP)) < 1e-12
    assert _loss(cam, cam.flip(1), (FLIP, WHOLE)) < 1e-12
    expected = (cam - cam.flip(1)).square().mean().double()
    torch.testing.assert_close(_loss(cam, cam, (WHOLE, FLIP)), expected)
    torch.testing.assert_close(_loss(cam, cam, (FLIP, FLIP)), torch.zeros(()).double())


def test_views_are_compared_on_what_both_see():
    """The left half and the left three quarters: all of the first map, and two thirds of the other one."""
    wide = torch.rand(4, 12)
    moves, side = seen_by_both(_frames(LEFT, THREE_QUARTERS))
    torch.testing.assert_close(side, torch.tensor([[0.5, 1.0]]).double())
    torch.testing.assert_close(moves[0, 0], WHOLE.double())
    torch.testing.assert_close(moves[1, 0], torch.tensor([[2 / 3, 0, -1 / 3], [0, 1, 0]]).double())
    grid = F.affine_grid(moves[1], [1, 1, 4, 8], align_corners=False)
    seen = F.grid_sample(wide[None, None].double(), grid, align_corners=False)[0, 0]
    torch.testing.assert_close(seen, wide[:, :8].double())  # cell by cell

    # Two quarters that overlap in the middle half of each.
    left, right = (torch.tensor([[0.5, 0, x], [0, 1.0, 0]]) for x in (-0.25, 0.25))
    moves, side = seen_by_both(_frames(left, right))
    torch.testing.assert_close(side, torch.tensor([[0.25, 1.0]]).double())
    assert moves[:, 0, 0, 2].tolist() == [0.5, -0.5]


def test_maps_of_one_picture_agree_whatever_the_crops():
    """Views cut with grid_sample from one smooth picture; warped back as 3x3 matrices would have it."""
    torch.manual_seed(0)
    picture = F.interpolate(torch.rand(16, 1, 3, 3).double(), (96, 96), mode="bilinear", align_corners=True)
    config = AugmentationConfig(name="x", hflip=0.5, crop_scale=[0.4, 0.9], crop_ratio=[3 / 4, 4 / 3])
    frames = torch.stack([random_affine(16, (96, 96), config) for _ in range(2)]).double()
    cam = torch.stack([F.avg_pool2d(warp(picture, own), 6)[:, 0] for own in frames])
    label = torch.zeros(16, dtype=torch.int64)
    agree = view_loss(cam, label.expand(2, 16), label, frames)
    mixed = view_loss(torch.stack([cam[0], cam[1].roll(1, 0)]), label.expand(2, 16), label, frames)
    ignored = view_loss(cam, label.expand(2, 16), label, torch.stack([WHOLE.double().expand(16, 2, 3)] * 2))
    assert agree < 5e-4 and ignored > 20 * agree and mixed > 20 * agree

    moves, side = seen_by_both(frames)
    full = torch.cat([frames, torch.tensor([0, 0, 1.0]).double().expand(2, 16, 1, 3)], 2)
    moved = torch.cat([moves, torch.tensor([0, 0, 1.0]).double().expand(2, 16, 1, 3)], 2)
    rectangle = full @ moved  # to the image: the same of both views, unmirrored, of the size it says
    torch.testing.assert_close(rectangle[0], rectangle[1])
    torch.testing.assert_close(rectangle[0].diagonal(dim1=1, dim2=2)[:, :2], side)
    assert (side > 0.2).all()


def test_views_that_do_not_overlap_or_are_not_right_do_not_count():
    a, b = torch.rand(2, 4, 4), torch.rand(2, 4, 4)
    label = torch.tensor([1, 0])
    alone = _loss(a[0], b[0], (WHOLE, FLIP))
    cam = torch.stack([a, b]).double()
    apart = torch.stack([torch.stack([WHOLE, LEFT]), torch.stack([FLIP, RIGHT])]).double()
    torch.testing.assert_close(view_loss(cam, label.expand(2, 2), label, apart), alone)
    flips = torch.stack([WHOLE.expand(2, 2, 3), FLIP.expand(2, 2, 3)]).double()
    for preds in ([[1, 0], [1, 1]], [[1, 1], [1, 0]]):
        torch.testing.assert_close(view_loss(cam, torch.tensor(preds), label, flips), alone)
    torch.testing.assert_close(view_loss(cam, label.expand(2, 2), torch.tensor([1, -1]), flips), alone)
    cam[1, 1, 0, 0] = torch.nan
    cam.requires_grad_()
    loss = view_loss(cam, label.expand(2, 2), label, flips)
    loss.backward()
    torch.testing.assert_close(loss.detach(), alone)
    assert cam.grad.isfinite().all() and not cam.grad[:, 1].any()
    assert view_loss(cam, 1 - label.expand(2, 2), label, flips) == 0


@pytest.mark.parametrize("distance", ["squared", "pearson"])
def test_the_loss_has_the_gradient_of_finite_differences_in_both_views(distance):
    frames = _frames(THREE_QUARTERS, FLIP)
    cam, label = torch.rand(2, 1, 3, 4).double().requires_grad_(), torch.tensor([0])
    assert torch.autograd.gradcheck(lambda maps: view_loss(maps, label.expand(2, 1), label, frames, distance), cam)


def test_the_loss_never_waits_for_the_host():
    with FakeTensorMode():
        cam, label = torch.rand(2, 6, 3, 4, requires_grad=True), torch.randint(3, (6,))
        view_loss(cam, label.expand(2, 6), label, torch.rand(2, 6, 2, 3)).backward()
        assert cam.grad is not None
