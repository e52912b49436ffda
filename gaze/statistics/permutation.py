"""Is an arm's gaze moved by more than retraining noise? (gaze study of augmentations, after Dorneles et al. 2025)

Training the same model again already moves its CAMs. So the sample here is the run, never the image: image-level tests
find effects that are not there. An arm is a set of runs of one config; one arm is the baseline. ``distances`` is D,
symmetric (R, R) with a zero diagonal: the mean over images of 1 - pearson between the CAMs of two runs, 0..2.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from gaze.statistics.intervals import TIE, Floats, holm

DRAWS = 20_000  # up to so many labellings all are enumerated, above so many are drawn
FLOAT32 = 1e-6  # distances worked out in single precision are symmetric, and 0 on the diagonal, to this
COLUMNS = ["arm", "runs", "baseline_runs", "effect", "noise", "p", "p_holm", "smallest_p", "underpowered", "verdict"]


class Permutation(NamedTuple):
    """``effect`` in the unit of D; ``p``, and the ``smallest_p`` that so many runs can give, in (0, 1];
    ``permutations``, the number of labellings looked at: all of them if ``exact``, else drawn."""

    effect: float
    p: float
    permutations: int
    smallest_p: float
    exact: bool


def effect(distances: ArrayLike, labels: Sequence[Hashable], baseline: Hashable, arm: Hashable) -> float:
    """How far an arm stands from the baseline, beyond the distance of two runs of one arm.

    mean of D between the two arms - (mean of D within the baseline + mean of D within the arm) / 2, over pairs i < j:
    the energy distance of two samples (Szekely & Rizzo 2004), halved and without its bias. Around 0 for two arms
    alike, also below it.

    Args:
        distances: D, symmetric (R, R), >= 0, of zero diagonal.
        labels: the arm of each run (R,).
        baseline: label of the baseline.
        arm: label of the arm held against it.

    Returns:
        The effect in the unit of D: -2..2 for 1 - pearson.

    Raises:
        ValueError: D is no matrix of distances, or ``baseline`` or ``arm`` has fewer than 2 runs.
    """
    between_runs, in_arm = _two_arms(distances, labels, baseline, arm)
    return float(_effects(between_runs, in_arm[None])[0])


def permutation_p(
    distances: ArrayLike, labels: Sequence[Hashable], baseline: Hashable, arm: Hashable, max_permutations: int = DRAWS
) -> Permutation:
    """One-sided randomisation test: how often runs relabelled at random give so large an :func:`effect` (Fisher 1935).

    Only the runs of these two arms are relabelled. The null hypothesis is that they are exchangeable: the config
    changes nothing. An arm whose runs only scatter more or less than the baseline's breaks it too: a small p means a
    moved gaze only where the arms scatter alike.

    Args:
        distances, labels, baseline, arm: as for :func:`effect`; n runs of the baseline, k of the arm.
        max_permutations: ``most`` of :func:`relabellings`, at least 1.

    Returns:
        p counts ties and the labelling itself; p and ``smallest_p`` are those of :func:`randomisation_p`.

    Raises:
        ValueError: as for :func:`effect`, or ``max_permutations`` below 1.
    """
    if max_permutations < 1:
        raise ValueError(f"max_permutations must be at least 1, got {max_permutations}.")
    between_runs, in_arm = _two_arms(distances, labels, baseline, arm)
    splits, exact = relabellings(in_arm.size, int(in_arm.sum()), max_permutations)
    observed = float(_effects(between_runs, in_arm[None])[0])
    count = int(np.count_nonzero(_effects(between_runs, splits) >= observed - TIE * np.abs(between_runs).max()))
    p, smallest = randomisation_p(count, splits, exact)
    return Permutation(observed, p, len(splits), smallest, exact)


def relabellings(n: int, k: int, most: int = DRAWS) -> tuple[Floats, bool]:
    """Ways to call k of n runs the arm, and whether they are all there are.

    Args:
        n: runs of both arms.
        k: of them, those of the arm.
        most: all C(n, k) ways if they are no more than this, else so many drawn at random, always the same.

    Returns:
        (S, n): 1 for the runs of the arm, else 0.
    """
    if math.comb(n, k) > most:
        order = np.random.default_rng(0).random((most, n)).argsort(1)  # a random permutation in each row
        return (order < k).astype(np.float64), False
    chosen = np.array(list(combinations(range(n), k)))  # (C(n, k), k)
    splits = np.zeros((len(chosen), n))
    np.put_along_axis(splits, chosen, 1, axis=1)
    return splits, True


def randomisation_p(count: int, splits: Floats, exact: bool) -> tuple[float, float]:
    """p of a randomisation test, and the smallest that so many runs can give.

    Args:
        count: labellings of which the statistic is as large as the observed one.
        splits, exact: from :func:`relabellings`, for n runs with k in the arm.

    Returns:
        count / S, at least 1 / S, or 2 / S for 2 k = n, where the two names swapped give the same; if drawn,
        (1 + count) / (1 + S), at least 1 / (1 + S) (Phipson & Smyth 2010).
    """
    total = len(splits)
    if not exact:
        return (1 + count) / (1 + total), 1 / (1 + total)
    return count / total, (2 if 2 * splits[0].sum() == splits.shape[1] else 1) / total


def arms_table(
    distances: ArrayLike, labels: Sequence[Hashable], baseline: Hashable, alpha: float = 0.05
) -> pd.DataFrame:
    """Every arm against the baseline, adjusted for the number of arms by Holm (1979).

    The family is all m arms, also those too small to be tested: it is fixed before any distance is looked at.

    Args:
        distances, labels, baseline: as for :func:`effect`.
        alpha: the level of a verdict, between 0 and 1.

    Returns:
        A row per arm other than the baseline, in order of first appearance: ``arm``, ``runs``, ``baseline_runs``,
        ``effect`` (:func:`effect`), ``noise`` (SD of D over the pairs of baseline runs, in the same unit; NaN for one
        pair), ``p`` (:func:`permutation_p`), ``p_holm``, ``smallest_p``, ``underpowered`` (m * smallest_p, Holm's
        first step, is above alpha), ``verdict``: "moved" (p_holm <= alpha), "not shown", or "underpowered", with p
        and p_holm NaN. An arm of one run is underpowered, with effect and smallest_p NaN.

    Raises:
        ValueError: as for :func:`effect` (of the arms, only the baseline must have 2 runs), or ``alpha`` not in (0, 1).
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha lies between 0 and 1, got {alpha}.")
    checked, names = _checked(distances, labels)
    own = _runs_of(names, baseline)
    pairs = checked[np.ix_(own, own)][np.triu_indices(own.size, 1)]
    noise = float(pairs.std(ddof=1)) if pairs.size > 1 else math.nan
    arms = [arm for arm in dict.fromkeys(names) if arm != baseline]
    level, rows, family = alpha * (1 + TIE), [], []  # 1/120 * 6 is 0.05 but for rounding
    for arm in arms:
        runs = int((names == arm).sum())
        size, p, smallest = math.nan, math.nan, math.nan
        if runs > 1:
            size, p, _, smallest, _ = permutation_p(checked, labels, baseline, arm)
        underpowered = not len(arms) * smallest <= level  # NaN: True
        family.append(1.0 if underpowered else p)
        rows.append([arm, runs, own.size, size, noise, math.nan if underpowered else p, 0.0, smallest, underpowered])
    for row, adjusted in zip(rows, holm(family), strict=True):
        row[6] = math.nan if row[8] else float(adjusted)
        row.append("underpowered" if row[8] else "moved" if adjusted <= level else "not shown")
    return pd.DataFrame(rows, columns=COLUMNS)


