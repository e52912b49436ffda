"""Figures of the augmentation study's statistics: profile, retraining noise, gain against gaze. Writes no file.

The baseline is grey in all of them. Words for a reader who does not know the metrics stand in ``METRIC_NAMES``.
"""

from __future__ import annotations

import re
import textwrap
from itertools import combinations, product
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from gaze.report.style import OKABE_ITO, SMALL, TEXT, TITLE, add_legend, dress, new_figure, say
from gaze.studies.augmentation.compared import Compared

METRIC_NAMES: dict[str, tuple[str, str]] = {  # plain words, and which way to read a change
    "pearson": ("correlation distance", "higher = the maps are less alike (1 - Pearson's r)"),
    "spearman": ("rank distance", "higher = the maps rank their cells less alike (1 - Spearman's rho)"),
    "mad": ("mean difference", "higher = the maps differ more, cell by cell"),
    "msd": ("squared difference", "higher = the maps differ more, large differences count more"),
    "overlap": ("top cells not shared", "higher = the brightest fifth of the cells lies elsewhere"),
    "sim": ("gaze not shared", "higher = less of the gaze falls on the same cells"),
    "js": ("Jensen-Shannon divergence", "higher = the gaze is shared out over the cells in another way"),
    "emd": ("moving distance", "higher = the gaze must be moved further to turn one map into the other"),
    "centroid_shift": ("shift of the centre", "higher = the centres of the two gazes lie further apart"),
    "xcorr_peak": ("mismatch at best shift", "higher = the maps differ even when shifted to fit as well as they can"),
    "xcorr_lag": ("best shift", "higher = one map must be shifted further to fit the other"),
    "region_mad": ("difference by region", "higher = large regions of the maps differ more"),
    "pred_kl": ("difference of predictions", "higher = the predicted probabilities differ more"),
    "dispersion": ("spread of the gaze", "lower = the gaze is narrower around its centre"),
    "entropy": ("evenness of the gaze", "lower = fewer cells carry the gaze"),
    "gini": ("concentration", "lower = the gaze is shared out more evenly"),
    "centroid_y": ("centre, downwards", "lower = the centre of the gaze is higher up in the image"),
    "centroid_x": ("centre, to the right", "lower = the centre of the gaze is further left in the image"),
    "centroid_variance": ("wandering in a class", "lower = the centre is at more the same place for images of a class"),
    "dead_rate": ("empty maps", "lower = fewer images without any gaze"),
    "mask_energy": ("share on the target", "lower = less of the gaze falls on the marked target"),
    "mask_lift": ("lift on the target", "lower = less gaze on the target for its size (1 = as a gaze without aim)"),
    "accuracy": ("accuracy", "lower = fewer images are classified correctly"),
}
GROUPS = {  # of the profile's columns; METRIC_NAMES has their order
    "distance from the baseline's maps, beyond retraining": tuple(METRIC_NAMES)[:13],
    "shape and place of the gaze": tuple(METRIC_NAMES)[13:20],
    "on the target": ("mask_energy", "mask_lift"),
    " ": ("accuracy",),
}
CLIP = 4.0  # z at which the profile's colours end
# Red: more, blue: less. Without the darkest ends, on which a black frame would not show.
CHANGE_COLOURS = ListedColormap(matplotlib.colormaps["RdBu_r"](np.linspace(0.08, 0.92, 255)), "change").with_extremes(
    bad="0.9"
)
GREY, WITHIN, BETWEEN = "0.45", OKABE_ITO[0], OKABE_ITO[1]
RIM = 0.5  # percent of the points at each side that may lie beyond the frame of gain_figure


def short_name(name: str, width: int = 24, lines: int = 2) -> str:
    """``name`` in at most so many lines of so many letters, with an ellipsis where it is longer."""
    spaced = re.sub(r"([_/])(?=\S)", r"\1 ", name)  # lines may also end there
    wrapped = textwrap.wrap(spaced, width, max_lines=lines, placeholder="…")
    return "\n".join(re.sub(r"([_/]) ", r"\1", line) for line in wrapped)


