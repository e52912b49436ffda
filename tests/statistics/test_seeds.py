"""gaze.statistics.seeds against scipy.stats, pandas and textbook formulas, on made-up run logs with known answers."""

import itertools
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import REPO
from made_up import made_up_runs
from scipy import stats

from gaze.measures import compared, measures
from gaze.runs.tidy import RUN_KEYS, TIDY_COLUMNS
from gaze.statistics.intervals import (
    fisher_interval,
    folds_interval,
    folds_p,
    holm,
    mean_interval,
    sign_flip_floor,
    sign_flip_p,
)
from gaze.statistics.pairing import correlation_matrix, pairing_test
from gaze.statistics.schedules import schedule_table
from gaze.statistics.seeds import (
    HELD_AGAINST_KAPPA,
    _as_far_as_all,
    gaze_shift_table,
    lambda_table,
    pearson_table,
    run_correlations,
    run_summaries,
    scale_table,
)
from gaze.studies.consistency.published import published_pearson

sys.path.insert(0, str(REPO / "benchmarks"))
from study_levels import reading_studies

TABLES = (run_correlations, pearson_table, run_summaries, lambda_table, scale_table, gaze_shift_table)
CELL = RUN_KEYS[:4]
NAN = float("nan")


def run(seed=0, model="level1", weight=0.0, study="s", dataset="d", **columns) -> pd.DataFrame:
    """One run's epochs from its columns; those given are all that it has."""
    epochs = len(next(iter(columns.values())))
    keys = {"study": study, "dataset": dataset, "model": model, "lambda": weight, "seed": seed}
    return pd.DataFrame({**keys, "epoch": range(1, epochs + 1), **columns})


