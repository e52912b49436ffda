"""gaze.statistics.permutation against literal loops, scipy's permutation, Welch and F tests, and simulated runs with a
known answer.
"""

import itertools
import math
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import REPO
from scipy import stats

from gaze.statistics.permutation import (
    COLUMNS,
    arms_table,
    effect,
    effect_intervals,
    mean_shift,
    permutation_floor,
    permutation_p,
    relabellings,
)

sys.path.insert(0, str(REPO / "benchmarks"))
from study_levels import LEVEL, coverage_studies, distance_studies, mean_studies

LOOSE = 1e-9


def labels_of(**runs: int) -> list[str]:
    return [arm for arm, count in runs.items() for _ in range(count)]


def distances_of(maps: np.ndarray) -> np.ndarray:
    """mean over images of 1 - pearson, for maps (R, images, cells)."""
    z = maps - maps.mean(-1, keepdims=True)
    z = z / np.linalg.norm(z, axis=-1, keepdims=True)
    return 1 - np.einsum("ric,sic->rs", z, z) / maps.shape[1]


def simulated(random: np.random.Generator, labels: list[str], shift: float = 0.0, moved=("arm",)) -> np.ndarray:
    """Runs alike but for a random effect of each on all of its images; those of ``moved`` share a shift besides."""
    gaze, away = random.random((2, 3, 16))
    runs = gaze + 0.15 * random.normal(size=(len(labels), 1, 16)) + 0.15 * random.normal(size=(len(labels), 3, 16))
    return distances_of(runs + shift * away * np.isin(labels, moved)[:, None, None])


def drawn(seed: int, **runs: int) -> tuple[np.ndarray, list[str]]:
    labels = labels_of(**runs)
    return simulated(np.random.default_rng(seed), labels, 0.3), labels


def two_blocks(n: int, k: int) -> tuple[np.ndarray, list[str]]:
    """Runs of one arm are 0.1 apart, of two arms 1: the labels given are those of the largest effect."""
    labels = labels_of(base=n, arm=k)
    same = np.equal.outer(labels, labels)
    return np.where(same, 0.1, 1.0) - 0.1 * np.eye(n + k), labels


def literal_effect(d: np.ndarray, base: list[int], arm: list[int]) -> float:
    def within(runs):
        return np.mean([d[i, j] for i, j in itertools.combinations(runs, 2)])

    return np.mean([d[i, j] for i in base for j in arm]) - (within(base) + within(arm)) / 2


def literal_t2(d: np.ndarray, base: list[int], arm: list[int]) -> float:
    """Alekseyenko's T^2 in his own form, of squared distances: 2 D."""

    def squares(runs):
        return sum(2 * d[i, j] for i, j in itertools.combinations(runs, 2))

    k, n = len(arm), len(base)
    between = (n + k) / (n * k) * (squares(base + arm) / (n + k) - squares(base) / n - squares(arm) / k)
    scale = squares(base) / (n**2 * (n - 1)) + squares(arm) / (k**2 * (k - 1))
    return between / scale


def relabelled_p(d: np.ndarray, labels: list[str]) -> float:
    base, arm = ([i for i, label in enumerate(labels) if label == name] for name in ("base", "arm"))
    both, observed = base + arm, literal_t2(d, base, arm)
    splits = [([i for i in both if i not in taken], list(taken)) for taken in itertools.combinations(both, len(arm))]
    return np.mean([literal_t2(d, *split) >= observed - LOOSE * (1 + observed) for split in splits])


def literal_welch(d: np.ndarray, labels: list[str]) -> float:
    """T^2 against F, r from the covariance matrices of runs at such distances."""
    base, arm = ([i for i, label in enumerate(labels) if label == name] for name in ("base", "arm"))
    parts, inverse, weights = [], 0.0, 0
    for runs in (arm, base):
        n, own = len(runs), d[np.ix_(runs, runs)]
        parts.append((own.sum() / (n * (n - 1)) / n, n - 1))
        if n > 2:
            middle = np.eye(n) - 1 / n
            covariance = -middle @ own @ middle / (n - 1)  # has the eigenvalues of S that are not 0
            values = np.linalg.eigvalsh(covariance)
            squares = (n - 1) ** 2 / ((n - 2) * (n + 1)) * ((values**2).sum() - values.sum() ** 2 / (n - 1))
            inverse, weights = inverse + (n - 2) * squares / values.sum() ** 2, weights + n - 2
    r = 1.0 if not weights else 1000.0 if inverse <= 0 else float(np.clip(weights / inverse, 1, 1000))
    df = sum(v for v, _ in parts) ** 2 / sum(v**2 / f for v, f in parts)
    return float(stats.f.sf(max(0, literal_t2(d, base, arm)), r, r * df))


