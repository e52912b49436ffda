"""Tables of the augmentation study: numbers to what a reader sees, with notes that say what stands behind them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gaze.choices import AUGMENTATIONS
from gaze.report.words import each, estimate, number, p_value
from gaze.report.write import TableItem
from gaze.studies.augmentation.association import CostAssociation
from gaze.studies.augmentation.compared import Compared
from gaze.studies.augmentation.profile_plots import METRIC_NAMES

Columns = Mapping[str, Callable[[Any], str | None]]  # by title, what a row of numbers says there

QUESTIONS = {1: "1. On what matters?", 2: "2. Varies less?", 3: "3. Does the gain go with the gaze?"}
MEASURES = {  # of the questions: a word, digits
    "mask_energy": ("share on target", 3),
    "mask_lift": ("lift", 2),
    "centroid_variance": ("wandering", 5),
    "dispersion": ("spread", 4),
    "spearman": ("rho", 2),
    "spearman_partial": ("given difficulty", 2),
}
EXPLORED = (
    "Question 3 is for exploration: an association over images that are no independent samples, so it has no p, is "
    "never passed or failed, and names no cause. Given difficulty: with the images' log p without augmentation, and "
    "the distance of two runs of one arm, taken out of both series."
)
RUNS_ARE_SAMPLES = (
    "Runs are the samples, never images. p is the larger of two: how often runs, relabelled at random, differ so much, "
    "and Welch's, which lets the arm's runs scatter more or less than the baseline's. Underpowered: there are too few "
    "seeds to reach 0.05 even for the clearest effect, so that no p is given; this says nothing against an effect."
)
OVER_RUNS = (
    "Intervals are 95 % over runs, each left out once (jackknife): how the figure would differ if the models were "
    "trained again, on these images. They say nothing of other images, and are not adjusted for the number of rows."
)


def arms_item(
    c: Compared, arms: pd.DataFrame, distances: NDArray[np.float64], name: str = "arms", where: str = ""
) -> TableItem:
    """Every arm beside the baseline: how far apart the maps are, is it more than retraining noise, and the accuracy.

    Args:
        c: its runs, with accuracy and kappa, and baseline.
        arms: ``gaze.statistics.permutation.arms_table`` of the same runs.
        distances: mean over images of 1 - pearson, (R, R) in the order of ``c.runs``.
        name: of the files.
        where: data set and model in words, for the caption.
    """
    base, facts = c.rows(c.baseline), []
    for arm in (c.baseline, *c.arms):
        rows = c.rows(arm)
        own, pairs = c.runs.iloc[rows], distances[np.ix_(rows, rows)][np.triu_indices(rows.size, 1)]
        fact = {"arm": arm, "within": pairs.mean() if pairs.size else math.nan, "seeds": _seeds(own["seed"].tolist())}
        for column in ("accuracy", "kappa"):
            fact |= {column: own[column].mean(), f"{column}_sd": own[column].std()}
        between = math.nan if arm == c.baseline else distances[np.ix_(base, rows)].mean()
        facts.append({**fact, "between": between})
    baseline = pd.DataFrame([{"arm": c.baseline, "runs": base.size}])
    frame = pd.concat([baseline, arms])[arms.columns].merge(pd.DataFrame(facts), on="arm")
    columns: Columns = {
        "arm": lambda row: row.arm,
        "runs": lambda row: str(row.runs),
        "seeds": lambda row: row.seeds,
        "verdict": lambda row: "baseline" if row.arm == c.baseline else row.verdict,
        "to baseline": lambda row: number(row.between),
        "within arm": lambda row: number(row.within),
        "effect": lambda row: number(row.effect),
        "95 % interval": lambda row: _range(row, number),
        "SD ratio": lambda row: _sd_ratio(row),
        "p": lambda row: p_value(row.p),
        "p (Holm)": lambda row: p_value(row.p_holm),
        "accuracy (SD)": lambda row: _with_sd(row.accuracy, row.accuracy_sd),
        "kappa (SD)": lambda row: _with_sd(row.kappa, row.kappa_sd),
    }
    notes = (
        "To baseline, within arm: the mean distance of two runs, one of each arm or both of this one. Distance: 1 - "
        "correlation of their maps, mean over images, classes counted alike; 0 for equal maps. "
        "Effect: the mean distance to the baseline less the average of the distances within the two arms, on average 0 "
        "where training again is all there is. SD: over runs.",
        "SD ratio: how far the arm's runs scatter around their own centre, over how far the baseline's do, with its "
        "95 % interval. The test asks where the centres are and allows for another scatter: simulated arms around the "
        "baseline's centre, with a third to three times its scatter (normal noise), were called moved in at most 6 % "
        "of studies with 8 + 4 runs, and 7 % with 6 + 3, at a level of 5 % (benchmarks/study_levels.py).",
        OVER_RUNS,
        f"{RUNS_ARE_SAMPLES} Holm: adjusted for the number of arms. Not shown does not mean that nothing moved.",
    )
    caption = _caption("Is the gaze moved by more than training again moves it?", where)
    return TableItem(name, caption, frame, _shown(frame, columns), notes)


def criteria_item(
    questions: pd.DataFrame, runs: pd.DataFrame, baseline: str, name: str = "criteria", where: str = ""
) -> TableItem:
    """The three questions' answers per arm, with the numbers, and the accuracy beside them.

    Args:
        questions: ``questions.question_table``.
        runs: ``effects.run_table``, of which ``arm`` and ``accuracy`` (0..1) are read.
        baseline: arm that the accuracy is held against.
        name, where: as for :func:`arms_item`.
    """
    accuracy = runs.groupby("arm")["accuracy"].mean()
    spread = runs.groupby("arm")["accuracy"].std()
    rows, parts = [], []
    for arm, part in questions.groupby("arm", sort=False):
        row: dict[str, str | None] = {"arm": str(arm)}
        values: dict[str, Any] = {"arm": arm}
        for question, title in QUESTIONS.items():
            own = each(part[part["question"] == question])
            row[title] = _answer(own)
            values[f"answer_{question}"] = own[0].answer if own else None
            values |= {f"change_{measure.measure}": measure.change for measure in own}
        change = accuracy[arm] - accuracy[baseline]
        row["accuracy (SD)"] = _with_sd(accuracy[arm], spread[arm])
        row["change of accuracy"] = f"{change:+.3f}"
        if "cost" in runs:
            own_cost = runs.loc[runs["arm"] == arm, "cost"]
            row["cost (SD)"] = _with_sd(own_cost.mean(), own_cost.std())
        rows.append(row)
        parts.append({**values, "accuracy": accuracy[arm], "accuracy_sd": spread[arm], "accuracy_change": change})
    notes = (
        "Each answer with the change from the baseline: 1, share of the gaze on the marked target, and its lift, that "
        "share over the target's area (more is better); 2, wandering, the variance of the gaze's centre within a "
        "class, and spread of the gaze (less is better); 3, Spearman's rho over images of the gain in log p and the "
        "excess distance, and the same given how difficult the images are. Of 1 and 2 the first figure decides.",
        "Pass or fail: a change in the better or the worse direction with an adjusted p of 0.05 or less. Inconclusive: "
        "none shown, which is not the same as no change. Not evaluated: something that the question needs is missing.",
        f"{RUNS_ARE_SAMPLES} {EXPLORED}",
        f"Accuracy of the baseline: {_with_sd(accuracy[baseline], spread[baseline])}. SD: over runs. No test.",
        *(["Cost: of argmax, over all test images after the last epoch."] if "cost" in runs else []),
    )
    return TableItem(name, _caption("The three questions", where), pd.DataFrame(parts), pd.DataFrame(rows), notes)


def questions_item(questions: pd.DataFrame, name: str = "questions", where: str = "") -> TableItem:
    """Every number behind the three questions (``questions.question_table``); else as :func:`arms_item`."""
    columns: Columns = {
        "arm": lambda row: row.arm,
        "question": lambda row: str(row.question),
        "measure": lambda row: MEASURES[row.measure][0],
        "baseline": lambda row: number(row.baseline, MEASURES[row.measure][1]),
        "arm's mean": lambda row: number(row.arm_mean, MEASURES[row.measure][1]),
        "change": lambda row: number(row.change, MEASURES[row.measure][1]),
        "95 % interval": lambda row: _range(row, lambda end: number(end, MEASURES[row.measure][1])),
        "SD ratio": lambda row: number(row.sd_ratio, 2),
        "p": lambda row: p_value(row.p),
        "p (Holm)": lambda row: p_value(row.p_holm),
        "answer": lambda row: row.answer,
    }
    notes = (
        "Share on target: of the gaze, on the marked target. Lift: that share over the target's area, 1 for a gaze "
        "without aim. Wandering: variance of the gaze's centre within a class, in squared image sides. Spread: in "
        "image sides. Change: mean of the arm's runs less mean of the baseline's; for question 3 the correlation. SD "
        "ratio: SD of the arm's runs over that of the baseline's.",
        OVER_RUNS,
        f"{RUNS_ARE_SAMPLES} Holm: over the arms, in the measure's row. Share on target and wandering decide, the "
        f"others stand beside them. {EXPLORED}",
    )
    caption = _caption("Every number behind the three questions", where)
    return TableItem(name, caption, questions, _shown(questions, columns), notes)


def profile_item(profile: pd.DataFrame, name: str = "profile_numbers", where: str = "") -> TableItem:
    """The profile in numbers, a row per arm and metric (``effects.profile_table``); else as :func:`arms_item`."""
    columns: Columns = {
        "arm": lambda row: row.arm,
        "measure": lambda row: METRIC_NAMES[row.metric][0],
        "effect": lambda row: _figures(row.effect),
        "95 % interval": lambda row: _range(row, _figures),
        "in SDs": lambda row: number(row.z, 2),
        "p": lambda row: p_value(row.p),
        "p, adjusted": lambda row: p_value(row.q),
        "stands out": lambda row: "underpowered" if row.underpowered else "yes" if row.marked else "not shown",
    }
    notes = (
        "Effect of a distance: the mean distance to the baseline less the average of the distances within the two "
        "arms. Effect of the others: mean of the arm's runs less mean of the baseline's. In SDs: the "
        "effect over the SD between the baseline's pairs of runs (distances) or runs (others).",
        OVER_RUNS,
        f"{RUNS_ARE_SAMPLES} Adjusted: the correlation distance, the main test, by Holm over the arms; all others "
        "are exploratory, by Benjamini-Hochberg over every one that was tested.",
    )
    caption = _caption("What each augmentation changes, in numbers", where)
    return TableItem(name, caption, profile, _shown(profile, columns), notes)


def measures_item(profile: pd.DataFrame, name: str = "measures") -> TableItem:
    """What the profile's measures say in plain words, those that it has."""
    rows = [(metric, *words) for metric, words in METRIC_NAMES.items() if metric in set(profile["metric"])]
    frame = pd.DataFrame(rows, columns=["metric", "words", "reading"])
    shown = frame[["words", "reading", "metric"]].set_axis(["measure", "how to read it", "in the CSV files"], axis=1)
    return TableItem(name, "The measures in plain words", frame, shown)


