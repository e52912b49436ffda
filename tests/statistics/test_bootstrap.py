"""gaze.statistics.bootstrap against literal loops, SciPy, and images drawn one by one."""

import warnings

import numpy as np
import pytest
from scipy import stats

from gaze.statistics.bootstrap import (
    interval,
    nan_mean,
    resampled_means,
    resampling_weights,
)

TARGET = np.array([2, 0, 0, 2, 0, 2, 2, 0, 1])  # class 1 has one image


@pytest.fixture
def weights() -> np.ndarray:
    return resampling_weights(TARGET, np.arange(9)[::-1], 50, 3)


def holed(seed: int, *shape: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.where(random.random(shape) < 0.25, np.nan, random.normal(size=shape))


def images_of(row: np.ndarray) -> np.ndarray:
    """The resample that a row of weights stands for."""
    return np.arange(row.size).repeat(row.astype(int))


def literal_mean(values: np.ndarray, target: np.ndarray) -> float:
    means = []
    for k in sorted(set(target.tolist())):
        kept = [v for v, t in zip(values, target, strict=True) if t == k and v == v]
        means += [sum(kept) / len(kept)] if kept else []
    return sum(means) / len(means) if means else np.nan


# --- resampling_weights


def test_weights_draw_as_many_images_of_each_class_as_there_are(weights):
    for k in range(3):
        assert (weights[:, k == TARGET].sum(1) == (k == TARGET).sum()).all()
    assert (weights == weights.round()).all() and weights.min() == 0 and weights.max() > 1


def test_weights_are_drawn_with_replacement_each_image_alike():
    drawn = resampling_weights(np.zeros(8, int), np.arange(8), 20_000)
    np.testing.assert_allclose(drawn.mean(0), 1, atol=0.03)
    np.testing.assert_allclose(drawn.var(0), 7 / 8, atol=0.03)  # binomial: n (1/n) (1 - 1/n)


def test_weights_belong_to_the_image_not_to_its_row_or_the_number_of_its_class(weights):
    order = np.random.default_rng(0).permutation(9)
    target, place = np.array([1, 2, 0])[TARGET][order], np.arange(9)[::-1][order]
    np.testing.assert_array_equal(resampling_weights(target, place, 50, 3), weights[:, order])


def test_weights_go_by_their_seed(weights):
    np.testing.assert_array_equal(resampling_weights(TARGET, np.arange(9)[::-1], 50, 3), weights)
    assert (resampling_weights(TARGET, np.arange(9)[::-1], 50, 4) != weights).any()
    with pytest.raises(ValueError, match="at least 1, got 0"):
        resampling_weights(TARGET, np.arange(9), 0)


# --- statistics of a resample


def test_means_are_those_of_the_images_drawn(weights):
    values = holed(1, 4, 9)
    values[3, TARGET == 0] = np.nan
    found = resampled_means(values, TARGET, weights)
    for b, row in enumerate(weights):
        drawn = images_of(row)
        expected = [literal_mean(v[drawn], TARGET[drawn]) for v in values]
        np.testing.assert_allclose(found[b], expected, rtol=1e-12)


def test_nothing_defined_is_nan_without_a_warning(weights):
    nothing = np.full((2, 9), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(resampled_means(nothing, TARGET, weights)).all()
        assert np.isnan(nan_mean(nothing, 1)).all() and np.isnan(nan_mean(np.empty((0, 3)), 0)).all()
        assert np.isnan(interval(nothing[0])).all()


def test_nan_mean_is_numpys():
    values = holed(5, 3, 4, 5)
    for axis in (0, 1, -1):
        np.testing.assert_allclose(nan_mean(values, axis), np.nanmean(values, axis))


# --- interval


def test_interval_is_the_percentiles():
    draws = np.r_[np.arange(1001.0), np.nan]
    assert interval(draws) == pytest.approx((25, 975)) and interval(draws, 0.9) == pytest.approx((50, 950))


def test_interval_of_a_mean_is_scipys_bootstrap():
    values = np.random.default_rng(0).exponential(size=60)
    target = np.zeros(60, int)
    found = interval(resampled_means(values[None], target, resampling_weights(target, np.arange(60), 20_000))[:, 0])
    other = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert found == pytest.approx(tuple(other), abs=0.01)
