"""gaze.studies.consistency.tables: which measures of the gaze a reader sees."""

import numpy as np
import pandas as pd
from made_up import made_up_runs

from gaze.runs.collapse import COLLAPSED
from gaze.statistics.seeds import lambda_table
from gaze.studies.consistency.tables import MASK_NOTE, across_item, gaze_item, performance_item

MASK_TITLES = ["energy in mask", "lift in mask", "pointing game"]


def by_lambda() -> pd.DataFrame:
    """Two data sets, of which the phantom alone has masks."""
    runs = made_up_runs(datasets=("phantom", "plain"), models=("level1",), lambdas=(0.0, 50.0), epochs=2)
    masked = runs["dataset"] == "phantom"
    for name, value in (("gaze_mask_energy", 0.25), ("gaze_mask_lift", 3.5), ("gaze_pointing", 0.75)):
        runs[name] = np.where(masked, value, np.nan)
    return lambda_table(runs)


def test_mask_measures_are_columns_where_the_set_has_masks():
    table = by_lambda()
    item = gaze_item(table[table["dataset"] == "phantom"], "x", "here")
    assert item.shown[MASK_TITLES].to_numpy().tolist() == [["0.250 ± 0.000", "3.50 ± 0.00", "0.750 ± 0.000"]] * 2
    assert MASK_NOTE in item.notes


def test_a_set_without_masks_has_no_empty_columns_beside_one_that_has_them():
    table = by_lambda()
    item = gaze_item(table[table["dataset"] == "plain"], "x", "here")
    assert "RMS deviation" in item.shown and not set(MASK_TITLES) & set(item.shown)
    assert MASK_NOTE not in item.notes


def test_models_stand_down_and_lambdas_across_with_the_published_accuracy_beneath():
    runs = made_up_runs(datasets=("chest_xray",), models=("level2", "resnet18"), lambdas=(-100.0, 0.0, 50.0))
    runs = runs[(runs["model"] != "resnet18") | (runs["lambda"] != 50)]
    table = lambda_table(runs)
    item = across_item(table, "accuracy", "x", "here", "chest_xray", {})
    assert list(item.shown) == ["model", "-100", "0", "50"]
    assert item.shown["model"].tolist() == ["level2", "published", "resnet18"]
    assert item.shown.loc[1, ["-100", "0", "50"]].tolist() == ["0.815", "0.831", "0.835"]
    last = runs[runs["epoch"] > 1].groupby(["model", "lambda", "seed"])["accuracy"].mean().groupby(["model", "lambda"])
    mean, sd = last.mean(), last.std()
    for place, model in ((0, "level2"), (2, "resnet18")):
        for weight in (-100, 0):
            assert item.shown.loc[place, f"{weight}"] == f"{mean[model, weight]:.3f} ± {sd[model, weight]:.3f}"
    assert item.shown.loc[2, "50"] is None or pd.isna(item.shown.loc[2, "50"])
    lost = lambda_table(runs.assign(kappa=runs["kappa"].mask(runs["lambda"] == -100, 0.0)))
    cells = across_item(lost, "accuracy", "x", "here", "chest_xray", {}).shown["-100"]
    assert cells[0] == f"{mean['level2', -100]:.3f} ± {sd['level2', -100]:.3f}, one class"
    assert (
        across_item(lost, "gaze_consistency_rms", "x", "here", "chest_xray", {}).shown["-100"].tolist()
        == ["one class"] * 2
    )
    for item in (gaze_item(lost, "x", "here"), performance_item(lost, "kappa", "x", "here", "chest_xray", {})):
        assert item.shown.set_index("lambda")["collapsed"].dropna().to_dict() == {"-100": "one class"}
        assert item.notes[-1] == COLLAPSED
    assert gaze_item(lost, "x", "here").shown.set_index("lambda").loc["-100", "RMS deviation"].isna().all()
    kappa = across_item(table, "kappa", "x", "here", "chest_xray", {})
    assert kappa.shown["model"].tolist() == ["level2", "resnet18"]
