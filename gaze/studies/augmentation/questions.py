"""The three questions of the article, each answered pass, fail, inconclusive or not evaluated, the third "exploratory"
(the specification's "The three questions of the article", after Dorneles et al. 2025).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from gaze.statistics.intervals import TIE, holm
from gaze.studies.augmentation.association import FEWEST_IMAGES, Association, gain_and_excess
from gaze.studies.augmentation.compared import Compared
from gaze.studies.augmentation.effects import Shift, shape_shifts

PASS, FAIL, INCONCLUSIVE, NOT_EVALUATED = "pass", "fail", "inconclusive", "not evaluated"
EXPLORATORY = "exploratory"
COLUMNS = (
    *("arm", "question", "measure", "change", "ci_low", "ci_high", "baseline", "arm_mean", "sd_ratio", "p", "p_holm"),
    *("underpowered", "answer", "reason"),
)

Row = tuple[object, ...]  # COLUMNS


class _Tested(NamedTuple):
    """A shift after Holm: p and p_holm are NaN where so few runs cannot reach alpha (underpowered)."""

    measure: str
    shift: Shift
    p: float
    p_holm: float
    underpowered: bool
    sign: int  # of a significant change, else 0


def question_table(c: Compared, alpha: float = 0.05) -> pd.DataFrame:
    """Does the gaze fall on what matters (1), does it vary less (2), does the gain go with the gaze (3)?

    Questions 1 and 2 have one measure each that decides: the difference of the means over runs, its two-sided p
    (``gaze.statistics.permutation.mean_shift``) adjusted by Holm (1979) over the arms. Tests that the number of runs
    leaves without power stay in the family. The measure beside it decides nothing; its p is adjusted likewise.
    1. pass: ``mask_energy`` is higher than without augmentation, p_holm <= alpha; fail: lower. Beside: ``mask_lift``.
    2. pass: ``centroid_variance`` is lower, p_holm <= alpha; fail: higher. Beside: ``dispersion``.
    3. Spearman's rank correlation, over images, of the change in log p(true class) and the excess map distance; beside
       it the partial one, given the difficulty of the image (``association``). Exploratory: no p, never pass or fail.

    Args:
        c: the study.
        alpha: level of each question, between 0 and 1.

    Returns:
        A row per arm, question and measure, in this order: ``arm``, ``question`` (1, 2, 3), ``measure``, ``change``
        (arm - baseline in the measure's unit; in 3 the correlation, -1..1), ``ci_low``, ``ci_high`` (95 % interval over
        runs, for these images, not adjusted), ``baseline`` and ``arm_mean`` (means over runs), ``sd_ratio`` (SD of the
        arm's runs over that of the baseline's), ``p``, ``p_holm``, ``underpowered`` (the smallest p possible, times the
        family, is above alpha: p is NaN), ``answer`` ("pass", "fail", "inconclusive", "not evaluated", "exploratory",
        the same in all rows of a question), ``reason`` (one sentence).

    Raises:
        ValueError: ``alpha`` not in (0, 1).
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha lies between 0 and 1, got {alpha}.")
    if "mask_energy" in c.shapes:
        more = "{} of the gaze lies in the masks than without augmentation ({})."
        first = _changes(c, 1, ("mask_energy", "mask_lift"), (PASS, FAIL), more, alpha)
    else:
        empty = [math.nan] * 8
        first = [[(arm, 1, "mask_energy", *empty, False, NOT_EVALUATED, "this set has no masks")] for arm in c.arms]
    varies = "The gaze varies {} than without augmentation ({})."
    second = _changes(c, 2, ("centroid_variance", "dispersion"), (FAIL, PASS), varies, alpha)
    third = [_associated(arm, gain_and_excess(c, arm)) for arm in c.arms]
    rows = [row for of_arm in zip(first, second, third, strict=True) for part in of_arm for row in part]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _changes(
    c: Compared, question: int, measures: tuple[str, str], higher_lower: tuple[str, str], said: str, alpha: float
) -> list[list[Row]]:
    """Question 1 or 2: the rows of each arm. The first measure decides; ``said`` takes "More" or "Less" and figures."""
    deciding, beside = (_tested(measure, shape_shifts(c, measure), alpha) for measure in measures)
    rows = []
    for test, other in zip(deciding, beside, strict=True):
        if test.sign:
            word = "more" if test.sign > 0 else "less"
            answer = higher_lower[test.sign < 0]
            reason = said.format(word if question == 2 else word.capitalize(), _figures(test))
        else:
            answer, reason = _undecided(test)
        rows.append([_row(question, one, answer, reason) for one in (test, other)])
    return rows


def _associated(arm: str, found: Association) -> list[Row]:
    """Question 3: the rows of an arm."""
    answer, reason = EXPLORATORY, f"An association over {found.images} images that are not independent of one another."
    if math.isnan(found.rho):
        few = f"It takes {FEWEST_IMAGES} images with an excess distance and 2 runs, there are {found.images} images."
        same = "One of its two series is the same for all images."
        answer, reason = NOT_EVALUATED, few if found.images < FEWEST_IMAGES else same
    empty, tail = [math.nan] * 5, (False, answer, reason)
    return [
        (arm, 3, "spearman", found.rho, found.ci_low, found.ci_high, *empty, *tail),
        (arm, 3, "spearman_partial", found.partial, found.partial_low, found.partial_high, *empty, *tail),
    ]


def _tested(measure: str, shifts: Sequence[Shift], alpha: float) -> list[_Tested]:
    """The shifts of all arms, adjusted by Holm; those without power count in the family, as 1."""
    level = alpha * (1 + TIE)  # 1/120 * 6 is 0.05 but for rounding
    weak = [not len(shifts) * shift.smallest_p <= level for shift in shifts]  # NaN: True
    adjusted = holm([1.0 if few else shift.p for few, shift in zip(weak, shifts, strict=True)])
    tests = []
    for shift, few, p in zip(shifts, weak, adjusted.tolist(), strict=True):
        sign = int(np.sign(shift.change)) if not few and p <= level else 0
        tests.append(_Tested(measure, shift, math.nan if few else shift.p, math.nan if few else p, few, sign))
    return tests


def _undecided(test: _Tested) -> tuple[str, str]:
    """Answer and reason where the change is not significant."""
    if math.isnan(test.shift.change):
        return NOT_EVALUATED, "The arm or the baseline has no usable map."
    if test.underpowered:
        return INCONCLUSIVE, "underpowered: so few runs cannot show a change beyond retraining noise."
    return INCONCLUSIVE, f"No change shown beyond retraining noise: {test.measure} ({_figures(test)})."


def _figures(test: _Tested) -> str:
    return f"{test.shift.change:+.3g}, adjusted p {test.p_holm:.2g}"


def _row(question: int, test: _Tested, answer: str, reason: str) -> Row:
    s = test.shift
    means = (s.change, s.ci_low, s.ci_high, s.baseline, s.arm_mean, s.sd_ratio)
    return s.arm, question, test.measure, *means, test.p, test.p_holm, test.underpowered, answer, reason
