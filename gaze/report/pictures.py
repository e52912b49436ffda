"""Maps and images to figures that a person can read, for TensorBoard and the run's folder. Writes no file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from gaze.report.style import GAZE_COLOURS, OUTLINE

RIGHT, WRONG = "#1b7837", "#b2182b"


def class_gaze_figure(class_gaze: Tensor, counts: Sequence[int], names: Sequence[str], title: str) -> Figure:
    """Mean gaze of every class side by side, on one scale from 0 to 1.

    Args:
        class_gaze: (K, H, W) in [0, 1].
        counts: correct images behind each mean (K).
        names: of the classes (K).
        title: of the whole figure.
    """
    count = len(names)
    figure = Figure(figsize=(max(2.1 * count + 1.0, 4.2), 2.7), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    image = None
    for axis, gaze, number, name in zip(axes, class_gaze.cpu().float().numpy(), counts, names, strict=True):
        image = axis.imshow(gaze, cmap=GAZE_COLOURS, vmin=0, vmax=1)
        axis.set_title(f"{name}\n{number} correct", fontsize=9)
        axis.set_axis_off()
    if image is not None:
        figure.colorbar(image, ax=list(axes), label="mean CAM (0..1)", fraction=0.05)
    figure.suptitle(title, fontsize=10)
    return figure


def overlay_figure(
    images: Tensor,
    cams: Tensor,
    preds: Sequence[int],
    targets: Sequence[int],
    names: Sequence[str],
    title: str,
    masks: Tensor | None = None,
) -> Figure:
    """Each image above its Grad-CAM for the true class, with truth and prediction.

    Args:
        images: (N, C, S, S) in [-1, 1].
        cams: (N, H, W) in [0, 1], enlarged bilinearly to the image.
        preds: predicted classes (N).
        targets: true classes (N).
        names: of the classes.
        title: of the whole figure.
        masks: (N, 1, S, S) in 0..1, outlined where given: what there is to see.
    """
    count = len(targets)
    size = (images.shape[2], images.shape[3])
    shown = (images.cpu().float().clamp(-1, 1) + 1) / 2
    enlarged = F.interpolate(cams.cpu().float()[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    figure = Figure(figsize=(max(1.55 * count, 4.2), 4.1), layout="constrained")
    axes = figure.subplots(2, count, squeeze=False)
    for column in range(count):
        picture = shown[column].permute(1, 2, 0).numpy()
        grey = {"cmap": "gray", "vmin": 0, "vmax": 1} if picture.shape[2] == 1 else {}
        right = preds[column] == targets[column]
        for row in range(2):
            axes[row, column].imshow(picture, **grey)
            axes[row, column].set_axis_off()
            if masks is not None and masks[column].amax() > 0:
                outline = masks[column, 0].cpu().float().numpy()
                axes[row, column].contour(outline, levels=[0.5], colors=OUTLINE, linewidths=0.9)
        axes[1, column].imshow(enlarged[column].numpy(), cmap=GAZE_COLOURS, vmin=0, vmax=1, alpha=0.55)
        empty = "" if cams[column].amax() > 0 else "\nno gaze: CAM is zero"
        axes[0, column].set_title(f"true: {names[targets[column]]}", fontsize=8)
        axes[1, column].set_title(
            f"{'right' if right else 'wrong'}: {names[preds[column]]}{empty}",
            fontsize=8,
            color=RIGHT if right else WRONG,
        )
    figure.suptitle(title, fontsize=10)
    return figure


def figure_pixels(figure: Figure, dpi: int = 110) -> NDArray[np.uint8]:
    """A drawn figure as RGB pixels (height, width, 3), without a display."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
