"""Runs of one augmentation study, compared: the arrays that its statistics, tables and figures share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

PAIR_COLUMNS = (  # of gaze.metrics.compare.compare_maps and compare_logits; xcorr_lag: length of the lag, in cells
    *("mad", "msd", "pearson", "spearman", "overlap", "pred_kl", "sim", "js", "emd", "centroid_shift"),
    *("xcorr_peak", "xcorr_lag", "region_mad"),
)
SIMILARITIES = ("pearson", "spearman", "overlap", "sim", "xcorr_peak")  # 1 for equal maps; the others are 0 for them
SHAPE_COLUMNS = ("dispersion", "entropy", "gini", "centroid_y", "centroid_x")
MASK_COLUMNS = ("mask_energy", "mask_lift")


class Compared(NamedTuple):
    """R runs of one data set and backbone over the same N evaluation images, all P = R (R - 1) / 2 pairs compared.

    Attributes:
        runs: a row per run: ``run`` (its folder below the source), ``arm``, ``seed``, ``accuracy``, ``kappa`` (on
            these images, 0..1 and -1..1). Rows of an arm stand together, the baseline's first.
        baseline: the arm without augmentation.
        classes: names (K).
        target: class of each image (N,).
        place: of each image in the evaluation split (N,).
        pairs: rows of ``runs`` (P, 2), b < a, in the order of ``itertools.combinations``.
        columns: names of the first axis of ``values``, of PAIR_COLUMNS; emd may be left out.
        values: (C, P, N) float32, NaN where one of the two maps is invalid. pred_kl is the mean of both directions.
        shapes: SHAPE_COLUMNS, and MASK_COLUMNS where the set has masks: (R, N) each, NaN where the map is invalid,
            and for masks also where there is no lesion.
        valid: (R, N): the map is neither zero nor flat.
        log_p: log of the probability of the true class (R, N).
        correct: (R, N).
        cams: maps of the true class in 0..1, (R, N, H, W) float32, zero where invalid.
    """

    runs: pd.DataFrame
    baseline: str
    classes: tuple[str, ...]
    target: NDArray[np.int64]
    place: NDArray[np.int64]
    pairs: NDArray[np.int64]
    columns: tuple[str, ...]
    values: NDArray[np.float32]
    shapes: dict[str, NDArray[np.float64]]
    valid: NDArray[np.bool_]
    log_p: NDArray[np.float64]
    correct: NDArray[np.bool_]
    cams: NDArray[np.float32]

    @property
    def arms(self) -> tuple[str, ...]:
        """Arms other than the baseline, in their order."""
        return tuple(arm for arm in dict.fromkeys(self.runs["arm"]) if arm != self.baseline)

    def rows(self, arm: str) -> NDArray[np.intp]:
        """Rows of ``runs`` of an arm."""
        return np.flatnonzero(self.runs["arm"] == arm)
