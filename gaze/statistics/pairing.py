"""Is a run's kappa related to its own gaze, or do all runs share one training curve?

Seeds that learn alike have kappa and gaze that rise and fall alike. So kappa of one seed correlates with the gaze of
another about as well as with its own, and a mean r far from 0 says nothing about the run. What does is whether own
pairs correlate more than strangers do (:func:`pairing_test`), or what is left of r when the shared curve is taken out.
A series is a measure over the epochs of a run (T,), NaN where it has no value.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gaze.statistics.intervals import TIE, Floats

EXACT_SEEDS = 7  # up to here all n! pairings are enumerated
DRAWS = 20_000


def pearson(x: Floats, y: Floats) -> Floats:
    """Pearson's r of series (..., T) over the epochs where both have a value, as (...); NaN for fewer than 2, and for a
    constant one.
    """
    both = np.isfinite(x) & np.isfinite(y)
    a, b = (_centred(v, both) for v in (x, y))
    defined = (both.sum(-1) > 1) & ~constant(x, both) & ~constant(y, both)
    size = np.sqrt(np.where(defined, (a * a).sum(-1) * (b * b).sum(-1), 1))
    return np.where(defined, np.clip((a * b).sum(-1) / size, -1, 1), np.nan)


def constant(v: Floats, there: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether all values of a series (..., T) that ``there`` marks are the same in every digit, as (...)."""
    most = np.max(v, -1, initial=-np.inf, where=there)
    return np.asarray(most <= np.min(v, -1, initial=np.inf, where=there))


def _centred(v: Floats, both: NDArray[np.bool_]) -> Floats:
    """Deviations from the mean of what ``both`` marks, at most 1 in size; 0 elsewhere."""
    n = np.maximum(both.sum(-1, keepdims=True), 1)
    v = np.where(both, v, 0)
    v = np.where(both, v - v.sum(-1, keepdims=True) / n, 0)
    largest = np.abs(v).max(-1, keepdims=True, initial=0)
    v = v / np.where(largest > 0, largest, 1)  # squares of tiny numbers would be 0
    # the first mean was rounded, which counts where a series hardly moves
    return np.where(both, v - v.sum(-1, keepdims=True) / n, 0)


def of_differences(x: Floats, y: Floats) -> Floats:
    """r of the changes from epoch to epoch: a trend that both have counts once, as a mean, and drops out."""
    return pearson(np.diff(x), np.diff(y))


def given_epoch(x: Floats, y: Floats) -> Floats:
    """Partial r given the epoch: of what a straight line over the epochs leaves of both. NaN below 3 epochs."""
    both = np.isfinite(x) & np.isfinite(y)
    epoch = _centred(np.broadcast_to(np.arange(x.shape[-1], dtype=np.float64), x.shape), both)
    along = np.where(both.sum(-1, keepdims=True) > 1, (epoch * epoch).sum(-1, keepdims=True), 1)
    left, straight = [], both.sum(-1) < 3
    for v in (np.where(both, v, 0) for v in (x, y)):
        centred = v - np.where(both, v.sum(-1, keepdims=True) / np.maximum(both.sum(-1, keepdims=True), 1), 0)
        rest = centred - (centred * epoch).sum(-1, keepdims=True) / along * epoch
        # rounding of a straight line
        straight |= np.abs(rest).max(-1, initial=0) <= 1e-12 * np.abs(v).max(-1, initial=0)
        left.append(np.where(both, rest, np.nan))
    return np.where(straight, np.nan, pearson(*left))


def repeated_measures(x: Floats, y: Floats) -> float:
    """Repeated-measures correlation of all runs together: r of the deviations from each run's own means (Bland & Altman
    1995; Bakdash & Marusich 2017). The coefficient alone: its p would count epochs as samples.

    Args:
        x: (n, T), one run a row.
        y: (n, T).
    """
    both = np.isfinite(x) & np.isfinite(y)
    x, y = (np.where(both, v, np.nan)[both.any(1)] for v in (x, y))
    own = (v - np.nanmean(v, 1, keepdims=True) for v in (x, y))
    return float(pearson(*(v.ravel() for v in own))) if len(x) else math.nan


