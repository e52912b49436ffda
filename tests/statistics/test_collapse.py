"""gaze.runs.collapse and gaze.statistics.collapse: what collapse is, and what is no longer compared."""

import math

import numpy as np
import pandas as pd
import pytest
from made_up import made_up_runs

from gaze.runs.collapse import AT_CHANCE, COLLAPSED, NO_GAZE, ONE_CLASS, ONE_GAZE, collapse_of, shortly
from gaze.statistics.collapse import collapse_table, comparable
from gaze.statistics.schedules import schedule_table
from gaze.statistics.seeds import gaze_shift_table, lambda_table, pearson_table, scale_table

NAMES = ["kappa", "gaze_empty_fraction", "gaze_consistency_rms", "gaze_eta_squared"]


def test_collapse_is_what_its_sentence_says():
    cases = {  # kappa, share of empty maps, RMS deviation, eta squared
        "": [(0.5, 0.1, 0.2, 0.3), (0.5, 0.0, 0.04, 0.9), (0.5, 0.0, 0.2, 0.0), (np.nan,) * 4],
        ONE_CLASS: [(0.0, 0.0, 0.2, 0.3), (-1e-8, 0.0, 0.01, 0.01), (0.0, np.nan, np.nan, np.nan)],
        AT_CHANCE: [(0.04, 0.0, 0.2, 0.3), (-0.3, 0.9, 0.2, 0.3)],
        NO_GAZE: [(0.5, 0.6, 0.2, 0.3)],
        ONE_GAZE: [(0.5, 0.0, 0.04, 0.04), (np.nan, 0.0, 0.04, 0.04)],
    }
    parts = []
    for how, values in cases.items():
        for number, late in enumerate(values):
            runs = made_up_runs(models=(f"{how} {number}",), seeds=[0], epochs=9)
            runs.loc[runs["epoch"] <= 4, NAMES] = [0.0, 1.0, 0.0, 0.0]  # an early collapse is none
            runs.loc[runs["epoch"] > 4, NAMES] = late
            parts.append(runs)
    table = collapse_table(pd.concat(parts)).set_index("model")
    assert table["what"].to_dict() == {model: model.rpartition(" ")[0] for model in table.index}
    assert (table["collapsed"] == (table["what"] != "")).all() and (table["runs"] == 1).all()
    assert (table["lost"] == table["what"].isin([ONE_CLASS, AT_CHANCE])).all()
    bare = pd.concat(parts).drop(columns=["gaze_empty_fraction", "gaze_consistency_rms"])
    assert collapse_table(bare)["collapsed"].sum() == 5
    assert all(how in COLLAPSED for how in cases) and "mean kappa below 0.05" in COLLAPSED


def test_one_class_needs_a_kappa_of_0_in_every_late_epoch():
    assert collapse_of([0.6, 0.0, 0.0, 0.0, 0.0, 0.0]) == ONE_CLASS
    assert collapse_of([0.0, 0.0, 0.01, 0.0, 0.0]) == AT_CHANCE
    assert collapse_of([0.2, -0.2, 0.2, -0.2, 0.0]) == AT_CHANCE
    assert collapse_of([0.0, math.nan]) == ONE_CLASS and collapse_of([math.nan]) == collapse_of([]) == ""
    assert shortly(f"{AT_CHANCE} or {ONE_CLASS}") == "at chance or one class"


def test_collapse_counts_runs_not_seeds_or_epochs():
    runs = made_up_runs(lambdas=(0.0, 50.0))
    double = pd.concat([runs, runs.assign(run=runs["run"] + "again", kappa=0.0)])
    table = collapse_table(double)
    assert (table["runs"] == 6).all() and (table["collapsed"] == 3).all()


@pytest.fixture
def runs() -> pd.DataFrame:
    """At lambda 50 one of three seeds predicts one class; at 100 all do; all figures of the gaze are tempting."""
    found = made_up_runs(models=("level2",), lambdas=(0, 50, 100), epochs=8)
    gone = (found["lambda"] == 100) | ((found["lambda"] == 50) & (found["seed"] == 1))
    found.loc[gone & (found["epoch"] > 2), ["kappa", "accuracy", "gaze_consistency"]] = [0.0, 0.25, 1e-5]
    found["gaze_consistency_rms"] = np.sqrt(found["gaze_consistency"])
    return found


def test_the_gaze_of_a_run_that_predicts_one_class_is_not_compared(runs):
    cells = lambda_table(runs).query("summary == 'last5'").set_index(["metric", "lambda"])
    plain = lambda_table(runs[runs["seed"] != 1]).query("summary == 'last5'").set_index(["metric", "lambda"])
    for metric in ("gaze_consistency", "gaze_consistency_rms", "gaze_eta_squared"):
        assert cells.loc[(metric, 50.0), ["n", "n_nan", "n_pairs"]].tolist() == [3, 1, 2]
        assert (
            cells.loc[(metric, 50.0), ["mean", "diff"]].tolist() == plain.loc[(metric, 50.0), ["mean", "diff"]].tolist()
        )
        assert cells.loc[(metric, 100.0), ["mean", "diff", "p"]].isna().all()
    assert cells.loc[("accuracy", 100.0), "mean"] == 0.25 and cells.loc[("accuracy", 100.0), "n_pairs"] == 3
    assert cells.loc[("kappa", 50.0), ["runs", "collapsed", "lost", "what"]].tolist() == [3, 1, 1, ONE_CLASS]
    assert gaze_shift_table(runs)["reading"].iloc[1] == "not compared: one class is predicted"
    assert gaze_shift_table(runs)["n_pairs"].tolist() == [2, 0]
    against = schedule_table(runs).query("summary == 'last'").set_index(["lambda", "measure"])
    assert against.loc[(50.0, "gaze_consistency"), "n"] == 2 and against.loc[(50.0, "accuracy"), "n"] == 3
    assert math.isnan(against.loc[(100.0, "gaze_consistency"), "mean"])


def test_where_plain_training_predicts_one_class_that_is_said(runs):
    plain = runs.assign(kappa=runs["kappa"].mask(runs["lambda"] == 0, 0.0))
    readings = gaze_shift_table(plain)["reading"].tolist()
    assert readings == ["not compared: one class is predicted at lambda 0", "not compared: one class is predicted"]
    assert scale_table(plain)["mean"].isna().all()


def test_a_gaze_that_all_classes_share_is_compared_and_r_stays_what_was_published(runs):
    shared = runs.assign(kappa=0.5, gaze_consistency_rms=0.01, gaze_eta_squared=0.01)
    assert (collapse_table(shared)["what"] == ONE_GAZE).all() and comparable(shared) is shared
    assert (pearson_table(runs)["n"] == 3).all() and (pearson_table(runs)["n_nan"] == 0).all()
