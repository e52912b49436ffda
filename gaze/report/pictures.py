"""Maps and images to figures that a person can read, for TensorBoard and the run's folder. Writes no file."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from gaze.report.style import GAZE_COLOURS, OUTLINE, new_figure, no_gaze

RIGHT, WRONG = "#1b7837", "#b2182b"
ACROSS = 3  # panels side by side: in TensorBoard a picture is some 330 pixels wide, whatever it holds
TEXT = 11  # points


def class_gaze_figure(class_gaze: Tensor, counts: Sequence[int], names: Sequence[str], title: str) -> Figure:
    """Mean gaze of every class side by side, on one scale from 0 to 1.

    Args:
        class_gaze: (K, H, W) in [0, 1].
        counts: correct images behind each mean (K).
        names: of the classes (K).
        title: of the whole figure.
    """
    rows, columns = _laid_out(len(names))
    figure = new_figure(max(1.7 * columns + 1.0, 4.2), 2.5 * rows + 0.5)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, gaze, number, name in zip(
        axes[: len(names)], class_gaze.cpu().float().numpy(), counts, names, strict=True
    ):
        axis.set_title(f"{_wrapped(name, 1.7)}\n{number} correct", fontsize=TEXT)
        image = axis.imshow(gaze, cmap=GAZE_COLOURS, vmin=0, vmax=1)
        if not number:
            no_gaze(axis, (gaze.shape[1] - 1) / 2, (gaze.shape[0] - 1) / 2, *gaze.shape[::-1])
    figure.colorbar(image, ax=list(axes), label="mean CAM (0..1)", fraction=0.05)
    figure.suptitle(_wrapped(title, figure.get_figwidth()), fontsize=TEXT)
    return figure


def _laid_out(count: int) -> tuple[int, int]:
    """Rows and columns, at most :data:`ACROSS`, as full as can be."""
    rows = -(-count // ACROSS)
    return rows, -(-count // rows)


def _wrapped(text: str, inches: float) -> str:
    """Lines of :data:`TEXT` points that are no longer than this."""
    return textwrap.fill(text, int(10.5 * inches), break_on_hyphens=False)


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
    rows, columns = _laid_out(count)
    figure = new_figure(max(1.7 * columns, 4.2), 4.3 * rows + 0.4)
    axes = figure.subplots(2 * rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for i in range(count):
        picture = shown[i].permute(1, 2, 0).numpy()
        grey = {"cmap": "gray", "vmin": 0, "vmax": 1} if picture.shape[2] == 1 else {}
        right = preds[i] == targets[i]
        plain, overlaid = axes[2 * (i // columns) : 2 * (i // columns) + 2, i % columns]
        for axis in (plain, overlaid):
            axis.imshow(picture, **grey)
            if masks is not None and masks[i].amax() > 0:
                outline = masks[i, 0].cpu().float().numpy()
                axis.contour(outline, levels=[0.5], colors=OUTLINE, linewidths=0.9)
        overlaid.imshow(enlarged[i].numpy(), cmap=GAZE_COLOURS, vmin=0, vmax=1, alpha=0.55)
        empty = "" if cams[i].amax() > 0 else "\nCAM is zero"
        plain.set_title(_wrapped(f"true: {names[targets[i]]}", 1.7), fontsize=TEXT)
        said = _wrapped(f"{'right' if right else 'wrong'}: {names[preds[i]]}", 1.7)
        overlaid.set_title(said + empty, fontsize=TEXT, color=RIGHT if right else WRONG)
    figure.suptitle(_wrapped(title, figure.get_figwidth()), fontsize=TEXT)
    return figure


def figure_pixels(figure: Figure, dpi: int = 110) -> NDArray[np.uint8]:
    """A drawn figure as RGB pixels (height, width, 3), without a display."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
