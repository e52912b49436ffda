"""Lambdas and their schedules as arms of runs, held against plain training by relabelling the runs.

Unlike ``gaze.statistics.seeds.lambda_table`` this pairs no seeds and trusts no normal distribution, and it can hold a
schedule against another: the same lambda late, or late with the same sum of lambda_t (thesis, Eq. 18).
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from gaze.runs.tidy import RUN_KEYS, run_keys
from gaze.statistics.collapse import comparable
from gaze.statistics.intervals import holm
from gaze.statistics.permutation import mean_shift
from gaze.statistics.seeds import LAST_EPOCHS

MEASURES = ("accuracy", "kappa", "gaze_consistency", "gaze_consistency_all", "gaze_eta_squared")
READINGS = (
    ("accuracy", "last"),
    ("accuracy", "last5"),
    *((measure, "last") for measure in MEASURES[1:]),
)  # with summary
ARM = ["of_study", "study", "dataset", "model", "lambda"]
SAME_SUM = 0.01  # sums of lambda_t that differ by less than this share are the same


def schedule_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Each arm against lambda = 0, and each later schedule against the earliest one of the same lambda or the same sum.

    Args:
        runs: the tidy frame. Where a study has several schedules its column ``of_study`` names it, and ``study`` is the
            part of it with one schedule (``gaze.runs.load``).

    Returns:
        A row per comparison and reading of ``READINGS``: ``of_study, study, dataset, model, lambda`` (the arm),
        ``lambda_sum`` (of lambda_t over its epochs; NaN where that was not logged), ``against`` ("lambda 0", "early,
        same lambda", "early, same sum"), ``measure``, ``summary`` (``last``, ``last5``: see
        :func:`gaze.statistics.seeds.run_summaries`); ``n`` and ``n_against`` runs; ``mean``; and of
        :func:`gaze.statistics.permutation.mean_shift` ``change, ci_low, ci_high, p, smallest_p, sd_ratio``; ``p_holm``
        over the ``family`` comparisons of one study, data set and reading that answer one question: what does lambda
        do (the earliest schedule), or does it matter when (the later ones).
    """
    names = [*ARM, "lambda_sum", "against", "measure", "summary", "n", "n_against", "mean"]
    names += ["change", "ci_low", "ci_high", "p", "smallest_p", "sd_ratio", "p_holm", "family"]
    if runs.empty:
        return pd.DataFrame(columns=names)
    rows = []
    for (of_study, dataset, model), part in _seeds(runs).groupby(["of_study", "dataset", "model"], sort=True):
        arms: dict[Any, pd.DataFrame] = dict(list(part.groupby(["study", "lambda"], sort=True)))
        for (study, weight), arm in arms.items():
            for against, other in _references(str(of_study), str(study), weight, arms) if weight else ():
                key = (of_study, study, dataset, model, weight, arm["lambda_sum"].mean(), against)
                rows += [
                    (*key, *reading, *_compared(arm[name], other[name]))
                    for reading in READINGS
                    if (name := " ".join(reading)) in part
                ]
    table = pd.DataFrame(rows, columns=names[:-2])
    later = table["study"] != table["of_study"]
    family = table.groupby(["of_study", "dataset", "measure", "summary", later])["p"]
    table["p_holm"] = family.transform(lambda p: pd.Series(holm(p), p.index)) if rows else table["p"]
    table["family"] = family.transform("size") if rows else table["p"]
    return table


def _seeds(runs: pd.DataFrame) -> pd.DataFrame:
    """A row per seed of an arm: its ``READINGS`` and the sum of lambda_t; several runs of a seed: their mean."""
    of_study = runs["of_study"].fillna(runs["study"]) if "of_study" in runs else runs["study"]
    keys = ["of_study", *run_keys(runs)]
    groups = comparable(runs).assign(of_study=of_study).sort_values("epoch").groupby(keys, sort=False, dropna=False)
    heads = {"last": groups.tail(1), "last5": groups.tail(LAST_EPOCHS)}
    read = {f"{m} {s}": heads[s].groupby(keys, dropna=False)[m].mean() for m, s in READINGS if m in runs}
    total = groups["lambda_t"].sum(min_count=1) if "lambda_t" in runs else math.nan
    frame = pd.DataFrame(read).assign(lambda_sum=total)
    return frame.groupby(["of_study", *RUN_KEYS], sort=False).mean().reset_index()


def _references(
    of_study: str, study: str, weight: float, arms: dict[Any, pd.DataFrame]
) -> list[tuple[str, pd.DataFrame]]:
    """What an arm is held against: name and runs."""
    found = [("lambda 0", arms[of_study, 0.0])] if (of_study, 0.0) in arms else []
    if study == of_study:
        return found
    total = arms[study, weight]["lambda_sum"].mean()
    for (other, other_weight), arm in arms.items():
        if other == of_study and other_weight:
            same_sum = abs(arm["lambda_sum"].mean() - total) < SAME_SUM * abs(total)
            if other_weight == weight or same_sum:
                found.append(("early, same sum" if same_sum else "early, same lambda", arm))
    return found


def _compared(arm: pd.Series, other: pd.Series) -> tuple[Any, ...]:
    """n .. sd_ratio."""
    shift = mean_shift([*arm, *other], ["arm"] * len(arm) + ["other"] * len(other), "other", "arm")
    return int(arm.count()), int(other.count()), arm.mean(), *shift