def literal_p(d: np.ndarray, labels: list[str]) -> float:
    return max(relabelled_p(d, labels), literal_welch(d, labels))


# --- effect


def test_effect_by_hand():
    #      b0   b1   a0   a1
    d = [[0.0, 0.2, 0.5, 0.7], [0.2, 0.0, 0.9, 0.7], [0.5, 0.9, 0.0, 0.4], [0.7, 0.7, 0.4, 0.0]]
    assert effect(d, ["b", "b", "a", "a"], "b", "a") == pytest.approx(0.7 - (0.2 + 0.4) / 2)


def test_effect_is_the_literal_loops_and_sees_no_third_arm():
    for seed in range(4):
        d, labels = drawn(seed, base=5, other=3, arm=2)
        assert effect(d, labels, "base", "arm") == pytest.approx(literal_effect(d, [0, 1, 2, 3, 4], [8, 9]))
        assert effect(d, labels, "arm", "base") == pytest.approx(effect(d, labels, "base", "arm"))


def test_effect_of_two_equal_arms_is_0_on_average():
    random = np.random.default_rng(0)
    same = [
        effect(simulated(random, labels_of(base=3, arm=2)), labels_of(base=3, arm=2), "base", "arm") for _ in "." * 400
    ]
    assert stats.ttest_1samp(same, 0).pvalue > 0.01
    assert min(same) < 0


# --- permutation_p


def test_exact_p_is_the_literal_loops():
    for n, k in [(2, 2), (3, 2), (2, 4), (4, 4), (6, 3), (5, 4)]:
        for seed in range(3):
            d, labels = drawn(seed, base=n, other=2, arm=k)
            found = permutation_p(d, labels, "base", "arm")
            assert found.p == pytest.approx(literal_p(d, labels), rel=1e-9)
            assert found.effect == effect(d, labels, "base", "arm")
            assert (found.permutations, found.exact) == (math.comb(n + k, k), True)


def test_both_p_decide_somewhere():
    ours = []
    for seed in range(20):
        d, labels = drawn(seed, base=6, arm=3)
        relabelled, welch = relabelled_p(d, labels), literal_welch(d, labels)
        ours.append(relabelled > welch)
        assert permutation_p(d, labels, "base", "arm").p == pytest.approx(max(relabelled, welch))
    assert 0 < sum(ours) < 20


def test_effect_is_half_the_squared_distance_of_centres_without_bias():
    maps = np.random.default_rng(0).normal(size=(7, 3))
    d, labels = ((maps[:, None] - maps) ** 2).sum(-1) / 2, labels_of(base=4, arm=3)
    base, arm = maps[:4], maps[4:]
    expected = ((base.mean(0) - arm.mean(0)) ** 2).sum() - base.var(0, ddof=1).sum() / 4 - arm.var(0, ddof=1).sum() / 3
    assert effect(d, labels, "base", "arm") == pytest.approx(expected / 2)


@pytest.mark.parametrize(
    ("n", "k", "ways"), [(8, 4, 1), (4, 8, 1), (3, 2, 1), (2, 2, 2), (3, 3, 2), (4, 4, 2), (8, 8, 2)]
)
def test_smallest_p_is_reached_by_the_clearest_split(n, k, ways):
    d, labels = two_blocks(n, k)
    found = permutation_p(d, labels, "base", "arm")
    assert found.p == found.smallest_p == ways / math.comb(n + k, k)


def test_eight_and_four_runs_reach_1_in_495():
    assert permutation_p(*two_blocks(8, 4), "base", "arm").p == 1 / 495


