"""The three questions of the article, each answered pass, fail, inconclusive or not evaluated (the specification's
"The three questions of the article", after Dorneles et al. 2025).

No answer goes by an interval over images alone: retraining moves a gaze on many images at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from gaze.statistics.bootstrap import interval, resampled_spearman, resampling_weights
from gaze.statistics.intervals import TIE, Floats, holm
from gaze.studies.augmentation.association import FEWEST_IMAGES, gain_and_excess_rho
from gaze.studies.augmentation.compared import Compared
from gaze.studies.augmentation.effects import Shift, image_table, shape_shifts

PASS, FAIL, INCONCLUSIVE, NOT_EVALUATED = "pass", "fail", "inconclusive", "not evaluated"
COLUMNS = (
    *("arm", "question", "measure", "change", "ci_low", "ci_high", "baseline", "arm_mean", "p", "p_holm"),
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


def question_table(c: Compared, alpha: float = 0.05, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Does the gaze fall on what matters (1), does it vary less (2), does the gain go with the gaze (3)?

    Questions 1 and 2: the difference of the means over runs, its two-sided p by relabelling runs
    (``effects.mean_shift_p``), adjusted by Holm (1979) within the question: over the arms in 1, for each measure
    by itself; over both measures of all arms in 2. Tests that the number of runs leaves without power stay in the
    family.
    1. pass: ``mask_energy`` is higher than without augmentation, p_holm <= alpha; fail: lower. ``mask_lift`` is shown
       beside it and decides nothing.
    2. pass: ``centroid_variance`` or ``dispersion`` is lower and neither is higher, p_holm <= alpha; fail: the other
       way round.
    3. Spearman's rank correlation, over images, of the change in log p(true class) and the excess map distance
       (``effects.image_table``). pass: its interval over images lies above 0, and no more than alpha of the
       relabellings of runs give so large a one (``association``; Holm over the arms); fail: the same below 0. An
       association, not a cause.

    Args:
        c: the study.
        alpha: level of each question, between 0 and 1.
        draws: bootstrap resamples of the images.
        seed: of the resamples.

    Returns:
        A row per arm, question and measure, in this order: ``arm``, ``question`` (1, 2, 3), ``measure``, ``change``
        (arm - baseline in the measure's unit; in 3 the correlation, -1..1), ``ci_low``, ``ci_high`` (95 % bootstrap
        interval over images, conditional on the trained models), ``baseline`` and ``arm_mean`` (means over runs),
        ``p``, ``p_holm``, ``underpowered`` (the smallest p possible, times the family, is above alpha: p is NaN),
        ``answer`` ("pass", "fail", "inconclusive", "not evaluated", the same in all rows of a question), ``reason``
        (one sentence).

    Raises:
        ValueError: ``alpha`` not in (0, 1), or ``draws`` below 1.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha lies between 0 and 1, got {alpha}.")
    weights = resampling_weights(c.target, c.place, draws, seed)
    answers = (
        _on_what_matters(c, weights, alpha),
        _varies_less(c, weights, alpha),
        _gain_goes_with_gaze(c, weights, alpha),
    )
    rows = [row for of_arm in zip(*answers, strict=True) for part in of_arm for row in part]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _on_what_matters(c: Compared, weights: Floats, alpha: float) -> list[list[Row]]:
    """Question 1: the rows of each arm."""
    if "mask_energy" not in c.shapes:
        empty = [math.nan] * 7
        return [[(arm, 1, "mask_energy", *empty, False, NOT_EVALUATED, "this set has no masks")] for arm in c.arms]
    energies, lifts = (_tested({m: shape_shifts(c, m, weights)}, alpha) for m in ("mask_energy", "mask_lift"))
    rows = []
    for (energy,), (lift,) in zip(energies, lifts, strict=True):
        if energy.sign:
            answer = PASS if energy.sign > 0 else FAIL
            where = "More" if energy.sign > 0 else "Less"
            reason = f"{where} of the gaze lies in the masks than without augmentation ({_figures(energy)})."
        else:
            answer, reason = _undecided([energy])
        rows.append([_row(1, test, answer, reason) for test in (energy, lift)])
    return rows


def _varies_less(c: Compared, weights: Floats, alpha: float) -> list[list[Row]]:
    """Question 2: the rows of each arm."""
    shifts = {measure: shape_shifts(c, measure, weights) for measure in ("centroid_variance", "dispersion")}
    rows = []
    for both in _tested(shifts, alpha):
        signs = {test.sign for test in both} - {0}
        shown = " and ".join(f"{test.measure} ({_figures(test)})" for test in both if test.sign)
        if signs == {-1, 1}:
            answer, reason = INCONCLUSIVE, f"A contradiction, one measure is lower and the other higher: {shown}."
        elif signs:
            answer = PASS if signs == {-1} else FAIL
            reason = f"The gaze varies {'less' if answer == PASS else 'more'} than without augmentation: {shown}."
        else:
            answer, reason = _undecided(both)
        rows.append([_row(2, test, answer, reason) for test in both])
    return rows


def _gain_goes_with_gaze(c: Compared, weights: Floats, alpha: float) -> list[list[Row]]:
    """Question 3: the row of each arm."""
    images, shifts, counts = image_table(c), [], []
    for arm in c.arms:
        excess, gain = images.loc[images["arm"] == arm, ["excess_distance", "delta_log_p"]].to_numpy(np.float64).T
        kept = ~np.isnan(excess) & ~np.isnan(gain)
        found, low, high = gain_and_excess_rho(c, arm), math.nan, math.nan
        if not math.isnan(found.rho):
            low, high = interval(resampled_spearman(gain[kept], excess[kept], weights[:, kept]))
        shifts.append(Shift(arm, math.nan, math.nan, found.rho, low, high, found.p, found.smallest_p))
        counts.append(int(kept.sum()))
    tests = _tested({"spearman": shifts}, alpha)
    return [[_row(3, test, *_association(test, n))] for (test,), n in zip(tests, counts, strict=True)]


def _association(test: _Tested, images: int) -> tuple[str, str]:
    """Answer and reason to question 3. Both must speak: the images' interval, and the runs relabelled."""
    rho, low, high = test.shift.change, test.shift.ci_low, test.shift.ci_high
    if math.isnan(rho):
        few = f"It takes {FEWEST_IMAGES} images with an excess distance and 2 runs, there are {images} images."
        return NOT_EVALUATED, few if images < FEWEST_IMAGES else "One of its two series is the same for all images."
    tail = f"an association over {images} images, conditional on the trained models."
    if test.underpowered:
        return INCONCLUSIVE, "underpowered: so few runs cannot show an association beyond retraining noise."
    if test.sign and (low > 0 or high < 0):
        word = "more" if rho > 0 else "less"
        return PASS if rho > 0 else FAIL, f"The true class gained {word} where the gaze moved more: {tail}"
    return INCONCLUSIVE, f"The gain of the true class and the move of the gaze show no clear order: {tail}"


