"""Is an arm's gaze moved by more than retraining noise? (gaze study of augmentations, after Dorneles et al. 2025)

Training the same model again already moves its CAMs. So the sample here is the run, never the image: image-level tests
find effects that are not there. An arm is a set of runs of one config; one arm is the baseline. ``distances`` is D,
symmetric (R, R) with a zero diagonal: the mean over images of 1 - pearson between the CAMs of two runs, 0..2.

1 - pearson is half a squared Euclidean distance (of maps of mean 0 and length 1), so D knows the centres of the arms
and their scatter. Runs relabelled give an exact test only if the arms scatter alike; with few runs in the arm that
scatters more they find a move far too often. Hence every p here is the larger of two: that of the relabelled runs, and
that of Welch's test, which lets each arm have a scatter of its own. benchmarks/study_levels.py measures the levels.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import fdtrc  # type: ignore[import-untyped]

from gaze.statistics.intervals import TIE, Floats, holm
from gaze.statistics.jackknife import jackknife_interval

DRAWS = 20_000  # up to so many labellings all are enumerated, above so many are drawn
FLOAT32 = 1e-6  # distances worked out in single precision are symmetric, and 0 on the diagonal, to this
MOST_DIRECTIONS = 1000.0  # as good as without end
ROUNDING = 16 * np.finfo(np.float64).eps  # a spread below this share of the values is rounding
COLUMNS = [
    *("arm", "runs", "baseline_runs", "effect", "ci_low", "ci_high", "noise", "sd_ratio", "sd_low", "sd_high"),
    *("p", "p_holm", "smallest_p", "underpowered", "verdict"),
]


class Permutation(NamedTuple):
    """``effect`` in the unit of D; ``p``, and the ``smallest_p`` that so many runs can give, in (0, 1];
    ``permutations``, the number of labellings looked at: all of them if ``exact``, else drawn."""

    effect: float
    p: float
    permutations: int
    smallest_p: float
    exact: bool


class Intervals(NamedTuple):
    """95 % intervals over runs (``gaze.statistics.jackknife``): the ``effect``, in the unit of D, from ``ci_low`` to
    ``ci_high``; ``sd_ratio``, the scatter of the arm's runs over the baseline's, sqrt of the mean D within, likewise.
    """

    effect: float
    ci_low: float
    ci_high: float
    sd_ratio: float
    sd_low: float
    sd_high: float


class MeanShift(NamedTuple):
    """``change``, mean of the arm - mean of the baseline, in the unit of the values, with its 95 % interval over runs
    (Welch's); two-sided ``p`` and the ``smallest_p`` that so many runs can give; ``sd_ratio``, SD of the arm's runs
    over that of the baseline's."""

    change: float
    ci_low: float
    ci_high: float
    p: float
    smallest_p: float
    sd_ratio: float


def effect(distances: ArrayLike, labels: Sequence[Hashable], baseline: Hashable, arm: Hashable) -> float:
    """How far an arm's centre stands from the baseline's, beyond what the scatter of the runs gives.

    mean of D between the two arms - (mean of D within the baseline + mean of D within the arm) / 2, over pairs i < j:
    half the squared distance of the two centres, without bias, whatever the two scatters (in the family of energy
    statistics, Szekely & Rizzo 2004, that of exponent 2). Around 0 for equal centres, also below it.

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
    return float(_effects(between_runs, in_arm[None])[0][0])


def permutation_p(
    distances: ArrayLike, labels: Sequence[Hashable], baseline: Hashable, arm: Hashable, max_permutations: int = DRAWS
) -> Permutation:
    """One-sided test that the centres of two arms are the same: the larger of two p.

    1. Relabelled runs (Fisher 1935): how often labels dealt out at random give so large a T^2 = 1 + 2 effect / s,
       s = mean D within the arm / k + mean D within the baseline / n, Welch's t test for distances (Alekseyenko 2016).
       Exact where the runs are exchangeable, however they are distributed.
    2. T^2 against F(r, r df): df of Welch (1947), r the number of directions in which retraining moves the maps, from
       the distances within the arms (Box 1954; the unbiased tr S^2 of Bai & Saranadasa 1996). It lets the arms scatter
       differently, and takes a normal distribution for granted.

    Args:
        distances, labels, baseline, arm: as for :func:`effect`; n runs of the baseline, k of the arm.
        max_permutations: ``most`` of :func:`relabellings`, at least 1.

    Returns:
        ``smallest_p`` is that of the relabelled runs, :func:`permutation_floor`: p is never below it.

    Raises:
        ValueError: as for :func:`effect`, or ``max_permutations`` below 1.
    """
    if max_permutations < 1:
        raise ValueError(f"max_permutations must be at least 1, got {max_permutations}.")
    return _test(*_two_arms(distances, labels, baseline, arm), max_permutations)


def mean_shift(
    values: ArrayLike, labels: Sequence[Hashable], baseline: Hashable, arm: Hashable, max_permutations: int = DRAWS
) -> MeanShift:
    """Two-sided test that two arms have the same mean: :func:`permutation_p` of one number per run.

    T^2 is then the square of Welch's t, r = 1, and the second p that of Welch's t test.

    Args:
        values: one number per run (R,), any unit. A run of NaN is left out.
        labels: the arm of each run (R,).
        baseline: label of the baseline, n runs with a value.
        arm: label of the arm, k runs with a value.
        max_permutations: ``most`` of :func:`relabellings`.

    Returns:
        ``change`` is NaN where n or k is 0, all others where either is below 2; ``sd_ratio`` also where the baseline's
        SD is 0. ``smallest_p`` is :func:`permutation_floor`.

    Raises:
        ValueError: shapes that do not fit, or ``baseline`` or ``arm`` is no label.
    """
    numbers, names = np.asarray(values, dtype=np.float64), np.asarray(labels, dtype=object)
    if numbers.ndim != 1 or numbers.shape != names.shape:
        raise ValueError(f"Values and labels must be (R,), got {numbers.shape} and {names.shape}.")
    for name in (baseline, arm):
        if not (names == name).any():
            raise ValueError(f"No run of arm {name!r}. There are: {', '.join(sorted(map(str, set(names))))}.")
    both = ((names == arm) | (names == baseline)) & ~np.isnan(numbers)
    pool, in_arm = numbers[both], names[both] == arm
    sides = pool[in_arm], pool[~in_arm]
    if not sides[0].size or not sides[1].size:
        return MeanShift(*[math.nan] * 6)
    change = float(sides[0].mean() - sides[1].mean())
    if min(side.size for side in sides) < 2:
        return MeanShift(change, *[math.nan] * 5)
    if np.ptp(pool) <= ROUNDING * np.abs(pool).max():
        pool = np.zeros_like(pool)
    found = _test(pool, in_arm.astype(np.float64), max_permutations)
    left_out = [
        change - sign * (side - side.mean()) / (side.size - 1) for sign, side in zip((1, -1), sides, strict=True)
    ]
    spread = [float(side.std(ddof=1)) for side in sides]
    ratio = spread[0] / spread[1] if spread[1] > 0 else math.nan
    return MeanShift(change, *jackknife_interval(change, left_out), found.p, found.smallest_p, ratio)


def effect_intervals(distances: ArrayLike, labels: Sequence[Hashable], baseline: Hashable, arm: Hashable) -> Intervals:
    """How far the effect and the scatter of the runs would differ if the models were trained again.

    The effect, and the logarithm of the ratio of scatter, without one run at a time. What the interval is of: other
    trainings, on these images. Around an effect of 0 it is wider than it need be.

    Args:
        distances, labels, baseline, arm: as for :func:`effect`.

    Returns:
        Ends are NaN with fewer than 3 runs in an arm, those of the ratio also where runs of an arm are all alike.

    Raises:
        ValueError: as for :func:`effect`.
    """
    between_runs, in_arm = _two_arms(distances, labels, baseline, arm)
    found = _effects(between_runs, in_arm[None])
    both = np.stack([found[0], _log_ratio(*found[1:])])  # (2, 1)
    ends = [(math.nan, math.nan)] * 2
    if min(in_arm.sum(), (1 - in_arm).sum()) > 2:
        others = 1 - np.eye(in_arm.size)
        without = _effects(between_runs, in_arm * others, (1 - in_arm) * others)
        left_out = np.stack([without[0], _log_ratio(*without[1:])])  # (2, n + k)
        ends = [
            jackknife_interval(float(whole[0]), [values[in_arm > 0], values[in_arm == 0]])
            for whole, values in zip(both, left_out, strict=True)
        ]
    (low, high), ratio = ends[0], [math.exp(value) for value in (float(both[1, 0]), *ends[1])]
    return Intervals(float(both[0, 0]), low, high, *ratio)


@lru_cache(maxsize=16)
def relabellings(n: int, k: int, most: int = DRAWS) -> tuple[Floats, bool]:
    """Ways to call k of n runs the arm, and whether they are all there are.

    Args:
        n: runs of both arms.
        k: of them, those of the arm.
        most: all C(n, k) ways if they are no more than this, else so many drawn at random, always the same.

    Returns:
        (S, n), read-only: 1 for the runs of the arm, else 0.
    """
    if math.comb(n, k) > most:
        order = np.random.default_rng(0).random((most, n)).argsort(1)  # a random permutation in each row
        splits = (order < k).astype(np.float64)
    else:
        chosen = np.array(list(combinations(range(n), k)))  # (C(n, k), k)
        splits = np.zeros((len(chosen), n))
        np.put_along_axis(splits, chosen, 1, axis=1)
    splits.flags.writeable = False  # shared by all that ask for the same
    return splits, math.comb(n, k) <= most


def permutation_floor(n: int, k: int, most: int = DRAWS) -> float:
    """Smallest p that relabelled runs can give.

    Args:
        n, k: runs of the baseline and of the arm.
        most: as for :func:`relabellings`.

    Returns:
        1 / C(n + k, k), or twice that for n = k, where the two names swapped give the same; 1 / (1 + ``most``) where
        labellings are drawn; NaN for fewer than 2 runs on a side.
    """
    if min(n, k) < 2:
        return math.nan
    every = math.comb(n + k, k)
    return 1 / (1 + most) if every > most else (2 if n == k else 1) / every


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
        ``effect, ci_low, ci_high`` and ``sd_ratio, sd_low, sd_high`` (:func:`effect_intervals`), ``noise`` (SD of D
        over the pairs of baseline runs, in the same unit; NaN for one pair), ``p`` (:func:`permutation_p`), ``p_holm``,
        ``smallest_p``, ``underpowered`` (m * smallest_p, Holm's first step, is above alpha), ``verdict``: "moved"
        (p_holm <= alpha), "not shown", or "underpowered", with p and p_holm NaN. An arm of one run is underpowered,
        with NaN in all that takes two.

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
        row = {"arm": arm, "runs": int((names == arm).sum()), "baseline_runs": own.size, "noise": noise}
        if row["runs"] > 1:
            size, p, _, smallest, _ = permutation_p(checked, labels, baseline, arm)
            ends = effect_intervals(checked, labels, baseline, arm)
            row |= {**ends._asdict(), "effect": size, "p": p, "smallest_p": smallest}
        row["underpowered"] = not len(arms) * row.get("smallest_p", math.nan) <= level  # NaN: True
        family.append(1.0 if row["underpowered"] else row["p"])
        rows.append(row)
    for row, adjusted in zip(rows, holm(family), strict=True):
        row |= {"p_holm": float(adjusted), "verdict": "moved" if adjusted <= level else "not shown"}
        if row["underpowered"]:
            row |= {"p": math.nan, "p_holm": math.nan, "verdict": "underpowered"}
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


def _effects(between_runs: Floats, arm: Floats, rest: Floats | None = None) -> tuple[Floats, Floats, Floats]:
    """Effect, mean D within the arm and mean D within the rest, of each split (S,).

    ``between_runs`` (n, n) of zero diagonal; ``arm`` and ``rest`` (S, n): 1 for their runs, at least 2, else 0; the
    rest is all others if None.
    """
    rest = 1 - arm if rest is None else rest
    to_arm, to_rest = arm @ between_runs, rest @ between_runs  # (S, n): sum of D from each run to a side
    k, m = arm.sum(1), rest.sum(1)  # a pair within a side is summed both ways, hence k (k - 1)
    of_arm, of_rest = (to_arm * arm).sum(1) / (k * (k - 1)), (to_rest * rest).sum(1) / (m * (m - 1))
    return (to_arm * rest).sum(1) / (k * m) - (of_arm + of_rest) / 2, of_arm, of_rest


def _shifts(values: Floats, arm: Floats) -> tuple[Floats, Floats, Floats]:
    """:func:`_effects` of D = (a - b)^2 / 2 between ``values`` (n,), from the sums of each side: its mean D within is
    its variance.
    """
    centred = values - values.mean()
    rest = 1 - arm
    (k, mean_k, of_arm), (m, mean_m, of_rest) = (_moments(centred, side) for side in (arm, rest))
    return (mean_k - mean_m) ** 2 / 2 - (of_arm / k + of_rest / m) / 2, of_arm, of_rest


def _moments(values: Floats, side: Floats) -> tuple[Floats, Floats, Floats]:
    """Number, mean and unbiased variance of the runs of a side (S, n)."""
    n = side.sum(1)
    mean = side @ values / n
    return n, mean, np.maximum(side @ values**2 - n * mean**2, 0) / (n - 1)


def _log_ratio(of_arm: Floats, of_rest: Floats) -> Floats:
    """Logarithm of the ratio of scatter from the mean D within; NaN where one of them is 0."""
    there = (of_arm > 0) & (of_rest > 0)
    return np.log(np.where(there, of_arm, np.nan) / np.where(there, of_rest, 1)) / 2


def _test(runs: Floats, in_arm: Floats, most: int) -> Permutation:
    """:func:`permutation_p` of two arms, (n,): of distances between their runs (n, n), or of one number a run (n,)."""
    k, n = int(in_arm.sum()), int((1 - in_arm).sum())
    splits, exact = relabellings(n + k, k, most)
    numbers = runs.ndim == 1
    found, of_arm, of_rest = (_shifts if numbers else _effects)(runs, np.vstack([in_arm, splits]))
    scale = of_arm / k + of_rest / n
    # T^2 is no smaller where effect / scale is none; multiplied out, so that a scale of 0 needs no case of its own
    rounding = TIE * (np.ptp(runs) ** 2 / 2 if numbers else np.abs(runs).max()) * (scale + scale[0])
    far = found * scale[0] >= found[0] * scale - rounding
    count = int(np.count_nonzero(far[1:]))
    p = count / len(splits) if exact else (1 + count) / (1 + len(splits))  # Phipson & Smyth 2010
    own = 1.0 if numbers else _directions(runs, in_arm)
    welch = _welch_p(float(found[0]), float(of_arm[0]) / k, float(of_rest[0]) / n, k, n, own)
    return Permutation(float(found[0]), max(p, welch), len(splits), permutation_floor(n, k, most), exact)


def _welch_p(size: float, of_arm: float, of_rest: float, k: int, n: int, directions: float) -> float:
    """T^2 against F(r, r df): ``size`` is the effect, ``of_arm`` and ``of_rest`` the mean D within over the runs."""
    scale = of_arm + of_rest
    if scale == 0:
        return 0.0 if size > 0 else 1.0
    df = scale**2 / (of_arm**2 / (k - 1) + of_rest**2 / (n - 1))
    return float(fdtrc(directions, directions * df, max(0.0, 1 + 2 * size / scale)))


def _directions(between_runs: Floats, in_arm: Floats) -> float:
    """r = (tr S)^2 / tr S^2 of the covariance S of the runs' maps within the arms: 1 if retraining moves all maps along
    one line, many if in all directions alike. The arms' estimates of 1 / r are averaged, weighted by n - 2; 1 where no
    arm has 3 runs, the value with the largest p."""
    inverse, weights = 0.0, 0
    for side in (0, 1):
        runs = np.flatnonzero(in_arm == side)
        n = runs.size
        if n < 3:
            continue
        centred = between_runs[np.ix_(runs, runs)]
        centred = centred - centred.mean(0) - centred.mean(1)[:, None] + centred.mean()  # - the inner products
        trace, squares = -np.trace(centred) / (n - 1), float((centred**2).sum()) / (n - 1) ** 2
        if trace > 0:
            unbiased = (n - 1) ** 2 / ((n - 2) * (n + 1)) * (squares - trace**2 / (n - 1))
            inverse, weights = inverse + (n - 2) * unbiased / trace**2, weights + n - 2
    return float(np.clip(weights / inverse, 1, MOST_DIRECTIONS)) if inverse > 0 else MOST_DIRECTIONS if weights else 1.0