def test_p_is_1_where_every_labelling_ties():
    labels = labels_of(base=4, arm=3)
    assert permutation_p(np.zeros((7, 7)), labels, "base", "arm").p == 1
    assert permutation_p(0.3 * (1 - np.eye(7)), labels, "base", "arm").p == 1  # sums of 0.3 differ by rounding
    assert permutation_p(0.3 * (1 - np.eye(7)), labels, "base", "arm", max_permutations=20).p == 1


def test_ties_that_rounding_hides_are_counted():
    # runs on a line at 0, 1, ... 6, a third apart: many splits tie, in fractions that no float holds
    places = np.arange(7) / 3
    d, labels = np.abs(np.subtract.outer(places, places)), ["arm", "arm", *["base"] * 4, "arm"]
    assert permutation_p(d, labels, "base", "arm").p == pytest.approx(literal_p(d, labels))
    assert permutation_p(d / 7e5, labels, "base", "arm").p == pytest.approx(literal_p(d, labels))


def test_neither_the_order_of_runs_nor_the_names_matter():
    d, labels = drawn(3, base=5, other=2, arm=3)
    expected = permutation_p(d, labels, "base", "arm")
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(10)
        found = permutation_p(d[np.ix_(order, order)], np.array(labels)[order], "base", "arm")
        assert found == pytest.approx(expected, rel=1e-12)
    assert permutation_p(d, labels, "arm", "base") == pytest.approx(expected, rel=1e-12)
    numbers = pd.Series(labels).map({"base": 7, "other": 1, "arm": 0})
    assert permutation_p(d, numbers, 7, 0) == expected


def test_rounding_on_and_across_the_diagonal_changes_nothing():
    d, labels = drawn(0, base=5, arm=3)
    error = np.random.default_rng(0).uniform(0, 4e-7, (8, 8))
    rounded = d + error - error.T + np.diag(np.diagonal(error))
    assert permutation_p(rounded, labels, "base", "arm") == pytest.approx(permutation_p(d, labels, "base", "arm"), 1e-5)
    assert effect(rounded, labels, "base", "arm") == pytest.approx(effect(d, labels, "base", "arm"), abs=1e-14)
    assert effect(d.astype(np.float32), labels, "base", "arm") == pytest.approx(
        effect(d, labels, "base", "arm"), abs=1e-6
    )


@pytest.mark.parametrize(("n", "k"), [(6, 4), (5, 5)])
def test_drawn_p_is_the_exact_one_within_sampling_error(n, k):
    labels = labels_of(base=n, arm=k)
    for seed, shift in enumerate((0.0, 0.05, 0.2)):
        d = simulated(np.random.default_rng(seed), labels, shift)
        exact = permutation_p(d, labels, "base", "arm")
        total = math.comb(n + k, k)
        found = permutation_p(d, labels, "base", "arm", max_permutations=total - 1)
        assert (found.exact, found.permutations, found.smallest_p) == (False, total - 1, 1 / total)
        assert exact.exact and found.effect == exact.effect
        assert abs(found.p - exact.p) <= 4 * math.sqrt(exact.p * (1 - exact.p) / total) + 1 / total
        assert found == permutation_p(d, labels, "base", "arm", max_permutations=total - 1)


def test_as_many_labellings_as_allowed_are_enumerated():
    assert permutation_p(*two_blocks(4, 3), "base", "arm", max_permutations=35).exact
    assert not permutation_p(*two_blocks(4, 3), "base", "arm", max_permutations=34).exact


def test_every_split_is_enumerated_once_and_drawn_alike_often():
    every, complete = relabellings(6, 2)
    assert complete and set(every.sum(1)) == {2}
    assert len({tuple(split) for split in every}) == len(every) == 15
    found, complete = relabellings(30, 10, 3000)
    assert not complete and found.shape == (3000, 30) and set(found.sum(1)) == {10}
    assert stats.chisquare(found.sum(0)).pvalue > 0.01  # each run alike often
    together = (found.T @ found)[np.triu_indices(30, 1)]  # and each two runs
    assert stats.chisquare(together).pvalue > 0.01


def test_many_runs_are_drawn_and_p_is_never_0():
    found = permutation_p(*two_blocks(15, 12), "base", "arm")
    assert (found.permutations, found.exact) == (20_000, False)
    assert found.p == found.smallest_p == 1 / 20_001
    assert permutation_p(*two_blocks(8, 4), "base", "arm", max_permutations=1).p >= 1 / 2


