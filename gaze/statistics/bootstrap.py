"""Bootstrap over images, with the models as they are (Efron & Tibshirani 1993).

A resample is a row of weights: how often each image was drawn. Every statistic here takes such rows (B, N), so that
all resamples are one matrix product; a row of ones gives the statistic itself. Images are drawn within their class.
What such an interval leaves out is retraining noise: it says what other images of these classes would have shown of
these very models. It is for statements about one model; whether an augmentation did something is a question to runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gaze.statistics.intervals import Floats, present


def nan_mean(values: ArrayLike, axis: int | None = None) -> Floats:
    """Mean along an axis, or of all, without the NaN; NaN, and no warning, where there is nothing else."""
    array = np.asarray(values, dtype=np.float64)
    there = ~np.isnan(array)
    return ratio(np.where(there, array, 0).sum(axis), there.sum(axis))


def resampling_weights(target: NDArray[np.int64], place: NDArray[np.int64], draws: int, seed: int = 0) -> Floats:
    """How often each image is in each resample: n_k images drawn with replacement from the n_k of class k.

    Args:
        target: class of each image (N,).
        place: of each image in the evaluation split (N,), no two alike. The draws belong to it, so neither the order
            of the images nor the numbers of the classes changes them.
        draws: B, at least 1.
        seed: of the draws.

    Returns:
        (B, N): 0, 1, 2 ...; the weights of a class sum to n_k in each row.

    Raises:
        ValueError: ``draws`` below 1.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}.")
    random, weights = np.random.default_rng(seed), np.empty((draws, target.size))
    order = place.argsort()
    for label in dict.fromkeys(target[order].tolist()):
        own = order[target[order] == label]
        weights[:, own] = random.multinomial(own.size, np.full(own.size, 1 / own.size), draws)
    return weights


def resampled_means(values: ArrayLike, target: NDArray[np.int64], weights: Floats) -> Floats:
    """Class-balanced mean of each row in each resample: over the images of a class, then over the classes.

    Args:
        values: (M, N), NaN for an image without a value, which is left out.
        target: class of each image (N,).
        weights: (B, N), >= 0.

    Returns:
        (B, M) in the unit of ``values``. A class without any value in a resample is left out of it; NaN where every
        class is.
    """
    array = np.asarray(values, dtype=np.float64)
    return _over_classes(_class_means(array[:, own], weights[:, own]) for own in _classes(target))


def interval(draws: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of a bootstrap (Efron & Tibshirani 1993, ch. 13).

    Args:
        draws: the statistic in each resample (B,), any unit; NaN are dropped.
        level: coverage, between 0 and 1.

    Returns:
        Lower and upper end in the unit of ``draws``; (nan, nan) if all are NaN.
    """
    defined = present(draws)
    if not defined.size:
        return math.nan, math.nan
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> Floats:
    """Quotient of arrays of one shape, NaN where the denominator is 0 or less."""
    empty = np.full(np.shape(numerator), np.nan)
    return np.divide(numerator, denominator, out=empty, where=np.asarray(denominator) > 0)


def _classes(target: NDArray[np.int64]) -> Iterator[NDArray[np.intp]]:
    """The images of each class that has any."""
    return (np.flatnonzero(target == label) for label in np.unique(target))


def _class_means(values: Floats, weights: Floats) -> Floats:
    """Weighted means (B, M) of values (M, n) without the NaN among them, weights (B, n)."""
    there = ~np.isnan(values)
    return ratio(weights @ np.where(there, values, 0).T, weights @ there.T.astype(np.float64))


def _over_classes(means: Iterator[Floats]) -> Floats:
    """Mean over the classes (B, M) of their means, one class in memory at a time."""
    total: Floats | float = 0.0
    counted: NDArray[np.int64] | int = 0
    for mean in means:
        there = ~np.isnan(mean)
        total, counted = total + np.where(there, mean, 0), counted + there.astype(np.int64)
    return ratio(np.asarray(total), np.asarray(counted))
