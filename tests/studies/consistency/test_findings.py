"""gaze.studies.consistency.findings and gaze.studies.consistency.tables: sentences and cells that claim no more than
the numbers do.
"""

import math
import re

import numpy as np
import pandas as pd
from made_up import made_up_runs

from gaze.report.words import estimate, number, p_value, with_sd
from gaze.statistics.seeds import gaze_shift_table, lambda_table, pearson_table, scale_table
from gaze.studies.consistency import findings
from gaze.studies.consistency.tables import pearson_item, performance_item, shared_curve_item


def test_numbers_and_p_values():
    shown = ((0.12345, 3, "0.123"), (-0.0004, 3, "0.000"), (-0.0006, 3, "-0.001"), (math.nan, 2, None), (55, 1, "55.0"))
    assert [number(value, digits) for value, digits, _ in shown] == [text for *_, text in shown]
    assert [p_value(p) for p in (0.0312, 0.0009, 1.0, math.nan)] == ["0.031", "< 0.001", "1.000", None]


def test_estimates_say_what_stands_behind_them():
    assert estimate(0.5, 0.4, 0.6, 3) == "0.500 [0.400, 0.600]"
    assert estimate(0.5, math.nan, math.nan, 1) == "0.500 (1 run)"
    assert estimate(0.5, math.nan, math.nan, 2) == "0.500"
    assert estimate(math.nan, 0.4, 0.6, 3) is None
    assert [with_sd(0.5, sd) for sd in (0.01, math.nan)] == ["0.500 ± 0.010", "0.500"]
    assert with_sd(math.nan, 0.01) is None


def frame_of(r: list[list[float]]) -> pd.DataFrame:
    """Runs of one model a row whose squared consistency has exactly the given r with kappa."""
    parts = []
    for model, row in enumerate(r, 1):
        runs = made_up_runs(models=(f"level{model}",), seeds=range(len(row)), epochs=8)
        for seed, value in enumerate(row):
            own = runs["seed"] == seed
            x = np.linspace(-1, 1, 8)
            y = x**2 - np.mean(x**2)  # orthogonal to x
            runs.loc[own, "kappa"] = 0.5 + 0.3 * x
            mixed = value * x / np.linalg.norm(x) + math.sqrt(1 - value**2) * y / np.linalg.norm(y)
            runs.loc[own, "gaze_consistency"] = 0.05 + 0.01 * mixed
        parts.append(runs)
    return pd.concat(parts)


def own_noise(r: float, model: str) -> pd.DataFrame:
    """Six runs whose kappa and gaze correlate by about r and share nothing with other runs."""
    runs = made_up_runs(models=(model,), seeds=range(6), epochs=20)
    x, y = np.random.default_rng(0).standard_normal((2, len(runs)))
    gaze = 0.05 + 0.005 * (r * x + math.sqrt(1 - r**2) * y)
    return runs.assign(kappa=0.5 + 0.05 * x, gaze_consistency=gaze)


def test_pearson_sentence_speaks_by_the_pairing_and_not_by_how_far_r_is_from_zero():
    shared = frame_of([[0.7, 0.75, 0.72, 0.71, 0.74, 0.73]])  # kappa is the same in all seeds
    table = pearson_table(pd.concat([shared, own_noise(-0.9, "level2"), own_noise(0.9, "level3")]))
    (row,) = table[(table["model"] == "level1") & (table["measure"] == "gaze_consistency")].itertuples()
    assert row.ci_low > 0.69 and row.p == 1 / 32
    text = findings.pearson_finding(table, "here")
    assert "more consistent where kappa is higher: level2 (r -0." in text
    assert "less consistent where kappa is higher: level3 (r 0.87" in text
    assert "p 0.004)" in text  # Holm over the two that have a p: 1/720 * 2 and 2/720
    assert text.endswith("not shown to be more than that curve: level1 (r 0.72, strangers' 0.72).")


def test_pearson_sentence_calls_nothing_clear_that_so_few_seeds_cannot_show():
    few = own_noise(-0.95, "level1")
    for seeds, words in ((3, "too few seeds to tell: level1 (r -0.9"), (4, "strangers' "), (6, "p 0.001)")):
        text = findings.pearson_finding(pearson_table(few[few["seed"] < seeds]), "here")
        assert words in text, text
    unrelated = findings.pearson_finding(pearson_table(own_noise(0.0, "level1")), "here")
    assert "not shown to be more than that curve: level1" in unrelated


def test_pearson_sentence_names_models_without_an_r():
    runs = frame_of([[0.7, 0.75, 0.72]]).assign(kappa=0.0)
    assert "no r: level1" in findings.pearson_finding(pearson_table(runs), "here")
    assert findings.pearson_finding(pearson_table(runs[runs["lambda"] == 9]), "here") is None