def test_two_equal_arms_reject_no_more_often_than_the_level_and_a_moved_one_is_found():
    random, labels = np.random.default_rng(0), labels_of(base=8, arm=4)
    null = [permutation_p(simulated(random, labels), labels, "base", "arm").p for _ in range(400)]
    moved = [permutation_p(simulated(random, labels, 0.6), labels, "base", "arm").p for _ in range(100)]
    assert 0 < np.mean(np.array(null) <= 0.05) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 400)
    assert np.mean(np.array(moved) <= 0.05) > 0.9
    assert stats.kstest(null, "uniform", alternative="greater").pvalue > 0.01  # not only below 0.05


# What is claimed: a level of 0.05 with 8 + 4 runs, of 0.06 with 6 + 3, whatever the scatter; a hundredth is let go.
@pytest.mark.slow
@pytest.mark.parametrize(("n", "k", "limit"), [(8, 4, 0.06), (6, 3, 0.07)])
@pytest.mark.parametrize("ratio", [1 / 3, 1, 2, 3])
def test_level_of_means_and_distances_whatever_the_scatter(n, k, limit, ratio):
    for shape in ("normal", "t3"):
        found = mean_studies(n, k, ratio, 5000, shape=shape)
        assert 0.01 < (found["larger"] <= LEVEL).mean() <= limit
    assert ratio < 2 or (found["raw"] <= LEVEL).mean() > 0.1  # of what was done before
    for directions in (3, 30):
        found = distance_studies(n, k, ratio, directions, 5000)
        assert 0.01 < (found["larger"] <= LEVEL).mean() <= limit
        assert ratio != 1 or found["flag"].mean() <= 0.06


@pytest.mark.slow
def test_moved_arms_that_scatter_alike_are_not_flagged():
    found = distance_studies(8, 4, 1, 10, 5000, shift=0.8)
    moved = found[found["larger"] <= LEVEL]
    assert len(moved) > 2500 and moved["flag"].mean() < 0.06 < 0.6 < moved["flag_before"].mean()


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0, 1, 3])
def test_intervals_over_runs_hold_the_truth_and_those_over_images_do_not(shift):
    found = coverage_studies(8, 4, 1, shift, 1000).mean()
    assert (found[["mean_runs", "distance_runs"]] > 0.93).all() and (
        found[["mean_images", "distance_images"]] < 0.5
    ).all()


# --- mean_shift


def literal_shift_p(base: np.ndarray, arm: np.ndarray) -> float:
    def t(a, b):
        return abs(np.mean(a) - np.mean(b)) / np.sqrt(np.var(a, ddof=1) / len(a) + np.var(b, ddof=1) / len(b))

    relabelled = stats.permutation_test((arm, base), t, vectorized=False, n_resamples=np.inf, alternative="greater")
    return max(relabelled.pvalue, stats.ttest_ind(arm, base, equal_var=False).pvalue)


def test_shift_is_scipys_relabelled_and_welchs():
    for n, k in [(3, 3), (5, 2), (2, 4), (4, 4), (6, 2)]:
        labels = ["other", *["base"] * n, *["arm"] * k]
        for seed in range(3):
            values = np.random.default_rng(seed).normal(size=1 + n + k) + 5
            values[1 + n :] += seed
            base, arm = values[1 : 1 + n], values[1 + n :]
            found = mean_shift(values, labels, "base", "arm")
            assert found.change == pytest.approx(np.mean(arm) - np.mean(base))
            assert found.p == pytest.approx(literal_shift_p(base, arm))
            ends = stats.ttest_ind(arm, base, equal_var=False).confidence_interval()
            assert (found.ci_low, found.ci_high) == pytest.approx(tuple(ends))
            assert found.sd_ratio == pytest.approx(arm.std(ddof=1) / base.std(ddof=1))
            assert found.smallest_p == (2 if n == k else 1) / math.comb(n + k, k) and found.p >= found.smallest_p


