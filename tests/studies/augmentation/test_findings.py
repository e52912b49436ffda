"""Sentences of the augmentation study: word by word in golden/sentences, and no more than the tables do.

GAZE_RENEW_GOLDEN=1 writes the words anew.
"""

import os

import numpy as np
import pandas as pd
import pytest
from conftest import FIXTURES
from made_up import made_up_compared, made_up_profile, made_up_questions

from gaze.studies.augmentation import findings


def arms(**verdicts: tuple[str, float]) -> pd.DataFrame:
    rows = [(arm, verdict, 0.125, p, 1.5, 0.8, 2.8) for arm, (verdict, p) in verdicts.items()]
    return pd.DataFrame(rows, columns=["arm", "verdict", "effect", "p_holm", "sd_ratio", "sd_low", "sd_high"])


def accuracy() -> pd.DataFrame:
    rows = [("none", 0.8), ("none", 0.9), ("up", 0.95), ("up", 0.91), ("in", 0.9), ("down", 0.7)]
    return pd.DataFrame(rows, columns=["arm", "accuracy"])


def test_the_words_of_each_sentence():
    golden = FIXTURES / "golden" / "sentences" / "augmentation.txt"
    four = arms(blur=("moved", 0.0004), hflip=("not shown", 0.4), mixup=("underpowered", np.nan), noise=("moved", 0.03))
    questions = made_up_questions(made_up_compared({"none": 2, **{f"arm_{k}": 1 for k in range(4)}}))
    said = [
        findings.headline(made_up_compared()), findings.headline(made_up_compared({"none": 2, "blur": 1})),
        findings.noise_finding(four), *(findings.question_finding(questions, question) for question in (1, 2)),
        findings.association_finding(questions),
        findings.question_finding(made_up_questions(made_up_compared(masks=False)), 1),
        findings.accuracy_finding(accuracy(), "none"),
    ]  # fmt: skip
    if os.environ.get("GAZE_RENEW_GOLDEN") == "1":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text("\n".join(said) + "\n", encoding="utf-8")
    assert said == golden.read_text(encoding="utf-8").splitlines()


def test_noise_sentence_claims_no_move_where_none_was_shown():
    few = findings.noise_finding(arms(mixup=("underpowered", np.nan)))
    assert "p after Holm" not in few and "Yes" not in few and "not shown" not in few


def test_a_scatter_that_differs_is_named_of_moved_arms_alone():
    table = arms(blur=("moved", 0.01), hflip=("moved", 0.01), noise=("not shown", 0.3))
    assert "scatter" not in findings.noise_finding(table)
    table.loc[[0, 2], "sd_low"] = 1.2
    assert findings.noise_finding(table).endswith("which the test allows for: blur (1.50 times).")
    table.loc[1, ["sd_ratio", "sd_low", "sd_high"]] = [0.5, 0.3, 0.9]
    assert findings.noise_finding(table).endswith("blur (1.50 times), hflip (0.50 times).")


def test_question_sentence_claims_no_answer_that_no_arm_has():
    questions = made_up_questions(made_up_compared({"none": 2, **{f"arm_{k}": 1 for k in range(4)}}))
    for question in (1, 2):
        only = findings.question_finding(questions[questions["arm"] == "arm_2"], question)
        assert "pass" not in only and "fail" not in only and "underpowered" not in only
    with pytest.raises(ValueError, match="no row of question 1"):
        findings.question_finding(questions[questions["question"] > 1], 1)


def test_question_3_is_described_and_never_judged():
    questions = made_up_questions(made_up_compared({"none": 2, "a": 1, "b": 1, "c": 1}))
    questions.loc[(questions["arm"] == "b") & (questions["question"] == 3), "change"] = np.nan
    questions.loc[(questions["arm"] == "c") & (questions["measure"] == "spearman_partial"), "change"] = np.nan
    text = findings.association_finding(questions)
    assert "difficulty: a 0.05 (0.05), c 0.01 (none); not evaluated: b. Exploratory" in text
    assert not any(word in text for word in ("pass,", "fail,", " p "))


def test_accuracy_sentence_claims_no_rise_within_the_baselines_runs():
    text = findings.accuracy_finding(accuracy().query("arm in ('none', 'in')"), "none")
    assert "above" not in text and "below" not in text and text.endswith("Not a test.")


def test_where_sentence_names_marked_changes_of_place_and_shape_only():
    c = made_up_compared()
    profile = made_up_profile(c, ["pearson", "centroid_y", "gini", "accuracy"]).assign(marked=False)
    profile.loc[profile["metric"].isin(["pearson", "accuracy"]), "marked"] = True
    assert "none of 4 changes tested stands out, which does not rule one out" in findings.where_finding(profile)
    profile.loc[(profile["arm"] == "blur") & (profile["metric"] == "centroid_y"), ["marked", "effect"]] = [True, -1.0]
    profile.loc[(profile["arm"] == "mixup"), "marked"] = True
    profile.loc[(profile["arm"] == "mixup") & (profile["metric"] == "gini"), ["z", "effect"]] = [9.0, 2.0]
    text = findings.where_finding(profile)
    assert "blur: centre, downwards lower; mixup: concentration higher, centre, downwards higher." in text
    assert "exploratory" in text and "accuracy" not in text and "Underpowered" not in text


def test_where_sentence_says_what_was_not_tested():
    profile = made_up_profile(made_up_compared(), ["gini", "entropy"]).assign(marked=False)
    profile.loc[profile["arm"] == "blur", ["underpowered", "p"]] = [True, np.nan]
    assert findings.where_finding(profile).endswith("Underpowered, too few seeds to tell, at least in part: blur.")
    nothing = findings.where_finding(profile.assign(underpowered=True, p=np.nan))
    assert nothing.endswith("Nothing could be tested: too few seeds, or no values.")


def test_no_sentence_claims_that_there_is_no_effect():
    said = [*findings.HOW_TO_READ_STUDY, findings.noise_finding(arms(a=("not shown", 0.9)))]
    assert all("no effect" not in text.lower() for text in said)
    how = " ".join(findings.HOW_TO_READ_STUDY)
    for word in (
        "CAM",
        "Distance.",
        "runs are the samples",
        "Inconclusive",
        "Not evaluated",
        "Mixup and cutmix",
        "association",
    ):
        assert word in how, word
