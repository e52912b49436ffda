"""Does the network look where people looked? The measures of the field of saliency, and their mean as torchmetrics.

    metric = HumanGaze(num_classes=2, measure="cc")
    metric.update(cam, preds, target, human)     maps (B, H, W), what people looked at (B, 4, S, S)

CC, SIM, KL, NSS and AUC-Judd as in Bylinskii et al. 2019 (arXiv:1604.03605). People look at the centre, so that a map
that knows nothing of the image scores: sAUC (Borji et al. 2013, ICCV) and sCC (Bigolin Lanfredi et al. 2021,
arXiv:2112.11716) measure against what was looked at in other images.

All are functions of maps (B, H, W) of a floating type, >= 0, on one grid, and give (B,): ``cam`` is what is judged,
``human`` people's density (of any sum), ``fixations`` how many fell on each cell, ``others`` either of other images.
A value that is not defined is NaN, no matter why: see each.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gaze.cam.pool import pool_to_grid
from gaze.consistency.deviation import check_maps, checked_batch
from gaze.measures import HUMAN
from gaze.metrics.watched import WatchedMetric

EPS = 2.0**-52  # of the KL divergence, as in the code of the MIT benchmark


def distribution(cam: Tensor) -> Tensor:
    """Maps that sum to 1; NaN where one is all zero."""
    return cam / cam.sum((1, 2), keepdim=True)


def _standardized(cam: Tensor) -> Tensor:
    """Mean 0 and SD 1 (over cells, not n - 1); NaN for a flat map, whatever rounding makes of its SD."""
    flat = cam.amax((1, 2), keepdim=True) == cam.amin((1, 2), keepdim=True)
    centred = cam - cam.mean((1, 2), keepdim=True)
    return torch.where(flat, torch.nan, centred / centred.square().mean((1, 2), keepdim=True).sqrt())


def cc(cam: Tensor, human: Tensor) -> Tensor:
    """Pearson's correlation over the cells, -1..1; NaN where a map is flat (all zero, say)."""
    return (_standardized(cam) * _standardized(human)).mean((1, 2))


def sim(cam: Tensor, human: Tensor) -> Tensor:
    """Similarity, the intersection of two distributions, 0..1: ``sum min(p, q)``; NaN where a map is all zero."""
    return torch.minimum(distribution(cam), distribution(human)).sum((1, 2))


def kl(cam: Tensor, human: Tensor, eps: float = EPS) -> Tensor:
    """KL divergence of people's distribution q from the map's p in nats, >= 0 but for ``eps``: ``sum q ln(eps + q / (p
    + eps))``. A cell without any gaze where people looked costs up to ``q ln(q / eps)``. NaN where a map is all zero.
    """
    p, q = distribution(cam), distribution(human)
    return (q * (eps + q / (p + eps)).log()).sum((1, 2))


def nss(cam: Tensor, fixations: Tensor) -> Tensor:
    """Normalised scanpath saliency: mean over the fixations of the standardised map, 0 at chance; NaN without a
    fixation or where the map is flat."""
    return (_standardized(cam) * distribution(fixations)).sum((1, 2))


