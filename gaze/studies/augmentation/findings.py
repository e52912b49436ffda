"""What the augmentation study's tables say, in sentences that claim no more than the tables do."""

from __future__ import annotations

import math

import pandas as pd

from gaze.report.words import each, estimate, number, p_value
from gaze.studies.augmentation.association import FEWEST_RUNS, CostAssociation
from gaze.studies.augmentation.compared import MASK_COLUMNS, SHAPE_COLUMNS, Compared
from gaze.studies.augmentation.profile_plots import METRIC_NAMES

ASKED = {  # of each question, what pass and fail say
    1: ("Does the gaze fall on what matters", "more of the gaze on the target", "less of the gaze on the target"),
    2: ("Does the gaze vary less", "it varies less", "it varies more"),
}
ASSOCIATION = "Does the gain go with the gaze"
PLACES = (*SHAPE_COLUMNS, "centroid_variance", *MASK_COLUMNS)  # what where_finding looks at
MOST = 4  # changes of an arm that a sentence names

HOW_TO_READ_STUDY = (
    "What a gaze is. A class activation map (CAM) shows which parts of an image spoke for a class when a network "
    "looked at it, from 0 (not at all) to 1 (most). Here it is always taken for the true class. It is called the "
    "gaze; it shows where the evidence came from, not why, and it is coarse: a few cells along each side of the "
    "image.",
    "Arms. The same network is trained without augmentation (the baseline) and with each augmentation (an arm), "
    "several times each with other random seeds. All of them then look at the same images, which are never augmented.",
    "Distance. Two gazes are held against each other cell by cell: 0 if they are the same, around 1 if they have "
    "nothing to do with each other (1 - correlation). The mean over all images is the distance of two trained models.",
    "Why runs are the samples. Training the same network again already moves its gaze, on every image at once. "
    "Hundreds of images looked at by one model are still one model. So a change counts only if runs with the "
    "augmentation stand further from runs without it than runs of the same kind stand from each other. The p-value "
    "says how often so much would come about if training again were all there is.",
    "The three questions. 1: does more of the gaze fall on what matters, the marked target? 2: does the gaze vary "
    "less within a class, does its centre wander less? 3: do the images on which a model became surer of the truth "
    "also have the gaze that moved most? Question 3 is for exploration: an association over images, which are no "
    "independent samples, so that it is described and never passed or failed; and it does not say that the moved gaze "
    "is the reason.",
    "The answers. Pass: the change is in the better direction, and one as large would be seen in at most 5 % of "
    "studies, over all arms of the question, if training again were all there is. Fail: the same in the worse "
    "direction. Inconclusive: no change was shown, which does not mean that nothing changed. Not evaluated: something "
    "that the question needs is missing, such as masks of the target. Underpowered: there are too few seeds to reach "
    "0.05 even for the clearest effect; more seeds are needed, and nothing is said against an effect.",
    "Mixup and cutmix also change the label, not only the image. What they do to the gaze cannot be put down to the "
    "image alone.",
    "One main test, many others. The correlation distance is the test that was fixed before anything was looked at, "
    "and it is adjusted for the number of arms. Questions 1 and 2 have one measure each that decides, adjusted "
    "likewise. All other figures are exploratory: they say where to look next.",
    "Intervals are 95 % and over runs: how a figure would differ if the models were trained again, for these images. "
    "Lower and higher have no good side of their own: a narrower or a steadier gaze may as well be steadily wrong.",
)


def headline(c: Compared) -> str:
    """How much was compared, in a sentence."""
    runs = [f"{arm} {c.rows(arm).size}" for arm in (c.baseline, *c.arms)]
    size = f"{c.cams.shape[2]}x{c.cams.shape[3]}"
    images, classes = _count(len(c.target), "image"), _count(len(c.classes), "class", "classes")
    return (
        f"{_count(len(c.runs), 'run')} looked at the same {images} of {classes}, in maps of {size} cells: "
        f"{_count(len(c.arms), 'arm')} against the baseline {c.baseline} (runs: {', '.join(runs)})."
    )


def noise_finding(arms: pd.DataFrame) -> str:
    """Which arms move the gaze by more than retraining.

    Args:
        arms: ``gaze.statistics.permutation.arms_table``.
    """
    groups: dict[str, list[str]] = {"moved": [], "not shown": [], "underpowered": []}
    for row in each(arms):
        p = "" if math.isnan(row.p_holm) else f" ({number(row.effect)}, p {p_value(row.p_holm)})"
        groups[row.verdict].append(f"{row.arm}{p}")
    words = ("Yes", "not shown, which does not mean that it stayed,", "underpowered, too few seeds to tell,")
    parts = [f"{word} for {', '.join(group)}" for word, group in zip(words, groups.values(), strict=True) if group]
    tail = " Beside each: effect in units of distance, p after Holm." if groups["moved"] or groups["not shown"] else ""
    apart = arms[(arms["verdict"] == "moved") & ((arms["sd_low"] > 1) | (arms["sd_high"] < 1))]
    if len(apart):
        ratios = ", ".join(f"{row.arm} ({number(row.sd_ratio, 2)} times)" for row in each(apart))
        tail += f" Their runs also scatter more or less than the baseline's, which the test allows for: {ratios}."
    return f"Is the gaze moved by more than training again moves it? {'; '.join(parts)}.{tail}"


