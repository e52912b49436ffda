"""gaze.studies.augmentation.association against SciPy, literal loops and studies that difficulty alone drives."""

import math
import sys
from itertools import combinations

import numpy as np
import pytest
from conftest import REPO
from made_up_study import made_up_study, without_maps
from scipy import stats

from gaze.studies.augmentation.association import cost_and_distance, gain_and_excess
from gaze.studies.augmentation.compared import Compared
from gaze.studies.augmentation.effects import distance_matrix, image_table

sys.path.insert(0, str(REPO / "benchmarks"))
from study_levels import association_studies


def series(c: Compared) -> np.ndarray:
    """Gain, excess, log p of the baseline and distance within an arm, of the images that have all (4, n)."""
    table, pearson = image_table(c), 1 - c.values[c.columns.index("pearson")].astype(float)
    means = []
    for arm in ("base", "arm"):
        own = [c.pairs.tolist().index(list(pair)) for pair in combinations(c.rows(arm).tolist(), 2)]
        means.append([np.mean(v) if (v := image[~np.isnan(image)]).size else np.nan for image in pearson[own].T])
    both = np.stack(
        [table["delta_log_p"], table["excess_distance"], c.log_p[c.rows("base")].mean(0), np.mean(means, 0)]
    )
    return both[:, ~np.isnan(both).any(0)]


def literal(c: Compared) -> tuple[float, float, int]:
    """rho and partial rho, the latter from the inverse of the matrix of rank correlations."""
    values = series(c)
    inverse = np.linalg.inv(stats.spearmanr(values.T).statistic)
    partial = -inverse[0, 1] / math.sqrt(inverse[0, 0] * inverse[1, 1])
    return stats.spearmanr(values[0], values[1]).statistic, partial, values.shape[1]


def without_run(c: Compared, run: int) -> Compared:
    kept = [i for i in range(len(c.runs)) if i != run]
    pairs = [p for p, pair in enumerate(c.pairs) if run not in pair]
    return c._replace(
        runs=c.runs.iloc[kept].reset_index(drop=True), pairs=np.searchsorted(kept, c.pairs[pairs]),
        values=c.values[:, pairs], log_p=c.log_p[kept],
    )  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_both_correlations_are_those_of_scipy(seed):
    c = made_up_study(seed, base=4, arm=3, images=30, dead=0.1)
    found = gain_and_excess(c, "arm")
    assert (found.rho, found.partial, found.images) == pytest.approx(literal(c))


def test_intervals_leave_out_one_run_at_a_time():
    c = made_up_study(3, base=4, arm=3, images=30, dead=0)
    found = gain_and_excess(c, "arm")
    for place, value, low, high in ((0, found.rho, found.ci_low, found.ci_high),
                                    (1, found.partial, found.partial_low, found.partial_high)):  # fmt: skip
        z = np.arctanh([literal(without_run(c, run))[place] for run in range(7)])
        variances = [(len(t) - 1) / len(t) * ((t - t.mean()) ** 2).sum() for t in (z[:4], z[4:])]
        df = sum(variances) ** 2 / (variances[0] ** 2 / 3 + variances[1] ** 2 / 2)
        half = stats.t.ppf(0.975, df) * math.sqrt(sum(variances))
        assert (low, high) == pytest.approx((math.tanh(math.atanh(value) - half), math.tanh(math.atanh(value) + half)))


def test_other_arms_play_no_part():
    c = made_up_study(base=4, arm=3, other=3, images=20)
    alone = c
    for run in (9, 8, 7):
        alone = without_run(alone, run)
    assert gain_and_excess(c, "arm") == gain_and_excess(alone, "arm")


