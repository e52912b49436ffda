"""gaze.studies.consistency.tables: which measures of the gaze a reader sees."""

import numpy as np
import pandas as pd
from made_up import made_up_runs

from gaze.statistics.seeds import lambda_table
from gaze.studies.consistency.tables import MASK_NOTE, gaze_item

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
