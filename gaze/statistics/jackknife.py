"""Intervals over runs, for any statistic of two arms: leave out one run at a time (Quenouille 1956, Tukey 1958)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit  # type: ignore[import-untyped]

from gaze.statistics.intervals import Floats


def jackknife_interval(estimate: float, left_out: Sequence[Floats], level: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a statistic of independent groups of runs: estimate -+ t_df sqrt(sum of variances).

    A group's variance is (n - 1) / n * sum (t_i - mean t)^2 (Arvesen 1969 for several groups), df is Welch's (1947). Of
    the difference of two means it is Welch's t interval.

    Args:
        estimate: the statistic of all runs, any unit.
        left_out: of each group (n,): the statistic without the i-th of its runs.
        level: coverage, between 0 and 1.

    Returns:
        Lower and upper end in the unit of ``estimate``; (nan, nan) where a group has fewer than 2 runs or one of the
        values is not finite.
    """
    finite = math.isfinite(estimate) and all(values.size > 1 and np.isfinite(values).all() for values in left_out)
    if not finite:
        return math.nan, math.nan
    variances = np.array([(values.size - 1) * values.var() for values in left_out])
    if not variances.any():
        return estimate, estimate
    freedom = np.array([values.size - 1 for values in left_out])
    df = variances.sum() ** 2 / (variances**2 / freedom).sum()
    half = float(stdtrit(df, (1 + level) / 2) * math.sqrt(variances.sum()))
    return estimate - half, estimate + half
