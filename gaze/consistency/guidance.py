"""The guided gaze: how far maps lie outside the masks that say where to look, and the loss of a mini-batch.

Maps CAM^ were scaled to [0, 1] by :func:`gaze.cam.normalize_cam`. A form of ``gaze.choices.GUIDANCE`` takes maps
(B, H, W) and the share of each cell that its mask covers (B, H, W), and gives (B,), differentiable in the maps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gaze.cam.pool import pool_to_grid
from gaze.choices import GUIDANCE
from gaze.consistency.deviation import check_maps
from gaze.consistency.loss import mean_over_images

UNIFORM = 0.01  # share of a uniform distribution in the map, where it is compared with readers' attention


def check_masks(mask: Tensor, cam: Tensor) -> None:
    """Raise a ValueError where masks are not (B, 1, S, T) or not of these maps (B, H, W)."""
    check_maps(cam)
    if mask.ndim != 4 or mask.shape[1] != 1 or len(mask) != len(cam):
        raise ValueError(
            f"mask must be masks (B, 1, S, T), one for each of the {len(cam)} maps, got {tuple(mask.shape)}."
        )


def covered(mask: Tensor, cam: Tensor) -> Tensor:
    """The share of each map cell that the mask covers (B, H, W), 0..1: exact areas, also where cells and pixels do not
    line up.

    Args:
        mask: (B, 1, S, T) in 0..1, of any size.
        cam: maps (B, H, W).

    Raises:
        ValueError: shapes that do not fit.
    """
    check_masks(mask, cam)
    return pool_to_grid(mask[:, 0].to(cam.dtype), (cam.shape[1], cam.shape[2]))


def energy_inside(cam: Tensor, inside: Tensor) -> Tensor:
    """``sum(p * m)``, p = CAM^ / sum(CAM^), (B,), 0..1; 0, with a finite gradient, for an all-zero map."""
    total = cam.sum((1, 2))
    return (cam * inside).sum((1, 2)) / torch.where(total > 0, total, 1.0)


def energy_outside(cam: Tensor, inside: Tensor) -> Tensor:
    """``1 - sum(p * m)``: the share of the map's energy outside the mask, 0..1; 1 for an all-zero map.

    The complement of the energy-based pointing game, as the energy loss of Rao et al. 2023 (arXiv:2303.11932).
    """
    return 1 - energy_inside(cam, inside)


def mean_outside(cam: Tensor, inside: Tensor) -> Tensor:
    """``sum((1 - m) CAM^) / sum(1 - m)``: mean of the map outside the mask, 0..1; 0 where the mask covers all.

    Right for the Right Reasons (Ross et al. 2017, arXiv:1703.03717) on maps instead of input gradients. An all-zero
    map, which looks nowhere, has 0 too: that is a way out, where ``energy_outside`` has none.
    """
    outside = 1 - inside
    area = outside.sum((1, 2))
    return (cam * outside).sum((1, 2)) / torch.where(area > 0, area, 1.0)


def attention_kl(cam: Tensor, attention: Tensor) -> Tensor:
    """``sum(q ln(q / p))`` in nats, 0 or more: how far p, the map as a distribution, is from q, what readers looked at.

    p has a share :data:`UNIFORM` of a uniform distribution, so that a cell of 0 costs ``ln(N / UNIFORM)`` at most and
    its gradient is finite; an all-zero map costs most of all.

    Args:
        cam: maps (B, H, W).
        attention: densities of any sum (B, H, W), in place of masks.
    """
    total, cells = cam.sum((1, 2), keepdim=True), cam[0].numel() if len(cam) else 1
    p = (1 - UNIFORM) * cam / torch.where(total > 0, total, 1.0) + UNIFORM / cells
    q = attention / attention.sum((1, 2), keepdim=True).clamp(min=torch.finfo(cam.dtype).tiny)
    return (torch.xlogy(q, q) - q * p.log()).sum((1, 2))


def guidance_loss(cam: Tensor, preds: Tensor, target: Tensor, mask: Tensor, form: str = "energy") -> Tensor:
    """Mean over the correct images that have a mask of how far their maps lie outside it; 0, with a graph, where there
    is none.

    Nothing waits for the host. Under ``torch.distributed`` the mean is over the images of all processes, scaled such
    that DDP's average of gradients is the gradient of the whole batch's loss; every process has to call it in the same
    steps.

    Args:
        cam: normalised maps (B, H, W) in [0, 1] of the true class, with graph. One that is NaN or infinite does not
            count.
        preds: predicted classes (B,).
        target: true classes (B,); one below 0 (padding) does not count.
        mask: (B, 1, S, T) in 0..1, of any size; one that is empty is none. Of ``attention``, densities.
        form: of ``gaze.choices.GUIDANCE``.

    Returns:
        Scalar, 0..1 (times the number of processes); of ``attention``, nats.

    Raises:
        ConfigError: a form that does not exist.
        ValueError: shapes that do not fit.

    Example:
        >>> cam = torch.tensor([[[1.0, 0.25]]])  # one map of 1 x 2 cells
        >>> mask = torch.tensor([[[[1.0, 0.0]]]])  # its left half
        >>> guidance_loss(cam, torch.tensor([1]), torch.tensor([1]), mask)  # 0.25 / 1.25
        tensor(0.2000)
    """
    inside = covered(mask, cam)
    finite = cam.isfinite().flatten(1).all(1)  # (B,)
    cam = torch.where(finite[:, None, None], cam, 0)  # 0 * NaN is NaN, in sums and in gradients
    counts = (preds == target) & (target >= 0) & (inside.amax((1, 2)) > 0) & finite
    return mean_over_images(GUIDANCE[form].function(cam, inside), counts)
