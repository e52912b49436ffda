"""Figures of where the gaze went in the augmentation study: mean maps, and the images that moved. Writes no file."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gaze.report.style import GAZE_COLOURS, OUTLINE, SMALL, TEXT, TITLE, new_figure, say
from gaze.statistics.bootstrap import nan_mean
from gaze.statistics.intervals import Floats
from gaze.studies.augmentation.compared import Compared
from gaze.studies.augmentation.profile_plots import CHANGE_COLOURS, colour_bar, short_name, white_borders

MOST_CLASSES = 6  # up to so many classes have columns of their own
LEAST_CHANGE = 0.05  # at which the colours of a change end at the earliest: noise must not look like a finding


def where_figure(c: Compared, arms: list[str]) -> Figure:
    """Where the gaze moved to: mean maps at the left, their change from the baseline's at the right, a row per arm.

    A map is the mean over an arm's runs of each run's mean over a class's images with a gaze, then over the classes.
    Up to 6 classes have columns of their own. All mean maps share one scale from 0, all changes one scale around 0,
    red: more gaze, blue: less. The baseline's change is that of one half of its runs from the other half: what
    retraining alone does. Light grey: no map.

    Args:
        c: its maps, target, valid.
        arms: names of the arms below the baseline, in this order.

    Raises:
        ValueError: an arm without runs.
    """
    if absent := [arm for arm in arms if not c.rows(arm).size]:
        raise ValueError(f"No run of arm {absent[0]!r}.")
    names = [c.baseline, *arms]
    per_run = np.stack([_run_means(c, run) for run in range(len(c.runs))])  # (R, columns, H, W)
    means = np.stack([nan_mean(per_run[c.rows(name)], 0) for name in names])
    base = c.rows(c.baseline)
    changes = np.concatenate(
        [(nan_mean(per_run[base[::2]], 0) - nan_mean(per_run[base[1::2]], 0))[None], means[1:] - means[0]]
    )
    heads = ["all classes", *(c.classes if means.shape[1] > 1 else ())]
    tile = float(np.clip(10.2 / (2 * len(heads)), 0.62, 0.95))
    upright = len(heads) > 4 and max(len(word) for head in heads for word in head.split()) > 9
    figure = new_figure(max(2 * tile * len(heads) + 2.5, 4.6), tile * len(names) + 1.6 + 0.6 * upright)
    left, right = figure.subplots(1, 2)
    top = _largest(means, 0.1)
    end = _largest(changes, LEAST_CHANGE)
    _tiles(figure, left, means, Normalize(0, top), GAZE_COLOURS, "mean gaze (0..1)")
    _tiles(figure, right, changes, Normalize(-end, end), CHANGE_COLOURS, "blue: less gaze, red: more")
    for axis, title in ((left, "mean gaze"), (right, "change from the baseline")):
        axis.set_title(title, fontsize=TEXT, fontweight="bold")
        axis.set_xticks(range(len(heads)), [short_name(head, 18 if upright else 10) for head in heads], fontsize=SMALL)
        axis.tick_params(axis="x", labelrotation=90 * upright)
    rows = [f"{short_name(name, 20)}\n({_runs(c, name)})" for name in names]
    left.set_yticks(range(len(names)), rows, fontsize=SMALL)
    right.set_yticks([0], ["retraining:\nhalf the runs\nless the others"], fontsize=SMALL - 0.5, color="0.35")
    figure.suptitle("Where the gaze is, and where it moved", fontsize=TITLE)
    return figure


def moved_figure(
    c: Compared,
    images: pd.DataFrame,
    arm: str,
    pictures: NDArray[np.floating[Any]],
    masks: NDArray[np.floating[Any]] | None,
    most: int = 4,
) -> Figure:
    """The images whose gaze moved most and least, a column each: image, baseline's mean map, arm's mean map.

    A mean map is over the runs that have a gaze on this image, 0..1, on one scale. Moved: the excess distance. Only
    images that have one are shown, and none of them twice.

    Args:
        c: its maps, place, target, classes.
        images: rows of ``effects.image_table``; those of ``arm`` are read.
        arm: name of the arm.
        pictures: (N, S, S) or (N, S, S, 3), 0..1, in the order of ``c.place``.
        masks: (N, S, S) in 0..1, outlined; an empty one has no outline. None where the set has none.
        most: images of each kind.

    Raises:
        ValueError: ``most`` below 1, or not one picture or mask per image.
    """
    if most < 1:
        raise ValueError(f"most must be at least 1, got {most}.")
    if len(pictures) != len(c.place) or (masks is not None and len(masks) != len(c.place)):
        raise ValueError(f"Needs a picture, and where there are masks a mask, for each of {len(c.place)} images.")
    chosen = images[(images["arm"] == arm) & images["excess_distance"].notna()]
    chosen = chosen.sort_values("excess_distance", ascending=False, kind="stable")
    upper = min(most, -(-len(chosen) // 2))
    lower = min(most, len(chosen) - upper)
    figure = new_figure(max(1.3 * (upper + lower) + 1.7, 4.6), 5.2, None)  # a constrained layout takes seconds
    room = int(figure.get_figwidth() * 12) - 40  # letters
    figure.suptitle(f"Images whose gaze moved most and least: {short_name(arm, room, 1)}", fontsize=TITLE)
    if chosen.empty:
        say(figure.subplots(), "no image has an excess distance")
        figure.axes[0].set_axis_off()
        return figure
    blocks = [("moved most", chosen[:upper]), ("moved least", chosen[len(chosen) - lower :][::-1])]
    panels = _blocks(figure, upper, lower)
    spot = {place: i for i, place in enumerate(c.place.tolist())}
    for columns, (title, rows) in zip((panels[:, :upper], panels[:, upper:]), blocks, strict=True):
        for k, row in enumerate(rows.itertuples()):
            i = spot[row.place]
            _column(c, columns[:, k], i, arm, pictures[i], None if masks is None else masks[i])
            columns[2, k].set_xlabel(_facts(row, c.classes[c.target[i]]), fontsize=SMALL, linespacing=1.25)
        if len(rows):
            columns[0, 0].set_title(title, fontsize=TITLE, fontweight="bold", loc="left")
    whose = (f"{short_name(name, 18)}\n({_runs(c, name)})" for name in (c.baseline, arm))
    for axis, text in zip(panels[:, 0], ("image", *whose), strict=True):
        axis.set_ylabel(text, fontsize=SMALL)
    return figure


def _runs(c: Compared, arm: str) -> str:
    count = c.rows(arm).size
    return f"{count} run{'s' * (count != 1)}"


def _run_means(c: Compared, run: int) -> Floats:
    """Mean map of a run: over the classes, then, for few classes, of each class, (1 or 1 + K, H, W)."""
    classes = range(len(c.classes))
    of_class = np.stack([nan_mean(c.cams[run, (c.target == k) & c.valid[run]], 0) for k in classes])
    balanced = nan_mean(of_class, 0)[None]
    return np.concatenate([balanced, of_class]) if len(c.classes) <= MOST_CLASSES else balanced


def _largest(maps: Floats, least: float) -> float:
    """Largest absolute value, at least ``least``."""
    return float(max(least, np.nanmax(np.abs(maps), initial=0.0)))


def _tiles(figure: Figure, axis: Axes, maps: Floats, scale: Normalize, colours: str | Colormap, label: str) -> None:
    """Maps (rows, columns, H, W) as one image with white borders, column heads above, colour bar below."""
    rows, columns, height, width = maps.shape
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    flat = maps.transpose(0, 2, 1, 3).reshape(rows * height, columns * width)
    shades = matplotlib.colormaps.get_cmap(colours).with_extremes(bad="0.9")
    axis.imshow(flat, cmap=shades, norm=scale, extent=extent, interpolation="nearest", aspect=height / width)
    white_borders(axis, columns, rows, linewidth=3.0)
    axis.tick_params(length=0, labeltop=True, labelbottom=False)
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    high = figure.get_figheight()
    size: dict[str, Any] = {"location": "bottom", "fraction": 0.15 / high, "aspect": 24, "pad": 0.12 / high}
    colour_bar(figure, scale, shades, label, ax=axis, **size)


def _blocks(figure: Figure, upper: int, lower: int) -> NDArray[np.object_]:
    """Panels (3, upper + lower) with a gap after the first ``upper`` columns, and the colour bar."""
    ratios = [1.0] * upper + [0.12] + [1.0] * lower
    width, height = figure.get_size_inches()
    grid = {"left": 0.62 / width, "right": 1 - 0.85 / width, "bottom": 0.72 / height, "top": 1 - 0.55 / height}
    grid |= {"wspace": 0.06, "hspace": 0.05}
    panels = figure.subplots(3, len(ratios), squeeze=False, gridspec_kw={"width_ratios": ratios, **grid})
    for axis in panels[:, upper]:
        axis.set_axis_off()
    place = (1 - 0.7 / width, grid["bottom"], 0.12 / width, grid["top"] - grid["bottom"])
    colour_bar(figure, Normalize(0, 1), GAZE_COLOURS, "gaze, mean over runs (0..1)", cax=figure.add_axes(place))
    return np.delete(panels, upper, axis=1)


def _column(
    c: Compared,
    axes: NDArray[np.object_],
    i: int,
    arm: str,
    picture: NDArray[np.floating[Any]],
    mask: NDArray[np.floating[Any]] | None,
) -> None:
    """One image: as it is, under the baseline's mean map and under the arm's, each with the mask's outline."""
    height, width = picture.shape[:2]
    grey: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1} if picture.ndim == 2 else {}
    for axis, name in zip(axes, (None, c.baseline, arm), strict=True):
        axis.imshow(picture, **grey)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        if mask is not None and mask.max() > 0.5:
            axis.contour(mask, levels=[0.5], colors=OUTLINE, linewidths=0.9)
        if name is None:
            continue
        rows = c.rows(name)
        gaze = nan_mean(c.cams[rows, i][c.valid[rows, i]], 0)
        if np.isnan(gaze).all():
            say(axis, "no gaze")
            continue
        whole = (-0.5, width - 0.5, height - 0.5, -0.5)
        look: dict[str, Any] = {"cmap": GAZE_COLOURS, "vmin": 0, "vmax": 1, "alpha": 0.55, "interpolation": "bilinear"}
        axis.imshow(gaze, extent=whole, **look)
        axis.set(xlim=whole[:2], ylim=whole[2:])


def _facts(row: Any, label: str) -> str:
    """What stands under an image."""
    moved, gain = f"excess {row.excess_distance:+.3f}", f"change of log p {row.delta_log_p:+.2f}"
    return "\n".join((short_name(label, 20, 1), moved, gain, f"image {row.place}"))
