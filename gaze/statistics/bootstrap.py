"""Bootstrap over the images of a study, with the models as they are (Efron & Tibshirani 1993).

A resample is a row of weights: how often each image was drawn. Every statistic here takes such rows (B, N), so that
all resamples are one matrix product; a row of ones gives the statistic itself. Images are drawn within their class.
What such an interval leaves out is retraining noise: it says what other images of these classes would have shown of
these very models.
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
    return _ratio(np.where(there, array, 0).sum(axis), there.sum(axis))


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


def resampled_variance(points: Floats, target: NDArray[np.int64], weights: Floats) -> Floats:
    """Class-balanced variance of points around the mean point of their class, in each resample.

    Divided by one less than the number of images: a run with more empty maps would else seem to vary less.

    Args:
        points: coordinates (D, M, N), NaN in all D where an image has none.
        target: class of each image (N,).
        weights: (B, N), >= 0.

    Returns:
        (B, M) in squared units of ``points``, summed over D: 0..1 for centroids in the unit square. Classes of
        fewer than 2 images with a point are left out; NaN where every class is.
    """

    def variances() -> Iterator[Floats]:
        for own in _classes(target):
            images = weights[:, own]
            centred = points[..., own] - nan_mean(points[..., own], -1)[..., None]  # a variance is no difference
            total = sum(_class_means(c**2, images) - _class_means(c, images) ** 2 for c in centred)  # of large numbers
            there = ~np.isnan(centred[0])
            count = images @ there.T.astype(np.float64)
            yield np.where(there.sum(1) > 1, np.maximum(total, 0) * _ratio(count, count - 1), np.nan)

    return _over_classes(variances())


def resampled_spearman(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Spearman's rank correlation in each resample, its ranks taken anew, ties at their average.

    Args:
        x: (n,) without NaN, any unit.
        y: (n,) likewise.
        weights: (B, n), >= 0.

    Returns:
        (B,) -1..1; NaN where x or y is constant in a resample.
    """
    n = weights.sum(1)
    # the average rank of n images is (n + 1) / 2, with ties or without
    a, b = (_resampled_ranks(values, weights) - (n[:, None] + 1) / 2 for values in (x, y))
    products, xx, yy = ((weights * left * right).sum(1) for left, right in ((a, b), (a, a), (b, b)))
    return _ratio(products, np.sqrt(xx * yy))


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


def _ratio(numerator: Floats, denominator: NDArray[np.float64 | np.int64]) -> Floats:
    """NaN where the denominator is 0."""
    empty = np.full(np.shape(numerator), np.nan)
    return np.divide(numerator, denominator, out=empty, where=np.asarray(denominator) > 0)


def _classes(target: NDArray[np.int64]) -> Iterator[NDArray[np.intp]]:
    """The images of each class that has any."""
    return (np.flatnonzero(target == label) for label in np.unique(target))


def _class_means(values: Floats, weights: Floats) -> Floats:
    """Weighted means (B, M) of values (M, n) without the NaN among them, weights (B, n)."""
    there = ~np.isnan(values)
    return _ratio(weights @ np.where(there, values, 0).T, weights @ there.T.astype(np.float64))


def _over_classes(means: Iterator[Floats]) -> Floats:
    """Mean over the classes (B, M) of their means, one class in memory at a time."""
    total: Floats | float = 0.0
    counted: NDArray[np.int64] | int = 0
    for mean in means:
        there = ~np.isnan(mean)
        total, counted = total + np.where(there, mean, 0), counted + there.astype(np.int64)
    return _ratio(np.asarray(total), np.asarray(counted))


def _resampled_ranks(values: Floats, weights: Floats) -> Floats:
    """Rank (B, n) that each value has in each resample, from 1, ties at their average."""
    order = values.argsort(kind="stable")
    _, starts, place = np.unique(values[order], return_index=True, return_inverse=True)
    counts = np.add.reduceat(weights[:, order], starts, axis=1)  # of each distinct value
    ranks = np.empty_like(weights)
    ranks[:, order] = (counts.cumsum(1) - (counts - 1) / 2)[:, place]
    return ranks
