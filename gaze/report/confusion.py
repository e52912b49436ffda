"""Confusion matrices as pictures. Writes no file, and does without PyTorch."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gaze.report.style import SMALL, TEXT, TITLE, new_figure

ACROSS = 3  # panels side by side
NUMBERED = 12  # classes up to which the counts are written into the cells
NAMED = 40  # and up to which the rim has names
COLOURS = "Blues"


def confusion_figure(tables: Mapping[str, NDArray[np.int64]], names: Sequence[str], title: str) -> Figure:
    """A panel a matrix: counts, coloured by their share of the true class.

    Args:
        tables: (K, K) by the panel's title, truth down and prediction across; at least one.
        names: of the classes (K).
        title: of the whole figure.
    """
    number, rows = len(names), -(-len(tables) // ACROSS)
    columns, side = -(-len(tables) // rows), min(max(0.5 * number, 1.8), 7.0)
    margin = 0.07 * max(map(len, names)) if number <= NAMED else 0.3
    figure = new_figure(
        max(columns * (side + min(margin, 2.0) + 0.3), 4.2), rows * (side + min(margin, 2.0) + 0.6) + 0.4
    )
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(tables) :]:
        axis.set_axis_off()
    for axis, (of, table) in zip(axes, tables.items(), strict=False):
        share = table / np.maximum(table.sum(1, keepdims=True), 1)
        axis.imshow(share, cmap=COLOURS, vmin=0, vmax=1)
        if number <= NUMBERED:
            for place, count in np.ndenumerate(table):
                look = {"color": "white" if share[place] > 0.55 else "black", "ha": "center", "va": "center"}
                axis.text(place[1], place[0], f"{count:,}", fontsize=SMALL, **look)
        shown = [textwrap.shorten(name, 24, placeholder="...") for name in names] if number <= NAMED else []
        axis.set_xticks(range(len(shown)), shown, rotation=90 if max(map(len, names)) > 4 else 0)
        axis.set_yticks(range(len(shown)), shown)
        axis.tick_params(labelsize=SMALL, length=0)
        axis.set_xlabel("predicted", fontsize=TEXT)
        axis.set_ylabel("true", fontsize=TEXT)
        axis.set_title(of, fontsize=TEXT)
    figure.suptitle(textwrap.fill(title, int(12 * figure.get_figwidth())), fontsize=TITLE)
    return figure
