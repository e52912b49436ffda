"""How far two gazes lie apart, one function a distance: maps (B, H, W) and references of that shape -> (B,).

Maps are CAM^ in [0, 1]. Every function is differentiable in both arguments, treats each pair for itself (the rest of
the batch does not matter) and has finite gradients everywhere, flat and all-zero maps included. ``gaze.choices``
has them by their names in the settings. An all-zero map gazes nowhere: the distances that look at the form alone
(pearson, js, soft_iou) count it as 1, so that an empty map is not the way to be like the others.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FLAT = 1e-6  # a map whose cells vary by less than this share of its norm is flat: what is left is rounding
WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03  # of SSIM, as published


def squared(cam: Tensor, reference: Tensor) -> Tensor:
    """``(1/H'W') ||CAM^ - ref||_2^2`` (thesis, Eq. 9), 0..1: the mean squared difference of a cell."""
    return (cam - reference).square().mean((1, 2))


def l2(cam: Tensor, reference: Tensor) -> Tensor:
    """``(1/H'W') ||CAM^ - ref||_2``, the form of the published figures; 0..1/sqrt(H'W'), so it depends on the size of
    the map. Its gradient where a map equals its reference is taken as zero.
    """
    total = (cam - reference).square().sum((1, 2))
    # sqrt has an infinite slope at 0; that case never enters it.
    norm = torch.where(total > 0, total, 1.0).sqrt() * (total > 0)
    return norm / (cam.shape[1] * cam.shape[2])


def l1(cam: Tensor, reference: Tensor) -> Tensor:
    """``(1/H'W') ||CAM^ - ref||_1``, 0..1: the mean absolute difference of a cell."""
    return (cam - reference).abs().mean((1, 2))


def pearson(cam: Tensor, reference: Tensor) -> Tensor:
    """``1 - r``, r Pearson's correlation over the cells; 0..2. 1, with zero gradient, where either map is flat."""
    return 1 - (unit_map(cam) * unit_map(reference)).sum((1, 2))


def unit_map(cam: Tensor) -> Tensor:
    """Each map less its mean, at length 1 (B, H, W), so that Pearson's r is a scalar product; zero for a flat map."""
    centred = cam - cam.mean((1, 2), keepdim=True)
    square = centred.square().sum((1, 2), keepdim=True)
    varies = square > FLAT**2 * cam.square().sum((1, 2), keepdim=True)
    return centred * varies / torch.where(varies, square, 1.0).sqrt()


def js(cam: Tensor, reference: Tensor) -> Tensor:
    """Jensen-Shannon divergence in bits of the maps as distributions over the cells, 0..1 (Lin 1991).

    ``KL(p || m)/2 + KL(q || m)/2``, m = (p + q)/2. 1, with zero gradient, where either map is all zero. The slope is
    infinite where a cell is 0 in one map only; the gradient leaves out that cell's term.
    """
    (p, some), (q, others) = _distribution(cam), _distribution(reference)
    middle = (p + q) / 2
    bits = (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / (2 * math.log(2))
    return torch.where(some & others, bits.clamp(min=0), 1.0)


def _distribution(cam: Tensor) -> tuple[Tensor, Tensor]:
    """p = map / its sum (B, H, W), and which maps have one (B,)."""
    total = cam.sum((1, 2), keepdim=True)
    return cam / torch.where(total > 0, total, 1.0), (total > 0)[:, 0, 0]


def _relative_entropy(p: Tensor, q: Tensor) -> Tensor:
    inside = p > 4 * torch.finfo(p.dtype).tiny  # the logarithm's infinite slope at 0 is never entered
    ratio = torch.where(inside, p, 1.0) / torch.where(inside, q, 1.0)
    return (p * ratio.log()).sum((1, 2))


def ssim(cam: Tensor, reference: Tensor) -> Tensor:
    """``1 - SSIM``, structural similarity (Wang et al. 2004, Eq. 13 with their constants, range 1); 0..2.

    Mean over a Gaussian window (11x11, SD 1.5) around every cell, the map mirrored at its edges, so that the rim of a
    small map counts in full. A map with a side under 11 takes the largest odd window that fits, its SD shrunk alike.
    Two equal maps, flat or empty ones too, give 0.
    """
    size = min(WINDOW, *cam.shape[1:])
    size -= 1 - size % 2
    rows, columns = (_gaussian_means(side, size, cam) for side in cam.shape[1:])

    def local(maps: Tensor) -> Tensor:
        return rows @ maps @ columns.T

    mean_a, mean_b = local(cam), local(reference)
    variance = local(cam.square()) + local(reference.square()) - mean_a.square() - mean_b.square()
    covariance = local(cam * reference) - mean_a * mean_b
    light = (2 * mean_a * mean_b + K1**2) / (mean_a.square() + mean_b.square() + K1**2)
    return 1 - (light * (2 * covariance + K2**2) / (variance + K2**2)).mean((1, 2))


def _gaussian_means(side: int, size: int, like: Tensor) -> Tensor:
    """Matrix (side, side) of the Gaussian-weighted mean of ``size`` cells around each, mirrored at the ends."""
    away = torch.arange(size, device=like.device) - size // 2
    weights = torch.exp(-0.5 * (away.to(like.dtype) / (SIGMA * size / WINDOW)) ** 2)
    place = (torch.arange(side, device=like.device)[:, None] + away).abs()
    place = side - 1 - (side - 1 - place).abs()  # (side, size)
    return like.new_zeros(side, side).scatter_add(1, place, (weights / weights.sum()).expand(side, size))


def soft_iou(cam: Tensor, reference: Tensor) -> Tensor:
    """``1 - sum min(a, b) / sum max(a, b)``, one minus the soft IoU (Ruzicka's similarity); 0..1. 1, with zero
    gradient, where both maps are all zero, and where one is.
    """
    apart = (cam - reference).abs().sum((1, 2))  # sum max - sum min
    twice_union = (cam + reference).sum((1, 2)) + apart
    some = twice_union > 0
    return torch.where(some, 2 * apart / torch.where(some, twice_union, 1.0), 1.0)
