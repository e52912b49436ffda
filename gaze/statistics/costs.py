"""What the mistakes of a classifier cost, and the decision that costs least (Duda & Hart 1973; Elkan 2001).

Free of PyTorch and pandas. Intervals are over images or groups, as in ``gaze.statistics.classification``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gaze.statistics.bootstrap import interval
from gaze.statistics.classification import DRAWS, Labels, resamples
from gaze.statistics.intervals import Floats


class Cost(NamedTuple):
    """A mean over images, in the unit of the costs, and its 95 % interval over them, the models as they are."""

    value: float
    low: float = math.nan
    high: float = math.nan


def cheapest(probabilities: NDArray[np.floating], costs: Floats) -> Labels:
    """The decision of least expected cost, argmin over j of sum over k of p(k) cost(k, j).

    Nothing is chosen in it, so no image is needed to tune it; it is the best there is only where the probabilities are
    calibrated.

    Args:
        probabilities: (N, K) in 0..1.
        costs: (K, K), truth down, prediction across.

    Returns:
        (N,) indices of classes, of equal ones the likelier; -1 where a probability is not finite.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    expected = p @ costs
    least = np.isclose(expected, expected.min(1, keepdims=True), rtol=1e-7, atol=0)
    return np.where(np.isfinite(p).all(1), np.where(least, p, -1).argmax(1), -1)


def image_costs(truth: Labels, decision: Labels, costs: Floats) -> Floats:
    """What each decision (N,) costs; NaN where there is none (-1)."""
    return np.where(decision < 0, np.nan, costs[truth, decision])


def mean_costs(values: Floats, groups: Labels | None = None, draws: int = DRAWS) -> list[Cost]:
    """Means of costs of the same images, such as those of two decisions and their difference.

    Args:
        values: (M, N), N at least 1.
        groups: (N,) 0, 1, 2 ..., alike where images belong together; None where each is by itself.
        draws: resamples of images, or of whole groups; the same for all M.

    Returns:
        M means; NaN where a value is.
    """
    groups = np.arange(values.shape[1]) if groups is None else groups
    drawn = np.concatenate([w @ values.T / w.sum(1, keepdims=True) for w in resamples(groups, draws)])
    return [Cost(float(own.mean()), *interval(of)) for own, of in zip(values, drawn.T, strict=True)]