def auc(cam: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Probability that the map is higher at a draw of ``positive`` than at one of ``negative``, ties counted half: the
    area under the ROC curve whose cells have these weights.

    Args:
        cam, positive, negative: (B, H, W), the last two >= 0.

    Returns:
        (B,), 0..1: 0.5 for a flat map; NaN where all weights of a side are zero.
    """
    value, negative = cam.flatten(1), negative.flatten(1)
    ordered, order = value.sort(1)
    below = torch.cat([torch.zeros_like(value[:, :1]), negative.gather(1, order).cumsum(1)], 1)  # (B, N + 1)
    less, most = (below.gather(1, torch.searchsorted(ordered, value, right=right)) for right in (False, True))
    share = (less + most) / (2 * below[:, -1:])
    return (distribution(positive).flatten(1) * share).sum(1)


def auc_judd(cam: Tensor, fixations: Tensor) -> Tensor:
    """AUC of fixations against all cells without one (Judd et al. 2009), in closed form: neither thresholds nor the
    jitter that parts ties. NaN without a fixation, or where every cell has one."""
    return auc(cam, fixations, (fixations == 0).to(cam.dtype))


def sauc(cam: Tensor, fixations: Tensor, others: Tensor) -> Tensor:
    """AUC of fixations against those on other images: 0.5 for a map that knows the habit of looking alone. NaN
    without a fixation on either."""
    return auc(cam, fixations, others)


def scc(cam: Tensor, human: Tensor, others: Tensor) -> Tensor:
    """``cc(cam, human) - cc(cam, others)``, -2..2: 0 for a map that is as near to the readings of other images; NaN
    where a map is flat."""
    return cc(cam, human) - cc(cam, others)


def saliency(cam: Tensor, human: Tensor) -> Tensor:
    """All of :data:`gaze.measures.HUMAN` on the map's own grid.

    Args:
        cam: maps (B, H, W).
        human: (B, 4, S, T): density and fixations of this image, density and fixations of the others.

    Returns:
        (B, 7), NaN where not defined.
    """
    check_maps(cam)
    grid = (cam.shape[1], cam.shape[2])
    # Means of tiles; the measures do not depend on the scale. What one pixel of rounding leaves is no fixation.
    density, fixations, others, elsewhere = (pool_to_grid(own, grid) for own in human.to(cam.dtype).unbind(1))
    return torch.stack(
        [
            cc(cam, density), sim(cam, density), kl(cam, density), nss(cam, fixations), auc_judd(cam, fixations),
            scc(cam, density, others), sauc(cam, fixations, elsewhere),
        ], 1,
    )  # fmt: skip


class HumanGaze(WatchedMetric):
    """Mean of a measure over correctly classified images that people looked at and whose map is not all zero; where it
    is NaN for an image, over the others.

    Args:
        num_classes: K.
        measure: one of :data:`gaze.measures.HUMAN`.
        kwargs: those of ``torchmetrics.Metric``.
    """

    sums: Tensor  # (K, 7)
    counts: Tensor  # (K, 7)

    def __init__(self, num_classes: int, measure: str, **kwargs: Any) -> None:
        super().__init__(num_classes, **kwargs)
        self.measure, self.column = measure, HUMAN.index(measure)
        for name in ("sums", "counts"):
            self.add_state(name, self.excess.new_zeros(num_classes, len(HUMAN)), dist_reduce_fx="sum")

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        return self.measure != "kl"

    def update(self, cam: Tensor, preds: Tensor, target: Tensor, human: Tensor) -> None:
        """Add a batch.

        Args:
            cam: normalised maps (B, H, W) in [0, 1], of the true class.
            preds: predicted classes (B,), or scores (B, K) such as logits.
            target: true classes (B,), whole numbers; one below 0 (padding) does not count.
            human: (B, 4, S, T) as in :func:`saliency`; the density of an image that nobody looked at is all zero.

        Raises:
            ValueError: shapes or types that do not fit.
        """
        preds, target = checked_batch(preds, target, self.num_classes, cam)
        if human.ndim != 4 or human.shape[1] != 4 or len(human) != len(cam):
            raise ValueError(f"human must be (B, 4, S, T) of the {len(cam)} maps, got {tuple(human.shape)}.")
        if len(cam) == 0:
            return
        member, cam = self._counted(preds, target, cam)
        values = torch.where(cam.amax((1, 2))[:, None] > 0, saliency(cam, human), torch.nan)
        self.sums = self.sums + member.T @ values.nan_to_num(0.0)
        self.counts = self.counts + member.T @ (~values.isnan()).to(member.dtype)

    def _value(self) -> Tensor:
        return self.sums[:, self.column].sum() / self.counts[:, self.column].sum()  # 0/0: NaN


class HumanGazeByClass(HumanGaze):
    """Means of all of :data:`gaze.measures.HUMAN` (K + 1, 7): by class, and in the last row over all images."""

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, HUMAN[0], **kwargs)

    def _value(self) -> Tensor:
        sums, counts = (torch.cat([own, own.sum(0, keepdim=True)]) for own in (self.sums, self.counts))
        return sums / counts