def correlated(r: float, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two series of n numbers whose Pearson correlation is r: the part of y along x is taken out, and r put in."""
    x, y = np.random.default_rng(seed).standard_normal((2, n))
    x = (x - x.mean()) / np.linalg.norm(x - x.mean())
    y = y - y.mean()
    y = y - (y @ x) * x
    return x, r * x + np.sqrt(1 - r**2) * y / np.linalg.norm(y)


def runs_with(rs, n=20, **keys) -> pd.DataFrame:
    """A run per seed whose kappa and gaze consistency correlate by the given r."""
    parts = []
    for seed, r in enumerate(rs):
        x, y = correlated(r, n, seed)
        parts.append(run(seed, kappa=x, gaze_consistency=0.05 + 0.01 * y, **keys))
    return pd.concat(parts, ignore_index=True)


def gazes(values: dict, column="gaze_consistency_rms", **keys) -> pd.DataFrame:
    """One epoch per seed: {seed: value}, or {seed: (rms, eta)}."""
    names = (
        ("gaze_consistency_rms", "gaze_eta_squared") if isinstance(next(iter(values.values())), tuple) else (column,)
    )
    parts = [run(s, **keys, **{n: [x] for n, x in zip(names, np.atleast_1d(v))}) for s, v in values.items()]  # noqa: B905
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def logs() -> pd.DataFrame:
    """Two studies, the phantom beside a real set, with undefined epochs, shuffled."""
    frame = pd.concat(
        [
            made_up_runs(
                "one", ("phantom", "brain_tumor_mri"), ("level1", "level2"), (-100, 0, 50), range(4), epochs=8
            ),
            made_up_runs("two", ("phantom",), lambdas=(0, 50), seeds=range(3), noise=0.03),
        ],
        ignore_index=True,
    )
    gaze = [c for c in frame if c.startswith("gaze_")]
    frame.loc[np.random.default_rng(1).random(len(frame)) < 0.1, gaze] = NAN
    return frame.sample(frac=1, random_state=2)


# --- intervals and tests on arrays


def test_mean_interval_is_scipys():
    for n in [2, 3, 6, 40]:
        for level in [0.5, 0.95, 0.99]:
            values = np.random.default_rng(n).normal(3, 2, n)
            expected = stats.ttest_1samp(values, 0).confidence_interval(level)
            np.testing.assert_allclose(mean_interval([*values, NAN], level), expected, rtol=1e-9)


def test_no_interval_from_one_value():
    for values in [[], [0.3], [0.3, NAN]]:
        for interval in [mean_interval, fisher_interval]:
            assert np.isnan(interval(values)).all()


def test_mean_interval_covers_at_its_level():
    random = np.random.default_rng(0)
    hits = [low < 1 < high for low, high in (mean_interval(random.normal(1, 2, 6)) for _ in range(4000))]
    assert stats.binomtest(sum(hits), 4000, 0.95).pvalue > 0.001


def test_folds_interval_is_the_formula_of_nadeau_and_bengio():
    values, folds = np.random.default_rng(0).normal(0.8, 0.1, 10), 5
    tested, trained = 20, 80  # images of each of five folds of 100
    variance = (1 / 10 + tested / trained) * sum((v - sum(values) / 10) ** 2 for v in values) / 9
    half = stats.t.ppf(0.975, 9) * variance**0.5
    assert folds_interval(values, folds) == pytest.approx((values.mean() - half, values.mean() + half))
    assert folds_p(values, folds) == pytest.approx(2 * stats.t.sf(values.mean() / variance**0.5, 9))
    assert folds_interval(values, 1) == mean_interval(values)
    assert folds_p(values, 1) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert np.isnan(folds_p([0.5], 5))


def cross_validated(studies: int, arms: int = 1, images=100, folds=5, seeds=2) -> np.ndarray:
    """Accuracy of a nearest-centroid classifier (studies, arms, folds, seeds) on data of its own each study. A seed
    resamples the training images and chooses the features that it sees.
    """
    rng, found = np.random.default_rng(0), np.empty((studies, arms, folds, seeds))
    label = np.arange(images) % 2
    for study in range(studies):
        data = rng.normal(size=(images, 8)) + 0.9 * np.outer(label, np.eye(8)[0])
        of_fold = rng.permutation(images) % folds
        for arm, fold, seed in np.ndindex(arms, folds, seeds):
            train = rng.choice(np.flatnonzero(of_fold != fold), images)
            seen = data[:, np.r_[0, 1 + rng.permutation(7)[:4]]]
            low, high = (seen[train][label[train] == k].mean(0) for k in (0, 1))
            score = (seen - (low + high) / 2) @ (high - low)
            found[study, arm, fold, seed] = ((score > 0) == label)[of_fold == fold].mean()
    return found


def test_folds_interval_covers_where_the_naive_one_does_not():
    runs = cross_validated(400)[:, 0].reshape(400, -1)
    truth = runs.mean()  # its error is a twentieth of one study's
    covered = [[low <= truth <= high for low, high in (folds_interval(r, 5), mean_interval(r))] for r in runs]
    corrected, naive = np.mean(covered, 0)
    assert corrected > 0.93
    assert naive < 0.87


def test_folds_p_keeps_its_level_where_the_naive_one_does_not():
    one, other = np.moveaxis(cross_validated(400, arms=2), 1, 0).reshape(2, 400, -1)
    difference = one - other
    assert np.mean([folds_p(d, 5) <= 0.05 for d in difference]) <= 0.05 + 0.02
    fixed = cross_validated(400, seeds=3)[:, 0]  # against a figure that is known, the mean of all studies
    away = (fixed - fixed.mean()).reshape(400, -1)
    assert np.mean([folds_p(d, 5) <= 0.05 for d in away]) <= 0.05 + 0.02
    assert np.mean([stats.ttest_1samp(d, 0).pvalue <= 0.05 for d in away]) > 0.2


FOLDED = ("accuracy", "kappa", "gaze_consistency", "gaze_consistency_rms", "gaze_eta_squared")


def folded(**columns) -> pd.DataFrame:
    """Runs of 3 folds and 4 seeds at lambda 0 and 50, 6 epochs of noise."""
    made, rng = [], np.random.default_rng(3)
    for weight, seed, fold in itertools.product((0.0, 50.0), range(4), range(3)):
        own = {name: rng.random(6) for name in FOLDED}
        made.append(run(seed=seed, weight=weight, **own, **columns).assign(fold=fold))
    return pd.concat(made, ignore_index=True)


def test_lambda_table_takes_all_folds_for_its_intervals_and_counts_seeds():
    runs = folded()
    last = runs[runs["epoch"] == 6].pivot_table("accuracy", ["seed", "fold"], "lambda")
    table = lambda_table(runs)
    row = table[(table["lambda"] == 50) & (table["metric"] == "accuracy") & (table["summary"] == "last")].iloc[0]
    assert (row["folds"], row["n"], row["n_pairs"]) == (3, 4, 4)
    assert row["mean"] == pytest.approx(last[50].mean())
    assert row["sd"] == pytest.approx(last[50].groupby("seed").mean().std())
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(folds_interval(last[50], 3))
    difference = last[50] - last[0]  # paired by fold and seed
    assert (row["diff_low"], row["diff_high"]) == pytest.approx(folds_interval(difference, 3))
    assert row["p"] == pytest.approx(folds_p(difference, 3))
    assert np.isnan(row["power"])
    assert gaze_shift_table(runs)[["folds", "n_pairs"]].to_numpy().tolist() == [[3, 4]]
    holed = runs.assign(accuracy=runs["accuracy"].mask((runs["seed"] == 1) & (runs["fold"] == 2)))
    one = lambda_table(holed).query("metric == 'accuracy' and summary == 'last' and `lambda` == 50").iloc[0]
    assert (one["n_nan"], one["n_pairs"]) == (1, 3)  # a seed with a hole is left out as a whole


def test_tests_by_relabelling_see_one_number_a_seed_and_not_its_folds():
    runs = folded()
    by_hand = {
        (seed, fold): stats.pearsonr(own["kappa"], own["gaze_consistency"])[0]
        for (seed, fold), own in runs[runs["lambda"] == 0].groupby(["seed", "fold"])
    }
    means = pd.Series(by_hand).groupby(level=0).mean()
    row = pearson_table(runs).query("measure == 'gaze_consistency' and `lambda` == 0").iloc[0]
    assert (row["n"], row["r"]) == (4, pytest.approx(means.mean()))
    assert row["p"] == pytest.approx(sign_flip_p(means))
    assert (row["p_floor"], row["pairing_floor"]) == (sign_flip_floor(4), pytest.approx(1 / 24))
    own = {seed: runs[(runs["lambda"] == 0) & (runs["seed"] == seed)] for seed in range(4)}
    strangers = [
        np.mean([
            stats.pearsonr(own[i].query("fold == @f")["kappa"], own[j].query("fold == @f")["gaze_consistency"])[0]
            for f in range(3)
        ])
        for i, j in itertools.permutations(range(4), 2)
    ]  # fmt: skip
    assert row["strangers_r"] == pytest.approx(np.mean(strangers))
    assert {*schedule_table(runs)[["n", "n_against"]].to_numpy().ravel()} == {4}


def test_fisher_interval_by_hand():
    # atanh(0.5) = ln(3)/2, atanh(0.8) = ln(3): mean 3/4 ln 3, sd ln(3)/sqrt(8), over sqrt(2): SE = ln(3)/4
    half = stats.t.ppf(0.975, 1) * np.log(3) / 4
    expected = np.tanh([0.75 * np.log(3) - half, 0.75 * np.log(3) + half])
    np.testing.assert_allclose(fisher_interval([0.5, NAN, 0.8]), expected, rtol=1e-12)


def test_fisher_interval_covers_at_its_level():
    random = np.random.default_rng(1)
    z = random.normal(-0.7, 0.4, (4000, 6))
    hits = [low < np.tanh(-0.7) < high for low, high in map(fisher_interval, np.tanh(z))]
    assert stats.binomtest(sum(hits), 4000, 0.95).pvalue > 0.001


def test_fisher_interval_of_a_perfect_r_is_not_defined():
    for one in [1.0, -1.0, 1 - 1e-15]:
        assert np.isnan(fisher_interval([0.2, one, 0.4])).all()


def test_fisher_interval_refuses_what_is_no_correlation():
    with pytest.raises(ValueError, match=r"-1\.\.1, got -1\.5"):
        fisher_interval([0.2, -1.5])


def test_sign_flip_p_is_scipys_exact_one():
    for n in [1, 2, 3, 6, 9]:
        values = np.random.default_rng(n).normal(0.5, 1, n)
        flips = [np.abs(np.mean(np.multiply(s, values))) for s in itertools.product((-1, 1), repeat=n)]
        p = sign_flip_p([*values, NAN])
        assert p == pytest.approx(np.mean(np.array(flips) >= abs(values.mean()) - 1e-12))
        if n > 1:  # permutation_type "samples" of one sample flips its signs; scipy wants two observations
            test = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
            assert p == pytest.approx(test.pvalue)


def test_sign_flip_counts_ties_that_rounding_hides():
    # |0.1 + 0.2 - 0.3| and |0.3 - 0.1 - 0.2| differ in the last digit: every mean is a tie with 0 or above it
    assert sign_flip_p([0.1, 0.2, -0.3]) == 1
    assert sign_flip_p([0.1, 0.2, 0.3, -0.6]) == 1
    assert sign_flip_p([0.0, 0.0, 0.0]) == 1
    assert np.isnan(sign_flip_p([]))


def test_seeds_that_agree_reach_the_floor():
    for n in [1, 2, 3, 6, 16]:
        values = -np.random.default_rng(n).uniform(0.1, 1, n)
        assert sign_flip_p(values) == sign_flip_floor(n) == pytest.approx(2 / 2**n)


def test_random_flips_above_sixteen_seeds():
    values = np.random.default_rng(3).normal(0.35, 1, 25)
    test = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=200_000, batch=10_000, rng=np.random.default_rng(4)
    )
    assert 0.01 < test.pvalue < 0.5
    assert sign_flip_p(values) == pytest.approx(test.pvalue, abs=0.006)  # about 4 standard errors of both
    assert sign_flip_p(values) == sign_flip_p(values) != sign_flip_p(values, seed=1)
    assert sign_flip_p(np.ones(60), draws=999) == sign_flip_floor(60, draws=999) == 1 / 1000
    assert sign_flip_p(np.zeros(60), draws=999) == 1  # every draw is a tie, none is counted twice
    assert np.isnan(sign_flip_floor(0))


def test_sign_flip_p_keeps_its_level():
    random = np.random.default_rng(5)
    p = np.array([sign_flip_p(random.laplace(0, 1, 8)) for _ in range(4000)])
    for level in (16 / 256, 64 / 256):  # levels that 2^8 flips can hit exactly
        assert stats.binomtest(int((p <= level).sum()), 4000, level).pvalue > 0.001


def textbook_holm(p: list[float]) -> list[float]:
    """Literally: p~_(i) = max over j <= i of min(1, (m - j + 1) p_(j))."""
    m, ranked = len(p), sorted(p)
    by_rank = [max(min(1, (m - j) * ranked[j]) for j in range(i + 1)) for i in range(m)]
    return [by_rank[ranked.index(x)] for x in p]


def test_holm_of_the_textbook():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    # a test that could not be made counts in the family, as one of p 1
    np.testing.assert_allclose(holm([0.01, NAN, 0.04, 0.03, NAN, 0.005]), [0.05, NAN, 0.12, 0.12, NAN, 0.03])
    assert holm([]).shape == (0,)
    assert np.isnan(holm([NAN, NAN])).all()


def test_holm_is_the_literal_formula():
    for seed in range(10):
        p = np.random.default_rng(seed).random(9) ** 3
        p[3] = p[7]  # a tie
        np.testing.assert_allclose(holm(p), textbook_holm(p.tolist()), rtol=1e-12)


# --- correlations


def test_run_correlations_are_scipys(logs):
    table = run_correlations(logs)
    assert len(table) == logs["run"].nunique() * len(HELD_AGAINST_KAPPA)
    assert list(table) == [*RUN_KEYS, "run", "measure", "epochs", "pearson", "spearman", "reason"]
    for row in table.to_dict("records"):
        both = logs[logs["run"] == row["run"]][["kappa", row["measure"]]].dropna()
        assert row["epochs"] == len(both)
        assert row["pearson"] == pytest.approx(stats.pearsonr(*both.T.to_numpy()).statistic, abs=1e-12)
        assert row["spearman"] == pytest.approx(stats.spearmanr(*both.T.to_numpy()).statistic, abs=1e-12)
        assert row["reason"] == ""


def test_spearman_shares_ranks_among_ties():
    kappa, gaze = [0.1, 0.2, 0.2, 0.2, 0.5, 0.4], [3.0, 1.0, 1.0, 4.0, 4.0, 9.0]
    row = run_correlations(run(kappa=kappa, gaze_consistency=gaze)).iloc[0]
    assert row["spearman"] == pytest.approx(stats.spearmanr(kappa, gaze).statistic)


def test_a_known_correlation_at_any_scale():
    for scale, shift in [(1.0, 0.0), (1e-200, 0.0), (1e150, 0.0), (1e-9, 1.0)]:
        x, y = correlated(0.6, 20, 0)
        row = run_correlations(run(kappa=x, gaze_consistency=shift + scale * y)).iloc[0]
        assert row["pearson"] == pytest.approx(0.6, abs=1e-12 if shift == 0 else 1e-6)


def test_why_a_correlation_is_not_defined():
    for kappa, gaze, epochs, reason in [
        ([0.0, 0.0, 0.0], [0.1, 0.2, 0.3], 3, "constant kappa"),
        ([0.1, 0.2, 0.3], [0.1] * 3, 3, "constant gaze_consistency"),
        ([0.1] * 3, [0.1] * 3, 3, "constant kappa and gaze_consistency"),
        ([0.1, 0.1, 0.3], [0.1, 0.2, NAN], 2, "constant kappa"),  # among the epochs that have both
        ([0.1], [0.1], 1, "fewer than 2 epochs"),
        ([0.1, NAN, 0.3], [0.1, 0.2, NAN], 1, "fewer than 2 epochs"),
        ([0.1, 0.2, 0.3], [NAN] * 3, 0, "no gaze_consistency"),
        ([0.1, 0.1 + 1e-18, 0.1 - 1e-18], [0.1, 0.2, 0.3], 3, "constant kappa"),  # the same float
    ]:
        other = run(seed=9, kappa=[0.1, 0.2, 0.4], gaze_consistency=[0.1, 0.3, 0.2])
        table = run_correlations(pd.concat([run(kappa=kappa, gaze_consistency=gaze), other])).set_index("seed")
        assert tuple(table.loc[0, ["epochs", "reason"]]) == (epochs, reason)
        assert np.isnan(table.loc[0, ["pearson", "spearman"]].astype(float)).all()
        assert np.isfinite(table.loc[9, "pearson"])


def test_one_last_digit_is_not_constant():
    row = run_correlations(run(kappa=[0.1, np.nextafter(0.1, 1), 0.1], gaze_consistency=[0.1, 0.3, 0.1])).iloc[0]
    assert (row["pearson"], row["reason"]) == (pytest.approx(1), "")


def test_measures_that_nothing_has_are_left_out(logs):
    without = logs.drop(columns="gaze_consistency_l2").assign(gaze_consistency_grid=NAN)
    left = [name for name in HELD_AGAINST_KAPPA if name not in ("gaze_consistency_l2", "gaze_consistency_grid")]
    assert run_correlations(without)["measure"].unique().tolist() == left
    assert pearson_table(without)["measure"].unique().tolist() == left
    assert run_correlations(logs, ["gaze_entropy"])["reason"].eq("constant gaze_entropy").all()
    assert not {"gaze_consistency_l2", "gaze_consistency_grid"} & set(run_summaries(without)["metric"])


def test_pearson_table_is_pandas_per_seed_and_then_over_seeds(logs):
    table = pearson_table(logs).set_index([*CELL, "measure"])
    groups = dict(list(logs.groupby(CELL)))
    assert len(table) == len(groups) * len(HELD_AGAINST_KAPPA)
    for (*cell, measure), row in table.iterrows():
        r = [part["kappa"].corr(part[measure]) for _, part in groups[tuple(cell)].groupby("seed")]
        rho = [part["kappa"].corr(part[measure], method="spearman") for _, part in groups[tuple(cell)].groupby("seed")]
        z = stats.ttest_1samp(np.arctanh(r), 0).confidence_interval()
        test = stats.permutation_test((r,), np.mean, permutation_type="samples", n_resamples=np.inf)
        expected = [len(r), 0, np.mean(r), np.std(r, ddof=1), *np.tanh(z), test.pvalue, 2 / 2 ** len(r), np.mean(rho)]
        np.testing.assert_allclose(row[:9].drop("reasons", errors="ignore").astype(float), expected[:9], rtol=1e-7)
        assert row["spearman"] == pytest.approx(expected[8]) and row["reasons"] == ""


def test_pearson_table_holds_the_pairing_and_what_is_left_without_the_shared_curve(logs):
    table = pearson_table(logs).set_index([*CELL, "measure"])
    cell = ("one", "phantom", "level1", 50.0)
    row, runs = table.loc[(*cell, "gaze_consistency")], dict(list(logs.groupby(CELL)))[cell]
    x, y = (runs.pivot(index="seed", columns="epoch", values=v).to_numpy() for v in ("kappa", "gaze_consistency"))
    r = np.array([[pd.Series(a).corr(pd.Series(b)) for b in y] for a in x])
    assert row["strangers_r"] == pytest.approx((r.sum() - np.trace(r)) / 12)
    assert row["pairing_floor"] == 1 / 24 and row["pairing_p"] * 24 == pytest.approx(round(row["pairing_p"] * 24))
    assert row["r_late"] == pytest.approx(np.mean([pd.Series(a[2:]).corr(pd.Series(b[2:])) for a, b in zip(x, y)]))  # noqa: B905
    steps = [pd.Series(a).diff().corr(pd.Series(b).diff()) for a, b in zip(x, y, strict=True)]
    assert row["r_differences"] == pytest.approx(np.mean(steps))
    family = table.loc[("one", "phantom", slice(None), 50.0, "gaze_consistency"), :]
    np.testing.assert_allclose(family["pairing_p_holm"], holm(family["pairing_p"]))
    assert family["pairing_family"].tolist() == [2, 2]


def test_the_published_runs_give_table_2_and_show_that_its_curve_is_shared():
    table = pearson_table(pd.read_csv(REPO / "results" / "thesis" / "epochs.csv")).set_index(["dataset", "model"])
    published = published_pearson().set_index(["dataset", "model"])["r"]
    pd.testing.assert_series_equal(table["r"], published, check_names=False, atol=6e-5, rtol=0, check_like=True)
    brain, chest = table.loc["brain_tumor_mri"], table.loc["chest_xray"]
    assert brain["strangers_r"].round(3).tolist() == [0.743, -0.598, -0.457, -0.655, -0.656]
    assert (720 * brain["pairing_p"]).round().tolist() == [520, 482, 632, 479, 378]
    assert chest.loc[["level2", "level5"], "strangers_r"].round(3).tolist() == [-0.116, -0.117]
    assert chest.loc[["level2", "level5"], "pairing_p"].round(3).tolist() == [0.001, 0.050]
    assert chest.index[chest["pairing_p_holm"] < 0.05].tolist() == ["level2"]


def test_pearson_table_is_sorted(logs):
    table = pearson_table(logs)
    order = table.assign(measure=table["measure"].map(HELD_AGAINST_KAPPA.index)).sort_values([*CELL, "measure"])
    assert order.index.tolist() == list(range(len(table)))


def test_runs_without_an_r_are_counted_and_named():
    flat = run(seed=7, kappa=np.zeros(4), gaze_consistency=np.arange(4.0))
    flat2 = run(seed=8, kappa=np.ones(4), gaze_consistency=np.arange(4.0))
    short = run(seed=9, kappa=[0.1], gaze_consistency=[0.1])
    row = pearson_table(pd.concat([runs_with([0.6, 0.2]), flat, flat2, short])).iloc[0]
    assert (row["n"], row["n_nan"]) == (5, 3)
    assert row["r"] == pytest.approx(0.4) and row["p_floor"] == row["p"] == 0.5
    assert row["reasons"] == "constant kappa: 2 runs; fewer than 2 epochs: 1 run"
    alone = pearson_table(flat).iloc[0]
    assert (alone["n"], alone["n_nan"]) == (1, 1) and np.isnan(
        alone[["r", "sd", "p", "p_floor", "spearman"]].tolist()
    ).all()


def test_one_seed_has_an_r_and_no_spread():
    row = pearson_table(runs_with([0.6])).iloc[0]
    assert row["r"] == pytest.approx(0.6) and row["n"] == row["p_floor"] == 1
    assert np.isnan(row[["sd", "ci_low", "ci_high", "p"]].tolist()).all()


def test_two_epochs_give_an_r_and_no_interval():
    runs = [run(s, kappa=[0.1, 0.3 + s / 7], gaze_consistency=[0.2, 0.3 - 0.11 * s]) for s in range(3)]
    row = pearson_table(pd.concat(runs)).iloc[0]
    assert [row["n_nan"], row["r"], row["p"]] == [0, pytest.approx(-1 / 3), 1]
    assert np.isnan([row["ci_low"], row["ci_high"]]).all()


def test_duplicates_of_a_seed_count_once():
    first, second = runs_with([0.6, 0.2]).assign(run="a"), runs_with([0.4]).assign(run="b")
    both = pd.concat([first, second])
    assert len(run_correlations(both)) == 3
    row = pearson_table(both).iloc[0]
    assert row["n"] == 2 and row["r"] == pytest.approx((0.5 + 0.2) / 2)
    assert row["sd"] == pytest.approx(np.std([0.5, 0.2], ddof=1))
    with pytest.raises(ValueError, match=r"Two rows for one epoch of a run.*'seed': 0.*column 'run'"):
        run_correlations(both.drop(columns="run"))


def test_epochs_are_no_samples():
    """Kappa and gaze drift on their own: r is far from 0 in each run, and its sign is the seed's whim."""
    random = np.random.default_rng(6)
    pooled, ours = [], []
    for _ in range(60):
        walks = np.cumsum(random.standard_normal((6, 2, 50)), axis=2)  # (seeds, kappa and gaze, epochs)
        frame = pd.concat([run(s, kappa=k, gaze_consistency=g) for s, (k, g) in enumerate(walks)])
        ours.append(pearson_table(frame)["p"].iloc[0])
        centred = walks - walks.mean(2, keepdims=True)
        pooled.append(stats.pearsonr(*centred.transpose(1, 0, 2).reshape(2, -1)).pvalue)
    assert np.mean(np.array(pooled) < 0.05) > 0.5
    assert stats.binomtest(sum(p < 0.05 for p in ours), 60, 2 / 2**6).pvalue > 0.01
    signs = runs_with([0.9, -0.9, 0.8, -0.8, 0.7, -0.6], n=200)
    assert run_correlations(signs)["pearson"].abs().min() > 0.5 and pearson_table(signs)["p"].iloc[0] > 0.8


# --- summaries and lambda


def test_run_summaries_are_pandas(logs):
    table = run_summaries(logs).set_index(["run", "metric"])
    assert set(table.index.levels[1]) == {
        name for name in compared() if not measures()[name].needs or name == "gaze_consistency_fixed"
    }
    for name, part in logs.sort_values("epoch").groupby("run"):
        for metric in ("accuracy", "kappa", "gaze_consistency", "gaze_entropy"):
            row, values = table.loc[(name, metric)], part[metric]
            best = values.max() if metric in ("accuracy", "kappa") else NAN
            expected = [values.iloc[-1], values.tail(5).mean(), best, len(part)]
            np.testing.assert_allclose(row[["last", "last5", "best", "epochs"]].astype(float), expected, rtol=1e-12)


def test_mask_metrics_are_rows_of_the_lambda_table():
    parts = []
    for weight, shift in ((0.0, 0.0), (50.0, 0.25)):
        for seed in range(3):
            energy = 0.1 + shift + 0.01 * seed * np.arange(1, 7)
            columns = {"gaze_mask_energy": energy, "gaze_mask_lift": 4 * energy, "gaze_pointing": energy + 0.1}
            parts.append(run(seed, weight=weight, kappa=np.linspace(0, 1, 6), **columns))
            empty = dict.fromkeys(columns, [NAN] * 6)  # a set without masks beside it
            parts.append(run(seed, weight=weight, dataset="plain", kappa=np.linspace(0, 1, 6), **empty))
    table = lambda_table(pd.concat(parts)).set_index(["dataset", "lambda", "metric", "summary"])
    for metric, factor in (("gaze_mask_energy", 1), ("gaze_mask_lift", 4), ("gaze_pointing", 1)):
        row = table.loc[("d", 50.0, metric, "last5")]
        assert row["diff"] == pytest.approx(0.25 * factor) and row["n_pairs"] == 3
        plain = table.loc[("plain", 50.0, metric, "last5")]
        assert np.isnan(plain["mean"]) and plain["n_nan"] == 3


def test_summaries_of_short_and_undefined_runs():
    frame = pd.concat(
        [
            run(0, kappa=[0.9, 0.1, 0.2], gaze_pointing=[0.5, 0.7, NAN]),
            run(1, kappa=[NAN, NAN], gaze_pointing=[NAN, NAN]),
            run(2, kappa=[9.0, 1.0, 2.0, NAN, 4.0, 5.0], gaze_pointing=np.arange(6.0)),
        ]
    )
    table = run_summaries(frame).set_index(["metric", "seed"])[["last", "last5", "best", "epochs"]]
    np.testing.assert_allclose(table.loc[("kappa", 0)], [0.2, 0.4, 0.9, 3])
    np.testing.assert_allclose(table.loc[("kappa", 1)], [NAN, NAN, NAN, 2])
    np.testing.assert_allclose(table.loc[("kappa", 2)], [5, 3, 9, 6])
    np.testing.assert_allclose(table.loc[("gaze_pointing", 0)], [NAN, 0.6, NAN, 3])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # from scipy, for a single value
def test_lambda_table_is_scipys_paired_test(logs):
    table = lambda_table(logs)
    assert set(table.loc[table["summary"] == "best", "metric"]) == {"accuracy", "kappa"}
    summaries = run_summaries(logs).set_index([*CELL, "metric", "seed"]).sort_index()
    names = ["n", "n_nan", "mean", "sd", "ci_low", "ci_high", "n_pairs", "diff", "diff_low", "diff_high", "p"]
    checked = 0
    for row in table[table["metric"].isin(["kappa", "gaze_consistency_l2"])].to_dict("records"):
        cell = [row[key] for key in CELL]
        values = summaries.loc[(*cell, row["metric"]), row["summary"]]
        own = values.dropna()
        expected = [
            len(values),
            len(values) - len(own),
            own.mean(),
            own.std(),
            *stats.ttest_1samp(own, 0).confidence_interval(),
        ]
        if row["lambda"] == 0:
            expected += [NAN] * 5
        else:
            plain = summaries.loc[(*cell[:3], 0.0, row["metric"]), row["summary"]]
            pairs = pd.concat([values, plain], axis=1, keys=["a", "b"]).dropna()
            test = stats.ttest_rel(pairs["a"], pairs["b"])
            expected += [len(pairs), (pairs["a"] - pairs["b"]).mean(), *test.confidence_interval(), test.pvalue]
            checked += 1
        np.testing.assert_allclose([row[name] for name in names], expected, rtol=1e-7)
    assert checked == (2 * 2 * 2 + 3) * (3 + 2)
    assert (table["n_nan"] > 0).any()


def test_a_family_is_a_table_that_a_reader_scans(logs):
    table = lambda_table(logs)
    for _, part in table.groupby(["study", "dataset", "metric", "summary"]):
        compared, tested = part[part["lambda"] != 0], part["p"].notna()
        expected = textbook_holm(compared["p"].fillna(1).tolist())
        np.testing.assert_allclose(compared["p_holm"], np.where(tested[compared.index], expected, NAN), rtol=1e-12)
        assert (compared["family"] == len(compared)).all()
        assert part.loc[~tested, "p_holm"].isna().all()
        assert part.loc[part["lambda"] == 0, ["family", "power"]].isna().all(axis=None)
    kappa = table[(table["metric"] == "kappa") & (table["lambda"] != 0)]
    assert kappa.groupby("study")["family"].unique().map(list).to_dict() == {"one": [4.0], "two": [3.0]}


def test_only_seeds_that_both_have_are_paired():
    frame = pd.concat([gazes({0: 0.5, 1: 0.4, 2: 0.3, 3: NAN}), gazes({1: 0.1, 2: 0.2, 3: 0.3, 9: 0.4}, weight=50.0)])
    row = lambda_table(frame).query("`lambda` == 50 and summary == 'last'").iloc[0]
    assert (row["n"], row["n_nan"], row["n_pairs"], row["family"]) == (4, 0, 2, 1)
    assert row["diff"] == pytest.approx((0.1 - 0.4 + 0.2 - 0.3) / 2)
    assert row["p"] == row["p_holm"] == pytest.approx(stats.ttest_rel([0.1, 0.2], [0.4, 0.3]).pvalue)


@pytest.mark.parametrize(
    ("plain", "n_pairs", "diff"),
    [({0: 0.5}, 1, -0.2), ({5: 0.5}, 0, NAN), ({0: 0.4, 1: 0.3, 2: 0.2}, 3, -0.1), ({0: 0.3, 1: 0.2, 2: 0.1}, 3, 0)],
)
def test_no_p_without_two_pairs_that_differ(plain, n_pairs, diff):
    # 0.3 - 0.4, 0.2 - 0.3 and 0.1 - 0.2 differ in their last digit only: that is no spread
    frame = pd.concat([gazes(plain), gazes({0: 0.3, 1: 0.2, 2: 0.1}, weight=50.0)])
    row = lambda_table(frame).query("`lambda` == 50 and summary == 'last5'").iloc[0]
    assert row["n_pairs"] == n_pairs and row["diff"] == pytest.approx(diff, nan_ok=True, abs=1e-12)
    assert row[["p", "p_holm"]].isna().all() and row["family"] == 1


def test_no_lambda_zero(logs):
    regularised = logs[logs["lambda"] != 0]
    table = lambda_table(regularised)
    assert (table["n_pairs"] == 0).all() and table[["diff", "p", "p_holm"]].isna().all(axis=None)
    assert table["mean"].notna().all()
    assert scale_table(regularised).empty
    shift = gaze_shift_table(regularised)
    assert len(shift) == len(regularised[CELL].drop_duplicates()) and (shift["reading"] == "not defined").all()


def test_duplicates_are_averaged_before_pairing():
    plain = gazes({0: 0.5, 1: 0.4, 2: 0.2}).assign(run="a")
    again = gazes({0: 0.3}).assign(run="b")
    other = gazes({0: 0.3, 1: 0.1, 2: 0.1}, weight=50.0).assign(run="a")
    table = lambda_table(pd.concat([plain, again, other])).query("summary == 'last'").set_index("lambda")
    assert table.loc[0, "n"] == 3 and table.loc[0, "mean"] == pytest.approx(1 / 3)
    assert table.loc[50, "p"] == pytest.approx(stats.ttest_rel([0.3, 0.1, 0.1], [0.4, 0.4, 0.2]).pvalue)


# --- map size, and what lambda does to the gaze


def test_scale_table_of_three_models():
    means = {"level1": 0.0015, "level2": 0.0065, "level3": 0.0070}
    parts = [gazes({0: m - 1e-4, 1: m + 1e-4, 2: NAN}, "gaze_consistency_l2", model=k) for k, m in means.items()]
    parts.append(gazes({0: 9.0}, "gaze_consistency_l2", model="level1", weight=50.0))
    table = scale_table(pd.concat(parts)).set_index("model")
    np.testing.assert_allclose(table["mean"], list(means.values()))
    np.testing.assert_allclose(table["sd"], np.std([-1e-4, 1e-4], ddof=1))
    assert table["n"].tolist() == [3] * 3 and table["n_nan"].tolist() == [1] * 3
    assert table["inside"].tolist() == [False, True, False]
    assert table.loc["level1", "ratio"] == pytest.approx(0.0015 / stats.gmean([0.0065, 0.0070]))
    assert table.loc["level2", ["others_low", "others_high"]].tolist() == pytest.approx([0.0015, 0.0070])


def test_scale_table_without_others_or_without_a_ratio():
    alone = scale_table(gazes({0: 0.2})).iloc[0]
    assert not alone["inside"] and alone[["ratio", "others_low", "others_high"]].isna().all()
    parts = [gazes({0: value}, model=name) for name, value in {"a": 0.0, "b": 0.2, "c": NAN}.items()]
    table = scale_table(pd.concat(parts)).set_index("model")
    assert table["ratio"].isna().all() and table["inside"].tolist() == [False, False, False]
    assert table.loc["c", ["others_low", "others_high"]].tolist() == [0, 0.2]


def test_only_the_l2_form_sets_large_maps_apart(logs):
    table = scale_table(logs.fillna({"gaze_consistency_rms": 0.17})).set_index(["measure", "model"])
    assert (table.loc[("gaze_consistency_l2", "level1"), "ratio"] < 0.5).all()
    assert table.loc[("gaze_consistency_rms", "level1"), "ratio"].between(0.9, 1.1).all()


def test_readings():
    for rms, eta, reading in [
        (-0.1, 0.1, "more alike, and more its class's"),
        (-0.1, -0.1, "more alike, less its class's"),
        (0.1, -0.1, "less alike, less its class's"),
        (0.1, 0.1, "less alike, more its class's"),
    ]:
        plain, shift = {0: (0.30, 0.5), 1: (0.32, 0.4), 2: (0.34, 0.6)}, [0.99, 1.0, 1.02]
        moved = {s: (a + rms * f, b + eta * f) for (s, (a, b)), f in zip(plain.items(), shift, strict=True)}
        row = gaze_shift_table(pd.concat([gazes(plain), gazes(moved, weight=50.0)])).iloc[0]
        interval = stats.ttest_1samp(rms * np.array(shift), 0).confidence_interval()
        assert row["reading"] == reading and row["n_pairs"] == 3
        assert row[["diff_rms_low", "diff_rms_high"]].tolist() == pytest.approx(list(interval))
        assert row["diff_eta"] == pytest.approx(eta * np.mean(shift))
        noisy = {**moved, 0: (plain[0][0], plain[0][1] - 4 * eta)}  # eta's interval now holds 0
        row = gaze_shift_table(pd.concat([gazes(plain), gazes(noisy, weight=50.0)])).iloc[0]
        assert row["diff_eta_low"] < 0 < row["diff_eta_high"] and row["reading"].endswith("class's (underpowered)")
        one = gaze_shift_table(pd.concat([gazes(plain), gazes({1: moved[1]}, weight=50.0)])).iloc[0]
        assert (one["n_pairs"], one["reading"]) == (1, f"{reading} (underpowered)")


def test_readings_are_adjusted_over_the_table():
    random = np.random.default_rng(0)
    plain = {seed: (0.3 + 0.01 * random.normal(), 0.5 + 0.01 * random.normal()) for seed in range(8)}
    parts = []
    for i in range(6):
        moved = {s: (a - 0.01 * random.normal(1), b + 0.02 * random.normal(1)) for s, (a, b) in plain.items()}
        parts += [gazes(plain, model=f"level{i}"), gazes(moved, model=f"level{i}", weight=50.0)]
    table, both = gaze_shift_table(pd.concat(parts)), lambda_table(pd.concat(parts)).query("summary == 'last5'")
    for _, row in table.iterrows():
        own = both[(both["model"] == row["model"]) & (both["lambda"] == 50)].set_index("metric")["p"]
        assert row["p"] == own[["gaze_consistency_rms", "gaze_eta_squared"]].max()  # a reading takes both
    np.testing.assert_allclose(table["p_holm"], textbook_holm(table["p"].tolist()))
    assert set(table["family"]) == {6}
    clear = table["p_holm"] <= 0.05
    assert clear.sum() < (table["p"] <= 0.05).sum()  # by itself a row would have been called clear
    assert (table["reading"].str.endswith("class's") == clear).all()


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 6])
def test_tables_of_readings_without_effect_seldom_have_one_without_reserve(seeds):
    found = reading_studies(seeds, 5000)
    assert found["before"].mean() > 0.4 and found["unhedged"].mean() <= 0.06


