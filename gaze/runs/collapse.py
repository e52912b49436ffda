"""Which runs collapsed, and how: the one place that decides it. Free of PyTorch and pandas."""

from __future__ import annotations

import math
from collections.abc import Sequence

LATE = 5  # epochs at the end of a run that are looked at
CHANCE, ALIKE, EMPTY = 0.05, 0.05, 0.5  # our own thresholds, in the sentence below
EXACT = 1e-6  # float32 sums may end that far from 0
ONE_CLASS, AT_CHANCE = "one class is predicted", "no better than chance"
NO_GAZE, ONE_GAZE = "maps are empty", "all classes share one gaze"
SHORT = {ONE_CLASS: "one class", AT_CHANCE: "at chance", NO_GAZE: "empty maps", ONE_GAZE: "one gaze"}
LOST = (ONE_CLASS, AT_CHANCE)  # the network does not tell the classes apart: its gaze is not compared
COLLAPSED = (
    f"Collapsed, in the last {LATE} epochs of a run: {ONE_CLASS} (kappa 0 in each of them); {AT_CHANCE} (mean kappa "
    f"below {CHANCE}); {NO_GAZE} (those of more than half of the correct images); or {ONE_GAZE} (RMS deviation and eta "
    f"squared below {ALIKE}). Thresholds our own. In the first two cases the gaze is not compared with that of others."
)


def collapse_of(
    kappa: Sequence[float], empty: Sequence[float] = (), rms: Sequence[float] = (), eta: Sequence[float] = ()
) -> str:
    """How a run collapsed, as :data:`COLLAPSED` says; "" where it did not.

    Args:
        kappa, empty, rms, eta: kappa, share of empty maps, RMS deviation and eta squared of each epoch, in order. What
            was not measured is NaN or left out.
    """
    late, shares, deviations, etas = (_known(values[-LATE:]) for values in (kappa, empty, rms, eta))
    if late and all(abs(value) < EXACT for value in late):
        return ONE_CLASS
    if late and _mean(late) < CHANCE:
        return AT_CHANCE
    if shares and _mean(shares) > EMPTY:
        return NO_GAZE
    return ONE_GAZE if deviations and etas and _mean(deviations) < ALIKE and _mean(etas) < ALIKE else ""


def shortly(what: str) -> str:
    """Kinds of collapse in the words of a table's cell."""
    for kind, short in SHORT.items():
        what = what.replace(kind, short)
    return what


def _known(values: Sequence[float]) -> list[float]:
    return [float(value) for value in values if not math.isnan(value)]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