def white_borders(axis: Axes, columns: int, rows: int, left: float = 0.0, *, linewidth: float) -> None:
    """Lines around cells of side 1, the first of them centred at (``left``, 0)."""
    edges = left - 0.5 + np.arange(columns + 1)
    axis.vlines(edges, -0.5, rows - 0.5, color="white", linewidth=linewidth)
    axis.hlines(np.arange(rows + 1) - 0.5, edges[0], edges[-1], color="white", linewidth=linewidth)


def colour_bar(figure: Figure, scale: Normalize, colours: str | Colormap, label: str, **place: Any) -> None:
    """A labelled colour bar in small print; ``place`` is matplotlib's."""
    bar = figure.colorbar(ScalarMappable(scale, colours), **place)
    bar.set_label(label, fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)


def profile_figure(profile: pd.DataFrame) -> Figure:
    """Profile heat map: a row per arm, a column per metric, in units of the baseline's run-to-run SD.

    Colour and number are ``z``: red above the baseline, blue below; the colours end at +-4. Framed, bold: ``marked``.
    Grey with a dash: no z, no such row, or ``underpowered``.

    Args:
        profile: rows of ``effects.profile_table``: ``arm``, ``metric``, ``z``, ``marked``, ``underpowered``.

    Raises:
        ValueError: no row, or a metric that ``METRIC_NAMES`` does not have.
    """
    if profile.empty:
        raise ValueError("No arm to draw a profile of.")
    if unknown := sorted(set(profile["metric"]) - set(METRIC_NAMES)):
        raise ValueError(f"Unknown metric {unknown[0]!r}. Known: {', '.join(METRIC_NAMES)}.")
    arms = list(dict.fromkeys(profile["arm"]))
    cells = {(row.arm, row.metric): row for row in profile.itertuples()}
    present = set(profile["metric"])
    groups = {title: own for title, group in GROUPS.items() if (own := [m for m in group if m in present])}
    width = len(present) + 0.4 * (len(groups) - 1)
    names = [short_name(arm) for arm in arms]
    side = 0.5 + 0.072 * max(len(line) for name in names for line in name.split("\n"))
    figure = new_figure(max(0.425 * width + side, 5.2), 0.34 * len(arms) + 2.75)
    axis = figure.subplots()
    places: list[float] = []
    for title, group in groups.items():
        left = places[-1] + 1.4 if places else 0.0
        places += [left + i for i in range(len(group))]
        _group_head(axis, title, left - 0.5, left + len(group) - 0.5)
        _cells(axis, [[cells.get((arm, metric)) for metric in group] for arm in arms], left)
    axis.set(xlim=(-0.5, width - 0.5), ylim=(len(arms) - 0.5, -0.5))
    axis.set_yticks(range(len(arms)), names, fontsize=TEXT, linespacing=0.95)
    labels = [METRIC_NAMES[metric][0] for group in groups.values() for metric in group]
    axis.set_xticks(places, labels, fontsize=SMALL, rotation=90)
    axis.tick_params(length=0, labeltop=True, labelbottom=False)
    axis.spines[:].set_visible(False)
    _profile_bar(figure, axis, bool((profile["metric"] == "pearson").any()))
    figure.suptitle("What each augmentation changes, against the models trained without one", fontsize=TITLE)
    return figure


