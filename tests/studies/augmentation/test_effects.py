"""gaze.studies.augmentation.effects against literal loops over runs, classes and images, SciPy, pandas, and studies
with a known answer.
"""

import itertools
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from made_up_study import made_up_study, other_order, without_maps

from gaze.statistics.permutation import arms_table, effect, effect_intervals, mean_shift, permutation_p
from gaze.studies.augmentation.compared import Compared
from gaze.studies.augmentation.effects import (
    PROFILE_COLUMNS,
    class_balanced,
    distance_matrix,
    image_table,
    pair_table,
    profile_table,
    run_metric,
    run_table,
    shape_shifts,
)

SHAPES = ("dispersion", "entropy", "gini", "centroid_y", "centroid_x", "mask_energy", "mask_lift")
SHAPE_METRICS = (*SHAPES[:5], "centroid_variance", *SHAPES[5:], "dead_rate", "accuracy")


@pytest.fixture(scope="module")
def study() -> Compared:
    return made_up_study(4, base=6, less=4, more=4, shift={"more": {"mask_energy": 0.4}}, apart={"more": 0.3})


@pytest.fixture(scope="module")
def profile(study) -> pd.DataFrame:
    return profile_table(study)


def literal_balanced(values: np.ndarray, target: np.ndarray) -> float:
    means = pd.Series(values).groupby(target).mean()  # pandas skips NaN
    return means.mean()


def literal_distance(c: Compared, column: str, i: int, j: int) -> float:
    (pair,) = (p for p, both in enumerate(c.pairs.tolist()) if set(both) == {i, j})
    mean = literal_balanced(c.values[c.columns.index(column), pair].astype(float), c.target)
    return 1 - mean if column in ("pearson", "spearman", "overlap", "sim", "xcorr_peak") else mean


def cell(table: pd.DataFrame, arm: str, metric: str) -> pd.Series:
    (row,) = (row for _, row in table.iterrows() if (row["arm"], row["metric"]) == (arm, metric))
    return row


# --- class_balanced


def test_every_class_counts_alike():
    assert class_balanced([1.0, 1.0, 1.0, 5.0], np.array([0, 0, 0, 1])) == 3
    assert class_balanced([1.0, np.nan, 3.0, np.nan], np.array([0, 0, 0, 1])) == 2  # class 1 is left out
    assert np.isnan(class_balanced([np.nan] * 4, np.array([0, 0, 0, 1])))


def test_class_balanced_is_pandas_over_any_axes():
    random = np.random.default_rng(0)
    values, target = random.normal(size=(2, 3, 20)), random.integers(0, 4, 20)
    values[random.random(values.shape) < 0.4] = np.nan
    found = class_balanced(values, target)
    assert found.shape == (2, 3)
    expected = [[literal_balanced(v, target) for v in rows] for rows in values]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


# --- distance_matrix, run_table, pair_table


def test_distances_are_the_literal_loops(study):
    for column in ["mad", "pearson", "pred_kl", "sim"]:
        d = distance_matrix(study, column)
        assert (d == d.T).all() and (np.diagonal(d) == 0).all()
        for i, j in itertools.combinations(range(14), 2):
            assert d[i, j] == pytest.approx(literal_distance(study, column, i, j), rel=1e-9)
        assert (distance_matrix(study) == distance_matrix(study, "pearson")).all()


def test_a_similarity_counts_as_1_less_it():
    for column in ["overlap", "spearman", "xcorr_peak", "js", "xcorr_lag"]:
        c = made_up_study(base=2, columns=(column,), dead=0)
        mean = class_balanced(c.values[0], c.target)[0]
        assert distance_matrix(c, column)[0, 1] == (mean if column in ("js", "xcorr_lag") else 1 - mean)


