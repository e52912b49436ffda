"""How figures look: text as it is, labels with units, the style of each model and lambda, and axes that fit a page.

A model keeps its colour, marker and line style in every figure, a lambda its own. Shapes and lightness differ as well
as hues, so that figures can be read in greyscale. Nothing here reads or sets matplotlib's global state.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter
from natsort import natsorted

from gaze.names import visible

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # no yellow: paper is white
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
LINES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 1.5)))
THESIS_MODELS = ("level1", "level2", "level3", "level4", "level5")  # these keep their style whatever else is there
SMALL, TEXT, TITLE = 7.5, 8.5, 9.5  # points
NO_IMAGE = "no\ncorrect\nimage"  # of a class, so that it has no mean gaze
DPI = 150  # of what is rasterised in a PDF


class Style(NamedTuple):
    """How a model or a lambda is drawn."""

    colour: str
    marker: str
    line: Any  # matplotlib's linestyle
    width: float  # points

    def line2d(self, label: str = "", **changes: Any) -> Line2D:
        """A sample for a legend."""
        look = {"color": self.colour, "marker": self.marker, "linestyle": self.line, "linewidth": self.width}
        return Line2D([], [], label=label, **{**look, "markersize": 5, **changes})


def model_styles(models: Iterable[str]) -> dict[str, Style]:
    """Okabe-Ito colour, marker and line style of each model, in drawing order: level1 .. level5, then by name."""
    present = set(models)
    order = [*THESIS_MODELS, *natsorted(present - set(THESIS_MODELS))]
    looks = {
        name: Style(OKABE_ITO[i % len(OKABE_ITO)], MARKERS[i % len(MARKERS)], LINES[i % len(LINES)], 1.6)
        for i, name in enumerate(order)
    }
    return {name: looks[name] for name in order if name in present}


def lambda_styles(lambdas: Iterable[float]) -> dict[float, Style]:
    """Style of each lambda, ascending: 0 black and thick, the others lighter the larger they are, negative dashed."""
    weights = sorted({float(weight) for weight in lambdas})
    others = [weight for weight in weights if weight != 0]
    places = np.linspace(0.22, 0.86, len(others)) if len(others) > 1 else [0.5]
    colours = matplotlib.colormaps["viridis"](places)
    styles = {0.0: Style("#000000", "o", "-", 2.2)}
    for i, weight in enumerate(others):
        line = LINES[1 + i % (len(LINES) - 1)] if weight < 0 else "-"
        styles[weight] = Style(to_hex(colours[i]), MARKERS[1 + i % (len(MARKERS) - 1)], line, 1.3)
    return {weight: styles[weight] for weight in weights}


class PlainFigure(Figure):
    """A figure whose text is drawn as it is: a name such as ``a$_$`` is no mathematics. Only the numbers of a log axis
    are."""

    def draw(self, renderer: RendererBase) -> None:
        """Called by matplotlib for every file and every layout."""
        both = [axis for axes in self.axes for axis in (axes.xaxis, axes.yaxis)]
        for formatter in (ticks.formatter for axis in both for ticks in (axis.major, axis.minor)):
            if isinstance(formatter, FuncFormatter) and getattr(formatter.func, "func", None) is not _visible_label:
                formatter.func = partial(_visible_label, formatter.func)  # it writes names at ticks anew
        log = [axis for axis in both if axis.get_scale() == "log"]
        numbers = {text for axis in log for text in axis.get_ticklabels(which="both")}
        for text in self.findobj(Text):
            if isinstance(text, Text) and text not in numbers:
                text.set_parse_math(False)
                text.set_text(visible(text.get_text()))
        super().draw(renderer)


def _visible_label(own: Callable[..., str], x: float, place: int | None) -> str:
    return visible(own(x, place))


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """An empty figure, in inches."""
    return PlainFigure(figsize=(width, height), dpi=DPI, layout=layout)


def dress(axis: Axes, title: str, x_label: str, y_label: str) -> None:
    """Title, labels, grid and text sizes of a panel."""
    axis.set_title(title, fontsize=TITLE)
    axis.set_xlabel(_wrapped(x_label), fontsize=TEXT)
    axis.set_ylabel(_wrapped(y_label), fontsize=TEXT)
    axis.tick_params(labelsize=SMALL)
    axis.grid(color="0.9", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def say(axis: Axes, text: str) -> None:
    """Text in the middle of an empty panel."""
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", fontsize=TEXT, color="0.35")


def no_gaze(axis: Axes, x: float, y: float, width: float = 1, height: float = 1, why: str = NO_IMAGE) -> None:
    """Hatch a tile around (x, y), and say ``why``."""
    place, look = (x - width / 2, y - height / 2), {"facecolor": "0.93", "edgecolor": "0.75", "linewidth": 0}
    axis.add_patch(Rectangle(place, width, height, hatch="////", **look))  # type: ignore[arg-type]
    back = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
    axis.text(x, y, why, fontsize=7, ha="center", va="center", linespacing=0.95, bbox=back, zorder=4)


def add_legend(figure: Figure, handles: list[Line2D], title: str = "") -> None:
    """One legend below the panels, in as many columns as the figure's width takes."""
    entry = 4.4 * max(len(str(handle.get_label())) for handle in handles) + 50  # points
    legend = figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=max(1, min(6, len(handles), int(figure.get_figwidth() * 72 / entry))),
        fontsize=SMALL,
        title=title or None,
        title_fontsize=SMALL,
        handlelength=3.4,
        frameon=False,
    )
    legend.get_title().set_color("0.35")


def _wrapped(label: str) -> str:
    """Lines of at most 34 letters, which fit the smallest panel; the bracket starts a line of its own."""
    parts = label.replace(" (", "\n(").split("\n") if len(label) > 34 else [label]
    return "\n".join(textwrap.fill(part, 34, break_on_hyphens=False) for part in parts)


GAZE_COLOURS = "inferno"  # even in lightness: it survives greyscale and colour-blindness
OUTLINE = "#00d5ff"  # of a lesion's mask