def test_smallest_p_of_a_shift_is_reached_on_either_side():
    labels = [*["base"] * 8, *["arm"] * 4]
    for sign in (1, -1):
        found = mean_shift(sign * np.r_[np.arange(8), 100 + np.arange(4)], labels, "base", "arm")
        assert found.p == found.smallest_p == 1 / 495 and np.sign(found.change) == sign


def test_shifts_without_spread_or_with_ties_are_no_evidence():
    labels = [*["base"] * 4, *["arm"] * 3]
    assert mean_shift([0.1] * 7, labels, "base", "arm").p == 1
    rounded = mean_shift(np.array([0.3, 0.1 + 0.2, 0.3, 0.3, 0.1 + 0.2, 0.3, 0.3]), labels, "base", "arm")
    assert rounded.p == 1  # 0.1 + 0.2 is not 0.3
    two = mean_shift([1, 1, 1, 1, 2, 2, 2], labels, "base", "arm")
    assert (two.p, two.ci_low, two.ci_high) == (1 / 35, 1, 1) and np.isnan(two.sd_ratio)


def test_many_labellings_of_values_are_drawn():
    labels, random = [*["base"] * 8, *["arm"] * 5], np.random.default_rng(3)
    values = random.normal(size=13) + 0.6 * (np.array(labels) == "arm")
    drawn_p = mean_shift(values, labels, "base", "arm", max_permutations=1286)
    assert drawn_p.smallest_p == 1 / 1287 and drawn_p.p == pytest.approx(
        mean_shift(values, labels, "base", "arm").p, abs=0.05
    )
    assert mean_shift(values, labels, "base", "arm", max_permutations=1287).smallest_p == 1 / 1287


def test_runs_without_a_value_are_left_out():
    found = mean_shift([1, np.nan, 2, 5, 6, np.nan], ["b", "b", "b", "a", "a", "a"], "b", "a")
    assert found == mean_shift([1, 2, 5, 6], ["b", "b", "a", "a"], "b", "a")
    one = mean_shift([1, 2, np.nan, 4], ["b", "b", "a", "a"], "b", "a")
    assert one.change == 2.5 and np.isnan(one[1:]).all()
    assert np.isnan(mean_shift([np.nan, 2], ["b", "a"], "b", "a")).all()


def test_shifts_that_cannot_be_taken_are_refused():
    with pytest.raises(ValueError, match=r"got \(2,\) and \(3,\)"):
        mean_shift([1, 2], ["b", "b", "a"], "b", "a")
    with pytest.raises(ValueError, match=r"No run of arm 'c'\. There are: a, b"):
        mean_shift([1, 2], ["b", "a"], "b", "c")


# --- effect_intervals


def test_intervals_are_the_literal_jackknife():
    d, labels = drawn(0, base=5, arm=4)
    found = effect_intervals(d, labels, "base", "arm")

    def both(runs):
        own = [[i for i in runs if labels[i] == name] for name in ("base", "arm")]
        within = [np.mean([d[i, j] for i, j in itertools.combinations(side, 2)]) for side in own]
        return literal_effect(d, *own), math.log(math.sqrt(within[1] / within[0]))

    whole = both(range(9))
    assert (found.effect, math.log(found.sd_ratio)) == pytest.approx(whole)
    for place, low, high in ((0, found.ci_low, found.ci_high), (1, math.log(found.sd_low), math.log(found.sd_high))):
        without = np.array([both([i for i in range(9) if i != out])[place] for out in range(9)])
        variances = [(len(t) - 1) / len(t) * ((t - t.mean()) ** 2).sum() for t in (without[:5], without[5:])]
        df = sum(variances) ** 2 / (variances[0] ** 2 / 4 + variances[1] ** 2 / 3)
        half = stats.t.ppf(0.975, df) * math.sqrt(sum(variances))
        assert (low, high) == pytest.approx((whole[place] - half, whole[place] + half))


def test_intervals_take_three_runs_a_side():
    found = effect_intervals(*drawn(0, base=5, arm=2), "base", "arm")
    assert found.sd_ratio > 0 and np.isnan([found.ci_low, found.ci_high, found.sd_low, found.sd_high]).all()
    alike = effect_intervals(np.zeros((6, 6)), labels_of(base=3, arm=3), "base", "arm")
    assert alike[:3] == (0, 0, 0) and np.isnan(alike[3:]).all()