def _tested(shifts: Mapping[str, Sequence[Shift]], alpha: float) -> list[tuple[_Tested, ...]]:
    """Of each arm its shifts, by measure, adjusted by Holm over all; those without power count in the family, as 1."""
    level = alpha * (1 + TIE)  # 1/120 * 6 is 0.05 but for rounding
    family = [(measure, shift) for measure, of_arms in shifts.items() for shift in of_arms]
    weak = [not len(family) * shift.smallest_p <= level for _, shift in family]  # NaN: True
    adjusted = holm([1.0 if few else shift.p for few, (_, shift) in zip(weak, family, strict=True)])
    tests = []
    for (measure, shift), few, p in zip(family, weak, adjusted.tolist(), strict=True):
        sign = int(np.sign(shift.change)) if not few and p <= level else 0
        tests.append(_Tested(measure, shift, math.nan if few else shift.p, math.nan if few else p, few, sign))
    arms = len(family) // len(shifts)
    return [tuple(tests[arm::arms]) for arm in range(arms)]


def _undecided(tests: Sequence[_Tested]) -> tuple[str, str]:
    """Answer and reason where no change is significant."""
    if all(math.isnan(test.shift.change) for test in tests):
        return NOT_EVALUATED, "The arm or the baseline has no usable map."
    if all(test.underpowered for test in tests):
        return INCONCLUSIVE, "underpowered: so few runs cannot show a change beyond retraining noise."
    changes = " and ".join(f"{test.measure} ({_figures(test)})" for test in tests if not test.underpowered)
    return INCONCLUSIVE, f"No change beyond retraining noise: {changes}."


def _figures(test: _Tested) -> str:
    return f"{test.shift.change:+.3g}, adjusted p {test.p_holm:.2g}"


def _row(question: int, test: _Tested, answer: str, reason: str) -> Row:
    s = test.shift
    means = (s.change, s.ci_low, s.ci_high, s.baseline, s.arm_mean)
    return s.arm, question, test.measure, *means, test.p, test.p_holm, test.underpowered, answer, reason