def association_item(found: CostAssociation, name: str, where: str = "") -> TableItem:
    """Does moved gaze go with cost, run by run? Else as :func:`arms_item`."""
    frame = pd.DataFrame([found])
    columns: Columns = {
        "runs": lambda row: str(row.runs),
        "rho": lambda row: estimate(row.rho, row.ci_low, row.ci_high, 0, 2),
        "among runs of one arm": lambda row: number(row.within, 2),
        "p, among these": lambda row: p_value(row.p),
    }
    notes = (
        "Spearman's rho over runs of the mean map distance to the baseline's runs and the cost of argmax on the test "
        "images [95 % over runs, each left out once]. An association: it names no cause, and has no p, as an arm may "
        "move both for reasons of its own. Among runs of one arm: the same ranks about their arms' means, p by "
        "permuting costs within the arms.",
    )
    return TableItem(name, _caption("Does moved gaze go with cost?", where), frame, _shown(frame, columns), notes)


def runs_item(runs: pd.DataFrame, name: str = "study_runs", where: str = "") -> TableItem:
    """A row per run (``effects.run_table``); else as :func:`arms_item`."""
    known = ("run", "arm", "seed", "accuracy", "kappa", "cost")
    titles = {name: name for name in known if name in runs}
    titles |= {"n_valid": "images with a gaze"}
    titles |= {column: words for column, (words, _) in METRIC_NAMES.items() if column in runs and column != "accuracy"}
    digits = {"centroid_variance": 5, "mask_lift": 2}
    shown = pd.DataFrame(
        {
            title: [number(v, digits.get(column, 3)) if isinstance(v, float) else str(v) for v in runs[column]]
            for column, title in titles.items()
        }
    )
    notes = (
        "Accuracy and kappa on the images that the maps were taken of. Means over images, classes counted alike. "
        "Places are shares of the image's side, from its upper left corner. Empty maps: the share of images without "
        "any gaze; they are left out of the other figures.",
    )
    return TableItem(name, _caption("The runs and what they look at", where), runs, shown, notes)