def noise_figure(c: Compared, arms: pd.DataFrame, distances: NDArray[np.float64]) -> Figure:
    """Does "between" stand out of retraining noise? A row per arm with the distance of every pair of runs as a dot.

    Three strips a row: pairs within the baseline, within the arm, between the two; a bar at each mean. The arrow is the
    effect: from the average of the two within means to the between mean. The verdict stands at the right.

    Args:
        c: its runs and baseline.
        arms: rows of ``gaze.statistics.permutation.arms_table``; they are drawn in this order.
        distances: mean over images of 1 - pearson, (R, R) in the order of ``c.runs``, 0..2.

    Raises:
        ValueError: no arm, or distances of another number of runs.
    """
    if arms.empty:
        raise ValueError("No arm to hold against the baseline.")
    if distances.shape != (len(c.runs), len(c.runs)):
        raise ValueError(f"Distances must be (R, R) of {len(c.runs)} runs, got {distances.shape}.")
    figure = new_figure(9.2, 0.62 * len(arms) + 1.6)
    axis = figure.subplots()
    base = c.rows(c.baseline)
    for y, row in enumerate(arms.itertuples()):
        own = c.rows(str(row.arm))
        strips = [
            np.array([distances[i, j] for i, j in pairs], dtype=float)
            for pairs in (combinations(base, 2), combinations(own, 2), product(base, own))
        ]
        _strips(axis, y, strips)
        beside: dict[str, Any] = {"transform": axis.get_yaxis_transform(), "va": "center", "fontsize": TEXT}
        weight = "bold" if row.verdict == "moved" else "normal"
        axis.text(1.015, y, _verdict(row), fontweight=weight, linespacing=1.0, **beside)
    dress(axis, "", "", "")
    axis.set_xlabel("distance of two runs: 1 - correlation of their maps, mean over images", fontsize=TEXT)
    names = [short_name(str(arm)) for arm in arms["arm"]]
    axis.set_yticks(range(len(arms)), names, fontsize=TEXT)
    axis.set_ylim(len(arms) - 0.5, -0.5)
    axis.set_xlim(left=0)
    axis.grid(visible=False, axis="y")
    axis.hlines(np.arange(1, len(arms)) - 0.5, 0, 1, transform=axis.get_yaxis_transform(), color="0.85", linewidth=0.6)
    dot: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 4}
    handles = [
        Line2D([], [], color=GREY, label=f"two runs of the baseline ({short_name(c.baseline, lines=1)})", **dot),
        Line2D([], [], color=WITHIN, label="two runs of the arm", **{**dot, "marker": "s"}),
        Line2D([], [], color=BETWEEN, label="one run of each", **{**dot, "marker": "D"}),
        Line2D([], [], color="black", linewidth=1.4, label="bar: mean; arrow: effect"),
    ]
    add_legend(figure, handles, "p: over runs, adjusted for the number of arms (Holm)")
    figure.suptitle("Is the gaze moved by more than retraining moves it? A dot per pair of runs", fontsize=TITLE)
    return figure


