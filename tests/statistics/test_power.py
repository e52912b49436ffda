"""gaze.statistics.power against SciPy's noncentral t and simulated seeds."""

import math

import numpy as np
import pytest
from scipy import stats

from gaze.statistics.permutation import permutation_p
from gaze.statistics.power import moved_power, noisy_distances, paired_power, spectrum


@pytest.mark.parametrize(("pairs", "tests", "size"), [(3, 1, 2.0), (6, 1, 1.0), (6, 20, 2.0), (12, 4, 0.5)])
def test_paired_power_is_scipys_and_that_of_simulated_seeds(pairs, tests, size):
    critical = stats.t.ppf(1 - 0.025 / tests, pairs - 1)
    assert paired_power(pairs, tests, size) == pytest.approx(stats.nct.sf(critical, pairs - 1, size * math.sqrt(pairs)))
    values = np.random.default_rng(0).normal(size, 1, (20_000, pairs))
    found = np.mean(stats.ttest_1samp(values, 0, axis=1).pvalue * tests <= 0.05)
    assert paired_power(pairs, tests, size) == pytest.approx(found, abs=0.015)


def test_one_seed_finds_nothing():
    assert paired_power(1, 1) == paired_power(0, 1) == 0


def test_power_to_find_a_move_grows_with_it_and_with_the_runs_and_falls_with_the_arms():
    assert moved_power(8, 4, 1, 1.0) <= 0.1 < moved_power(8, 4, 1, 1.1) < moved_power(8, 4, 1, 1.5)
    assert moved_power(6, 3, 1, 1.2) < moved_power(8, 4, 1, 1.2) < moved_power(12, 8, 1, 1.2)
    assert moved_power(8, 4, 14, 1.1) < moved_power(8, 4, 1, 1.1) and moved_power(3, 3, 1, 9.0) == 0


def test_drawn_distances_have_the_ratio_and_the_directions_that_are_asked_for():
    sds, random = spectrum(10.0), np.random.default_rng(0)
    assert (sds**2).sum() == pytest.approx(1) and 1 / (sds**4).sum() == pytest.approx(10)
    drawn = [noisy_distances(random, 4, 4, sds, 1.0, math.sqrt(2 * 0.3)) for _ in range(2000)]
    mean = np.mean(drawn, 0)
    assert mean[:4, 4:].mean() == pytest.approx(1.3, abs=0.02)
    assert mean[:4, :4].sum() / 12 == pytest.approx(1, abs=0.02)
    assert (drawn[0] == drawn[0].T).all() and 0 <= permutation_p(drawn[0], [0] * 4 + [1] * 4, 0, 1).p <= 1
