"""Does the gaze fall on the lesion? Energy in the mask, its lift over chance, and the pointing game, as torchmetrics.

    metric = GazeMaskEnergy(num_classes=2)
    metric.update(cam, preds, target, mask)     maps (B, H, W), masks (B, 1, S, S)

Over correctly classified images with a mask that is not empty and a map that is not all zero; NaN where there is
none. Maps are CAM^ of the true class, scaled by ``gaze.cam.methods.normalize_cam``. Count and sums are kept in
float64: memory does not grow with the number of images, and sums are exact under DDP.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gaze.consistency.deviation import checked_batch
from gaze.consistency.guidance import check_masks, covered, energy_inside
from gaze.metrics.watched import WatchedMetric


def mask_energy(cam: Tensor, mask: Tensor) -> Tensor:
    """Share of each map's energy that lies in the mask: ``sum(p * m)``, p = CAM^ / sum(CAM^), m the share of each
    map cell that the mask covers (exact areas, also where cells and pixels do not line up).

    The energy-based pointing game of Wang et al. 2020 (Score-CAM, arXiv:1910.01279), on the map's own grid.

    Args:
        cam: maps (B, H, W), >= 0.
        mask: (B, 1, S, T) in 0..1, of any size.

    Returns:
        (B,), 0..1; 0 for an all-zero map, which is no distribution.
    """
    return energy_inside(cam, covered(mask, cam))


def mask_lift(cam: Tensor, mask: Tensor) -> Tensor:
    """:func:`mask_energy` divided by the mask's share of the image, so that lesions of all sizes compare.

    1 is what a uniform map has, 2 twice that; the most is 1 / share.

    Args:
        cam: maps (B, H, W), >= 0.
        mask: (B, 1, S, T) in 0..1.

    Returns:
        (B,), >= 0; 0 for an all-zero map or an empty mask.
    """
    share = mask.to(cam.dtype).mean((1, 2, 3))
    return mask_energy(cam, mask) / torch.where(share > 0, share, 1.0)


def pointing(cam: Tensor, mask: Tensor, tolerance: int = 0) -> Tensor:
    """Pointing game (Zhang et al. 2016, arXiv:1608.00507): does the map's maximum lie in the mask?

    A cell of the coarse map stands for its centre: cell (i, j) of H x W lies at the pixel
    ``floor((i + 0.5) S / H), floor((j + 0.5) T / W)`` of the S x T mask (of the four around a centre that falls on a
    corner, the lower right one). It is a hit where that pixel is 0.5 or more. Where several cells share the
    maximum, the value is the share of them that hit: their order does not matter.

    Args:
        cam: maps (B, H, W), >= 0.
        mask: (B, 1, S, T) in 0..1.
        tolerance: pixels of the mask by which the lesion is widened on every side (a square); 0 for none.

    Returns:
        (B,), 0..1; 0 or 1 where the maximum is unique. An all-zero map, all of whose cells tie, has no meaning here.
    """
    inside = (mask >= 0.5).to(cam.dtype)
    if tolerance > 0:
        inside = F.max_pool2d(inside, 2 * tolerance + 1, stride=1, padding=tolerance)
    rows, columns = (_centres(size, cells, mask) for size, cells in zip(mask.shape[2:], cam.shape[1:], strict=True))
    at_centres = inside[:, 0, rows][:, :, columns]  # (B, H, W)
    highest = (cam == cam.amax((1, 2), keepdim=True)).to(cam.dtype)
    return (highest * at_centres).sum((1, 2)) / highest.sum((1, 2))


def _centres(size: int, cells: int, like: Tensor) -> Tensor:
    """Pixels of ``size`` that the centres of ``cells`` cells fall on (cells,), in whole numbers: no rounding."""
    return (2 * torch.arange(cells, device=like.device) + 1) * size // (2 * cells)


class MaskSums(WatchedMetric):
    """Sum states of the metrics below.

    Args:
        num_classes: K.
        tolerance: of the pointing game, in pixels of the mask.
        kwargs: those of ``torchmetrics.Metric``.

    Raises:
        ValueError: no class, or a tolerance below 0.
    """

    higher_is_better = True
    count: Tensor  # (): images that count
    energy_sum: Tensor  # ()
    lift_sum: Tensor  # ()
    hit_sum: Tensor  # ()

    def __init__(self, num_classes: int, tolerance: int = 0, **kwargs: Any) -> None:
        super().__init__(num_classes, **kwargs)
        if tolerance < 0:
            raise ValueError(f"tolerance={tolerance} must be 0 or more pixels.")
        self.tolerance = tolerance
        for name in ("count", "energy_sum", "lift_sum", "hit_sum"):
            self.add_state(name, torch.zeros_like(self.excess), dist_reduce_fx="sum")

    def update(self, cam: Tensor, preds: Tensor, target: Tensor, mask: Tensor) -> None:
        """Add a batch.

        Args:
            cam: normalised maps (B, H, W) in [0, 1], of the true class.
            preds: predicted classes (B,), or scores (B, K) such as logits.
            target: true classes (B,), whole numbers; one below 0 (padding) does not count.
            mask: (B, 1, S, T) in 0..1.

        Raises:
            ValueError: shapes or types that do not fit.
        """
        preds, target = checked_batch(preds, target, self.num_classes, cam)
        check_masks(mask, cam)
        if len(cam) == 0:
            return
        member, cam, mask = self._counted(preds, target, cam, mask)
        counts = (member.sum(1) > 0) & (mask.amax((1, 2, 3)) > 0) & (cam.amax((1, 2)) > 0)  # (B,)
        self.count = self.count + counts.sum()
        self.energy_sum = self.energy_sum + (mask_energy(cam, mask) * counts).sum()
        self.lift_sum = self.lift_sum + (mask_lift(cam, mask) * counts).sum()
        self.hit_sum = self.hit_sum + (pointing(cam, mask, self.tolerance) * counts).sum()


class GazeMaskEnergy(MaskSums):
    """Mean share of the gaze that lies on the lesion, 0..1 (:func:`mask_energy`).

    Example:
        >>> metric = GazeMaskEnergy(num_classes=2)
        >>> mask = torch.zeros(1, 1, 4, 4)
        >>> mask[..., :2] = 1  # the left half
        >>> metric.update(torch.tensor([[[1.0, 0.25]]]), torch.tensor([1]), torch.tensor([1]), mask)
        >>> metric.compute()
        tensor(0.8000)
    """

    def _value(self) -> Tensor:
        return self.energy_sum / self.count  # 0/0: NaN


class GazeMarkerEnergy(GazeMaskEnergy):
    """The same of a marker that goes with the class, on which no gaze should lie."""

    higher_is_better = False


class GazeMaskLift(MaskSums):
    """Mean over images of the energy in the mask divided by the mask's share of the image (:func:`mask_lift`): 1 is
    what a gaze that is the same everywhere has.
    """

    def _value(self) -> Tensor:
        return self.lift_sum / self.count


class GazePointing(MaskSums):
    """Share of images whose map's maximum lies in the mask, 0..1 (:func:`pointing`)."""

    def _value(self) -> Tensor:
        return self.hit_sum / self.count