def test_floor_is_the_share_of_the_clearest_labellings():
    assert permutation_floor(8, 4) == 1 / 495 and permutation_floor(4, 4) == 2 / 70
    assert permutation_floor(15, 12) == 1 / 20_001 and np.isnan(permutation_floor(8, 1))


# --- arms_table


def test_table_has_a_row_per_arm_with_holms_p():
    labels = labels_of(shifted=4, base=8, same=4, more=5)
    d = simulated(np.random.default_rng(1), labels, 0.6, moved=("shifted", "more"))
    table = arms_table(d, labels, "base")
    assert list(table) == COLUMNS and list(table["arm"]) == ["shifted", "same", "more"]
    assert list(table["runs"]) == [4, 4, 5] and set(table["baseline_runs"]) == {8}
    found = [permutation_p(d, labels, "base", arm) for arm in table["arm"]]
    assert list(table["effect"]) == [f.effect for f in found]
    assert list(table["p"]) == [f.p for f in found] and list(table["smallest_p"]) == [f.smallest_p for f in found]
    np.testing.assert_allclose(table["p_holm"], stats_holm(table["p"]))
    noise = np.std([d[i, j] for i, j in itertools.combinations(range(4, 12), 2)], ddof=1)
    np.testing.assert_allclose(table["noise"], noise)
    assert list(table["verdict"]) == ["moved", "not shown", "moved"]
    assert table["underpowered"].dtype == bool and not table["underpowered"].any()
    ends = pd.DataFrame([effect_intervals(d, labels, "base", arm) for arm in table["arm"]])
    pd.testing.assert_frame_equal(table[list(ends)], ends)


def stats_holm(p) -> list[float]:
    """Holm's definition: the largest of (m - r) p over the ranks r up to one's own."""
    p, m = list(p), len(p)
    ranks = sorted(range(m), key=p.__getitem__)
    return [min(1, max((m - r) * p[i] for r, i in enumerate(ranks) if r <= ranks.index(own))) for own in range(m)]


def test_the_verdict_goes_by_holms_p():
    labels = labels_of(base=8, one=4, two=4, three=4)
    d = simulated(np.random.default_rng(5), labels)
    smallest = arms_table(d, labels, "base")["p"].min()
    assert smallest > 2 / 495
    assert set(arms_table(d, labels, "base", 1.5 * smallest)["verdict"]) == {"not shown"}  # but 3 p is above
    assert (arms_table(d, labels, "base", 3 * smallest)["verdict"] == "moved").sum() >= 1


def test_three_and_three_runs_are_underpowered_and_show_no_p():
    row = arms_table(*two_blocks(3, 3), "base").iloc[0]
    assert row["underpowered"] and row["verdict"] == "underpowered" and row["smallest_p"] == 0.1
    assert np.isnan(row["p"]) and np.isnan(row["p_holm"])
    assert row["effect"] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("n", "k", "verdict"), [(4, 4, "moved"), (8, 4, "moved"), (8, 2, "moved"), (4, 2, "underpowered")]
)
def test_one_clear_arm_is_moved_where_the_runs_can_show_it(n, k, verdict):
    assert list(arms_table(*two_blocks(n, k), "base")["verdict"]) == [verdict]


def test_more_arms_take_more_runs():
    # smallest p of 4 + 4 is 2/70: one arm can reach 0.05, two cannot
    d, labels = drawn(0, base=4, one=4, two=4)
    assert list(arms_table(d[:8, :8], labels[:8], "base")["underpowered"]) == [False]
    assert list(arms_table(d, labels, "base")["underpowered"]) == [True, True]
    assert list(arms_table(d, labels, "base", alpha=4 / 70)["underpowered"]) == [False, False]


def test_a_smallest_p_of_just_alpha_is_enough():
    # 6 arms of 3 beside 7: 6 / C(10, 3) = 0.05
    names = [f"arm{i}" for i in range(6)]
    labels = labels_of(base=7, **dict.fromkeys(names, 3))
    apart = np.where(np.equal.outer(labels, labels), 0.1, 1.0)
    np.fill_diagonal(apart, 0)
    for alpha, verdict in ((0.05, "moved"), (0.0499, "underpowered")):
        assert set(arms_table(apart, labels, "base", alpha)["verdict"]) == {verdict}