def test_no_correlation_is_nan_not_a_number():
    c = made_up_study(base=4, arm=3, images=20)
    for without in (
        c._replace(log_p=np.zeros_like(c.log_p)),
        without_maps(c, [4, 5, 6]),
        made_up_study(base=4, arm=3, images=9, dead=0),
        made_up_study(base=4, arm=1, images=20),
        made_up_study(base=1, arm=3, images=20),
    ):
        assert all(map(math.isnan, gain_and_excess(without, "arm")[:6]))
    two = gain_and_excess(made_up_study(base=4, arm=2, images=20), "arm")
    assert not math.isnan(two.rho) and math.isnan(two.ci_low)


@pytest.mark.slow
def test_no_p_would_hold_its_level_and_difficulty_is_taken_out():
    """Why question 3 is exploratory: p by relabelled runs call independent patterns an association, partial or not."""
    nothing, difficulty = (association_studies(d, 150) for d in (0.0, 1.0))
    assert (nothing[["decided", "decided_partial"]].mean() > 0.1).all()
    assert abs(nothing["rho"].mean()) < 0.1
    assert difficulty["rho"].mean() > 0.3 and abs(difficulty["partial"].mean()) < 0.1


def costly(seed: int, arms: float, link: float = 0.0) -> tuple[Compared, np.ndarray]:
    """A study whose arms have moved gazes and costs of their own, independent of each other; within arms, runs' costs
    go with their distance to the baseline by ``link``."""
    random = np.random.default_rng(seed)
    names = ("base", "blur", "crop", "noise")
    apart = dict(zip(names[1:], arms * random.random(3), strict=True))
    c = made_up_study(seed, base=6, blur=4, crop=4, noise=4, images=12, apart=apart)
    shift = dict(zip(names, arms * random.normal(size=4), strict=True))
    moved = np.nanmean(np.where(np.eye(18) > 0, np.nan, distance_matrix(c))[:, :6], 1)
    return c, c.runs["arm"].map(shift).to_numpy() + 0.05 * random.normal(size=18) + link * moved


def test_cost_and_distance_are_scipys_rank_correlation_and_a_literal_permutation():
    c, cost = costly(1, 0.3)
    found = cost_and_distance(c, cost, draws=500)
    moved = [np.mean([distance_matrix(c)[i, j] for j in range(6) if j != i]) for i in range(18)]
    assert found.rho == pytest.approx(stats.spearmanr(moved, cost).statistic)
    assert found.ci_low < found.rho < found.ci_high and found.runs == 18
    ranks = [stats.rankdata(v) for v in (moved, cost)]
    arms = [range(6), range(6, 10), range(10, 14), range(14, 18)]
    centred = [[r[i] - np.mean([r[j] for j in own]) for own in arms for i in own] for r in ranks]
    assert found.within == pytest.approx(np.corrcoef(centred)[0, 1])
    random, hits = np.random.default_rng(7), 0
    for _ in range(2000):
        drawn = np.concatenate([random.permutation(centred[1][own[0] : own[-1] + 1]) for own in arms])
        hits += abs(np.corrcoef(centred[0], drawn)[0, 1]) >= abs(found.within) - 1e-9
    assert found.p == pytest.approx(hits / 2000, abs=0.07)
    some = np.where(np.arange(18) < 2, np.nan, cost)
    assert cost_and_distance(c, some, 10).runs == 16
    assert math.isnan(cost_and_distance(c, np.ones(18), 10).rho) and math.isnan(cost_and_distance(c, np.ones(18), 10).p)
    assert math.isnan(cost_and_distance(c, np.where(np.arange(18) < 4, cost, np.nan), 10).rho)


def test_p_within_arms_finds_what_is_there():
    assert np.mean([cost_and_distance(*costly(s, 0.3, 5.0), draws=199).p <= 0.05 for s in range(20)]) > 0.8


@pytest.mark.slow
def test_p_within_arms_holds_its_level_where_arms_differ_in_both():
    p = np.array([cost_and_distance(*costly(seed, 1.0), draws=199).p for seed in range(600)])
    assert 0.02 <= (p <= 0.05).mean() <= 0.08 and abs((p <= 0.5).mean() - 0.5) < 0.07