def test_run_table_is_the_literal_loops(study):
    table = run_table(study)
    assert list(table) == [
        *("run", "arm", "seed", "accuracy", "kappa", "dead_rate", "n_valid"),
        *SHAPE_METRICS[:-2],
    ]
    pd.testing.assert_frame_equal(table[list(study.runs)], study.runs)
    for r, row in table.iterrows():
        kept = [i for i in range(12) if study.valid[r, i]]
        assert row["n_valid"] == len(kept) and row["dead_rate"] == pytest.approx(1 - len(kept) / 12)
        for name in SHAPES:
            assert row[name] == pytest.approx(literal_balanced(study.shapes[name][r], study.target))
        variances = []
        for k in range(3):
            points = [(study.shapes["centroid_y"][r, i], study.shapes["centroid_x"][r, i]) for i in kept]
            points = [point for point, i in zip(points, kept, strict=True) if study.target[i] == k]
            if len(points) > 1:
                y, x = np.mean(points, 0)
                variances.append(sum((p - y) ** 2 + (q - x) ** 2 for p, q in points) / (len(points) - 1))
        assert row["centroid_variance"] == pytest.approx(np.mean(variances), rel=1e-9)


def test_run_table_of_a_set_without_masks_has_no_mask_columns():
    assert not {"mask_energy", "mask_lift"} & set(run_table(made_up_study(base=2, masks=False)))


def test_pair_table_is_the_long_table(study):
    table = pair_table(study)
    keys = ["run_b", "arm_b", "seed_b", "run_a", "arm_a", "seed_a", "class", "n", "n_valid"]
    assert list(table) == [*keys, *study.columns] and len(table) == 91 * 3
    rows = table.itertuples(index=False)
    for p, (b, a) in enumerate(itertools.combinations(range(14), 2)):
        for k in range(3):
            row = next(rows)
            runs = (*study.runs.loc[b, ["run", "arm", "seed"]], *study.runs.loc[a, ["run", "arm", "seed"]])
            own = np.flatnonzero(study.target == k)
            both = [i for i in own if study.valid[b, i] and study.valid[a, i]]
            assert tuple(row[:9]) == (*runs, f"class {k}", len(own), len(both))
            expected = study.values[:, p, both].astype(float).mean(1) if both else [np.nan] * 4
            np.testing.assert_allclose(row[9:], expected, rtol=1e-9)


def test_pair_table_averages_to_the_distances(study):
    means = pair_table(study).groupby(["run_b", "run_a"], sort=False)["mad"].mean()
    np.testing.assert_allclose(means, distance_matrix(study, "mad")[np.triu_indices(14, 1)])


# --- image_table


def test_image_table_is_the_effect_of_each_image():
    c = made_up_study(base=3, one=2, two=3, dead=0)
    table = image_table(c)
    assert list(table) == ["arm", "place", "excess_distance", "delta_log_p", "n_pairs"] and len(table) == 24
    assert list(table["arm"]) == ["one"] * 12 + ["two"] * 12 and list(table["place"]) == [*c.place, *c.place]
    for row, (arm, i) in zip(table.itertuples(), itertools.product(("one", "two"), range(12)), strict=True):
        d = np.zeros((8, 8))
        for value, (b, a) in zip(c.values[1, :, i], c.pairs, strict=True):
            d[b, a] = d[a, b] = 1 - value
        assert row.excess_distance == pytest.approx(effect(d, c.runs["arm"], "base", arm), abs=1e-6)
        runs = [r for r in range(8) if c.runs["arm"][r] == arm]
        assert row.delta_log_p == pytest.approx(np.mean(c.log_p[runs, i]) - np.mean(c.log_p[:3, i]))
        assert row.n_pairs == 3 * len(runs)


