"""Tables of the augmentation study: cells equal the frames' numbers, and notes say what stands behind them."""

import numpy as np
import pandas as pd
import pytest
from made_up import (
    made_up_compared,
    made_up_distances,
    made_up_profile,
    made_up_questions,
    made_up_run_table,
)

from gaze.statistics.permutation import arms_table, effect
from gaze.studies.augmentation.profile_plots import METRIC_NAMES
from gaze.studies.augmentation.tables import (
    arms_item,
    augmentations_item,
    criteria_item,
    measures_item,
    profile_item,
    questions_item,
    runs_item,
)


@pytest.fixture(scope="module")
def c():
    return made_up_compared()


def by_arm(item) -> pd.DataFrame:
    return item.shown.set_index("arm")


def test_arms_have_both_distances_the_test_and_the_accuracy(c):
    distances = made_up_distances(c)
    labels = list(c.runs["arm"])
    item = arms_item(c, arms_table(distances, labels, c.baseline), distances, where="phantom")
    frame, shown = item.frame.set_index("arm"), by_arm(item)
    assert list(shown.index) == ["none", "blur", "mixup"]
    for arm, rows in (("none", [0, 1, 2, 3]), ("blur", [4, 5, 6]), ("mixup", [7, 8, 9])):
        within = np.mean([distances[i, j] for i in rows for j in rows if i < j])
        accuracy = c.runs["accuracy"].iloc[rows]
        assert frame.loc[arm, "within"] == pytest.approx(within)
        assert shown.loc[arm, "within arm"] == f"{within:.3f}"
        assert shown.loc[arm, "accuracy (SD)"] == f"{accuracy.mean():.3f} ({accuracy.std(ddof=1):.3f})"
        if arm != "none":
            between = np.mean([distances[i, j] for i in range(4) for j in rows])
            assert shown.loc[arm, "to baseline"] == f"{between:.3f}"
            size = between - (within + frame.loc["none", "within"]) / 2
            assert (
                frame.loc[arm, "effect"] == pytest.approx(size) == pytest.approx(effect(distances, labels, "none", arm))
            )
    assert shown["verdict"].tolist() == ["baseline", "underpowered", "underpowered"]
    assert shown["seeds"].tolist() == ["0 to 3", "100 to 102", "200 to 202"]
    assert shown["p"].isna().all() and pd.isna(shown.loc["none", "to baseline"])
    notes = " ".join(item.notes)
    assert "allows for another scatter" in notes and "too few seeds to reach 0.05" in notes
    assert "Runs are the samples" in notes and "if the models were trained again" in notes
    assert frame.loc["blur", "sd_ratio"] == pytest.approx(
        (frame.loc["blur", "within"] / frame.loc["none", "within"]) ** 0.5
    )
    assert shown.loc["blur", "SD ratio"].startswith(f"{frame.loc['blur', 'sd_ratio']:.2f} [")
    assert (
        pd.isna(shown.loc["none", ["SD ratio", "95 % interval"]]).all() and shown.loc["blur", "95 % interval"][0] == "["
    )
    assert item.caption.endswith("? phantom")


def test_arms_with_one_run_have_no_spread():
    c = made_up_compared({"none": 2, "blur": 1})
    distances = made_up_distances(c)
    shown = by_arm(arms_item(c, arms_table(distances, list(c.runs["arm"]), c.baseline), distances))
    assert shown.loc["blur", "accuracy (SD)"] == f"{c.runs['accuracy'][2]:.3f} (1 run)"
    assert shown.loc["blur", ["within arm", "effect", "p (Holm)"]].isna().all()
    assert shown.loc["blur", "seeds"] == "100"
    assert shown.loc["none", "seeds"] == "0, 1"