def test_both_shifts_are_over_the_same_seeds():
    frame = pd.concat([gazes({0: (0.3, 0.5), 1: (0.3, NAN)}), gazes({0: (0.2, 0.6), 1: (0.9, 0.6)}, weight=50.0)])
    row = gaze_shift_table(frame).iloc[0]
    assert row["n_pairs"] == 1 and row["diff_rms"] == pytest.approx(-0.1)
    still = gaze_shift_table(pd.concat([gazes({0: (0.3, 0.5)}), gazes({0: (0.3, 0.6)}, weight=50.0)])).iloc[0]
    assert still["diff_rms"] == 0 and still["reading"] == "not defined"


# --- all tables


def test_empty_frames_give_empty_tables_with_the_same_columns(logs):
    for table in TABLES:
        columns = list(table(logs))
        assert list(table(logs.iloc[:0])) == columns
        for empty in (pd.DataFrame(), pd.DataFrame(columns=TIDY_COLUMNS)):
            assert table(empty).empty and list(table(empty)) == [c for c in columns if c != "run"]


def test_studies_and_sets_are_kept_apart(logs):
    for table in TABLES:
        whole = table(logs)
        parts = [table(part) for _, part in logs.groupby(["study", "dataset"])]
        by = [c for c in whole if c in (*RUN_KEYS, "run", "measure", "metric", "summary")]
        apart = pd.concat(parts).sort_values(by, ignore_index=True)
        pd.testing.assert_frame_equal(whole.sort_values(by, ignore_index=True), apart)