def augmentations_item(settings: Mapping[str, Mapping[str, Any]], name: str = "augmentations") -> TableItem:
    """What each arm does to a training image.

    Args:
        settings: of each arm, those of group ``augmentation`` that are not off: a number, or two for a range.
        name: of the files.
    """
    rows = [(arm, key, _setting(value)) for arm, given in settings.items() for key, value in given.items()]
    frame = pd.DataFrame(rows, columns=["arm", "setting", "value"])
    said = {arm: "; ".join(_words(*pair) for pair in given.items()) or "nothing" for arm, given in settings.items()}
    shown = pd.DataFrame(said.items(), columns=["arm", "what it does to a training image"])
    notes: tuple[str, ...] = ("The evaluation images are never augmented.",)
    if any(_mixes(key) for _, key, _ in rows):
        notes += ("Mixup and cutmix also change the label: what they move is not the work of the image alone.",)
    return TableItem(name, "What each arm does to the training images", frame, shown, notes)


def _shown(table: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    """What a reader sees of each row."""
    rows = [[cell(row) for cell in columns.values()] for row in each(table)]
    return pd.DataFrame(rows, columns=list(columns))


def _caption(text: str, where: str) -> str:
    return f"{text} {where}" if where and text.endswith("?") else f"{text}, {where}" if where else text


def _seeds(seeds: list[int]) -> str:
    """Seeds that follow one another as "0 to 7"."""
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def _with_sd(mean: float, sd: float) -> str | None:
    if math.isnan(mean):
        return None
    return f"{number(mean)} (1 run)" if math.isnan(sd) else f"{number(mean)} ({number(sd)})"


def _range(row: Any, say: Callable[[float], str | None]) -> str | None:
    low, high = say(row.ci_low), say(row.ci_high)
    return None if low is None or high is None else f"[{low},\N{NO-BREAK SPACE}{high}]"


def _sd_ratio(row: Any) -> str | None:
    """A ratio with its interval; None where there is none, as for the baseline itself."""
    return None if math.isnan(row.sd_ratio) else estimate(row.sd_ratio, row.sd_low, row.sd_high, 0, 2)


def _figures(value: float) -> str | None:
    """Three significant figures: the profile's metrics have units far apart."""
    return None if math.isnan(value) else f"{value:.3g}"


def _answer(rows: list[Any]) -> str | None:
    """An answer with the changes of its measures: "pass: wandering -0.00100; spread -0.0100"."""
    if not rows:
        return None
    few = " (underpowered)" if any(row.underpowered for row in rows) else ""
    changes = [
        f"{MEASURES[row.measure][0]} {row.change:+.{MEASURES[row.measure][1]}f}"
        for row in rows
        if not math.isnan(row.change)
    ]
    return f"{rows[0].answer}{few}" + (f": {'; '.join(changes)}" if changes else "")


def _setting(value: Any) -> str:
    """A number as it is, two as a range."""
    if isinstance(value, str) or not hasattr(value, "__len__"):
        return f"{value:g}" if isinstance(value, int | float) else str(value)
    return " to ".join(f"{part:.3g}" for part in value)


def _words(key: str, value: Any) -> str:
    text = AUGMENTATIONS[key].title if key in AUGMENTATIONS else f"{key} {{}}"  # of runs with code of their own
    return text.format(_setting(value)) + "; CHANGES THE LABEL" * _mixes(key)


def _mixes(key: str) -> bool:
    return key in AUGMENTATIONS and AUGMENTATIONS[key].scope == "label"
