"""Does the gain go with the gaze (question 3)? Spearman's rank correlation over images, held against retraining noise.

An interval over images alone would call noise an association: what sets one run apart from another does so on many
alike images at once, in its map and in its scores. So the runs are relabelled here as well.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from gaze.statistics.intervals import TIE, Floats
from gaze.statistics.permutation import randomisation_p, relabellings
from gaze.studies.augmentation.compared import Compared

LABELLINGS = 2000  # up to so many all are looked at, above so many are drawn
FEWEST_IMAGES = 10  # of a rank correlation


class Association(NamedTuple):
    """``rho`` -1..1, NaN where there is none; ``p`` and the ``smallest_p`` that so many runs can give."""

    rho: float
    p: float
    smallest_p: float


def gain_and_excess_rho(c: Compared, arm: str) -> Association:
    """Spearman's rho, over images, of the change in log p(true class) and the excess map distance; p by relabelling.

    Runs of the arm and the baseline are relabelled in every way, and both series made anew each time
    (``effects.image_table`` says how); p is the share of labellings with as large a |rho| (Fisher 1935).

    Args:
        c: the study.
        arm: one other than the baseline.

    Returns:
        p counts ties and the labelling itself (``gaze.statistics.permutation.randomisation_p``, LABELLINGS at most).
        All NaN with fewer than 2 runs on a side, fewer than FEWEST_IMAGES images or a series that is constant.
    """
    rows = np.concatenate([c.rows(c.baseline), c.rows(arm)])
    n, k = len(rows), len(c.rows(arm))
    if min(k, n - k) < 2:
        return Association(math.nan, math.nan, math.nan)
    distances, gains = _image_distances(c, rows), c.log_p[rows]
    observed = _rho(distances, gains, np.arange(n) >= n - k)
    if math.isnan(observed):
        return Association(math.nan, math.nan, math.nan)
    splits, exact = relabellings(n, k, LABELLINGS)
    found = np.array([abs(_rho(distances, gains, split > 0)) for split in splits])
    count = int(np.count_nonzero(found >= abs(observed) - TIE))  # NaN: no correlation, not as large
    return Association(observed, *randomisation_p(count, splits, exact))


def _image_distances(c: Compared, rows: NDArray[np.intp]) -> Floats:
    """1 - pearson of the maps of runs ``rows``, image by image (N, n, n); NaN on the diagonal."""
    among = np.isin(c.pairs, rows).all(1)
    place = np.empty(len(c.runs), np.intp)
    place[rows] = np.arange(len(rows))
    b, a = place[c.pairs[among]].T
    distances = np.full((len(c.target), len(rows), len(rows)), np.nan)
    distances[:, b, a] = distances[:, a, b] = 1 - c.values[c.columns.index("pearson"), among].astype(np.float64).T
    return distances


def _rho(distances: Floats, gains: Floats, in_arm: NDArray[np.bool_]) -> float:
    """Spearman's rho for one labelling of the runs (n,); NaN where it is not defined."""
    there = ~np.isnan(distances)
    known = np.where(there, distances, 0)

    def mean(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> Floats:
        weights = np.outer(a, b).ravel().astype(np.float64)
        count = there.reshape(len(known), -1) @ weights
        total = known.reshape(len(known), -1) @ weights
        return np.divide(total, count, out=np.full(len(known), np.nan), where=count > 0)

    excess = mean(in_arm, ~in_arm) - (mean(in_arm, in_arm) + mean(~in_arm, ~in_arm)) / 2
    gain = gains[in_arm].mean(0) - gains[~in_arm].mean(0)
    kept = ~np.isnan(excess) & ~np.isnan(gain)
    if kept.sum() < FEWEST_IMAGES or np.ptp(excess[kept]) == 0 or np.ptp(gain[kept]) == 0:
        return math.nan
    ranks = stats.rankdata(np.stack([gain[kept], excess[kept]]), axis=1)
    return float(np.corrcoef(ranks)[0, 1])
