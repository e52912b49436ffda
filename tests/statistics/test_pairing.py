"""gaze.statistics.pairing against scipy, literal loops and published figures; its level by simulation."""

import itertools
import sys

import numpy as np
import pytest
from conftest import REPO
from scipy import stats

from gaze.statistics.pairing import (
    correlation_matrix,
    given_epoch,
    of_differences,
    pairing_floor,
    pairing_test,
    pearson,
    repeated_measures,
)

sys.path.insert(0, str(REPO / "benchmarks"))
NAN = float("nan")
BLAND = {  # intramural pH and PaCO2 of eight people (Bland & Altman 1995, table 1)
    1: ([6.68, 6.53, 6.43, 6.33], [3.97, 4.12, 4.09, 3.97]),
    2: ([6.85, 7.06, 7.13, 7.17], [5.27, 5.37, 5.41, 5.44]),
    3: ([7.40, 7.42, 7.41, 7.37, 7.34, 7.35, 7.28, 7.30, 7.34], [5.67, 3.64, 4.32, 4.73, 4.96, 5.04, 5.22, 4.82, 5.07]),
    4: ([7.36, 7.33, 7.29, 7.30, 7.35], [5.67, 5.10, 5.53, 4.75, 5.51]),
    5: ([7.35, 7.30, 7.30, 7.37, 7.27, 7.28, 7.32, 7.32], [4.28, 4.44, 4.32, 3.23, 4.46, 4.72, 4.75, 4.99]),
    6: ([7.38, 7.30, 7.29, 7.33, 7.31, 7.33], [4.78, 4.73, 5.12, 4.93, 5.03, 4.93]),
    7: ([6.86, 6.94, 6.92], [6.85, 6.44, 6.52]),
    8: ([7.19, 7.29, 7.21, 7.25, 7.20, 7.19, 6.77, 6.82], [5.28, 4.56, 4.34, 4.32, 4.41, 3.69, 6.09, 5.58]),
}  # fmt: skip


def padded(rows):
    longest = max(map(len, rows))
    return np.array([[*row, *[NAN] * (longest - len(row))] for row in rows])


@pytest.fixture
def series():
    """Kappa and gaze (6, 20) of seeds with a trend in common."""
    g = np.random.default_rng(0)
    return np.linspace(0, 2, 20) + g.standard_normal((6, 20)), np.linspace(0, 1, 20) + g.standard_normal((6, 20))


def test_correlations_are_scipys(series):
    x, y = series
    x[1, 3], y[2, 5] = NAN, np.inf
    r = correlation_matrix(x, y)
    for i, j in itertools.product(range(6), repeat=2):
        both = np.isfinite(x[i]) & np.isfinite(y[j])
        assert r[i, j] == pytest.approx(stats.pearsonr(x[i][both], y[j][both]).statistic)
    assert np.isnan(correlation_matrix(np.ones((1, 4)), y[:1, :4])).all()


def test_what_takes_the_trend_out_is_what_its_formula_says(series):
    x, y = series[0][0], series[1][0]
    assert of_differences(x, y) == pytest.approx(stats.pearsonr(x[1:] - x[:-1], y[1:] - y[:-1]).statistic)
    t = np.arange(20.0)
    xy, xt, yt = (stats.pearsonr(a, b).statistic for a, b in ((x, y), (x, t), (y, t)))
    assert given_epoch(x, y) == pytest.approx((xy - xt * yt) / np.sqrt((1 - xt**2) * (1 - yt**2)))  # Yule 1907
    y[4] = NAN
    kept = np.arange(20) != 4
    xy, xt, yt = (stats.pearsonr(a[kept], b[kept]).statistic for a, b in ((x, y), (x, t), (y, t)))
    assert given_epoch(x, y) == pytest.approx((xy - xt * yt) / np.sqrt((1 - xt**2) * (1 - yt**2)))
    assert np.isnan([given_epoch(t, x), given_epoch(x[:2], x[:2]), given_epoch(3 + 0.1 * t, x)]).all()


