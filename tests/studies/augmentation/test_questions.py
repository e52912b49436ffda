"""gaze.studies.augmentation.questions against SciPy, literal loops, and studies whose answers are known."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from made_up_study import made_up_study, other_order, without_maps
from scipy import stats

from gaze.studies.augmentation.association import gain_and_excess_rho
from gaze.studies.augmentation.compared import Compared
from gaze.studies.augmentation.effects import image_table, mean_shift_p, run_table
from gaze.studies.augmentation.questions import COLUMNS, question_table

DRAWS = 60  # where the interval itself is not looked at
RUNS = {"base": 6, "arm": 4}


def asked(c: Compared, question: int, arm: str = "arm", **settings) -> pd.DataFrame:
    table = question_table(c, draws=DRAWS, **settings)
    return table[(table["question"] == question) & (table["arm"] == arm)].reset_index(drop=True)


def planted(**shift: float) -> Compared:
    return made_up_study(28, shift={"arm": shift}, **RUNS)


def with_points(c: Compared, factor: float) -> Compared:
    """The arm's centroids around those of its runs, farther or nearer by a factor."""
    shapes = dict(c.shapes)
    rows = c.rows("arm")
    for name in ("centroid_y", "centroid_x"):
        values = shapes[name].copy()
        own = values[rows]
        middle = np.nanmean(own, 1, keepdims=True)
        values[rows] = middle + factor * (own - middle)
        shapes[name] = values
    return c._replace(shapes=shapes)


def literal_holm(p) -> list[float]:
    """Holm's definition: the largest of (m - r) p over the ranks r up to one's own."""
    p, m = list(p), len(p)
    ranks = sorted(range(m), key=p.__getitem__)
    return [min(1, max((m - r) * p[i] for r, i in enumerate(ranks) if r <= ranks.index(own))) for own in range(m)]


# --- the table


def test_a_row_per_arm_question_and_measure():
    c = made_up_study(base=4, one=3, two=2)
    table = question_table(c, draws=DRAWS)
    measures = ["mask_energy", "mask_lift", "centroid_variance", "dispersion", "spearman"]
    assert tuple(table) == COLUMNS and list(table["arm"]) == ["one"] * 5 + ["two"] * 5
    assert list(table["question"]) == [1, 1, 2, 2, 3] * 2 and list(table["measure"]) == measures * 2
    assert set(table["answer"]) <= {"pass", "fail", "inconclusive", "not evaluated"} and table["reason"].str.len().all()
    assert table["underpowered"].dtype == bool


def test_figures_are_those_of_the_runs():
    c = made_up_study(3, base=8, one=4, two=4, shift={"one": {"mask_energy": 0.05}})
    table, runs = question_table(c, draws=DRAWS), run_table(c)
    names = c.runs["arm"].to_list()
    for row in table[table["question"] < 3].itertuples():
        means = runs.groupby("arm")[row.measure].mean()
        assert (row.baseline, row.arm_mean) == pytest.approx((means["base"], means[row.arm]))
        assert row.change == pytest.approx(means[row.arm] - means["base"])
        assert row.p == mean_shift_p(runs[row.measure], names, "base", row.arm)[1]
        assert row.ci_low < row.change < row.ci_high or row.measure == "centroid_variance"
    families = [table["measure"] == "mask_energy", table["measure"] == "mask_lift", table["question"] == 2]
    for family in families:
        np.testing.assert_allclose(table.loc[family, "p_holm"], literal_holm(table.loc[family, "p"]))


def test_intervals_of_a_shift_are_those_of_a_literal_bootstrap():
    c = made_up_study(2, base=3, arm=3, images=30, classes=2, dead=0)
    row = question_table(c, draws=4000).iloc[0]
    random, drawn = np.random.default_rng(5), []
    gain = c.shapes["mask_energy"][3:].mean(0) - c.shapes["mask_energy"][:3].mean(0)
    for _ in range(4000):
        drawn.append(
            np.mean([np.mean(random.choice(own, own.size)) for own in (gain[c.target == 0], gain[c.target == 1])])
        )
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((low, high), abs=0.06 * (high - low))


def test_the_same_study_gives_the_same_bytes_and_order_means_nothing():
    c = planted(mask_energy=0.1)
    first = question_table(c, draws=DRAWS)
    pd.testing.assert_frame_equal(question_table(c, draws=DRAWS), first, check_exact=True)
    pd.testing.assert_frame_equal(question_table(other_order(c), draws=DRAWS), first, rtol=1e-9, atol=1e-12)
    assert (question_table(c, draws=DRAWS, seed=1)["ci_low"] != first["ci_low"]).all()


def test_settings_out_of_range_are_refused():
    c = made_up_study(base=2, arm=2)
    for alpha in (0, 1, math.nan):
        with pytest.raises(ValueError, match="alpha lies between"):
            question_table(c, alpha=alpha)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        question_table(c, draws=0)


# --- question 1


