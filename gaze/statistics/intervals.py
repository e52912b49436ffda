"""Intervals and tests over seeds: t, Fisher z, sign flips, Holm."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

# The functions behind scipy.stats.t.cdf and .ppf; scipy.stats itself takes seconds to import.
from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped]

EXACT_SEEDS = 16  # up to here all 2^n sign flips are enumerated
DRAWS = 100_000
TIE = 1e-12  # sums of the same numbers in another order agree to this share
Floats = NDArray[np.float64]


def mean_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a mean by Student's t: mean -+ t_{n-1} sd / sqrt(n) (Student 1908).

    Args:
        values: one number per seed, any unit; NaN are dropped.
        level: coverage, between 0 and 1.

    Returns:
        Lower and upper end in the unit of ``values``; (nan, nan) for fewer than 2.
    """
    return folds_interval(values, 1, level)


def folds_interval(values: ArrayLike, folds: int, level: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a mean over runs of a cross-validation: mean -+ t_{J-1} sd sqrt(1/J + 1/(folds - 1)).

    The corrected resampled t interval of Nadeau & Bengio (2003): J runs share training images, so their spread divided
    by J is too small; 1 / (folds - 1) is how many images a fold tests for each that it trains on.

    Args:
        values: one number a run, (J,) of all folds and seeds, any unit; NaN are dropped.
        folds: of the cross-validation; 1 without one, which leaves Student's interval.
        level: coverage, between 0 and 1.

    Returns:
        Lower and upper end in the unit of ``values``; (nan, nan) for fewer than 2.
    """
    defined = present(values)
    n = defined.size
    if n < 2:
        return math.nan, math.nan
    half = float(stdtrit(n - 1, (1 + level) / 2)) * _error(defined, folds)
    return float(defined.mean() - half), float(defined.mean() + half)


def folds_p(values: ArrayLike, folds: int) -> float:
    """Two-sided p of mean 0, of the t test that belongs to :func:`folds_interval`; NaN for fewer than 2 values."""
    defined = present(values)
    n = defined.size
    return 2 * float(stdtr(n - 1, -abs(defined.mean()) / _error(defined, folds))) if n > 1 else math.nan


def _error(values: Floats, folds: int) -> float:
    """Standard error of a mean."""
    return float(values.std(ddof=1)) * math.sqrt(1 / values.size + (1 / (folds - 1) if folds > 1 else 0))


def fisher_interval(r: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a correlation over seeds: the t interval of atanh(r), taken back by tanh (Fisher 1921).

    The standard error is the spread between the seeds, not 1 / sqrt(epochs - 3), which would take the epochs of a run
    for independent samples. The interval belongs to tanh(mean atanh r), which is not quite the plain mean of r.

    Args:
        r: one correlation per seed, -1..1; NaN are dropped.
        level: coverage, between 0 and 1.

    Returns:
        Lower and upper end, -1..1. (nan, nan) for fewer than 2 values, and where any is -1 or 1, as two epochs always
        give, whatever the run did: its atanh is infinite.

    Raises:
        ValueError: a value outside -1..1.
    """
    defined = present(r)
    size = np.abs(defined)
    if (size > 1 + TIE).any():
        raise ValueError(f"A correlation lies in -1..1, got {defined[size.argmax()]:.3g}.")
    if (size > 1 - TIE).any():
        return math.nan, math.nan
    low, high = mean_interval(np.arctanh(defined), level)
    return math.tanh(low), math.tanh(high)


def sign_flip_p(values: ArrayLike, draws: int = DRAWS, seed: int = 0) -> float:
    """Two-sided randomisation test of mean 0: how often flipped signs give a mean as far from 0 (Fisher 1935).

    It assumes seeds that are independent and, if there is no effect, symmetric about 0; no normal distribution.
    With few seeds p cannot be small: see :func:`sign_flip_floor`.

    Args:
        values: one number per seed, any unit; NaN are dropped.
        draws: random flips above 16 values, drawn with ``seed``; p = (k + 1) / (draws + 1) then (Phipson & Smyth 2010).

    Returns:
        p in (0, 1], over all 2^n flips up to 16 values; NaN without a value.
    """
    defined = present(values)
    n = defined.size
    if n < 1:
        return math.nan
    far = abs(defined.sum()) - TIE * np.abs(defined).sum()  # ties count
    if n <= EXACT_SEEDS:
        bits = np.arange(2**n)[:, None] >> np.arange(n) & 1  # (2^n, n)
        return float(np.mean(np.abs((1 - 2 * bits) @ defined) >= far))
    hits = sum(int(np.count_nonzero(np.abs(signs @ defined) >= far)) for signs in _signs(n, draws, seed))
    return (hits + 1) / (draws + 1)


@lru_cache(maxsize=2)
def _signs(n: int, draws: int, seed: int) -> list[NDArray[np.int8]]:
    """Random signs (draws, n), a part of them after the other: as floats they would take much memory."""
    random = np.random.default_rng(seed)
    parts = [min(10_000, draws - start) for start in range(0, draws, 10_000)]
    return [(1 - 2 * random.integers(0, 2, (part, n))).astype(np.int8) for part in parts]


def sign_flip_floor(n: int, draws: int = DRAWS) -> float:
    """Smallest p that :func:`sign_flip_p` can give for ``n`` seeds: 2^(1-n), and 1 / (draws + 1) above 16 seeds.

    1 for one seed, 0.25 for three, 0.03125 for six; NaN for none. Only 6 seeds or more can go below 0.05.
    """
    if n < 1:
        return math.nan
    return 2.0 ** (1 - n) if n <= EXACT_SEEDS else 1 / (draws + 1)


def holm(p: ArrayLike) -> Floats:
    """Step-down adjustment for the number of tests; holds the chance of any false alarm at the level (Holm 1979).

    Args:
        p: p values (m,), 0..1. NaN, a test that could not be made, stays NaN and counts in the family: which tests
            those are would else change the others' level.

    Returns:
        (m,) in the order given: the i-th smallest times (m - i + 1), no smaller than those before it, at most 1.
    """
    values = np.asarray(p, dtype=np.float64)
    adjusted = np.full(values.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(values))
    order = tested[values[tested].argsort(kind="stable")]
    steps = values[order] * np.arange(values.size, values.size - order.size, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def present(values: ArrayLike) -> Floats:
    """The values (n,) float64 without the NaN among them."""
    array = np.asarray(values, dtype=np.float64).ravel()
    return array[~np.isnan(array)]
