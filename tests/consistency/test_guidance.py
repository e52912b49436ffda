"""The loss that guides the gaze by masks: against literal loops, finite differences, and what it must not do."""

import doctest

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from torch._subclasses.fake_tensor import FakeTensorMode

import gaze.consistency.guidance
from gaze.choices import GUIDANCE
from gaze.consistency.guidance import guidance_loss
from gaze.errors import ConfigError


def _batch(count: int = 8, size: tuple[int, int] = (3, 4), side: int = 12):
    g = torch.Generator().manual_seed(0)
    cam = torch.rand(count, *size, generator=g, dtype=torch.float64)
    target = torch.arange(count) % 3
    preds = torch.where(torch.arange(count) % 4 == 1, (target + 1) % 3, target)
    mask = torch.zeros(count, 1, side, side)
    for i in range(count):
        mask[i, 0, i : i + 5, 2 : 4 + i] = 1
    mask[3] = 0  # without a mask
    target[7], preds[7] = -1, -1  # padding
    return cam, preds, target, mask


def _by_loops(cam, preds, target, mask, form) -> float:
    """Pixel by pixel, with the map enlarged to the mask's size: cells are whole blocks of pixels here."""
    values = []
    for one, p, t, m in zip(cam.numpy(), preds.tolist(), target.tolist(), mask[:, 0].numpy(), strict=True):
        if p != t or t < 0 or not m.any():
            continue
        big = np.kron(one, np.ones((m.shape[0] // one.shape[0], m.shape[1] // one.shape[1])))
        blocks = m.astype(float).reshape(one.shape[0], m.shape[0] // one.shape[0], one.shape[1], -1).mean((1, 3))
        kl = entropy(blocks.ravel(), (0.99 * one / one.sum() + 0.01 / one.size).ravel())
        values.append({"energy": big[m == 0].sum() / big.sum(), "outside": big[m == 0].mean(), "attention": kl}[form])
    assert len(values) == 4
    return float(np.mean(values))


@pytest.mark.parametrize("form", GUIDANCE)
def test_the_loss_is_the_literal_loop(form):
    cam, preds, target, mask = _batch()
    found = guidance_loss(cam, preds, target, mask, form)
    assert 0.2 < found < 1.5
    assert float(found) == pytest.approx(_by_loops(cam, preds, target, mask, form), rel=1e-12)


@pytest.mark.parametrize("form", GUIDANCE)
def test_the_loss_has_the_gradient_of_finite_differences(form):
    cam, *others = _batch(size=(2, 5), side=7)  # cells and pixels do not line up
    assert torch.autograd.gradcheck(lambda maps: guidance_loss(maps, *others, form), cam.requires_grad_())
    assert torch.autograd.gradgradcheck(lambda maps: guidance_loss(maps, *others, form), cam)


@pytest.mark.parametrize("form", ["energy", "outside"])
def test_a_map_inside_costs_nothing_and_one_outside_all(form):
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    cam, label = (mask[:, 0, ::2, ::2]).clone(), torch.tensor([0])
    assert guidance_loss(cam, label, label, mask, form) == 0
    assert guidance_loss(1 - cam, label, label, mask, form) == 1
    assert guidance_loss(cam, label, label, torch.ones_like(mask), form) == 0  # all is inside


def test_attention_costs_least_where_the_map_is_what_readers_looked_at():
    density = torch.rand(1, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    label = torch.tensor([0])

    def cost(cam):
        return guidance_loss(cam, label, label, density, "attention").item()

    assert 0 < cost(density[:, 0]) < 1e-4  # but for the share of a uniform map
    assert cost(density[:, 0]) < cost(1 - density[:, 0]) < cost(torch.zeros(1, 4, 4))
    assert cost(density[:, 0]) == pytest.approx(cost(0.1 * density[:, 0]))


def test_an_empty_map_is_a_way_out_of_one_form_alone():
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    label = torch.tensor([0])
    for form, value in (("energy", 1.0), ("outside", 0.0)):
        cam = torch.zeros(1, 4, 4, requires_grad=True)
        loss = guidance_loss(cam, label, label, mask, form)
        loss.backward()
        assert loss == value and cam.grad.isfinite().all()


@pytest.mark.parametrize("form", GUIDANCE)
def test_images_that_do_not_count_change_nothing(form):
    cam, preds, target, mask = _batch()
    whole = guidance_loss(cam, preds, target, mask, form)
    counted = (preds == target) & (target >= 0) & mask.flatten(1).any(1)
    only = guidance_loss(cam[counted], preds[counted], target[counted], mask[counted], form)
    torch.testing.assert_close(whole, only)
    broken = torch.cat([cam, torch.full_like(cam[:1], torch.nan)]).requires_grad_()
    again = [torch.cat([part, part[:1]]) for part in (preds, target, mask)]
    loss = guidance_loss(broken, *again, form)
    loss.backward()
    torch.testing.assert_close(loss.detach(), whole)
    assert broken.grad.isfinite().all() and not broken.grad[[1, 3, 5, 7, 8]].any() and broken.grad[0].any()


@pytest.mark.parametrize("form", GUIDANCE)
def test_without_an_image_that_counts_the_loss_is_zero_with_a_graph(form):
    cam, preds, target, mask = _batch()
    cam.requires_grad_()
    loss = guidance_loss(cam, preds, target, torch.zeros_like(mask), form)
    loss.backward()
    assert loss == 0 and not cam.grad.any()


@pytest.mark.parametrize("form", GUIDANCE)
def test_the_loss_never_waits_for_the_host(form):
    with FakeTensorMode():
        cam, label = torch.rand(6, 3, 4, requires_grad=True), torch.randint(3, (6,))
        guidance_loss(cam, label, label, torch.rand(6, 1, 9, 9), form).backward()
        assert cam.grad is not None


def test_what_does_not_fit_is_named():
    cam, preds, target, mask = _batch()
    with pytest.raises(ValueError, match=r"one for each of the 8 maps, got \(8, 12, 12\)"):
        guidance_loss(cam, preds, target, mask[:, 0])
    with pytest.raises(ConfigError, match=r"gaze\.mask_form=inside is unknown: energy, outside or attention"):
        guidance_loss(cam, preds, target, mask, "inside")


def test_examples_in_the_docstrings_hold():
    found = doctest.testmod(gaze.consistency.guidance)
    assert found.attempted >= 3 and found.failed == 0