def test_image_table_skips_pairs_with_an_unusable_map():
    c = made_up_study(base=3, arm=2, dead=0)
    c = c._replace(valid=c.valid.copy(), values=c.values.copy())
    dead = {(0, 0), (0, 3), (1, 3), (1, 4), (2, 0), (2, 1)}  # image, run
    for i, r in dead:
        c.values[:, (c.pairs == r).any(1), i] = np.nan
        c.valid[r, i] = False
    table = image_table(c)
    x = 1 - c.values[1, :, 0].astype(float)  # image 0: runs 1, 2, 4 are left
    assert np.isnan(table["excess_distance"][:3]).all() and not np.isnan(table["excess_distance"][3:]).any()
    assert list(table["n_pairs"][:4]) == [2, 0, 2, 6]
    c.values[:, (c.pairs == 0).any(1), 3] = np.nan
    x, pairs = 1 - c.values[1, :, 3].astype(float), c.pairs.tolist()
    mean = {kind: np.mean([x[pairs.index(list(p))] for p in group]) for kind, group in (
        ("between", [(1, 3), (1, 4), (2, 3), (2, 4)]), ("base", [(1, 2)]), ("arm", [(3, 4)]))}  # fmt: skip
    expected = mean["between"] - (mean["base"] + mean["arm"]) / 2
    assert image_table(c)["excess_distance"][3] == pytest.approx(expected)


# --- profile_table


def test_profile_has_every_metric_of_every_arm(study, profile):
    assert tuple(profile) == PROFILE_COLUMNS
    metrics = [*study.columns, *SHAPE_METRICS]
    assert list(profile["arm"]) == ["less"] * len(metrics) + ["more"] * len(metrics)
    assert list(profile["metric"]) == metrics * 2
    assert list(profile["kind"]) == (["pair"] * 4 + ["shape"] * 10) * 2
    assert profile["marked"].dtype == profile["underpowered"].dtype == bool and profile["family"].dtype == np.int64


def test_pair_cells_are_those_of_arms(study, profile):
    for arm, column in itertools.product(study.arms, study.columns):
        row, d = cell(profile, arm, column), distance_matrix(study, column)
        found = permutation_p(d, study.runs["arm"].to_list(), "base", arm)
        assert (row["effect"], row["smallest_p"]) == (found.effect, found.smallest_p)
        sd = np.std([d[i, j] for i, j in itertools.combinations(range(6), 2)], ddof=1)
        assert row["unit_sd"] == pytest.approx(sd) and row["z"] == pytest.approx(found.effect / sd)
        ends = effect_intervals(d, study.runs["arm"].to_list(), "base", arm)
        assert (row["ci_low"], row["ci_high"]) == (ends.ci_low, ends.ci_high)
        if column != "pearson":
            assert row["p"] == found.p


def test_pearson_is_the_confirmatory_cell(study, profile):
    arms = arms_table(distance_matrix(study), study.runs["arm"].to_list(), "base")
    own = profile[profile["metric"] == "pearson"]
    for column, other in (("p", "p"), ("q", "p_holm"), ("effect", "effect"), ("unit_sd", "noise")):
        np.testing.assert_array_equal(own[column], arms[other])
    assert list(own["marked"]) == list(arms["verdict"] == "moved") == [False, True]
    assert set(own["family"]) == {2} and list(own["smallest_p"]) == list(arms["smallest_p"])


def test_shape_cells_are_differences_of_runs(study, profile):
    table, names = run_table(study), study.runs["arm"].to_list()
    for arm, metric in itertools.product(study.arms, SHAPE_METRICS):
        row, by_arm = cell(profile, arm, metric), table.groupby("arm")[metric]
        assert row["effect"] == pytest.approx(by_arm.mean()[arm] - by_arm.mean()["base"])
        assert row["unit_sd"] == pytest.approx(by_arm.std()["base"])
        found = mean_shift(table[metric], names, "base", arm)
        assert (row["p"], row["smallest_p"], row["ci_low"], row["ci_high"]) == (found.p, found.smallest_p, *found[1:3])
        assert row["z"] == pytest.approx(row["effect"] / row["unit_sd"])
    planted = cell(profile, "more", "mask_energy")
    assert planted["marked"] and planted["z"] > 3 and planted["p"] == 1 / 210