@pytest.mark.parametrize("table", TABLES)
def test_one_epoch_of_one_seed_has_no_spread_and_no_p(table, logs, recwarn):
    one = logs[(logs["study"] == "two") & (logs["seed"] == 0) & (logs["epoch"] == 1)].copy()
    one.loc[one["model"] == "level2", [c for c in one if c.startswith("gaze_")]] = NAN
    before = one.copy()
    result = table(one)
    assert "level2" in set(result["model"])  # undefined, and still there
    undefined = {"sd", "ci_low", "ci_high", "p", "p_holm", "diff_low", "diff_rms_low", "diff_eta_low", "pearson", "r"}
    assert result[list(undefined & set(result))].isna().all(axis=None)
    pd.testing.assert_frame_equal(one, before)
    assert not recwarn.list


def test_level_of_the_pairing_where_runs_ended_early():
    """A curve that all share and that turns late: own r is then over other epochs than that of strangers."""
    rng, n, last = np.random.default_rng(0), 6, 20
    curve = np.maximum(0, np.arange(last) - 8) / 8 + 0.2 * np.cos(np.arange(last))
    found = {"as far as all": [], "as each has": []}
    for _ in range(150):
        x, y = (sign * curve + 0.15 * rng.standard_normal((n, last)) for sign in (1, -1))
        for seed, end in enumerate(rng.integers(5, last + 1, n)):
            x[seed, end:] = y[seed, end:] = np.nan
        found["as far as all"].append(pairing_test(correlation_matrix(*_as_far_as_all(x, y))).p)
        found["as each has"].append(pairing_test(correlation_matrix(x, y)).p)
    rejected = {how: np.mean(np.array(p) <= 0.05) for how, p in found.items()}
    assert rejected["as far as all"] <= 0.09 < rejected["as each has"]


def test_series_go_as_far_as_all_have_them():
    x = np.array([[1.0, 2, 3, np.nan], [np.nan, 2, 3, 4], [np.nan] * 4])
    assert [each.shape for each in _as_far_as_all(x, x)] == [(3, 3), (3, 3)]
    assert _as_far_as_all(x[2:], x[2:])[0].shape == (1, 0)