@pytest.mark.parametrize(("added", "answer", "word"), [(0.2, "pass", "More"), (-0.2, "fail", "Less")])
def test_planted_energy_is_found_with_its_sign(added, answer, word):
    rows = asked(planted(mask_energy=added), 1)
    assert list(rows["answer"]) == [answer] * 2 and rows["reason"].nunique() == 1
    assert rows["reason"][0].startswith(f"{word} of the gaze lies in the masks")
    assert rows["p"][0] == rows["p_holm"][0] == 1 / 210 and np.sign(rows["change"][0]) == np.sign(added)
    assert rows["ci_low"][0] > 0 if added > 0 else rows["ci_high"][0] < 0


def test_lift_decides_nothing():
    rows = asked(planted(mask_lift=0.3), 1)
    assert list(rows["answer"]) == ["inconclusive"] * 2 and rows["p_holm"][1] == 1 / 210
    assert rows["reason"][0].startswith("No change beyond retraining noise: mask_energy")


def test_the_answer_goes_by_holms_p_of_all_arms():
    shift = {"arm": {"mask_energy": 0.2}}
    c = made_up_study(28, base=6, arm=4, two=4, three=4, shift=shift)
    assert list(asked(c, 1, alpha=3 / 210)["answer"]) == ["pass"] * 2  # 1 / 70 but for rounding
    rows = asked(c, 1, alpha=2.99 / 210)
    assert rows["underpowered"].all() and np.isnan(rows[["p", "p_holm"]]).all(axis=None)


def test_a_p_that_only_holm_puts_above_alpha_decides_nothing():
    c = made_up_study(28, base=6, arm=4, two=4)
    table = question_table(c, draws=1)
    p = table.loc[table["measure"] == "mask_energy", "p"].min()
    assert p > 2 / 210
    table = question_table(c, alpha=1.5 * p, draws=1)
    own = table[table["question"] == 1]
    assert set(own["answer"]) == {"inconclusive"} and not own["underpowered"].any()


def test_without_masks_question_1_is_not_evaluated():
    rows = asked(made_up_study(masks=False, **RUNS), 1)
    assert len(rows) == 1 and rows["measure"][0] == "mask_energy" and rows["answer"][0] == "not evaluated"
    assert rows["reason"][0] == "this set has no masks" and np.isnan(rows["change"][0]) and not rows["underpowered"][0]


def test_three_and_three_runs_are_underpowered():
    c = made_up_study(base=3, arm=3, shift={"arm": {"mask_energy": 0.5, "dispersion": 0.5}})
    for question in (1, 2):
        rows = asked(c, question)
        assert set(rows["answer"]) == {"inconclusive"} and rows["underpowered"].all()
        assert rows["reason"].str.startswith("underpowered: ").all()
        assert np.isnan(rows[["p", "p_holm"]]).all(axis=None) and not np.isnan(rows["change"]).any()


def test_an_arm_without_power_stays_in_the_family():
    c = made_up_study(28, base=6, arm=4, small=1, shift={"arm": {"mask_energy": 0.2, "dispersion": 0.2}})
    assert asked(c, 1)["p_holm"][0] == 2 / 210 and asked(c, 2)["p_holm"][1] == pytest.approx(4 / 210)
    small = asked(c, 1, "small")
    assert small["underpowered"].all() and small["reason"][0].startswith("underpowered")


def test_an_arm_without_maps_is_not_evaluated():
    c = without_maps(planted(), [6, 7, 8, 9])
    for question in (1, 2, 3):
        rows = asked(c, question)
        assert set(rows["answer"]) == {"not evaluated"} and np.isnan(rows[["change", "p", "ci_low"]]).all(axis=None)
    with_one_less = asked(without_maps(planted(mask_energy=0.2), [6]), 1)
    assert set(with_one_less["answer"]) == {"pass"} and with_one_less["p"][0] == 1 / 84


# --- question 2


@pytest.mark.parametrize(
    ("dispersion", "factor", "answer", "start"),
    [
        (-0.2, 1, "pass", "The gaze varies less than without augmentation: dispersion ("),
        (0.2, 1, "fail", "The gaze varies more than without augmentation: dispersion ("),
        (0, 0.1, "pass", "The gaze varies less than without augmentation: centroid_variance ("),
        (0, 10, "fail", "The gaze varies more than without augmentation: centroid_variance ("),
        (-0.2, 0.1, "pass", "The gaze varies less than without augmentation: centroid_variance ("),
        (0.2, 10, "fail", "The gaze varies more than without augmentation: centroid_variance ("),
        (-0.2, 10, "inconclusive", "A contradiction, one measure is lower and the other higher: centroid_variance (+"),
        (0.2, 0.1, "inconclusive", "A contradiction, one measure is lower and the other higher: centroid_variance (-"),
        (0, 1, "inconclusive", "No change beyond retraining noise: centroid_variance ("),
    ],
)
def test_question_2_goes_by_both_measures(dispersion, factor, answer, start):
    rows = asked(with_points(planted(dispersion=dispersion), factor), 2)
    assert list(rows["answer"]) == [answer] * 2 and rows["reason"].nunique() == 1
    assert rows["reason"][0].startswith(start)
    assert ("dispersion" in rows["reason"][0]) == (dispersion != 0 or factor == 1)