def lambdas(change: list[float]) -> pd.DataFrame:
    runs = made_up_runs(models=("level2",), lambdas=(0, 50), seeds=range(len(change)), noise=0)
    for seed, value in enumerate(change):
        own = (runs["lambda"] == 50) & (runs["seed"] == seed)
        plain = (runs["lambda"] == 0) & (runs["seed"] == seed)
        runs.loc[own, "accuracy"] = runs.loc[plain, "accuracy"].to_numpy() + value
    return runs


def sentence(change: list[float], **changes) -> str:
    runs = lambdas(change).assign(**changes)
    [said] = findings.level_findings(lambda_table(runs))
    return said


def test_a_models_sentence_needs_three_seeds_and_a_small_p():
    assert sentence([0.05, 0.051, 0.052]).startswith("level2: accuracy higher at 50 (by 0.051); gaze ")
    assert sentence([-0.05, -0.051, -0.052]).startswith("level2: accuracy lower at 50 (by 0.051); ")
    assert sentence([0.05, -0.04, 0.01]).startswith("level2: accuracy underpowered at 50; ")
    assert sentence([0.05, -0.04, 0.01, 0.0, 0.02, -0.05]).startswith("level2: accuracy no change shown at 50; ")
    few = lambda_table(lambdas([0.05, 0.0501]))
    assert few.query("metric == 'accuracy' and summary == 'last5'")["p_holm"].min() < 0.05  # two seeds that agree
    plain, other = few.query("metric == 'accuracy' and summary == 'last5'").sort_values("lambda")["mean"]
    assert sentence([0.05, 0.0501]).startswith(
        f"level2: accuracy {plain:.3f} at lambda 0, {other:.3f} at lambda 50; RMS"
    )


def test_a_models_sentence_has_one_clause_for_each_outcome_however_many_lambdas():
    runs = made_up_runs(models=("level1", "level2"), lambdas=(-100, 0, 50, 100, 500), seeds=range(6))
    table = lambda_table(runs)
    said = findings.level_findings(table)
    assert [text.partition(":")[0] for text in said] == ["level1", "level2"]
    five = table.query("model == 'level2' and summary == 'last5' and metric == 'gaze_consistency_rms'")
    change = five.set_index("lambda")["diff"].abs()
    assert (five["p_holm"].dropna() < 0.05).all()
    low, high = change[[50, 100, 500]].min(), change[[50, 100, 500]].max()
    more = f"gaze more consistent at 50, 100 and 500 (by {low:.3f} to {high:.3f})"
    assert said[1].endswith(f"{more}, less consistent at -100 (by {change[-100]:.3f}).")
    assert all(text.count(".") < 12 and text.count(";") == 1 for text in said)


def test_a_models_sentence_without_tests_tells_the_span():
    runs = made_up_runs(models=("level1",), lambdas=(-100, 0, 50, 500), seeds=[0])
    mean = lambda_table(runs).query("summary == 'last5'").set_index(["metric", "lambda"])["mean"]
    accuracy, rms = mean["accuracy"], mean["gaze_consistency_rms"]
    [said] = findings.level_findings(lambda_table(runs))
    assert said == (
        f"level1: accuracy {accuracy[0]:.3f} at lambda 0, elsewhere {accuracy[500]:.3f} (at 500) to {accuracy[50]:.3f} "
        f"(at 50); RMS deviation {rms[0]:.3f} at lambda 0, elsewhere {rms[500]:.3f} (at 500) to {rms[-100]:.3f} "
        "(at -100)."
    )
    [said] = findings.level_findings(lambda_table(runs[runs["lambda"] != 0]))
    assert said.startswith(f"level1: accuracy {accuracy[500]:.3f} (at 500) to {accuracy[50]:.3f} (at 50); RMS")
    plain = made_up_runs(models=("level1",)).drop(columns="gaze_consistency_rms")
    [said] = findings.level_findings(lambda_table(plain))
    assert re.fullmatch(r"level1: accuracy 0\.\d{3} ± 0\.\d{3}; L_CAM l2 0\.\d{4} ± 0\.\d{4}\.", said)
    uneven = pd.concat([runs, made_up_runs(models=("level2",))])
    _, said = findings.level_findings(lambda_table(uneven))
    assert said.startswith("level2 (lambda 0 alone): accuracy 0.")


