"""Curves and pictures of ``check=RUN``. Writes no file."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gaze.metrics.faithfulness import ROAD_SHARES
from gaze.report.style import GAZE_COLOURS, LINES, MARKERS, OKABE_ITO, SMALL, TEXT, Style, add_legend, dress, new_figure
from gaze.statistics.bootstrap import nan_mean
from gaze.statistics.intervals import Floats, present
from gaze.studies.check.checks import CHANGE_ALLOWED, KINDS, NOISE, RHO_ALLOWED, Checked

KIND_NAMES = {"gaze": "gaze", "random": "random map", "centred": "centred Gaussian"}
STYLES = {
    "gaze": Style("#000000", "o", "-", 2.2),
    "random": Style(OKABE_ITO[1], MARKERS[1], LINES[1], 1.5),
    "centred": Style(OKABE_ITO[2], MARKERS[2], LINES[2], 1.5),
}


def curve_figure(c: Checked) -> Figure:
    """Mean probability of the class while pixels go: deletion, insertion, and ROAD both ways."""
    panels = (
        ("deletion", "Deletion: the lower the better", c.share),
        ("insertion", "Insertion: the higher the better", c.share),
        ("morf", "ROAD, most relevant first: lower", np.array(ROAD_SHARES)),
        ("lerf", "ROAD, least relevant first: higher", np.array(ROAD_SHARES)),
    )
    figure = new_figure(9.6, 6.2)
    axes = figure.subplots(2, 2, sharey=True)
    for axis, (name, title, share) in zip(axes.flat, panels, strict=True):
        for kind in KINDS:
            mean, style = _mean(c.curves[name, kind], c), STYLES[kind]
            marks = {"marker": style.marker, "markersize": 3.5}
            axis.plot(100 * share, mean, color=style.colour, linestyle=style.line, linewidth=style.width, **marks)
        what = "pixels put in (%)" if name == "insertion" else "pixels removed (%)"
        dress(axis, title, what, "probability of the class")
        axis.set(xlim=(0, 100), ylim=(0, 1))
    add_legend(figure, [STYLES[kind].line2d(KIND_NAMES[kind]) for kind in KINDS])
    return figure


def _mean(curves: Floats, c: Checked) -> Floats:
    """Over images, classes counted alike."""
    mean: Floats = np.mean([curves[c.target == label].mean(0) for label in np.unique(c.target)], axis=0)
    return mean


def sanity_figure(c: Checked) -> Figure:
    """|Spearman| with the trained map as the weights go, and the change of the map under noise."""
    figure = new_figure(9.6, 3.6)
    left, right = figure.subplots(1, 2)
    names = ["trained", *c.layers]
    rho = np.vstack([np.ones(c.rho.shape[2]), nan_mean(c.rho, 0)])  # NaN: the map has vanished in every draw
    low, middle, high = (
        np.array([np.percentile(present(row), share) if present(row).size else np.nan for row in rho])
        for share in (25, 50, 75)
    )
    x = np.arange(len(names))
    left.fill_between(x, low, high, color="0.85", linewidth=0)
    left.plot(x, middle, color="black", marker="o", markersize=4)
    step = -(-len(names) // 12)
    left.set_xticks(x[::step], names[::step], rotation=30, ha="right")
    dress(left, "Weights reset, from the last layer to the first", "reset up to and with", "|Spearman|")
    left.set_ylim(0, 1.03)
    _limit(left, RHO_ALLOWED)
    low, middle, high = np.nanpercentile(c.change, [25, 50, 75], axis=1)
    sds = 100 * np.array(NOISE)
    right.fill_between(sds, low, high, color="0.85", linewidth=0)
    right.plot(sds, middle, color="black", marker="o", markersize=4)
    dress(right, "Noise that leaves the prediction the same", "SD of the noise (% of the range)", "relative change")
    right.set_ylim(0, max(1.2 * CHANGE_ALLOWED, 1.1 * float(high.max())))
    _limit(right, CHANGE_ALLOWED)
    return figure


def _limit(axis: Axes, value: float) -> None:
    axis.axhline(value, color=OKABE_ITO[1], linestyle="--", linewidth=1.2)
    axis.annotate("threshold", (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=SMALL)


def cascade_figure(c: Checked, classes: list[str]) -> Figure:
    """Some images and their maps while the weights go: a row per image, a column per step."""
    steps = list(range(len(c.cascade_maps)))
    if len(steps) > 8:  # a deep network: evenly, the first and the last among them
        steps = sorted({round(i) for i in np.linspace(0, steps[-1], 8)})
    names = ["trained", *c.layers]
    figure = new_figure(1.15 * (len(steps) + 1) + 0.6, 1.15 * len(c.shown) + 0.5)
    axes = figure.subplots(len(c.shown), len(steps) + 1, squeeze=False)
    for row, place in enumerate(c.shown):
        picture = c.pictures[row].transpose(1, 2, 0)
        axes[row, 0].imshow(picture, **({"cmap": "gray", "vmin": 0, "vmax": 255} if picture.shape[2] == 1 else {}))
        axes[row, 0].set_ylabel(classes[c.target[place]], fontsize=TEXT)
        for column, step in enumerate(steps, 1):
            axes[row, column].imshow(c.cascade_maps[step, row], cmap=GAZE_COLOURS, vmin=0, vmax=1)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for axis, title in zip(axes[0], ["image", *(names[step] for step in steps)], strict=True):
        axis.set_title(title, fontsize=SMALL)
    return figure
