"""gaze.studies.augmentation.questions against SciPy, literal loops, and studies whose answers are known."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from made_up_study import made_up_study, other_order, without_maps
from scipy import stats

from gaze.statistics.permutation import mean_shift
from gaze.studies.augmentation.association import gain_and_excess
from gaze.studies.augmentation.compared import Compared
from gaze.studies.augmentation.effects import run_table
from gaze.studies.augmentation.questions import COLUMNS, question_table

RUNS = {"base": 6, "arm": 4}


def asked(c: Compared, question: int, arm: str = "arm", **settings) -> pd.DataFrame:
    table = question_table(c, **settings)
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
    table = question_table(c)
    measures = ["mask_energy", "mask_lift", "centroid_variance", "dispersion", "spearman", "spearman_partial"]
    assert tuple(table) == COLUMNS and list(table["arm"]) == ["one"] * 6 + ["two"] * 6
    assert list(table["question"]) == [1, 1, 2, 2, 3, 3] * 2 and list(table["measure"]) == measures * 2
    assert (
        set(table["answer"]) <= {"pass", "fail", "inconclusive", "not evaluated", "exploratory"}
        and table["reason"].str.len().all()
    )
    assert table["underpowered"].dtype == bool


def test_figures_are_those_of_the_runs():
    c = made_up_study(3, base=8, one=4, two=4, shift={"one": {"mask_energy": 0.05}})
    table, runs = question_table(c), run_table(c)
    names = c.runs["arm"].to_list()
    for row in table[table["question"] < 3].itertuples():
        means = runs.groupby("arm")[row.measure].mean()
        assert (row.baseline, row.arm_mean) == pytest.approx((means["base"], means[row.arm]))
        assert row.change == pytest.approx(means[row.arm] - means["base"])
        found = mean_shift(runs[row.measure], names, "base", row.arm)
        assert (row.p, row.ci_low, row.ci_high, row.sd_ratio) == (found.p, *found[1:3], found.sd_ratio)
    for measure in ("mask_energy", "mask_lift", "centroid_variance", "dispersion"):
        own = table["measure"] == measure
        np.testing.assert_allclose(table.loc[own, "p_holm"], literal_holm(table.loc[own, "p"]))


def test_the_same_study_gives_the_same_bytes_and_order_means_nothing():
    c = planted(mask_energy=0.1)
    first = question_table(c)
    pd.testing.assert_frame_equal(question_table(c), first, check_exact=True)
    pd.testing.assert_frame_equal(question_table(other_order(c)), first, rtol=1e-9, atol=1e-12)


def test_settings_out_of_range_are_refused():
    c = made_up_study(base=2, arm=2)
    for alpha in (0, 1, math.nan):
        with pytest.raises(ValueError, match="alpha lies between"):
            question_table(c, alpha=alpha)


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
    assert rows["reason"][0].startswith("No change shown beyond retraining noise: mask_energy")


def test_the_answer_goes_by_holms_p_of_all_arms():
    shift = {"arm": {"mask_energy": 0.2}}
    c = made_up_study(28, base=6, arm=4, two=4, three=4, shift=shift)
    assert list(asked(c, 1, alpha=3 / 210)["answer"]) == ["pass"] * 2  # 1 / 70 but for rounding
    rows = asked(c, 1, alpha=2.99 / 210)
    assert rows["underpowered"].all() and np.isnan(rows[["p", "p_holm"]]).all(axis=None)


def test_a_p_that_only_holm_puts_above_alpha_decides_nothing():
    c = made_up_study(28, base=6, arm=4, two=4)
    table = question_table(c)
    p = table.loc[table["measure"] == "mask_energy", "p"].min()
    assert p > 2 / 210
    table = question_table(c, alpha=1.5 * p)
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
    assert asked(c, 1)["p_holm"][0] == asked(c, 2)["p_holm"][1] == 2 / 210
    small = asked(c, 1, "small")
    assert small["underpowered"].all() and small["reason"][0].startswith("underpowered")


def test_an_arm_without_maps_is_not_evaluated():
    c = without_maps(planted(), [6, 7, 8, 9])
    for question in (1, 2, 3):
        rows = asked(c, question)
        assert set(rows["answer"]) == {"not evaluated"} and np.isnan(rows[["change", "p", "ci_low"]]).all(axis=None)
    with_one_less = asked(without_maps(planted(mask_energy=0.4), [6]), 1)
    assert set(with_one_less["answer"]) == {"pass"} and with_one_less["p"][0] == 1 / 84


# --- question 2


@pytest.mark.parametrize(
    ("dispersion", "factor", "answer", "start"),
    [
        (0, 0.1, "pass", "The gaze varies less than without augmentation (-"),
        (0, 10, "fail", "The gaze varies more than without augmentation (+"),
        (-0.2, 10, "fail", "The gaze varies more than without augmentation (+"),
        (-0.2, 1, "inconclusive", "No change shown beyond retraining noise: centroid_variance ("),
        (0, 1, "inconclusive", "No change shown beyond retraining noise: centroid_variance ("),
    ],
)
def test_question_2_goes_by_the_wandering_of_the_centre_alone(dispersion, factor, answer, start):
    rows = asked(with_points(planted(dispersion=dispersion), factor), 2)
    assert list(rows["answer"]) == [answer] * 2 and rows["reason"].nunique() == 1
    assert rows["reason"][0].startswith(start)


def test_the_measure_beside_it_is_no_part_of_the_family():
    c = planted(dispersion=-0.3)
    assert asked(c, 2)["p_holm"][1] == 1 / 210
    for question in (1, 2):
        assert not asked(c, question, alpha=1 / 210)["underpowered"].any()
        assert asked(c, question, alpha=0.9 / 210)["underpowered"].all()


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


@pytest.mark.parametrize("sign", [4, 0, -4])
def test_the_gain_is_described_and_never_judged(sign):
    c = linked(sign)
    rows, found = asked(c, 3), gain_and_excess(c, "arm")
    assert list(rows["change"]) == [found.rho, found.partial]
    assert rows[["ci_low", "ci_high"]].to_numpy().tolist() == [list(found[1:3]), list(found[4:6])]
    assert sign == 0 or (np.sign(rows["change"]) == np.sign(sign)).all()
    assert set(rows["answer"]) == {"exploratory"} and rows["reason"][0].startswith("An association over 60 images")
    assert np.isnan(rows[["p", "p_holm", "baseline", "sd_ratio"]]).all(axis=None) and not rows["underpowered"].any()


def test_a_correlation_takes_ten_images_and_two_series_that_vary():
    c = linked(4)
    for images, answer in ((9, "not evaluated"), (10, "exploratory")):
        few = c.values.copy()
        few[:, :, images:] = np.nan
        rows = asked(c._replace(values=few), 3)
        assert set(rows["answer"]) == {answer}
        assert images == 10 or "It takes 10 images with an excess distance" in rows["reason"][0]
    rows = asked(c._replace(log_p=np.zeros_like(c.log_p)), 3)
    assert (rows["answer"][0], rows["reason"][0]) == (
        "not evaluated",
        "One of its two series is the same for all images.",
    )


# --- simulated studies


def test_arms_alike_are_seldom_told_apart():
    """Questions 1 and 2 hold the chance of any answer of pass or fail, over the arms of a study, at alpha."""
    told = np.zeros(2)
    studies = 80
    for seed in range(studies):
        c = made_up_study(seed, base=4, one=4, images=6, classes=2, columns=("pearson",), dead=0.2)
        table = question_table(c, alpha=0.2)
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
            assert len(question_table(c)) == 6
            assert len(question_table(without_maps(c, list(range(sum(runs.values())))))) == 6