def test_underpowered_arms_stay_in_holms_family():
    labels = labels_of(base=8, arm=4, small=1, two=2)
    table = arms_table(simulated(np.random.default_rng(0), labels, 0.6), labels, "base").set_index("arm")
    assert table.loc["arm", "p_holm"] == pytest.approx(3 * table.loc["arm", "p"])
    assert list(table["verdict"]) == ["moved", "underpowered", "underpowered"]
    assert np.isnan(table.loc["small", ["effect", "sd_ratio", "smallest_p", "p"]].astype(float)).all()
    assert table.loc["two", "smallest_p"] == 1 / 45 and table.loc["two", "effect"] == table.loc["two", "effect"]


def test_table_does_not_depend_on_the_order_of_runs():
    d, labels = drawn(2, base=6, arm=4, other=3)
    order = np.random.default_rng(0).permutation(13)
    first, second = arms_table(d, labels, "base"), arms_table(d[np.ix_(order, order)], np.array(labels)[order], "base")
    second = second.sort_values("arm", ignore_index=True)
    pd.testing.assert_frame_equal(first.sort_values("arm", ignore_index=True), second)


def test_table_of_a_baseline_alone_is_empty():
    table = arms_table(0.1 * (1 - np.eye(2)), ["base"] * 2, "base")
    assert table.empty and list(table) == COLUMNS


def test_noise_of_one_pair_is_not_defined():
    assert np.isnan(arms_table(*two_blocks(2, 4), "base")["noise"]).all()


# --- errors


def broken(place, value) -> np.ndarray:
    d = two_blocks(3, 3)[0]
    d[place] = value
    return d


def test_what_is_no_matrix_of_distances_is_refused():
    for distances, message in [
        (broken((0, 4), 0.9), "symmetric"),
        (broken(([0, 4], [4, 0]), np.nan), "2 distances are NaN"),
        (broken(([0, 4], [4, 0]), np.inf), "2 distances are NaN or infinite"),
        (broken(([0, 4], [4, 0]), -0.1), "at least 0, got -0.1"),
        (broken((2, 2), 0.1), "diagonal is not 0"),
        (1 - two_blocks(3, 3)[0], "similarities"),
        (two_blocks(3, 2)[0], r"got \(5, 5\) and \(6,\)"),
        (two_blocks(3, 3)[0][:, :5], r"got \(6, 5\)"),
        (np.zeros(6), r"got \(6,\)"),
    ]:
        for function in [effect, permutation_p, arms_table]:
            names = ["base"] if function is arms_table else ["base", "arm"]
            with pytest.raises(ValueError, match=message):
                function(distances, labels_of(base=3, arm=3), *names)


def test_arms_that_cannot_be_compared_are_refused():
    for function in [effect, permutation_p]:
        d, labels = drawn(0, base=3, arm=2, lone=1)
        with pytest.raises(ValueError, match=r"No run of arm 'none'\. There are: arm, base, lone"):
            function(d, labels, "base", "none")
        with pytest.raises(ValueError, match="Arm 'lone' has 1 run"):
            function(d, labels, "base", "lone")
        with pytest.raises(ValueError, match="Arm 'lone' has 1 run"):
            function(d, labels, "lone", "arm")
        with pytest.raises(ValueError, match="is the baseline itself"):
            function(d, labels, "base", "base")


def test_table_and_settings_out_of_range_are_refused():
    d, labels = drawn(0, base=3, lone=1)
    with pytest.raises(ValueError, match="Arm 'lone' has 1 run"):
        arms_table(d, labels, "lone")
    with pytest.raises(ValueError, match="No run of arm 'none'"):
        arms_table(d, labels, "none")
    for alpha in (0, 1, math.nan):
        with pytest.raises(ValueError, match="alpha lies between"):
            arms_table(d, labels, "base", alpha)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        permutation_p(*two_blocks(3, 3), "base", "arm", max_permutations=0)
    with pytest.raises(ValueError, match="No run of arm 'base'"):
        effect(np.zeros((0, 0)), [], "base", "arm")