def test_repeated_measures_correlation_is_the_published_one():
    x, y = (padded([pair[side] for pair in BLAND.values()]) for side in (0, 1))
    assert round(repeated_measures(x, y), 2) == -0.51  # Bland & Altman 1995; R's rmcorr prints -0.507
    assert repeated_measures(x, y) == pytest.approx(-0.507, abs=5e-4)
    assert np.isnan(repeated_measures(x[:0], y[:0]))


def test_p_is_that_of_a_loop_over_all_pairings(series):
    for n in (3, 4, 6):
        r = correlation_matrix(*(s[:n] for s in series))
        means = [np.mean([r[i, order[i]] for i in range(n)]) for order in itertools.permutations(range(n))]
        away = abs(means[0] - r.mean())
        found = pairing_test(r)
        assert found.p == pytest.approx(np.mean([abs(m - r.mean()) >= away - 1e-12 for m in means]))
        assert found.own == pytest.approx(means[0]) and found.n == n
        others = [r[i, j] for i in range(n) for j in range(n) if i != j]
        assert found.strangers == pytest.approx(np.mean(others))


def test_drawn_pairings_come_near_the_exact_ones_and_their_p_is_never_zero(series, monkeypatch):
    r = correlation_matrix(*series)
    exact = pairing_test(r).p
    monkeypatch.setattr("gaze.statistics.pairing.EXACT_SEEDS", 5)
    assert pairing_test(r).p == pytest.approx(exact, abs=0.02)
    clear = np.eye(9)
    assert pairing_test(clear, draws=50).p == pairing_floor(9, draws=50) == 1 / 51


def test_floors():
    assert [pairing_floor(n) for n in (2, 3, 4, 6, 7)] == [1, 1 / 6, 1 / 24, 1 / 720, 1 / 5040]
    assert np.isnan(pairing_floor(1)) and pairing_floor(8) == 1 / 20001
    for n in (2, 3, 4, 6):
        r = np.eye(n) + 0.01 * np.random.default_rng(n).random((n, n))
        assert pairing_test(r).p == pytest.approx(pairing_floor(n))


def test_seeds_without_an_r_are_left_out_and_what_cannot_be_told_is_nan(series):
    r = correlation_matrix(*series)
    with_gap = np.insert(np.insert(r, 2, NAN, 0), 2, NAN, 1)
    assert pairing_test(with_gap) == pairing_test(r)
    assert np.isnan(pairing_test(np.full((3, 3), 0.4)).p)
    assert np.isnan(pairing_test(r[:1, :1])[1:3]).all() and pairing_test(r[:0, :0]).n == 0


@pytest.mark.slow
def test_level_and_power_by_simulation():
    from pairing_level import simulate

    level = simulate("shared curve, independent noise", 5000, seed=0)
    assert level.rejected <= 0.06 and level.mean_not_zero > 0.7
    assert simulate("no curve, independent noise", 5000, seed=1).rejected <= 0.06
    assert simulate("shared curve, noise with a memory", 5000, seed=2).rejected <= 0.06
    assert simulate("no curve, r = -0.6", 5000, seed=3).rejected > 0.95


@pytest.mark.parametrize("scale", [1.0, 1e-160, 1e150])
def test_all_correlations_at_once_are_those_of_each_pair(scale):
    g = np.random.default_rng(0)
    x, y = scale * g.standard_normal((9, 20)), g.standard_normal((9, 20)) * 1e-9 + 1.0
    x[3], y[5], y[6] = 0.25 * scale, 7.0, y[2]
    plain = np.array([[pearson(a, b) for b in y] for a in x])
    np.testing.assert_allclose(correlation_matrix(x, y), plain, atol=1e-12)
    assert np.isnan(plain[3]).all() and np.isnan(plain[:, 5]).all()
    keep = [i for i in range(9) if i not in (3, 5)]
    fast, slow = (pairing_test(r[np.ix_(keep, keep)]) for r in (correlation_matrix(x, y), plain))
    assert fast.p == slow.p and fast.own == pytest.approx(slow.own, abs=1e-12)