def test_criteria_have_answers_with_numbers_and_the_accuracy():
    c = made_up_compared({"none": 3, **{f"arm_{k}": 2 for k in range(4)}})
    runs = made_up_run_table(c)
    item = criteria_item(made_up_questions(c), runs, "none")
    shown = by_arm(item)
    assert shown["1. On what matters?"].tolist() == [
        "pass: share on target +0.050; lift +0.05",
        "fail: share on target -0.050; lift -0.05",
        "inconclusive: share on target +0.010; lift +0.01",
        "inconclusive (underpowered): share on target +0.020; lift +0.02",
    ]
    assert shown.loc["arm_0", "2. Varies less?"] == "pass: wandering -0.05000; spread -0.0500"
    assert shown.loc["arm_1", "3. Does the gain go with the gaze?"] == "exploratory: rho -0.05; given difficulty -0.05"
    mean = runs.groupby("arm")["accuracy"].mean()
    for arm in c.arms:
        assert float(shown.loc[arm, "change of accuracy"]) == pytest.approx(mean[arm] - mean["none"], abs=5e-4)
        assert shown.loc[arm, "accuracy (SD)"].startswith(f"{mean[arm]:.3f} (")
    assert item.frame["answer_2"].tolist() == ["pass", "fail", "inconclusive", "inconclusive"]
    assert item.frame["change_mask_lift"].tolist() == [0.05, -0.05, 0.01, 0.02]
    assert f"Accuracy of the baseline: {mean['none']:.3f}" in item.notes[-1]
    assert "not the same as no change" in " ".join(item.notes)


def test_criteria_and_questions_without_masks():
    c = made_up_compared(masks=False)
    questions = made_up_questions(c)
    assert (
        by_arm(criteria_item(questions, made_up_run_table(c), "none")).loc["blur", "1. On what matters?"]
        == "not evaluated"
    )
    shown = questions_item(questions).shown
    first = shown[shown["question"] == "1"].iloc[0]
    assert first[["baseline", "change", "95 % interval", "p"]].isna().all()
    assert first["answer"] == "not evaluated"


def test_questions_show_every_number(c):
    item = questions_item(made_up_questions(c))
    assert item.frame.equals(made_up_questions(c))
    row = item.shown.iloc[0]
    hard = "\N{NO-BREAK SPACE}"
    assert row[["baseline", "arm's mean", "change", "p", "p (Holm)"]].tolist() == [
        "0.300",
        "0.350",
        "0.050",
        "0.010",
        "0.020",
    ]
    assert row["95 % interval"] == f"[0.030,{hard}0.070]"
    assert item.shown["p"].isna().tolist() == [False, False, False, False, True, True] * 2
    assert item.shown["SD ratio"].tolist()[:4] == ["1.25"] * 4 and "trained again, on these images" in item.notes[1]


def test_profile_numbers_say_what_stands_out(c):
    profile = made_up_profile(c, ["pearson", "gini", "accuracy"])
    profile.loc[1, ["underpowered", "marked", "p", "q"]] = [True, False, np.nan, np.nan]
    item = profile_item(profile)
    assert item.frame is profile
    assert item.shown["stands out"].tolist() == ["yes", "underpowered", *["not shown"] * 3, "yes"]
    assert item.shown["in SDs"].tolist() == [f"{z:.2f}" for z in profile["z"]]
    assert item.shown["effect"].tolist() == ["-2.4", "-1.44", "-0.48", "0.48", "1.44", "2.4"]
    assert item.shown["95 % interval"][0] == "[-2.5,\N{NO-BREAK SPACE}-2.3]"
    assert item.shown["p, adjusted"][0] == "0.010" and pd.isna(item.shown["p, adjusted"][1])
    assert item.shown["measure"][1] == METRIC_NAMES["gini"][0]
    assert measures_item(profile).shown["in the CSV files"].tolist() == ["pearson", "gini", "accuracy"]


def test_runs_are_listed_with_what_they_look_at(c):
    runs = made_up_run_table(c)
    shown = runs_item(runs).shown
    assert shown["seed"].tolist() == [str(seed) for seed in runs["seed"]]
    assert shown["images with a gaze"].tolist()[:2] == ["23", "24"]
    assert shown["share on the target"].tolist() == [f"{value:.3f}" for value in runs["mask_energy"]]
    bare = runs_item(made_up_run_table(made_up_compared(masks=False))).shown
    assert "share on the target" not in bare and "spread of the gaze" in bare


def test_augmentations_in_words():
    settings = {"none": {}, "own": {"crop_scale": [0.5, 1.0], "hflip": 0.5, "new": 3}, "mixup": {"mixup": 0.2}}
    item = augmentations_item(settings)
    assert item.shown["what it does to a training image"].tolist() == [
        "nothing",
        "cropped to 0.5 to 1 of the area; mirrored left to right with probability 0.5; new 3",
        "blended with another image, alpha 0.2; CHANGES THE LABEL",
    ]
    assert item.frame["value"].tolist() == ["0.5 to 1", "0.5", "3", "0.2"]
    assert "change the label" in item.notes[1]
    assert len(augmentations_item({"none": {}}).notes) == 1
