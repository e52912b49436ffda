"""Grad-CAM as pure tensor functions (Selvaraju et al. 2017, arXiv:1610.02391; thesis, Eq. 1-2).

Maps are (B, H, W) in the hooked tensor's own grid. All functions stay on the device, work on any
floating type and can be differentiated twice.
"""

from __future__ import annotations

import torch
from torch import Tensor


def grad_cam(features: Tensor, score: Tensor, *, create_graph: bool, retain_graph: bool | None = None) -> Tensor:
    """Grad-CAM of every image, un-normalised (thesis, Eq. 1).

    ``alpha_k = mean_ij d y / d A^k_ij``, ``CAM = ReLU(sum_k alpha_k A^k)``. One call serves a whole batch,
    because the score of an image depends on that image's features alone (no batch statistics in the head).

    Args:
        features: hooked tensor A (B, M, H, W) that ``score`` was computed from. Needs gradients.
        score: pre-softmax score y^c of the class asked for, one per image (B,).
        create_graph: True keeps ``d alpha / d theta``: the map can be differentiated as the function of the
            weights that it is. False holds alpha constant; gradients then reach the map through A alone.
        retain_graph: keep the graph of ``score``, for a loss that uses it as well. Default: yes where
            ``features`` is part of a larger graph (training), no where it is a leaf (evaluation).

    Returns:
        Maps (B, H, W), >= 0, unit of ``score``; one that no channel supports is all zero.

    Raises:
        ValueError: shapes that do not fit.
        RuntimeError: ``score`` does not depend on ``features``.
    """
    if features.ndim != 4 or score.shape != features.shape[:1]:
        raise ValueError(
            f"grad_cam needs features (B, M, H, W) and one score per image (B,), got {tuple(features.shape)} "
            f"and {tuple(score.shape)}. Pick the class first: logits.gather(1, target[:, None]).squeeze(1)."
        )
    if retain_graph is None:
        retain_graph = create_graph or not features.is_leaf
    (gradient,) = torch.autograd.grad(score.sum(), features, create_graph=create_graph, retain_graph=retain_graph)
    return weighted_map(features, gradient.mean((2, 3)))


def weighted_map(features: Tensor, alpha: Tensor) -> Tensor:
    """``ReLU(sum_k alpha_k A^k)`` (thesis, Eq. 1), without a copy of the features in either memory order.

    Args:
        features: A (B, M, H, W).
        alpha: weights of the channels (B, M).

    Returns:
        Maps (B, H, W), >= 0.
    """
    batch, channels, height, width = features.shape
    if features.is_contiguous(memory_format=torch.channels_last) and not features.is_contiguous():
        # The gradient of this product has the order of its factors: NHWC stays NHWC on the way back as well.
        cells = features.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        return (cells @ alpha[:, :, None]).view(batch, height, width).relu()
    cells = features.reshape(batch, channels, height * width)
    return (alpha[:, None, :] @ cells).view(batch, height, width).relu()


def normalize_cam(cam: Tensor, eps: float = 1e-8) -> Tensor:
    """Min-max scale each map to [0, 1] (thesis, Eq. 2). An all-zero map, or a flat one, becomes zero.

    Args:
        cam: maps (B, H, W).
        eps: added to the range, in the unit of ``cam``.
    """
    low, high = cam.amin((1, 2), keepdim=True), cam.amax((1, 2), keepdim=True)  # (B, 1, 1)
    return (cam - low) / (high - low + eps)
