"""gaze.statistics.schedules: which arms are held against which, and by the test of statistics.permutation."""

import numpy as np
import pandas as pd
import pytest

from gaze.consistency.schedule import curriculum
from gaze.statistics.intervals import holm
from gaze.statistics.permutation import mean_shift
from gaze.statistics.schedules import schedule_table

ARMS = ((0, 2, 10), (50, 2, 10), (500, 2, 10), (50, 12, 18), (131.818, 12, 18))  # lambda, T0, T1


@pytest.fixture
def runs():
    g, rows = np.random.default_rng(0), []
    for weight, start, end in ARMS:
        study = "s" if start == 2 else f"s, lambda from epoch {start} to {end}"
        for seed in range(6):
            for epoch in range(1, 21):
                keys = {"of_study": "s", "study": study, "dataset": "d", "model": "level2", "lambda": float(weight)}
                own = {"lambda_t": curriculum(epoch, weight, start, end), "accuracy": 0.8 + 0.02 * g.standard_normal()}
                rows.append({**keys, "seed": seed, "epoch": epoch, "run": f"{study}/{weight}/{seed}", **own})
    return pd.DataFrame(rows)


def test_arms_are_held_against_plain_and_early_training(runs):
    every = schedule_table(runs)
    table, five = (every[every["summary"] == summary].reset_index(drop=True) for summary in ("last", "last5"))
    pairs = zip(table["lambda"], table["lambda_sum"].round(), table["against"], strict=True)
    assert list(pairs) == [
        (50, 725, "lambda 0"), (500, 7250, "lambda 0"),
        (50, 275, "lambda 0"), (50, 275, "early, same lambda"),
        (131.818, 725, "lambda 0"), (131.818, 725, "early, same sum"),
    ]  # fmt: skip
    last = runs[runs["epoch"] == 20]
    studies = ("s, lambda from epoch 12 to 18", "s")
    late, early = (last.loc[last["lambda"].eq(50) & last["study"].eq(s), "accuracy"] for s in studies)
    shift = mean_shift([*late, *early], ["a"] * 6 + ["b"] * 6, "b", "a")
    expected = [shift.change, shift.p, 2 / 924, late.mean()]
    assert table.iloc[3][["change", "p", "smallest_p", "mean"]].tolist() == pytest.approx(expected)
    np.testing.assert_allclose(table["p_holm"], [*holm(table["p"][:2]), *holm(table["p"][2:])])
    assert table["family"].tolist() == [2, 2, 4, 4, 4, 4] and set(table["measure"]) == {"accuracy"}
    late, early = (
        runs[runs["lambda"].eq(50) & runs["study"].eq(s) & (runs["epoch"] > 15)].groupby("seed")["accuracy"].mean()
        for s in studies
    )
    shift = mean_shift([*late, *early], ["a"] * 6 + ["b"] * 6, "b", "a")
    assert five.iloc[3][["change", "p", "mean"]].tolist() == pytest.approx([shift.change, shift.p, late.mean()])
    np.testing.assert_allclose(five["p_holm"], [*holm(five["p"][:2]), *holm(five["p"][2:])])


def test_without_plain_runs_or_without_lambda_there_is_nothing_to_hold(runs):
    assert schedule_table(runs[runs["lambda"] == 0]).empty and schedule_table(runs[:0]).empty
    assert set(schedule_table(runs[runs["lambda"] != 0])["against"]) == {"early, same lambda", "early, same sum"}
    few = runs[(runs["seed"] == 0) & (runs["study"] == "s")].drop(columns=["of_study", "lambda_t"])
    table = schedule_table(few)
    assert table["n"].tolist() == [1] * 4 and table["p"].isna().all() and table["lambda_sum"].isna().all()
