"""Does the gain go with the gaze (question 3)? Spearman's rank correlation over images, for exploration only.

It has no p and is never passed or failed. Images that are alike are moved alike and gain alike, so they are no
independent samples; and runs relabelled know nothing of what an arm that moved the gaze does from image to image. Both
ways to a p call independent patterns an association far too often (benchmarks/study_levels.py).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from gaze.statistics.intervals import Floats
from gaze.statistics.jackknife import jackknife_interval
from gaze.studies.augmentation.compared import Compared

FEWEST_IMAGES = 10  # of a rank correlation


class Association(NamedTuple):
    """``rho`` and ``partial`` -1..1 with their intervals over runs, NaN where there is none; ``images``, how many had
    both series."""

    rho: float
    ci_low: float
    ci_high: float
    partial: float
    partial_low: float
    partial_high: float
    images: int


def gain_and_excess(c: Compared, arm: str) -> Association:
    """Spearman's rho, over images, of the change in log p(true class) and the excess map distance.

    ``partial`` is the partial rank correlation (Kendall 1942) given two signs of a difficult image: log p of the true
    class without augmentation, and the mean distance of two runs of one arm. Where difficulty alone drives both series,
    rho is far from 0 and ``partial`` is not.

    Args:
        c: the study; ``effects.image_table`` says how the two series are made.
        arm: one other than the baseline.

    Returns:
        Intervals are 95 %, of atanh(r) without one run at a time (``gaze.statistics.jackknife``): other trainings,
        these images. All NaN with fewer than 2 runs on a side (intervals: 3), fewer than FEWEST_IMAGES images with both
        series, or where a series is the same for all images.
    """
    rows = np.concatenate([c.rows(c.baseline), c.rows(arm)])
    in_arm = np.isin(rows, c.rows(arm))
    runs = min(in_arm.sum(), (~in_arm).sum())
    if runs < 2:
        return Association(math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, 0)
    distances, log_p = _image_distances(c, rows), c.log_p[rows]
    *found, images = _correlations(distances, log_p, in_arm, ~in_arm)
    ends = [(math.nan, math.nan)] * 2
    if runs > 2:
        keep = ~np.eye(len(rows), dtype=bool)
        without = np.array([_correlations(distances, log_p, in_arm & own, ~in_arm & own)[:2] for own in keep]).T
        with np.errstate(divide="ignore"):  # a correlation of 1 has no interval
            whole, left_out = np.arctanh(np.clip(found, -1, 1)), np.arctanh(np.clip(without, -1, 1))
        z = [jackknife_interval(float(r), [w[in_arm], w[~in_arm]]) for r, w in zip(whole, left_out, strict=True)]
        ends = [(math.tanh(low), math.tanh(high)) for low, high in z]
    return Association(found[0], *ends[0], found[1], *ends[1], int(images))


def _image_distances(c: Compared, rows: NDArray[np.intp]) -> Floats:
    """1 - pearson of the maps of runs ``rows``, image by image (N, n, n); NaN on the diagonal."""
    among = np.isin(c.pairs, rows).all(1)
    place = np.empty(len(c.runs), np.intp)
    place[rows] = np.arange(len(rows))
    b, a = place[c.pairs[among]].T
    distances = np.full((len(c.target), len(rows), len(rows)), np.nan)
    distances[:, b, a] = distances[:, a, b] = 1 - c.values[c.columns.index("pearson"), among].astype(np.float64).T
    return distances


def _correlations(
    distances: Floats, log_p: Floats, arm: NDArray[np.bool_], rest: NDArray[np.bool_]
) -> tuple[float, float, int]:
    """rho, partial rho and the images that they are over, of two sets of runs (n,); NaN where not defined."""
    there = ~np.isnan(distances)
    known = np.where(there, distances, 0).reshape(len(distances), -1)

    def mean(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> Floats:
        pairs = np.outer(a, b).ravel().astype(np.float64)
        count = there.reshape(len(known), -1) @ pairs
        return np.divide(known @ pairs, count, out=np.full(len(known), np.nan), where=count > 0)

    within = (mean(arm, arm) + mean(rest, rest)) / 2
    plain = log_p[rest].mean(0)
    series = np.stack([log_p[arm].mean(0) - plain, mean(arm, rest) - within, plain, within])
    series = series[:, ~np.isnan(series).any(0)]
    images = series.shape[1]
    if images < FEWEST_IMAGES or (np.ptp(series[:2], axis=1) == 0).any():
        return math.nan, math.nan, images
    ranks = stats.rankdata(series, axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    both, given = ranks[:2], ranks[2:]
    rest_of_both = both - (np.linalg.lstsq(given.T, both.T, rcond=None)[0].T @ given)
    sizes = np.linalg.norm(rest_of_both, axis=1)
    tied = (sizes <= 1e-9 * np.linalg.norm(both, axis=1)).any()  # nothing is left of a series
    partial = math.nan if tied else float(rest_of_both[0] @ rest_of_both[1] / sizes.prod())
    return float(np.corrcoef(both)[0, 1]), partial, images