def test_q_is_benjamini_and_hochbergs(study, profile):
    rest = profile[profile["metric"] != "pearson"]
    p = rest["p"].to_numpy()
    m = len(p)
    assert m == 26 and set(rest["family"]) == {m}
    rank = {i: 1 + place for place, i in enumerate(sorted(range(m), key=p.__getitem__))}
    literal = [min(1, *(p[j] * m / rank[j] for j in range(m) if rank[j] >= rank[i]), 1) for i in range(m)]
    np.testing.assert_allclose(rest["q"], literal)
    assert list(rest["marked"]) == [q <= 0.05 for q in literal] and 0 < rest["marked"].sum() < m
    at_the_level = profile_table(study, min(literal) * (1 - 1e-14))  # but for rounding
    assert at_the_level["marked"].sum() >= list(literal).count(min(literal))


def test_underpowered_cells_have_no_p_and_are_no_part_of_the_family():
    c = made_up_study(base=6, arm=3, small=1, two=1, apart={"small": 1.0})
    table = profile_table(c)
    small = table[table["arm"] == "small"]
    assert small["underpowered"].all() and not small["marked"].any()
    assert np.isnan(small[["p", "q"]]).all(axis=None)
    pair = small[small["kind"] == "pair"]
    assert np.isnan(pair[["effect", "z", "ci_low", "smallest_p"]]).all(axis=None)
    shape = small[small["kind"] == "shape"]
    assert np.isnan(shape[["smallest_p", "ci_low"]]).all(axis=None)
    assert not np.isnan(shape[["effect", "z"]]).any(axis=None)
    assert set(table.loc[table["metric"] != "pearson", "family"]) == {13}
    assert set(table.loc[table["metric"] == "pearson", "family"]) == {3}
    own = cell(table, "arm", "pearson")
    assert own["q"] == pytest.approx(min(1, 3 * own["p"]))


def test_three_and_three_runs_test_nothing():
    table = profile_table(made_up_study(base=3, arm=3, apart={"arm": 1.0}))
    assert table["underpowered"].all() and np.isnan(table[["p", "q"]]).all(axis=None)
    assert (table["smallest_p"] == 0.1).all() and set(table.loc[table["metric"] != "pearson", "family"]) == {0}
    assert (table["effect"].iloc[:4] > 0.5).all()


def test_a_smallest_p_of_just_alpha_is_enough():
    c = made_up_study(base=3, arm=3, apart={"arm": 1.0})
    assert not profile_table(c, alpha=0.1)["underpowered"].any()
    assert profile_table(c, alpha=0.0999)["underpowered"].all()


def test_a_run_without_a_map_is_left_out():
    c = made_up_study(1, base=5, arm=4)
    without = without_maps(c, [2, 6])
    table = profile_table(without)
    rest = [0, 1, 3, 4, 5, 7, 8]
    kept = [p for p, (b, a) in enumerate(c.pairs) if b in rest and a in rest]
    fewer = c._replace(
        runs=c.runs.iloc[rest].reset_index(drop=True), pairs=np.array(list(itertools.combinations(range(7), 2))),
        values=c.values[:, kept], shapes={k: v[rest] for k, v in c.shapes.items()}, valid=c.valid[rest],
        log_p=c.log_p[rest], correct=c.correct[rest], cams=c.cams[rest],
    )  # fmt: skip
    expected = profile_table(fewer)
    seen = ~table["metric"].isin(["dead_rate", "accuracy"])
    columns = ["effect", "unit_sd", "ci_low", "ci_high", "smallest_p"]
    pd.testing.assert_frame_equal(table.loc[seen, columns], expected.loc[seen, columns])
    dead = without.valid.mean(1)
    assert cell(table, "arm", "dead_rate")["effect"] == pytest.approx(dead[:5].mean() - dead[5:].mean())