def test_a_models_sentence_counts_the_runs_that_collapsed():
    runs = made_up_runs(models=("level2",), lambdas=(0, 50, 100), seeds=range(3))
    runs.loc[(runs["lambda"] == 50) & (runs["seed"] == 1), "kappa"] = 0.0
    runs.loc[runs["lambda"] == 100, "gaze_empty_fraction"] = 0.9
    [said] = findings.level_findings(lambda_table(runs))
    one, empty = "collapsed (one class is predicted) at lambda 50", "collapsed (maps are empty) at lambda 100"
    assert said.endswith(f"; {empty} (3 of 3 runs); {one} (1 of 3 runs).")
    [said] = findings.level_findings(lambda_table(runs.assign(kappa=0.0)))
    assert said.endswith("; collapsed (one class is predicted) at every lambda.") and "gaze" not in said
    runs.loc[runs["lambda"] != 0, "kappa"] = 0.0
    [said] = findings.level_findings(lambda_table(runs))
    assert re.search(r"; RMS deviation 0\.\d{3} ± 0\.\d{3} at lambda 0; collapsed \(", said)
    left = findings.not_drawn(lambda_table(runs))
    assert left.endswith("gaze is not compared: level2 at lambda 50 and 100 (one class is predicted).")
    assert findings.not_drawn(lambda_table(runs.assign(kappa=0.5))) is None


def test_shift_sentence_repeats_the_readings():
    runs = made_up_runs(models=("level2",), lambdas=(-100, 0, 50), noise=1e-4)
    table, by_lambda = gaze_shift_table(runs), lambda_table(runs)
    text = findings.shift_finding(table, by_lambda, "x")
    assert "more alike, and more its class's: level2 at 50 (accuracy -0.01)" in text
    assert (
        "less alike, less its class's: level2 at -100 (accuracy -0.01" in text
        or "level2 at -100 (accuracy -0.02" in text
    )
    assert findings.shift_finding(table[:0], by_lambda, "x") is None


def test_scale_sentence_says_what_the_data_say():
    for grid, l2, words in (
        (0.15, 0.002, "it lies among the others (0.100 .. 0.200). Means, without a test."),
        (0.05, 0.002, "it lies outside the others (0.100 .. 0.200)"),
        (0.05, 0.007, "It lies among the others even in the l2 form"),
    ):
        runs = made_up_runs()
        for model, on_grid, form in (("level1", grid, l2), ("level2", 0.1, 0.006), ("level3", 0.2, 0.008)):
            runs.loc[runs["model"] == model, ["gaze_consistency_grid_rms", "gaze_consistency_l2"]] = [on_grid, form]
        assert words in findings.scale_finding(scale_table(runs), "x")


def test_scale_sentence_without_the_grid_or_without_others():
    runs = made_up_runs()
    old = scale_table(runs.assign(gaze_consistency_grid_rms=np.nan))
    assert "no reading on the common grid" in findings.scale_finding(old, "x")
    for models in (["level1"], ["level1", "level2"]):  # one other is not "the others"
        assert findings.scale_finding(scale_table(runs[runs["model"].isin(models)]), "x") is None


def test_cells_of_table_2():
    runs = frame_of([[0.7, 0.75, 0.72]]).assign(dataset="brain_tumor_mri")
    table = pearson_table(runs)
    item = pearson_item(table, "x", "here", "brain_tumor_mri", {})
    assert item.frame is table
    by_measure = item.shown.set_index("measure")
    assert by_measure.loc["squared", "r, mean over seeds"] == "0.723"
    assert by_measure.loc["l2 (published form)", "published r"] == "0.735"
    assert by_measure.loc["squared", "published r"] is None or pd.isna(by_measure.loc["squared", "published r"])
    assert (
        by_measure.loc["l2 (published form)", "strangers' r"]
        == by_measure.loc["l2 (published form)", "r, mean over seeds"]
    )
    assert "3 seeds: 0.17" in " ".join(item.notes)
    ended = pearson_item(table, "x", "here", "brain_tumor_mri", {}, lengths=[7, 12, 12]).notes[0]
    assert ended.startswith("The runs ended after 7 to 12 epochs: ") and "ended" not in " ".join(item.notes)
    left = shared_curve_item(table, "x", "here").shown
    assert left["measure"].iloc[0] == "l2 (published form)" and left["r"].tolist()[1] == "0.72"


def test_intervals_of_accuracy_end_at_its_bounds():
    table = lambda_table(made_up_runs(models=("level2",), lambdas=(0, 50), seeds=(0, 1), noise=0.5, epochs=1))
    wide = table.query("metric == 'accuracy' and summary == 'last'")
    assert wide["ci_low"].min() < 0 or wide["ci_high"].max() > 1  # the CSV has them as they are
    for cell in performance_item(table, "accuracy", "x", "here", "phantom", {}).shown["last epoch"]:
        low, high = cell.split("[")[1].rstrip("]").split(", ")
        assert float(low) >= 0 and float(high) <= 1