def _checked(distances: ArrayLike, labels: Sequence[Hashable]) -> tuple[Floats, NDArray[np.object_]]:
    """D (R, R), symmetric and of zero diagonal in every digit, and the labels (R,)."""
    matrix, names = np.asarray(distances, dtype=np.float64), np.asarray(labels, dtype=object)
    if names.ndim != 1 or matrix.shape != (names.size, names.size):
        raise ValueError(f"Distances must be (R, R) and labels (R,), got {matrix.shape} and {names.shape}.")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(matrix))} distances are NaN or infinite.")
    if np.abs(np.diagonal(matrix)).max(initial=0) > FLOAT32:
        raise ValueError("A run is at distance 0 from itself, but the diagonal is not 0. Are these similarities?")
    if np.abs(matrix - matrix.T).max(initial=0) > FLOAT32:
        raise ValueError("Distances must be symmetric.")
    if matrix.min(initial=0) < -FLOAT32:
        raise ValueError(f"A distance is at least 0, got {matrix.min():.3g}.")
    matrix = (matrix + matrix.T) / 2
    np.fill_diagonal(matrix, 0)
    return matrix, names


def _runs_of(names: NDArray[np.object_], arm: Hashable) -> NDArray[np.intp]:
    """Where the runs of an arm stand; at least 2."""
    found = np.flatnonzero(names == arm)
    if not found.size:
        raise ValueError(f"No run of arm {arm!r}. There are: {', '.join(sorted(map(str, set(names))))}.")
    if found.size == 1:
        raise ValueError(f"Arm {arm!r} has 1 run: its retraining noise takes at least 2.")
    return found


def _two_arms(
    distances: ArrayLike, labels: Sequence[Hashable], baseline: Hashable, arm: Hashable
) -> tuple[Floats, Floats]:
    """D of the runs of two arms (n, n), in the order given, and 1 for those of ``arm`` (n,), else 0."""
    matrix, names = _checked(distances, labels)
    if baseline == arm:
        raise ValueError(f"Arm {arm!r} is the baseline itself.")
    both = np.sort(np.concatenate([_runs_of(names, baseline), _runs_of(names, arm)]))
    return matrix[np.ix_(both, both)], (names[both] == arm).astype(np.float64)


def _effects(between_runs: Floats, splits: Floats) -> Floats:
    """Effect of each split (S,): ``between_runs`` (n, n) of zero diagonal, ``splits`` (S, n), 1 for runs of the arm."""
    rest = 1 - splits
    to_arm, to_rest = splits @ between_runs, rest @ between_runs  # (S, n): sum of D from each run to a side
    k, m = splits.sum(1), rest.sum(1)  # a pair within a side is summed both ways, hence k (k - 1)
    within = (to_arm * splits).sum(1) / (k * (k - 1)) + (to_rest * rest).sum(1) / (m * (m - 1))
    return (to_arm * rest).sum(1) / (k * m) - within / 2
