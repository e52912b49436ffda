"""Gaze atlas: the classes' mean gazes of a whole study as one picture. Writes no file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from numpy.typing import NDArray

from gaze.report.style import GAZE_COLOURS, NO_IMAGE, SMALL, TEXT, TITLE, model_styles, new_figure, no_gaze

if TYPE_CHECKING:
    from gaze.runs.class_gaze import GazeMaps

READERS = -math.inf  # in place of a lambda: what readers looked at, in the first column


def atlas_figure(maps: Sequence[GazeMaps], dataset: str) -> Figure:
    """Gaze atlas: mean gaze of each class, a row per model and class, a column per lambda, on one scale; the first
    column is of :data:`READERS` where there are any.

    A tile is the mean over seeds, weighted by the correct images behind each map: the mean over all these images.
    Hatched: no seed has a correct image, or nobody looked. Blank: no such run.

    Args:
        maps: of the runs: ``gaze`` (K, H, W) in [0, 1], ``counts`` (K,) correct images; rows of one study.
        dataset: name of the data set.

    Raises:
        ValueError: no map of the data set.
    """
    chosen = [each for each in maps if each.dataset == dataset]
    if not chosen:
        raise ValueError(f"No mean gaze of data set {dataset!r}. Known: {sorted({each.dataset for each in maps})}.")
    weights = sorted({each.weight for each in chosen})
    blocks = _atlas_blocks(chosen)
    rows = [(model, name, top + k) for model, (top, names) in blocks.items() for k, name in enumerate(names)]
    depth = rows[-1][2] + 1  # of the atlas, in tiles
    tile = float(np.clip(9 / len(rows), 0.47, 0.9))  # inch
    side = 1.6 + 0.07 * max(len(f"{model}{name}") for model, name, _ in rows)  # of names and colour bar, inch
    figure = new_figure(tile * len(weights) + side, tile * depth + 0.9)
    axis = figure.subplots()
    for model, (top, names) in blocks.items():
        _block(axis, [each for each in chosen if each.model == model], names, weights, top)
    axis.set(xlim=(-0.5, len(weights) - 0.5), ylim=(depth - 0.5, -0.5), aspect="equal")
    _name_rows(axis, rows)
    _name_columns(axis, weights)
    scale = ScalarMappable(Normalize(0, 1), GAZE_COLOURS)
    bar = figure.colorbar(scale, ax=axis, shrink=min(1.0, 2.4 / (tile * depth)), anchor=(0.0, 1.0), aspect=18)
    bar.set_label("mean CAM (0..1)", fontsize=TEXT)
    bar.ax.tick_params(labelsize=SMALL)
    figure.suptitle(f"{dataset}: mean gaze of each class", fontsize=TITLE)
    return figure


def _pooled(runs: Sequence[GazeMaps], name: str) -> NDArray[np.float64] | None:
    """Mean gaze (H, W) over the correct images of all runs, None where there is none."""
    parts = [(e.gaze[k], float(e.counts[k])) for e in runs for k in [e.classes.index(name)] if e.counts[k] > 0]
    if not parts:
        return None
    size = max(gaze.shape for gaze, _ in parts)
    gazes = [_enlarge(np.asarray(gaze, float), size) for gaze, _ in parts]
    mean: NDArray[np.float64] = np.average(gazes, axis=0, weights=[count for _, count in parts])
    return mean


def _enlarge(gaze: NDArray[np.float64], size: tuple[int, ...]) -> NDArray[np.float64]:
    """Nearest neighbour, (H, W) to ``size``."""
    row, column = (np.arange(new) * old // new for new, old in zip(size, gaze.shape, strict=True))
    return gaze[np.ix_(row, column)]


def _atlas_blocks(maps: Sequence[GazeMaps]) -> dict[str, tuple[float, list[str]]]:
    """Of each model the place of its first row, in tiles from the top, and its classes; models stand a bit apart."""
    blocks: dict[str, tuple[float, list[str]]] = {}
    top = 0.0
    for model in model_styles(each.model for each in maps):
        names = list(dict.fromkeys(name for each in maps if each.model == model for name in each.classes))
        blocks[model] = (top, names)
        top += len(names) + 0.2
    return blocks


def _block(axis: Axes, maps: Sequence[GazeMaps], names: list[str], weights: list[float], top: float) -> None:
    """A model's tiles as one image: a hundred would take seconds to draw."""
    size = max(each.gaze.shape[1:] for each in maps)
    canvas = np.full((len(names), size[0], len(weights), size[1]), np.nan)
    for i, name in enumerate(names):
        for j, weight in enumerate(weights):
            runs = [each for each in maps if each.weight == weight and name in each.classes]
            gaze = _pooled(runs, name)
            if gaze is not None:
                canvas[i, :, j] = _enlarge(gaze, size)
            elif runs:
                no_gaze(axis, j, top + i, why="nobody\nlooked" if weight == READERS else NO_IMAGE)
    extent = (-0.5, len(weights) - 0.5, top + len(names) - 0.5, top - 0.5)
    # A tile is about 70 pixels wide: small maps keep their cells, of large ones none may fall through the net.
    way = "nearest" if max(size) <= 56 else "auto"
    flat = canvas.reshape(len(names) * size[0], -1)
    axis.imshow(flat, cmap=GAZE_COLOURS, vmin=0, vmax=1, extent=extent, interpolation=way, aspect="equal")
    borders: dict[str, Any] = {"color": "white", "linewidth": 2.0, "zorder": 3}
    axis.vlines(np.arange(len(weights) + 1) - 0.5, extent[3], extent[2], **borders)
    axis.hlines(top + np.arange(len(names) + 1) - 0.5, *extent[:2], **borders)


def _name_rows(axis: Axes, rows: list[tuple[str, str, float]]) -> None:
    """Class names at the tiles, and left of them the models' names."""
    axis.set_yticks([y for *_, y in rows], [name for _, name, _ in rows], fontsize=SMALL)
    axis.yaxis.remove_overlapping_locs = False  # else a name beside a class in the middle is left out
    middle = {model: np.mean([y for other, _, y in rows if other == model]) for model, *_ in rows}
    axis.set_yticks(list(middle.values()), list(middle), minor=True, fontsize=TITLE, fontweight="bold")
    names = {name.replace("$", r"\$") for _, name, _ in rows}  # no mathematics
    widest = max(TextPath((0, 0), name, size=SMALL).get_extents().width for name in names)
    axis.tick_params(axis="y", which="major", length=0, pad=3)
    axis.tick_params(axis="y", which="minor", length=0, pad=widest + 12)
    axis.set_ylabel("model and class", fontsize=TEXT)


def _name_columns(axis: Axes, weights: list[float]) -> None:
    axis.set_xticks(range(len(weights)), ["readers" if w == READERS else f"{w:g}" for w in weights], fontsize=TEXT)
    axis.tick_params(axis="x", length=0, labeltop=True, labelbottom=False)
    axis.xaxis.set_label_position("top")
    axis.set_xlabel("what readers looked at, then lambda" if READERS in weights else "lambda", fontsize=TEXT)
    axis.spines[:].set_visible(False)