def question_finding(questions: pd.DataFrame, question: int) -> str:
    """Answer to question 1 or 2 over all arms (``questions.question_table``).

    Raises:
        ValueError: no row of this question.
    """
    rows = questions[questions["question"] == question].drop_duplicates("arm")
    if rows.empty:
        raise ValueError(f"The table has no row of question {question}.")
    weak = (rows["answer"] == "inconclusive") & rows["underpowered"]
    arms = rows.groupby(rows["answer"].mask(weak, "underpowered"))["arm"].agg(", ".join)
    reasons = dict.fromkeys(rows.loc[rows["answer"] == "not evaluated", "reason"].str.rstrip("."))
    asked, passed, failed = ASKED[question]
    words = {
        "pass": f"pass, {passed}",
        "fail": f"fail, {failed}",
        "inconclusive": "inconclusive, which is not the same as no change",
        "underpowered": "inconclusive for want of seeds (underpowered)",
        "not evaluated": f"not evaluated ({'; '.join(reasons)})",
    }
    said = "; ".join(f"{words[answer]}: {arms[answer]}" for answer in words if answer in arms)
    return f"{asked}? {said}."


def association_finding(questions: pd.DataFrame) -> str:
    """Question 3 over all arms, described (``questions.question_table``)."""
    rows = questions[questions["question"] == 3]
    rho = rows.pivot(index="arm", columns="measure", values="change").loc[list(dict.fromkeys(rows["arm"]))]
    shown = rho.dropna(subset="spearman")
    parts = [
        f"{arm} {number(one, 2)} ({number(other, 2) or 'none'})"
        for arm, one, other in shown[["spearman", "spearman_partial"]].itertuples()
    ]
    missing = [arm for arm in rho.index if arm not in shown.index]
    said = [f"Spearman's rho, and given the images' difficulty: {', '.join(parts)}"] if parts else []
    said += [f"not evaluated: {', '.join(missing)}"] if missing else []
    tail = "Exploratory: images are no independent samples, so nothing is passed or failed, and no cause is named."
    return f"{ASSOCIATION}? {'; '.join(said)}. {tail}"


def cost_finding(found: CostAssociation) -> str:
    """Does moved gaze go with cost, over runs? Described."""
    asked = f"Does moved gaze go with cost (an association over {found.runs} runs, no cause)?"
    if math.isnan(found.rho):
        return f"{asked} Not evaluated: it takes {FEWEST_RUNS} runs that differ in both."
    within = "" if math.isnan(found.p) else f"; among runs of one arm {number(found.within, 2)}, p {p_value(found.p)}"
    rho = estimate(found.rho, found.ci_low, found.ci_high, found.runs, 2)
    return f"{asked} Spearman's rho of a run's distance to the baseline and its cost: {rho}{within}."


def accuracy_finding(runs: pd.DataFrame, baseline: str) -> str:
    """Accuracy of the arms beside the range of the baseline's runs (``effects.run_table``); no test."""
    own = runs.loc[runs["arm"] == baseline, "accuracy"]
    means = runs[runs["arm"] != baseline].groupby("arm", sort=False)["accuracy"].mean()
    span = f"{number(own.min())} to {number(own.max())} over {_count(len(own), 'run')}"
    groups = {
        "mean above every run of the baseline": means[means > own.max()],
        "mean within that range": means[(means >= own.min()) & (means <= own.max())],
        "mean below every run of the baseline": means[means < own.min()],
    }
    parts = [
        f"{words}: {', '.join(f'{arm} ({number(value)})' for arm, value in group.items())}"
        for words, group in groups.items()
        if len(group)
    ]
    text = f"Accuracy on these images: {baseline} {number(own.mean())} ({span})"
    return f"{'; '.join([text, *parts])}. Not a test."


def where_finding(profile: pd.DataFrame) -> str:
    """What of place and shape of the gaze stands out, per arm (``effects.profile_table``); exploratory."""
    rows = profile[profile["metric"].isin(PLACES)]
    parts = []
    for arm, part in rows[rows["marked"]].groupby("arm", sort=False):
        strongest = part.reindex(part["z"].abs().sort_values(ascending=False, kind="stable").index)
        changes = [
            f"{METRIC_NAMES[row.metric][0]} {'higher' if row.effect > 0 else 'lower'}" for row in each(strongest)
        ]
        more = f" and {len(changes) - MOST} more" if len(changes) > MOST else ""
        parts.append(f"{arm}: {', '.join(changes[:MOST])}{more}")
    tested = int((~rows["underpowered"] & rows["p"].notna()).sum())
    few = list(dict.fromkeys(rows.loc[rows["underpowered"], "arm"].astype(str)))
    text = "Where did the gaze go (exploratory, after Benjamini-Hochberg)? "
    if tested == 0:
        return f"{text}Nothing could be tested: too few seeds, or no values."
    none = f"none of {_count(tested, 'change')} tested stands out, which does not rule one out"
    tail = f" Underpowered, too few seeds to tell, at least in part: {', '.join(few)}." if few else ""
    return f"{text}{'; '.join(parts) or none}.{tail}"


def _count(number_of: int, word: str, plural: str = "") -> str:
    return f"{number_of} {word if number_of == 1 else plural or word + 's'}"
