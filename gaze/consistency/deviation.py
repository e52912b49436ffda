"""How far a gaze is from its class's gaze (thesis, Eq. 5-10); which images count; how spread a map is.

Maps CAM^ were scaled to [0, 1] by :func:`gaze.cam.normalize_cam`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gaze.choices import DISTANCES


def gaze_deviation(cam: Tensor, reference: Tensor, distance: str = "squared") -> Tensor:
    """Deviation of each map from a reference map, differentiable in both; formulas in
    :mod:`gaze.consistency.distances`.

    ``squared`` (thesis, Eq. 9), ``l1`` (mean absolute difference), ``js`` (Jensen-Shannon in bits) and ``soft_iou``
    (1 - soft IoU): 0..1; ``l2`` (published runs): 0..1/sqrt(H'W'); ``pearson`` (1 - r) and ``ssim`` (1 - SSIM): 0..2.

    Args:
        cam: maps (B, H, W) in [0, 1].
        reference: one map (H, W) for all, or one for each (B, H, W).
        distance: one of these names.

    Returns:
        Deviations (B,).

    Raises:
        ConfigError: a distance that does not exist.
    """
    return DISTANCES[distance].function(cam, reference.expand_as(cam))


def class_membership(preds: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """One-hot rows (B, K) of the correctly classified images, D_c+; all-zero rows for the others.

    Args:
        preds: predicted classes (B,), or logits or probabilities (B, K).
        target: true classes (B,); a label outside 0..K-1 (such as -1 for padding) is nobody's.
        num_classes: K.
    """
    if preds.ndim == target.ndim + 1:
        preds = preds.argmax(1)
    slot = torch.where((preds == target) & (target >= 0) & (target < num_classes), target, num_classes)
    return F.one_hot(slot, num_classes + 1)[:, :num_classes]


def map_entropy(cam: Tensor) -> Tensor:
    """Shannon entropy of each map as a distribution over its cells, divided by that of a uniform one.

    ``H(p) / ln(H'W')`` with p = CAM^ / sum(CAM^): 0 for a single cell, 1 for all cells alike; an all-zero map,
    which is no distribution, gives 0.

    Args:
        cam: maps (B, H, W), >= 0.

    Returns:
        Entropies (B,), 0..1.
    """
    flat = cam.flatten(1)
    p = flat / flat.sum(1, keepdim=True).clamp(min=torch.finfo(cam.dtype).tiny)
    return torch.special.entr(p).sum(1) / math.log(flat.shape[1])
