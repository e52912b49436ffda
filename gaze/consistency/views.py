"""Consistency of one image under two augmentations: ``gaze.reference=view``.

After CGC (Pillai et al., Consistent Explanations by Contrastive Learning, CVPR 2022), which asks that the map of an
augmented image be the augmented map; here two views of an image are compared with each other, and there are no
negatives: maps of other images are not pushed away.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gaze.consistency.deviation import gaze_deviation
from gaze.consistency.loss import mean_over_images
from gaze.data.augment import warp


def seen_by_both(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Where two views of an image overlap.

    Args:
        frames: matrices (2, B, 2, 3) of flips and crops, view to image, in [-1, 1] coordinates, as
            :func:`gaze.data.augment.random_affine` gives them.

    Returns:
        Matrices (2, B, 2, 3) from the rectangle of the image that both see, unmirrored, to each view; and that
        rectangle's width and height (B, 2) in shares of the image, 0 where they do not overlap.
    """
    scale, centre = torch.stack([frames[..., 0, 0], frames[..., 1, 1]], -1), frames[..., 2]  # (2, B, 2)
    low, high = (centre - scale.abs()).amax(0), (centre + scale.abs()).amin(0)
    side = (high - low).clamp(min=0) / 2
    moved = torch.diag_embed(side / scale)
    return torch.cat([moved, (((high + low) / 2 - centre) / scale)[..., None]], -1), side


def view_loss(cam: Tensor, preds: Tensor, target: Tensor, frames: Tensor, distance: str = "squared") -> Tensor:
    """Mean deviation of the two maps of an image, warped back and compared on the rectangle of it that both views see.

    Counted are images that both views get right, and whose rectangle is a map cell or more wide and high; 0, with a
    graph, where there is none. Gradients reach both maps. Nothing waits for the host; ``torch.distributed`` as in
    :func:`gaze.consistency.guidance.guidance_loss`. Each map was scaled to [0, 1] over its own view, which may hold a
    peak that the other does not see: ``distance="pearson"``, as CGC's cosine, does not mind.

    Args:
        cam: normalised maps (2, B, H, W) in [0, 1] of the true class: one view, and the other.
        preds: predicted classes (2, B).
        target: true classes (B,); one below 0 (padding) does not count.
        frames: see :func:`seen_by_both`.
        distance: see :func:`gaze.consistency.gaze_deviation`.

    Returns:
        Scalar >= 0.
    """
    finite = cam.isfinite().flatten(2).all(2).all(0)  # (B,)
    cam = torch.where(finite[:, None, None], cam, 0)
    moves, side = seen_by_both(frames.to(cam.device, cam.dtype, non_blocking=True))
    one, other = (warp(maps[:, None], move)[:, 0] for maps, move in zip(cam, moves, strict=True))
    wide = (side * side.new_tensor([cam.shape[3], cam.shape[2]]) >= 1).all(1)
    counts = (preds == target).all(0) & (target >= 0) & wide & finite
    return mean_over_images(gaze_deviation(one, other, distance), counts)
