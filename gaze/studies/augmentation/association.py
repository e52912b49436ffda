"""Does the gain go with the gaze (question 3), and does cost? Spearman's rank correlation, for exploration only.

Over images it has no p and is never passed or failed. Images that are alike are moved alike and gain alike, so they are
no independent samples; and runs relabelled know nothing of what an arm that moved the gaze does from image to image.
Both ways to a p call independent patterns an association far too often (benchmarks/study_levels.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from gaze.statistics.bootstrap import nan_mean
from gaze.statistics.intervals import TIE, Floats
from gaze.statistics.jackknife import jackknife_interval
from gaze.studies.augmentation.compared import Compared
from gaze.studies.augmentation.effects import distance_matrix

FEWEST_IMAGES, FEWEST_RUNS = 10, 6  # of a rank correlation


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


class CostAssociation(NamedTuple):
    """Over ``runs``: ``rho`` -1..1 with its interval, ``within`` the arms with its ``p``; NaN where there is none."""

    rho: float
    ci_low: float
    ci_high: float
    within: float
    p: float
    runs: int


def cost_and_distance(c: Compared, cost: Floats, draws: int = 9999) -> CostAssociation:
    """Does moved gaze go with cost? Spearman's rho, over runs, of cost and the mean map distance to the baseline's
    runs; an association, which names no cause.

    ``rho`` has no p: an arm may move both for reasons of its own, and its runs are alike in that, so they are no
    independent samples of it. ``within`` is the correlation of the same ranks about their arms' means; its two-sided p
    is that of costs permuted among the runs of an arm, which are exchangeable there if the two do not go together.

    Args:
        c: the study.
        cost: of each run (R,), any unit; runs without one (NaN) are left out.
        draws: permutations.

    Returns:
        The interval is as in :func:`gain_and_excess`, over 3 runs an arm or more.
    """
    distances = distance_matrix(c)
    np.fill_diagonal(distances, np.nan)
    moved = nan_mean(distances[:, c.rows(c.baseline)], 1)
    kept = ~np.isnan(moved) & ~np.isnan(cost)
    moved, cost, arms = moved[kept], cost[kept], c.runs["arm"].to_numpy()[kept]
    groups = [np.flatnonzero(arms == arm) for arm in dict.fromkeys(arms)]
    rho, low, high = _rank_correlation(moved, cost), math.nan, math.nan
    if min(map(len, groups), default=0) > 2:
        without = np.array([_rank_correlation(np.delete(moved, i), np.delete(cost, i)) for i in range(len(cost))])
        with np.errstate(divide="ignore"):
            z, left_out = math.atanh(rho) if abs(rho) < 1 else math.inf, np.arctanh(np.clip(without, -1, 1))
        low, high = map(math.tanh, jackknife_interval(z, [left_out[own] for own in groups]))
    own, other = (_about_arms(values, groups) for values in (moved, cost))
    sizes, within, p = np.linalg.norm(own) * np.linalg.norm(other), math.nan, math.nan
    if sizes > 1e-9:
        random = np.random.default_rng(0)
        drawn = np.tile(other, (draws, 1))
        for group in groups:
            drawn[:, group] = random.permuted(drawn[:, group], axis=1)
        within = float(own @ other / sizes)
        p = float(1 + (np.abs(drawn @ own) >= abs(own @ other) * (1 - TIE)).sum()) / (draws + 1)
    return CostAssociation(rho, low, high, within, p, int(kept.sum()))


def _rank_correlation(a: Floats, b: Floats) -> float:
    """NaN of fewer than :data:`FEWEST_RUNS`, and where one does not vary."""
    if len(a) < FEWEST_RUNS or not np.ptp(a) or not np.ptp(b):
        return math.nan
    return float(np.corrcoef(stats.rankdata(a), stats.rankdata(b))[0, 1])


def _about_arms(values: Floats, groups: Sequence[NDArray[np.intp]]) -> Floats:
    """Ranks (R,) about the mean of their arm."""
    ranks = stats.rankdata(values)
    for own in groups:
        ranks[own] -= ranks[own].mean()
    return np.asarray(ranks)


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