def test_question_2_counts_both_measures_in_its_family():
    c = planted(dispersion=-0.2)
    assert asked(c, 2)["p_holm"][1] == 2 / 210
    assert not asked(c, 2, alpha=2 / 210)["underpowered"].any()
    assert asked(c, 2, alpha=1.9 / 210)["underpowered"].all()
    assert not asked(c, 1, alpha=1.9 / 210)["underpowered"].any()


# --- question 3


def linked(sign: float, images: int = 60, **runs: int) -> Compared:
    """The images that are moved farther are those whose true class gains, or loses."""
    c = made_up_study(5, images=images, dead=0, **(runs or {"base": 5, "arm": 4}))
    moved = np.random.default_rng(0).random(images)
    names = c.runs["arm"].to_numpy()
    values, between = c.values.copy(), (names[c.pairs] == "arm").sum(1) == 1
    values[1, between] -= 0.5 * moved.astype(np.float32)  # pearson
    log_p = c.log_p + np.where(names == "arm", sign, 0)[:, None] * moved
    return c._replace(values=values, log_p=log_p)


@pytest.mark.parametrize(("sign", "answer", "word"), [(4, "pass", "gained more"), (-4, "fail", "gained less")])
def test_gain_that_goes_with_the_gaze_is_found_with_its_sign(sign, answer, word):
    (row,) = asked(linked(sign), 3).to_dict("records")
    assert row["answer"] == answer and word in row["reason"] and np.sign(row["change"]) == np.sign(sign)
    assert "an association over 60 images, conditional on the trained models" in row["reason"]
    assert row["p"] == row["p_holm"] == gain_and_excess_rho(linked(sign), "arm").p <= 0.05
    assert math.isnan(row["baseline"]) and not row["underpowered"]


def test_gain_of_its_own_is_inconclusive():
    (row,) = asked(linked(0), 3).to_dict("records")
    assert row["answer"] == "inconclusive" and row["p"] > 0.05 and "no clear order" in row["reason"]


def test_too_few_runs_are_called_underpowered_not_undecided():
    (row,) = asked(linked(4, base=3, arm=2), 3).to_dict("records")
    assert row["answer"] == "inconclusive" and row["underpowered"] and row["reason"].startswith("underpowered")
    assert math.isnan(row["p"]) and row["change"] > 0.5


def test_correlation_is_scipys_and_its_interval_a_literal_bootstraps():
    c = linked(1.0, images=40)
    values = c.values.copy()
    values[:, :, :5] = np.nan  # images without an excess distance
    c = c._replace(values=values)
    row, images = question_table(c, draws=4000).iloc[-1], image_table(c)
    gain, excess = images["delta_log_p"].to_numpy(), images["excess_distance"].to_numpy()
    assert row["change"] == pytest.approx(stats.spearmanr(gain[5:], excess[5:]).statistic)
    assert "over 35 images" in row["reason"]
    again = question_table(other_order(c), draws=4000).iloc[-1]
    assert (again["ci_low"], again["ci_high"]) == pytest.approx((row["ci_low"], row["ci_high"]), abs=1e-9)
    random, drawn = np.random.default_rng(1), []
    for _ in range(400):
        own = [np.flatnonzero((c.target == k) & ~np.isnan(excess)) for k in range(3)]
        chosen = np.concatenate([random.choice(i, i.size) for i in own])
        drawn.append(stats.spearmanr(gain[chosen], excess[chosen]).statistic)
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((low, high), abs=0.12 * (high - low))


def test_a_correlation_takes_ten_images_and_two_series_that_vary():
    c = linked(4)
    for images, answer in ((9, "not evaluated"), (10, "pass")):
        few = c.values.copy()
        few[:, :, images:] = np.nan
        (row,) = asked(c._replace(values=few), 3).to_dict("records")
        assert row["answer"] == answer
        assert images == 10 or "It takes 10 images with an excess distance" in row["reason"]
    (row,) = asked(c._replace(log_p=np.zeros_like(c.log_p)), 3).to_dict("records")
    assert (row["answer"], row["reason"]) == ("not evaluated", "One of its two series is the same for all images.")


# --- simulated studies


def test_arms_alike_are_seldom_told_apart():
    """Questions 1 and 2 hold the chance of any answer of pass or fail, over the arms of a study, at alpha."""
    told = np.zeros(2)
    studies = 80
    for seed in range(studies):
        c = made_up_study(seed, base=4, one=4, images=6, classes=2, columns=("pearson",), dead=0.2)
        table = question_table(c, alpha=0.2, draws=2)
        decided = table["answer"].isin(["pass", "fail"])
        told += [(decided & (table["question"] == q)).any() for q in (1, 2)]
    for count in told:
        assert stats.binomtest(int(count), studies, 0.2, alternative="greater").pvalue > 0.001
        assert count > 0.02 * studies  # and the tests do reject


def test_no_warning_however_little_there_is():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for runs in ({"base": 1, "arm": 1}, {"base": 2, "arm": 3}):
            c = made_up_study(images=12, dead=0.6, **runs)
            assert len(question_table(c, draws=5)) == 5
            assert len(question_table(without_maps(c, list(range(sum(runs.values())))), draws=5)) == 5