def gain_figure(images: pd.DataFrame, questions: pd.DataFrame) -> Figure:
    """Question 3, a panel per arm: change of log p(true class) against the excess distance, a dot per image.

    The axes are shared. Their limits leave out half a percent of all dots at each side; those dots are hollow, at the
    rim. The title has Spearman's rho, its 95 % interval over runs, and the partial rho given difficulty.

    Args:
        images: ``effects.image_table``: ``arm``, ``excess_distance``, ``delta_log_p``; rows without either are
            left out.
        questions: ``questions.question_table``, of which question 3 is read.

    Raises:
        ValueError: no arm.
    """
    arms = list(dict.fromkeys(images["arm"]))
    if not arms:
        raise ValueError("No image of any arm.")
    columns = ["excess_distance", "delta_log_p"]
    points = images.dropna(subset=columns)
    third = questions[questions["question"] == 3]
    rows = {arm: {str(row.measure): row for row in part.itertuples()} for arm, part in third.groupby("arm")}
    across = min(len(arms), 4)
    down = -(-len(arms) // across)
    figure = new_figure(max(2.55 * across + 0.6, 4.4), 2.25 * down + 0.9)
    panels = list(figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flat)
    limits = _limits(points[columns].to_numpy(float))
    for i, (axis, arm) in enumerate(zip(panels, arms, strict=False)):
        dress(axis, "", "", "")
        axis.set_title(f"{short_name(str(arm), 30, 1)}\n{_rho(rows.get(arm, {}))}", fontsize=SMALL)
        axis.tick_params(labelbottom=i + across >= len(arms))
        _gains(axis, points.loc[points["arm"] == arm, columns].to_numpy(float), limits)
    for axis in panels[len(arms) :]:
        axis.set_axis_off()
    below = "excess distance: how much further the gaze is from the baseline's than retraining moves it"
    figure.supxlabel(textwrap.fill(below, int(figure.get_figwidth() * 13)), fontsize=TEXT)
    figure.supylabel("change of log p (up: surer of the truth)", fontsize=TEXT)
    figure.suptitle("Does the gain go with the gaze? A dot per image", fontsize=TITLE)
    return figure


def _group_head(axis: Axes, title: str, left: float, right: float) -> None:
    """A bracket below the group's columns and its name."""
    below = axis.get_xaxis_transform()
    if title.strip():
        axis.plot([left + 0.06, right - 0.06], [0, 0], color="0.4", linewidth=1.2, transform=below, clip_on=False)
        at: dict[str, Any] = {"xytext": (0, -4), "textcoords": "offset points", "xycoords": below, "fontsize": SMALL}
        axis.annotate(title, ((left + right) / 2, 0), ha="center", va="top", color="0.25", annotation_clip=False, **at)


def _cells(axis: Axes, rows: list[list[Any]], left: float) -> None:
    """One group of the heat map: colours, numbers, frames and dashes. Cells: rows of the profile, or None."""
    shown = np.array([[np.nan if cell is None or cell.underpowered else cell.z for cell in row] for row in rows], float)
    extent = (left - 0.5, left + shown.shape[1] - 0.5, len(rows) - 0.5, -0.5)
    look: dict[str, Any] = {"cmap": CHANGE_COLOURS, "vmin": -CLIP, "vmax": CLIP, "interpolation": "nearest"}
    axis.imshow(shown, extent=extent, aspect="auto", **look)
    white_borders(axis, shown.shape[1], len(rows), left, linewidth=1.2)
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            z = shown[y, x]
            centre: dict[str, Any] = {"x": left + x, "y": y, "ha": "center", "va": "center"}
            if np.isnan(z):
                axis.text(s="–", fontsize=SMALL, color="0.45", **centre)  # noqa: RUF001  the dash of the tables
                continue
            centre |= {"color": "white" if abs(z) > 0.7 * CLIP else "black", "fontsize": SMALL - 0.5}
            axis.text(s=_z_text(z), fontweight="bold" if cell.marked else "normal", **centre)
            if cell.marked:
                box = (left + x - 0.46, y - 0.44)
                axis.add_patch(Rectangle(box, 0.92, 0.88, fill=False, edgecolor="black", linewidth=1.6, zorder=3))


def _z_text(z: float) -> str:
    """Short enough for a cell."""
    if abs(z) >= 1000:
        return "> 999" if z > 0 else "< -999"
    text = f"{z:+.1f}" if abs(z) < 99.95 else f"{z:+.0f}"
    return "0.0" if float(text) == 0 else text


def _profile_bar(figure: Figure, axis: Axes, primary: bool) -> None:
    """The colour bar, and what frames and dashes mean."""
    width, height = figure.get_size_inches()
    size = {"fraction": 0.2 / height, "shrink": 4 / width, "aspect": 30, "pad": 0.1 / height}
    first = " (first column: Holm, the main test; the others: Benjamini-Hochberg, exploratory)" * primary
    text = f"change in SDs between runs of the baseline (red: more, blue: less); colours end at {CLIP:g}, numbers go on"
    frame = f"framed, bold: adjusted p of 0.05 or less{first}; grey, –: too few seeds to test, or no value"  # noqa: RUF001
    letters = int(figure.get_figwidth() * 14.5)
    label = "\n".join(textwrap.fill(line, letters) for line in (text, frame))
    look: dict[str, Any] = {"location": "bottom", "extend": "both", "ticks": [-4, -2, 0, 2, 4], **size}
    colour_bar(figure, Normalize(-CLIP, CLIP), CHANGE_COLOURS, label, ax=axis, **look)


def _strips(axis: Axes, y: int, strips: list[NDArray[np.float64]]) -> None:
    """Dots of the pairs within the baseline, within the arm and between them, from above; the effect as an arrow."""
    looks = ((GREY, "o", -0.24), (WITHIN, "s", 0.0), (BETWEEN, "D", 0.24))
    for values, (colour, marker, offset) in zip(strips, looks, strict=True):
        spread = 0.06 * np.resize([-1.0, 0.0, 1.0], values.size)  # fixed, so that the same runs give the same figure
        axis.plot(values, y + offset + spread, marker, color=colour, markersize=3.4, alpha=0.55, mew=0)
        if values.size:
            bar: dict[str, Any] = {"color": "black", "linewidth": 1.4, "zorder": 4}
            axis.vlines(values.mean(), y + offset - 0.105, y + offset + 0.105, **bar)
    if all(values.size for values in strips):
        start, end = (strips[0].mean() + strips[1].mean()) / 2, strips[2].mean()
        look = {"arrowstyle": "-|>", "linewidth": 1.1, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 7}
        axis.annotate("", (end, y + 0.24), (start, y + 0.24), arrowprops=look)


def _verdict(row: Any) -> str:
    if row.verdict == "underpowered":
        return "underpowered:\ntoo few seeds"
    p = "p < 0.001" if row.p_holm < 0.001 else f"p = {row.p_holm:.3f}"
    return f"{'moved' if row.verdict == 'moved' else 'not shown'} ({p})\neffect {row.effect:+.3f}"


def _rho(rows: dict[str, Any]) -> str:
    """What stands below a panel's name, from the rows of question 3 by measure."""
    row = rows.get("spearman")
    if row is None or np.isnan(row.change):
        return "not evaluated"
    interval = "" if np.isnan(row.ci_low) else f" [{row.ci_low:.2f}, {row.ci_high:.2f}]"
    partial = rows["spearman_partial"].change
    given = "" if np.isnan(partial) else f"\n{partial:.2f} given difficulty"
    return f"Spearman {row.change:.2f}{interval}{given}"


def _limits(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper corner of the frame of all panels, (2,) each, from points (n, 2)."""
    if not len(points):
        return np.full(2, -1.0), np.full(2, 1.0)
    low, high = np.percentile(points, [RIM, 100 - RIM], axis=0)
    margin = 0.08 * np.where(high > low, high - low, 1.0)
    return low - margin, high + margin


def _gains(axis: Axes, points: NDArray[np.float64], limits: tuple[NDArray[np.float64], NDArray[np.float64]]) -> None:
    """Dots (n, 2) of one arm; those beyond the frame hollow at its rim."""
    low, high = limits
    axis.axhline(0, color="0.6", linewidth=0.8, zorder=1)
    axis.axvline(0, color="0.6", linewidth=0.8, zorder=1)
    if not len(points):
        say(axis, "no image with\nan excess distance")
    inside = ((points >= low) & (points <= high)).all(1)
    size, alpha = (9.0, 0.55) if len(points) < 400 else (5.0, 0.35)
    x, y = points[inside].T
    axis.scatter(x, y, s=size, color=BETWEEN, alpha=alpha, linewidths=0, zorder=2, rasterized=True)
    x, y = np.clip(points[~inside], low, high).T
    axis.scatter(x, y, s=14, facecolors="none", edgecolors=BETWEEN, linewidths=0.8, zorder=3, clip_on=False)
    axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