def test_an_arm_without_maps_is_not_tested():
    for rows in [[5, 6, 7], [5, 6], [0, 1, 2, 3], range(12)]:
        table = profile_table(without_maps(made_up_study(base=5, arm=3, more=4), list(rows)))
        arm = table[(table["arm"] == "arm") & (table["kind"] == "pair")]
        assert arm["underpowered"].all() and np.isnan(arm[["effect", "p", "q", "ci_low", "smallest_p"]]).all(axis=None)
        more = cell(table, "more", "pearson")
        assert more["family"] == 2  # as many as there are arms
        if 0 not in rows:
            assert more["q"] == pytest.approx(min(1, 2 * more["p"]))
        else:
            assert more["underpowered"] and not table.loc[table["kind"] == "pair", "marked"].any()


def test_two_runs_without_a_common_image_are_both_left_out():
    c = made_up_study(base=5, arm=4, dead=0)
    values = c.values.copy()
    values[:, c.pairs.tolist().index([1, 6])] = np.nan
    row = cell(profile_table(c._replace(values=values)), "arm", "mad")
    rest = [0, 2, 3, 4, 5, 7, 8]
    d, names = distance_matrix(c, "mad")[np.ix_(rest, rest)], c.runs["arm"].to_numpy()[rest]
    assert row["effect"] == pytest.approx(effect(d, names, "base", "arm"))
    assert row["unit_sd"] == pytest.approx(np.std(d[:4, :4][np.triu_indices(4, 1)], ddof=1))


def test_a_baseline_without_spread_gives_no_z():
    c = made_up_study(base=5, arm=4)
    flat = {**c.shapes, "gini": np.where(c.valid, 0.1, np.nan)}
    row = cell(profile_table(c._replace(shapes=flat)), "arm", "gini")
    assert np.isnan(row["z"]) and np.isnan(row["unit_sd"]) and row["p"] == 1 and abs(row["effect"]) < 1e-12


def test_a_study_without_masks_has_no_mask_rows():
    table = profile_table(made_up_study(base=3, arm=2, masks=False))
    assert list(table["metric"])[4:] == [m for m in SHAPE_METRICS if "mask" not in m]


def test_shifts_tell_both_means(study):
    (less, more), by_arm = shape_shifts(study, "gini"), run_table(study).groupby("arm")["gini"].mean()
    assert (less.arm, more.arm) == ("less", "more")
    assert [less.baseline, less.arm_mean, more.arm_mean] == pytest.approx(list(by_arm[["base", "less", "more"]]))
    assert more.change == pytest.approx(more.arm_mean - more.baseline)
    assert more[3:] == mean_shift(run_metric(study, "gini"), study.runs["arm"].to_list(), "base", "more")


def test_the_same_study_gives_the_same_bytes_and_order_means_nothing(study, profile):
    pd.testing.assert_frame_equal(profile_table(study), profile, check_exact=True)
    pd.testing.assert_frame_equal(profile_table(other_order(study)), profile, rtol=1e-9, atol=1e-12)
    pd.testing.assert_frame_equal(run_table(other_order(study)), run_table(study))
    by_place = [
        t.sort_values(["arm", "place"], ignore_index=True) for t in map(image_table, (study, other_order(study)))
    ]
    pd.testing.assert_frame_equal(*by_place)


def test_no_warning_however_little_there_is():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for runs in ({"base": 1, "arm": 1}, {"base": 1, "arm": 3}, {"base": 2, "arm": 2}):
            c = made_up_study(images=4, dead=0.6, **runs)
            for table in (profile_table(c), run_table(c), pair_table(c), image_table(c)):
                assert len(table)


def test_settings_out_of_range_are_refused(study):
    for alpha in (0, 1, math.nan):
        with pytest.raises(ValueError, match="alpha lies between"):
            profile_table(study, alpha=alpha)
    with pytest.raises(ValueError, match="not in tuple"):
        distance_matrix(study, "emd")
