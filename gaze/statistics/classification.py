"""What a referee asks of a classifier: figures by class and over all images, each with a bootstrap interval.

Images are drawn, whole groups of them where several belong together (Efron & Tibshirani 1993). Such an interval says
what other images would have shown of this very network; training it again is not in it. Free of PyTorch and pandas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import nan
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array  # type: ignore[import-untyped]

from gaze.statistics.bootstrap import interval, nan_mean, ratio, resampling_weights
from gaze.statistics.intervals import Floats

BY_CLASS = ("precision", "recall", "specificity", "f1", "auroc")
OVERALL = ("accuracy", "balanced_accuracy", "kappa", "ece")
CLASS, MACRO, ALL = "class", "macro", "all"  # what a figure is of
BINS = 15  # of the expected calibration error (Guo et al. 2017)
DRAWS = 1000
AT_ONCE = 4_000_000  # weights in memory
MOST_SCORES = 1_000_000  # images x classes up to which the AUROC has an interval: beyond, it takes longer than a look
ABSENT, NEVER, ALONE = "no image of it", "never predicted", "no image of another class"
NO_SCORES = "probabilities that are not finite"
Labels = NDArray[np.int64]


class Reading(NamedTuple):
    """One number: ``of`` :data:`CLASS` (then ``name`` is the class's), :data:`MACRO` or :data:`ALL`; its 95 % interval
    over images; ``reason`` why it is NaN, or has no interval.
    """

    of: str
    name: str
    measure: str
    value: float
    low: float = nan
    high: float = nan
    reason: str = ""


def class_figures(
    classes: Sequence[str],
    truth: Labels,
    prediction: Labels,
    probabilities: NDArray[np.float32],
    groups: Labels | None = None,
    draws: int = DRAWS,
) -> list[Reading]:
    """:data:`BY_CLASS` and the support of each class, their means over classes, then :data:`OVERALL`.

    Args:
        classes: names (K,).
        truth, prediction: (N,) indices of classes, N at least 1.
        probabilities: (N, K) in 0..1.
        groups: (N,) 0, 1, 2 ..., alike where images belong together; None where each is by itself.
        draws: resamples.

    Returns:
        Intervals are percentiles. The calibration error is larger in every resample, as it is in every finite sample:
        the lower end of its interval is that of the basic one (Davison & Hinkley 1997), which takes this back.
    """
    groups = np.arange(len(truth)) if groups is None else groups
    given = truth, prediction, probabilities
    here = _figures(*given, np.ones((1, len(truth))))
    scored = probabilities.size <= MOST_SCORES
    drawn = [_figures(*given, weights, scored) for weights in resamples(groups, draws)]
    found = {name: np.concatenate([own[name] for own in drawn]) for name in here}
    support, reasons = np.bincount(truth, minlength=len(classes)), _reasons(classes, *given)
    rows = []
    for k, name in enumerate(classes):
        rows.append(Reading(CLASS, name, "support", float(support[k])))
        for m, measure in enumerate(BY_CLASS):
            low, high = interval(found[CLASS][:, k, m])
            rows.append(Reading(CLASS, name, measure, float(here[CLASS][0, k, m]), low, high, reasons[name, measure]))
    for m, measure in enumerate(BY_CLASS):
        (low, high), there = interval(found[MACRO][:, m]), int(np.isfinite(here[CLASS][0, :, m]).sum())
        reason = "" if there == len(classes) else f"of {there} of {len(classes)} classes"
        rows.append(Reading(MACRO, "", measure, float(here[MACRO][0, m]), low, high, reason))
    for m, measure in enumerate(OVERALL):
        value, (low, high) = float(here[ALL][0, m]), interval(found[ALL][:, m])
        if measure == "ece":
            low = max(2 * value - high, 0.0)
        rows.append(Reading(ALL, "", measure, value, low, high, "" if np.isfinite(value) else NO_SCORES))
    more = f"no interval: more than {MOST_SCORES:,} probabilities"
    return rows if scored else [r._replace(reason=r.reason or more) if r.measure == "auroc" else r for r in rows]


def undefined(figures: Sequence[Reading]) -> str:
    """Which figures of classes there are none of, and why; "" where all are defined."""
    found: dict[str, list[str]] = {}
    for figure in figures:
        if figure.of == CLASS and np.isnan(figure.value):
            found.setdefault(f"{figure.name} ({figure.reason})", []).append(figure.measure)
    return "; ".join(f"{', '.join(names)} of {what}" for what, names in found.items())


def confusion_table(truth: Labels, prediction: Labels, number: int) -> Labels:
    """(K, K) counts, truth down, prediction across."""
    return np.bincount(truth * number + prediction, minlength=number**2).reshape(number, number)


def percentiles(values: Floats, of: Labels) -> Floats:
    """Percentile of each value (N,) within its own of ``of`` (N,), 0..100, ties by their mean rank, as SciPy's
    ``percentileofscore``; NaN where the value is.
    """
    found = np.full(len(values), nan)
    for label in np.unique(of):
        own = np.flatnonzero((of == label) & ~np.isnan(values))
        ordered, mine = np.sort(values[own]), values[own]
        below, up_to = (np.searchsorted(ordered, mine, side) for side in ("left", "right"))
        found[own] = (below + up_to + 1) * 50.0 / max(len(own), 1)
    return found


def auroc(positive: NDArray[np.bool_], scores: NDArray[np.floating], weights: Floats) -> Floats:
    """Share of pairs (B,) of a positive image and another one in which the first has the higher score, ties half
    (Hanley & McNeil 1982); NaN where there is no such pair.

    Args:
        positive: of each image (N,).
        scores: (N,) any unit.
        weights: (N, B), images down.
    """
    if not np.isfinite(scores).all():
        return np.full(weights.shape[1], nan)
    marks, place = np.unique(scores[positive], return_inverse=True)
    others = np.flatnonzero(~positive)
    # Where the others stand: 2j between the marks j - 1 and j, 2j + 1 at mark j.
    slot = sum(np.searchsorted(marks, scores[others], side) for side in ("left", "right"))
    shape = 2 * len(marks) + 1, weights.shape[0]
    up_to = (csr_array((np.ones(len(others)), (slot, others)), shape) @ weights).cumsum(0)
    below = (up_to[2 * place] + up_to[2 * place + 1]) / 2
    own = weights[positive]
    return ratio((own * below).sum(0), own.sum(0) * up_to[-1])


def resamples(groups: Labels, draws: int) -> Iterator[Floats]:
    """Weights (B', N) of groups drawn with replacement, as many as there are, in parts that memory takes.

    Args:
        groups: (N,) 0, 1, 2 ..., alike where images belong together.
        draws: rows in all.
    """
    number = int(groups.max()) + 1
    part = max(1, AT_ONCE // len(groups))
    alike, place = np.zeros(number, dtype=np.int64), np.arange(number)
    for start in range(0, draws, part):
        yield resampling_weights(alike, place, min(part, draws - start), seed=start)[:, groups]


def _figures(
    truth: Labels, prediction: Labels, probabilities: NDArray[np.float32], weights: Floats, scored: bool = True
) -> Mapping[str, Floats]:
    """Of each row of weights (B, N): figures of classes (B, K, 5), their means (B, 5), and those of all (B, 4)."""
    number = probabilities.shape[1]
    is_true, is_named = np.eye(number)[truth], np.eye(number)[prediction]
    support, named, right = weights @ is_true, weights @ is_named, weights @ (is_true * is_named)  # (B, K)
    images = weights.sum(1, keepdims=True)
    areas = np.full_like(right, nan)
    by_image = np.ascontiguousarray(weights.T)
    for k in range(number * scored):
        areas[:, k] = auroc(truth == k, probabilities[:, k], by_image)
    by_class = np.stack(
        [
            ratio(right, named),
            ratio(right, support),
            ratio(images - support - named + right, images - support),
            ratio(2 * right, support + named),
            areas,
        ],
        2,
    )
    accuracy, chance = right.sum(1) / images[:, 0], (support * named).sum(1) / images[:, 0] ** 2
    kappa = np.nan_to_num(ratio(accuracy - chance, 1 - chance))  # of one class alone 0, as in metrics.csv
    error = _calibration_error(truth == prediction, probabilities, weights)
    overall = accuracy, nan_mean(by_class[:, :, 1], 1), kappa, error
    return {CLASS: by_class, MACRO: nan_mean(by_class, 1), ALL: np.stack(overall, 1)}


def _calibration_error(right: NDArray[np.bool_], probabilities: NDArray[np.float32], weights: Floats) -> Floats:
    """Mean distance (B,) of confidence and accuracy over :data:`BINS` bins of equal width, as torchmetrics' l1 norm."""
    confidence = probabilities.max(1)
    edges = np.linspace(0, 1, BINS + 1, dtype=np.float32)
    place = np.searchsorted(edges, confidence, "right") - 1  # a confidence of 1 has a bin of its own
    return np.abs(weights @ (np.eye(BINS + 2)[place] * (right - confidence)[:, None])).sum(1) / weights.sum(1)


def _reasons(
    classes: Sequence[str], truth: Labels, prediction: Labels, probabilities: NDArray[np.float32]
) -> dict[tuple[str, str], str]:
    """Why a figure of a class is not defined."""
    found: dict[tuple[str, str], str] = {}
    for k, name in enumerate(classes):
        absent, alone, named = not (truth == k).any(), bool((truth == k).all()), bool((prediction == k).any())
        scores = "" if np.isfinite(probabilities[:, k]).all() else NO_SCORES
        found |= {
            (name, "precision"): "" if named else NEVER if not absent else f"{ABSENT}, {NEVER}",
            (name, "recall"): ABSENT if absent else "",
            (name, "specificity"): ALONE if alone else "",
            (name, "f1"): f"{ABSENT}, {NEVER}" if absent and not named else "",
            (name, "auroc"): ABSENT if absent else ALONE if alone else scores,
        }
    return found
