"""The picture at the top of the report: every model and lambda in one map of numbers, and which of them collapsed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from gaze.measures import measures
from gaze.report.style import SMALL, TEXT, TITLE, dress, model_styles, new_figure
from gaze.report.words import each, number
from gaze.report.write import NONE
from gaze.runs.collapse import shortly

HATCHED = "Hatched: at least half of the cell's runs collapsed."
COLOURS = {"higher": "RdBu", "lower": "PuOr_r"}  # which way is better; two maps, for the two say different things
ENDS = {"higher": ("lower", "higher"), "lower": ("more consistent", "less consistent")}


def overview_figure(table: pd.DataFrame, metric: str) -> Figure:
    """Models down, lambda across: mean over seeds and their SD in each cell, coloured by the difference from lambda 0.

    White throughout without lambda 0. Hatched: at least half of the cell's runs collapsed, and how; a gaze that is not
    compared has no number. The colours reach as far as the cells that did not, but at least over two seed SDs and a
    twentieth of the mean at lambda 0, so that noise stays pale. Blank: no such run.

    Args:
        table: rows of ``gaze.statistics.seeds.lambda_table`` of one study and data set.
        metric: of ``gaze.measures``; its mean over the last 5 epochs is shown.

    Raises:
        ValueError: no value of the metric.
    """
    rows = table[(table["metric"] == metric) & (table["summary"] == "last5")]
    rows = rows[rows["mean"].notna() | (rows["collapsed"] > 0)]
    if rows["mean"].isna().all():
        raise ValueError(f"No value of {metric}.")
    plain = rows[rows["lambda"] == 0].set_index("model")["mean"]
    rows = rows.assign(
        change=rows["mean"] - rows["model"].map(plain).astype(float), hatched=2 * rows["collapsed"] >= rows["runs"]
    )
    models, weights = list(model_styles(table["model"])), sorted(table["lambda"].unique())
    measure, reach = measures()[metric], _reach(rows)
    colours = ScalarMappable(Normalize(-reach, reach), COLOURS[measure.better])
    longest = max(map(len, models))
    figure = new_figure(0.7 * max(len(weights), 2) + 0.08 * longest + 1.4, max(0.5 * len(models), 1.5) + 1.0)
    axis = figure.subplots()
    dress(axis, f"{measure.title}", "lambda", "")
    for row in each(rows):
        _cell(axis, weights.index(row.weight), models.index(row.model), row, colours, measure.digits)
    _frame(axis, models, weights)
    if len(plain):
        _colour_bar(figure, axis, colours, ENDS[measure.better])
    return figure


def _reach(rows: pd.DataFrame) -> float:
    """The difference that gets the full colour."""
    sound = rows[~rows["hatched"] & (rows["lambda"] != 0)]
    widest = (sound if sound["change"].notna().any() else rows)["change"].abs().max()
    plain = rows.loc[rows["lambda"] == 0, "mean"].abs().mean()
    return float(np.nanmax([widest, 2 * rows["sd"].median(), plain / 20, 1e-6]))


def _cell(axis: Axes, x: int, y: int, row: Any, colours: ScalarMappable, digits: int) -> None:
    """A mean and what stands behind it."""
    shade = "white" if math.isnan(row.change) else to_hex(tuple(colours.to_rgba(np.array([row.change]))[0]))
    look: dict[str, Any] = {"hatch": "////", "edgecolor": "0.6"} if row.hatched else {"edgecolor": "none"}
    axis.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=shade, linewidth=0, **look))
    dark = float(np.dot(to_rgb(shade), (0.299, 0.587, 0.114))) < 0.5
    back = {"facecolor": shade, "edgecolor": "none", "pad": 0.8} if row.hatched else None
    how = shortly(row.what) if row.hatched else None
    behind = how or ("one seed" if row.n == 1 else f"\N{PLUS-MINUS SIGN} {number(row.sd, digits) or 'none'}")
    said: dict[str, Any] = {"ha": "center", "color": "white" if dark else "black", "bbox": back}
    axis.text(x, y + 0.02, number(row.mean, digits) or NONE, fontsize=TITLE, va="bottom", **said)
    axis.text(x, y + 0.1, behind.replace(" or ", "\nor "), fontsize=7, va="top", **said)


def _frame(axis: Axes, models: list[str], weights: list[float]) -> None:
    """Names at the rim, white borders between the cells, a black one around lambda 0."""
    axis.set(xlim=(-0.5, len(weights) - 0.5), ylim=(len(models) - 0.5, -0.5))
    axis.grid(visible=False)
    axis.set_xticks(range(len(weights)), [f"{weight:g}" for weight in weights], fontsize=TEXT)
    axis.set_yticks(range(len(models)), models, fontsize=TEXT)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.vlines(np.arange(1, len(weights)) - 0.5, -0.5, len(models) - 0.5, color="white", linewidth=1.5)
    axis.hlines(np.arange(1, len(models)) - 0.5, -0.5, len(weights) - 0.5, color="white", linewidth=1.5)
    if 0.0 in weights and len(weights) > 1:
        place = (weights.index(0.0) - 0.5, -0.5)
        look: dict[str, Any] = {"edgecolor": "black", "linewidth": 1.4, "clip_on": False, "zorder": 3}
        axis.add_patch(Rectangle(place, 1, len(models), fill=False, **look))


def _colour_bar(figure: Figure, axis: Axes, colours: ScalarMappable, ends: tuple[str, str]) -> None:
    bar = figure.colorbar(colours, ax=axis, aspect=16, extend="both", extendfrac=0.04)
    bar.set_label("difference from lambda 0", fontsize=SMALL)
    bar.ax.set_title(ends[1], fontsize=SMALL)
    bar.ax.set_xlabel(ends[0], fontsize=SMALL, labelpad=8)  # below the tip
    bar.ax.tick_params(labelsize=SMALL)
