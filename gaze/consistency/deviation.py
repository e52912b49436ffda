"""How far a gaze is from its class's gaze (thesis, Eq. 5-10); which images count; how spread a map is.

Maps CAM^ were scaled to [0, 1] by :func:`gaze.cam.normalize_cam`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gaze.choices import DISTANCES

ONE_LOGIT = (
    "A network with one logit has two classes: give num_classes=2 and preds=(logit > 0).flatten(), of a probability "
    "preds=(probability > 0.5).flatten()."
)
SEVERAL_LABELS = (
    "One-hot rows: give target.argmax(1). Several labels an image are a task each: use a loss or metric of "
    "num_classes=2 for each label j, with target[:, j].long() and that label's predictions and maps."
)


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
        ValueError: maps that are not (B, H, W).
    """
    check_maps(cam)
    return DISTANCES[distance].function(cam, reference.expand_as(cam))


def checked_batch(preds: Tensor, target: Tensor, num_classes: int, cam: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Predicted and true classes (B,) int64 of a batch whose shapes and types fit. No value is looked at, so that a GPU
    need not wait for the host.

    Args:
        preds: predicted classes (B,), whole numbers of any type, or scores (B, K) such as logits.
        target: true classes (B,), whole numbers of any type.
        num_classes: K.
        cam: maps (B, H, W).

    Raises:
        ValueError: what does not fit, and how to give it.
    """
    if target.ndim != 1 or _has_fractions(target):
        hint = SEVERAL_LABELS if target.ndim == 2 and target.shape[1] > 1 else "Give target.flatten().long()."
        raise ValueError(f"target must be one class an image, whole numbers (B,), got {_described(target)}. {hint}")
    if preds.ndim == 2 and preds.shape[1] == num_classes > 1:
        preds = preds.argmax(1)
    if preds.ndim != 1 or _has_fractions(preds):
        more = f"num_classes={num_classes} must be the number of the network's scores."
        hint = more if preds.ndim == 2 and preds.shape[1] > 1 else ONE_LOGIT
        wanted = f"classes, whole numbers (B,), or scores (B, {num_classes})"
        raise ValueError(f"preds must be predicted {wanted}, got {_described(preds)}. {hint}")
    if cam is not None:
        check_maps(cam)
    numbers = [len(part) for part in (preds, target, cam) if part is not None]
    if len(set(numbers)) > 1:
        raise ValueError(
            f"preds, target and maps must be of the same images, got {', '.join(map(str, numbers))} of them."
        )
    return preds.long(), target.long()


def check_maps(cam: Tensor) -> None:
    """Raise a ValueError where maps are not (B, H, W) of a floating type: over other axes sums come out wrong."""
    if cam.ndim != 3 or not cam.is_floating_point():
        hint = " Give cam[:, 0]." if cam.ndim == 4 and cam.shape[1] == 1 else ""
        raise ValueError(f"Maps must be (B, H, W) of a floating type, got {_described(cam)}.{hint}")


def _has_fractions(values: Tensor) -> bool:
    return values.is_floating_point() or values.is_complex()


def _described(values: Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')} {tuple(values.shape)}"


def class_membership(preds: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """One-hot rows (B, K) of the correctly classified images, D_c+; all-zero rows for the others.

    Args:
        preds: predicted classes (B,) int64.
        target: true classes (B,) int64; a label outside 0..K-1 (such as -1 for padding) is nobody's.
        num_classes: K.
    """
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
