"""C-Score: how much the gazes of a class overlap, pair by pair, the sure predictions counting more.

After "Quantifying Explanation Consistency: The C-Score Metric" (arXiv:2604.08502), of which only the abstract could be
read here: confidence-weighted, pairwise soft IoU across the correct images of a class. Its formulas were not at hand;
those below are this project's reading of that sentence. The abstract's "intensity-emphasised" is taken as the soft
IoU's own use of intensities, so values need not be those of the paper.

It needs pairs of images and their confidences, so it is no ``gaze_deviation`` of a map from a reference, has no form
in sums, and is a metric, not a loss. ``gaze.distance=soft_iou`` is its differentiable sibling: each map's soft IoU with
its class's gaze.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from gaze.metrics.consistency import GazeConsistency

ROWS = 256  # images of a class held against all others of it at a time


def c_score(cam: Tensor, confidence: Tensor, classes: Tensor, num_classes: int, min_samples: int = 2) -> Tensor:
    """Mean over classes of the weighted mean of ``sum min(a, b) / sum max(a, b)`` over all pairs of a class.

    ``C_c = sum_{i<j} w_i w_j IoU(a_i, a_j) / sum_{i<j} w_i w_j``. Two empty maps have nothing in common: IoU 0.

    Args:
        cam: maps (N, H, W) in [0, 1], of correctly classified images.
        confidence: w (N,), softmax probability of the class, above 0; what is computed has its precision.
        classes: of each image (N,); one outside 0..K-1 does not count.
        num_classes: K.
        min_samples: a class with fewer images, or with one, is left out.

    Returns:
        Scalar 0..1, higher is more consistent; NaN where no class has a pair. Time grows with the square of a class's
        images: 1,300 maps in four classes took one CPU core 0.4 s at 28x28 and 8 s at 112x112.
    """
    values = []
    for c in range(num_classes):
        own = classes == c
        if own.sum() >= max(2, min_samples):
            values.append(_weighted_mean_overlap(cam[own].flatten(1).to(confidence.dtype), confidence[own]))
    return torch.stack(values).mean() if values else cam.new_tensor(math.nan)


def _weighted_mean_overlap(maps: Tensor, confidence: Tensor) -> Tensor:
    """C_c of maps (n, H W) with weights (n,)."""
    mass, overlap, weight = maps.sum(1), maps.new_zeros(()), maps.new_zeros(())
    for start in range(0, len(maps), ROWS):
        rows = torch.arange(start, min(start + ROWS, len(maps)), device=maps.device)
        apart = torch.cdist(maps[rows], maps, p=1)  # sum max - sum min, no (n, n, H W) is made
        both = mass[rows, None] + mass  # sum max + sum min
        iou = (both - apart) / torch.where(both > 0, both + apart, 1.0)
        pairs = confidence[rows, None] * confidence
        pairs[rows - start, rows] = 0  # no image with itself
        overlap, weight = overlap + (pairs * iou).sum(), weight + pairs.sum()
    return overlap / weight


class CScore(GazeConsistency):
    """:func:`c_score` of an evaluation set, 0..1, higher is more consistent; NaN where no class has a pair, and where
    every map is empty.

    Keeps every map and its confidence until ``compute``, 4 H'W' + 12 bytes an image.

    Args:
        num_classes: K.
        min_samples: classes with fewer correct images are left out.
        kwargs: those of ``torchmetrics.Metric``.
    """

    higher_is_better = True
    apart = False  # it needs pairs of maps
    confidence: list[Tensor]  # softmax probability of the true class (N,)

    def __init__(self, num_classes: int, min_samples: int = 2, **kwargs: Any) -> None:
        super().__init__(num_classes, "soft_iou", max(2, min_samples), **kwargs)
        self.add_state("confidence", [], dist_reduce_fx="cat")

    def update(self, cam: Tensor, logits: Tensor, target: Tensor) -> None:  # type: ignore[override]
        """Add a batch.

        Args:
            cam: normalised maps (B, H, W) in [0, 1], of the true class.
            logits: pre-softmax scores (B, K).
            target: true classes (B,); one below 0 (padding) does not count.
        """
        if logits.ndim != 2 or logits.shape[1] != self.num_classes:
            raise ValueError(f"The C-Score needs logits (B, {self.num_classes}), got {tuple(logits.shape)}.")
        super().update(cam, logits, target)
        if cam.shape[0] > 0:
            own = target.long().clamp(0, self.num_classes - 1)[:, None]
            self.confidence.append(logits.detach().float().softmax(1).gather(1, own)[:, 0])

    def _take_map_size(self, size: tuple[int, ...]) -> None:
        super()._take_map_size(size)
        if len(self.confidence) == 0:
            self.confidence = [self.map_sum.new_zeros(0, dtype=torch.float32)]

    def _mean(self, chosen: Tensor) -> Tensor:
        if not isinstance(self.maps, Tensor) and len(self.maps) == 0:
            return self.count.new_tensor(math.nan)
        maps, confidence = dim_zero_cat(self.maps), dim_zero_cat(self.confidence)
        wide = confidence.to(self.count.dtype)
        return c_score(maps, wide, dim_zero_cat(self.classes), self.num_classes, self.min_samples)