def correlation_matrix(x: Floats, y: Floats) -> Floats:
    """:func:`pearson` of each series of x (n, T) with each of y (n, T), as (n, n)."""
    if x.shape[1] > 1 and np.isfinite(x).all() and np.isfinite(y).all():  # by one product of matrices
        return np.clip(_directions(x) @ _directions(y).T, -1, 1)
    return np.array([pearson(np.broadcast_to(a, y.shape), y) for a in x]).reshape(len(x), len(y))


def _directions(series: Floats) -> Floats:
    """Each of n series (n, T) as :func:`pearson` centres it, of length 1; NaN where it is constant."""
    flat = np.ptp(series, axis=1, keepdims=True) == 0
    v = series - series.mean(1, keepdims=True)
    v = v / np.where(flat, 1, np.abs(v).max(1, keepdims=True))
    v = v - v.mean(1, keepdims=True)
    return np.where(flat, np.nan, v / np.where(flat, 1, np.sqrt((v * v).sum(1, keepdims=True))))


@lru_cache(maxsize=8)
def _orders(n: int, draws: int, seed: int, exact: bool) -> NDArray[np.int64]:
    """All pairings of n runs (n!, n), or as many as drawn (draws, n)."""
    if exact:
        return np.array(list(permutations(range(n))))
    return np.random.default_rng(seed).permuted(np.tile(np.arange(n), (draws, 1)), axis=1)


class Pairing(NamedTuple):
    """``own``: mean r of kappa with the same run's gaze; ``strangers``: with other runs' gaze, over all ordered pairs;
    ``p`` in (0, 1], two-sided; ``n`` runs that have an r of their own. NaN where it is not defined."""

    own: float
    strangers: float
    p: float
    n: int


def pairing_test(r: Floats, draws: int = DRAWS, seed: int = 0) -> Pairing:
    """Permutation test of who belongs to whom (Fisher 1935; a Mantel test, 1967, whose rows and columns are two sets).

    Null hypothesis: a run's gaze follows from what all runs share and from chance, so the gaze of any run could stand
    beside the kappa of any. The statistic is the mean r of the pairs, as far from the mean of all n^2 r to either side;
    each of the n! pairings is then as likely as that of the runs. It cannot see what all runs share, be it cause or
    not. It does not see either, and is not misled by, a mean r far from 0.

    Args:
        r: correlation of kappa of run i with the gaze of run j (n, n), -1..1; a run without an r of its own (NaN on the
            diagonal) is left out.
        draws: pairings drawn above 7 runs, with ``seed``; p = (k + 1) / (draws + 1) then (Phipson & Smyth 2010).

    Returns:
        See :class:`Pairing`; p is NaN for fewer than 2 runs, and where another r is NaN or all are equal.
    """
    known = ~np.isnan(np.diag(r))
    r, n = r[np.ix_(known, known)], int(known.sum())
    own = float(np.diag(r).mean()) if n else math.nan
    if n < 2 or np.isnan(r).any():
        return Pairing(own, math.nan, math.nan, n)
    strangers = float((r.sum() - np.trace(r)) / (n * (n - 1)))
    if np.ptp(r) <= TIE:
        return Pairing(own, strangers, math.nan, n)
    orders = _orders(n, draws, seed, n <= EXACT_SEEDS)
    centred = r - r.mean()
    far = abs(np.trace(centred)) - TIE * np.abs(r).sum()  # ties count
    hits = int(np.count_nonzero(np.abs(centred[np.arange(n), orders].sum(1)) >= far))
    return Pairing(own, strangers, hits / len(orders) if n <= EXACT_SEEDS else (hits + 1) / (draws + 1), n)


def pairing_floor(n: int, draws: int = DRAWS) -> float:
    """Smallest p that :func:`pairing_test` can give for ``n`` runs: 1/n!, and 1 / (draws + 1) above 7.

    1/6 for three, 1/24 for four, 1/720 for six; 1 for two, whose pairings lie equally far from their mean; NaN below.
    """
    if n < 3:
        return 1.0 if n == 2 else math.nan
    return 1 / math.factorial(n) if n <= EXACT_SEEDS else 1 / (draws + 1)
