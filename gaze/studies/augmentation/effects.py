"""What each augmentation did to the gaze, in tables: every metric of the study, and how far it stands out of noise.

Aggregation is image -> class mean -> class-balanced mean, per run or pair of runs (the study's specification). The
sample of every test is the run; images give the bootstrap intervals only, which are conditional on the trained models
(``gaze.statistics.bootstrap``). A run without any usable map has no gaze to compare: it counts in ``dead_rate``,
nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from gaze.statistics.bootstrap import interval, nan_mean, resampled_means, resampled_variance, resampling_weights
from gaze.statistics.intervals import TIE, Floats, present
from gaze.statistics.permutation import DRAWS, arms_table, permutation_p, randomisation_p, relabellings
from gaze.statistics.seeds import ROUNDING
from gaze.studies.augmentation.compared import MASK_COLUMNS, SHAPE_COLUMNS, SIMILARITIES, Compared

PRIMARY = "pearson"  # its distance is the study's one confirmatory effect; every other cell is exploratory
CELL_COLUMNS = ("arm", "metric", "kind", "effect", "unit_sd", "ci_low", "ci_high", "p", "smallest_p")
PROFILE_COLUMNS = (
    *("arm", "metric", "kind", "effect", "unit_sd", "z", "ci_low", "ci_high"),
    *("p", "q", "family", "smallest_p", "underpowered", "marked"),
)

Cell = tuple[str, str, str, float, float, float, float, float, float]  # CELL_COLUMNS
Groups = tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]


class Shift(NamedTuple):
    """A metric of single runs, of an arm against the baseline: means over runs, ``change`` = arm - baseline with its
    bootstrap interval, all in the metric's unit; ``p`` and ``smallest_p`` of :func:`mean_shift_p`."""

    arm: str
    baseline: float
    arm_mean: float
    change: float
    ci_low: float
    ci_high: float
    p: float
    smallest_p: float


def class_balanced(values: ArrayLike, target: NDArray[np.int64]) -> Floats:
    """Mean over the images of each class, then plain mean over the classes: every class counts alike.

    Args:
        values: (..., N), any unit; NaN are skipped.
        target: class of each image (N,).

    Returns:
        (...) in the unit of ``values``. A class without any value is left out; NaN where no class has one.
    """
    array = np.asarray(values)
    flat = array.reshape(-1, target.size)
    return resampled_means(flat, target, np.ones((1, target.size)))[0].reshape(array.shape[:-1])


def distance_matrix(c: Compared, column: str = PRIMARY) -> Floats:
    """Class-balanced mean distance of every two runs: D of ``gaze.statistics.permutation``.

    Args:
        c: the study.
        column: one of ``c.columns``. A similarity x counts as 1 - x.

    Returns:
        (R, R), symmetric, >= 0, zero diagonal; NaN for two runs without an image where both have a map.

    Raises:
        ValueError: ``column`` is none of ``c.columns``.
    """
    matrix = np.zeros((len(c.runs), len(c.runs)))
    b, a = c.pairs.T
    matrix[b, a] = matrix[a, b] = _as_distance(column, class_balanced(c.values[c.columns.index(column)], c.target))
    return matrix


def run_metric(c: Compared, metric: str, weights: Floats) -> Floats:
    """A metric of every run in each resample of the images.

    Args:
        c: the study.
        metric: a key of ``c.shapes``: its class-balanced mean; "centroid_variance": within a class, between the
            centroids of its images, in squared image sides, 0..1, class-balanced over the classes with at least 2
            usable maps; "dead_rate" and "accuracy": plain shares of the images, 0..1.
        weights: of the images (B, N), see ``gaze.statistics.bootstrap``.

    Returns:
        (B, R); NaN for a run without a value.

    Raises:
        KeyError: no such metric.
    """
    if metric in ("dead_rate", "accuracy"):
        share = c.correct if metric == "accuracy" else ~c.valid
        return resampled_means(share, np.zeros_like(c.target), weights)
    if metric == "centroid_variance":
        return resampled_variance(np.stack([c.shapes["centroid_y"], c.shapes["centroid_x"]]), c.target, weights)
    return resampled_means(c.shapes[metric], c.target, weights)


def run_table(c: Compared) -> pd.DataFrame:
    """Every run in one row: how well it classifies, and where and how widely it looks.

    Returns:
        ``run``, ``arm``, ``seed``, ``accuracy`` (0..1) and ``kappa`` (-1..1) as given, ``dead_rate`` (0..1, share of
        the images whose map is zero or flat), ``n_valid`` (images whose map is not), then :func:`run_metric` of
        ``dispersion``, ``entropy``, ``gini``, ``centroid_y``, ``centroid_x``, ``centroid_variance`` and, where the
        set has masks, ``mask_energy``, ``mask_lift``.
    """
    table = c.runs[["run", "arm", "seed", "accuracy", "kappa"]].reset_index(drop=True)
    ones = np.ones((1, c.target.size))
    table["dead_rate"] = run_metric(c, "dead_rate", ones)[0]
    table["n_valid"] = c.valid.sum(1)
    for metric in _looks(c):
        table[metric] = run_metric(c, metric, ones)[0]
    return table


def pair_table(c: Compared) -> pd.DataFrame:
    """The long table: every column for every two runs and every class.

    Returns:
        A row per pair of runs (b before a) and class, classes within pairs: ``run_b, arm_b, seed_b, run_a, arm_a,
        seed_a, class, n`` (images of the class), ``n_valid`` (of them, those where both maps are usable), then
        ``c.columns`` as they are, similarities too: means over the images of the class that have a value, else NaN.
    """
    b, a = c.pairs.T
    classes = len(c.classes)
    table = {
        f"{key}_{side}": c.runs[key].to_numpy()[runs].repeat(classes)
        for side, runs in (("b", b), ("a", a))
        for key in ("run", "arm", "seed")
    }
    own = [c.target == k for k in range(classes)]
    both = c.valid[b] & c.valid[a]
    table["class"] = np.tile(np.array(c.classes, dtype=object), len(c.pairs))
    table["n"] = np.tile([int(images.sum()) for images in own], len(c.pairs))
    table["n_valid"] = np.stack([both[:, images].sum(1) for images in own], 1).ravel()
    for column, values in zip(c.columns, c.values, strict=True):
        table[column] = np.stack([nan_mean(values[:, images], 1) for images in own], 1).ravel()
    return pd.DataFrame(table)


def image_table(c: Compared) -> pd.DataFrame:
    """Which images' gaze an arm moved, and whether the true class got likelier there.

    Returns:
        A row per arm and image, in their order: ``arm``, ``place``;
        ``excess_distance``: the effect of ``gaze.statistics.permutation`` for this image alone, mean of 1 - pearson
        between the arm's runs and the baseline's less the average of the two means within an arm (-2..2, around 0 for
        arms alike). Pairs with an unusable map are left out, NaN where one of the three means has none;
        ``delta_log_p``: mean of log p(true class) over the arm's runs less that over the baseline's, nats;
        ``n_pairs``: pairs between the two arms where both maps are usable.
    """
    distances = _as_distance(PRIMARY, c.values[c.columns.index(PRIMARY)])  # (P, N)
    parts = []
    for arm in c.arms:
        groups = _pair_groups(c, arm)
        part = {
            "arm": arm,
            "place": c.place,
            "excess_distance": _pair_effect(distances, groups),
            "delta_log_p": c.log_p[c.rows(arm)].mean(0) - c.log_p[c.rows(c.baseline)].mean(0),
            "n_pairs": (~np.isnan(distances[groups[0]])).sum(0),
        }
        parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)


def mean_shift_p(
    values: ArrayLike, labels: Sequence[Hashable], baseline: Hashable, arm: Hashable, max_permutations: int = DRAWS
) -> tuple[float, float, float]:
    """Two-sided randomisation test of a mean: how often runs relabelled at random differ as much (Fisher 1935).

    Args:
        values: one number per run (R,), any unit. A run of NaN is left out.
        labels: the arm of each run (R,).
        baseline: label of the baseline, n runs with a value.
        arm: label of the arm, k runs with a value.
        max_permutations: ``most`` of :func:`gaze.statistics.permutation.relabellings`.

    Returns:
        Mean of the arm - mean of the baseline; p, which counts ties and the labelling itself, and the smallest p of
        :func:`gaze.statistics.permutation.randomisation_p`. All NaN where n or k is 0.

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
    n, k = pool.size, int(in_arm.sum())
    if k in (0, n):
        return math.nan, math.nan, math.nan
    difference = float(pool[in_arm].mean() - pool[~in_arm].mean())
    splits, exact = relabellings(n, k, max_permutations)
    centred = pool - pool.mean()  # the difference of a labelling is its sum over the arm, times 1 / k + 1 / (n - k)
    far = abs(centred[in_arm].sum()) - TIE * n * np.abs(pool).max()
    return difference, *randomisation_p(int(np.count_nonzero(np.abs(splits @ centred) >= far)), splits, exact)


def shape_shifts(c: Compared, metric: str, weights: Floats) -> list[Shift]:
    """A metric of single runs in every arm against the baseline.

    Args:
        c: the study.
        metric: as for :func:`run_metric`.
        weights: of the images, for the bootstrap (B, N).

    Returns:
        One of each arm other than the baseline, in their order; NaN where an arm or the baseline has no value.
    """
    names = c.runs["arm"].to_list()
    values = _per_run(c, metric)
    drawn = run_metric(c, metric, weights)  # (B, R)
    baseline, drawn_baseline = (nan_mean(v[..., c.rows(c.baseline)], -1) for v in (values, drawn))
    shifts = []
    for arm in c.arms:
        mean, drawn_mean = (nan_mean(v[..., c.rows(arm)], -1) for v in (values, drawn))
        change, p, smallest = mean_shift_p(values, names, c.baseline, arm)
        low, high = interval(drawn_mean - drawn_baseline)
        shifts.append(Shift(arm, float(baseline), float(mean), change, low, high, p, smallest))
    return shifts


def profile_table(c: Compared, alpha: float = 0.05, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Every metric of every arm against the baseline, in units of the baseline's run-to-run SD.

    The specification's "Is it more than retraining noise?". One cell of an arm is confirmatory, "pearson": its test is
    that of ``gaze.statistics.permutation``, by Holm over the arms. All others are exploratory (Benjamini & Hochberg
    1995), over all of them that were tested. Which are is fixed by the number of runs, before any value is looked at.

    Args:
        c: the study; its baseline has at least 2 runs.
        alpha: level of a mark, between 0 and 1: family-wise for "pearson", a false discovery rate for the others.
        draws: bootstrap resamples of the images.
        seed: of the resamples.

    Returns:
        A row per arm and metric, metrics within arms: ``arm``, ``metric``, ``kind``:
        "pair" (``c.columns``): ``effect`` is that of ``gaze.statistics.permutation`` on the class-balanced distances
        (similarities as 1 - x), ``p`` one-sided, ``unit_sd`` the SD (ddof 1) of the distances between baseline runs.
        Runs that share no usable image with others are left out;
        "shape" (those of single runs, dead_rate, accuracy): ``effect`` is the difference of the means over runs,
        arm - baseline, ``p`` two-sided, ``unit_sd`` the SD (ddof 1) of the baseline's runs.
        ``z`` = effect / unit_sd, NaN where that is 0 or NaN; ``ci_low``, ``ci_high``: 95 % bootstrap interval of the
        effect over images, conditional on the trained models; ``q``: p adjusted, by Holm for "pearson", else by
        Benjamini & Hochberg; ``family``: number of tests that it is adjusted for; ``smallest_p`` that so many runs can
        give; ``underpowered``: that is above alpha (for "pearson" times the number of arms), p and q are NaN then;
        ``marked``: q <= alpha.

    Raises:
        ValueError: ``alpha`` not in (0, 1), or ``draws`` below 1.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha lies between 0 and 1, got {alpha}.")
    weights = resampling_weights(c.target, c.place, draws, seed)
    by_metric = [_pair_cells(c, column, weights) for column in c.columns]
    by_metric += [_shape_cells(c, metric, weights) for metric in (*_looks(c), "dead_rate", "accuracy")]
    cells = [cell for of_arm in zip(*by_metric, strict=True) for cell in of_arm]
    table = pd.DataFrame(cells, columns=list(CELL_COLUMNS))
    table["z"] = table["effect"] / table["unit_sd"]
    return _judged(table, _primary(c, alpha), alpha)[list(PROFILE_COLUMNS)]


def _judged(table: pd.DataFrame, primary: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """The profile with p of underpowered cells taken out, and q, family, underpowered and marked put in."""
    from scipy.stats import false_discovery_control  # here: scipy.stats takes seconds to import

    level = alpha * (1 + TIE)
    table["underpowered"] = ~(table["smallest_p"] <= level)  # NaN: True
    table["p"] = table["p"].mask(table["underpowered"])
    exploratory = table["metric"] != PRIMARY
    tested = exploratory & table["p"].notna()
    table["q"], table["family"] = math.nan, int(tested.sum())
    if tested.any():
        table.loc[tested, "q"] = false_discovery_control(table.loc[tested, "p"].to_numpy())
    own = table.index[~exploratory]
    table.loc[own, "family"] = len(primary)
    for column, source in (("p", "p"), ("q", "p_holm"), ("underpowered", "underpowered")):
        table.loc[own, column] = primary[source].to_numpy()
    table["marked"] = table["q"] <= level
    return table


def _primary(c: Compared, alpha: float) -> pd.DataFrame:
    """``gaze.statistics.permutation.arms_table`` of the study, a row per arm."""
    distances, names = distance_matrix(c), c.runs["arm"].to_numpy()
    kept = _comparable(distances)
    if (names[kept] == c.baseline).sum() < 2:
        untested = {"p": math.nan, "p_holm": math.nan, "underpowered": True}
        return pd.DataFrame([untested] * len(c.arms), index=list(c.arms))
    # an arm that lost all its runs stays in Holm's family, as an arm of one run: none of its distances is looked at
    lost = [int(c.rows(arm)[0]) for arm in c.arms if arm not in names[kept]]
    rows = np.sort(np.append(kept, lost).astype(np.intp))
    return arms_table(np.nan_to_num(distances[np.ix_(rows, rows)]), list(names[rows]), c.baseline, alpha)


def _pair_cells(c: Compared, column: str, weights: Floats) -> list[Cell]:
    distances, names = distance_matrix(c, column), c.runs["arm"].to_numpy()
    b, a = c.pairs.T
    drawn = _as_distance(column, resampled_means(c.values[c.columns.index(column)], c.target, weights)).T  # (P, B)
    cells: list[Cell] = []
    for arm in c.arms:
        both = np.concatenate([c.rows(c.baseline), c.rows(arm)])  # two other arms may lack a costly column
        kept = both[_comparable(distances[np.ix_(both, both)])]
        compared, labels = distances[np.ix_(kept, kept)], names[kept]
        groups = _pair_groups(c, arm, kept)
        size, p, smallest = math.nan, math.nan, math.nan
        if min((labels == arm).sum(), (labels == c.baseline).sum()) > 1:
            size, p, _, smallest, _ = permutation_p(compared, list(labels), c.baseline, arm)
        unit = _sd(distances[b, a][groups[1]])
        cells.append((arm, column, "pair", size, unit, *interval(_pair_effect(drawn, groups)), p, smallest))
    return cells


def _shape_cells(c: Compared, metric: str, weights: Floats) -> list[Cell]:
    unit, shifts = _sd(_per_run(c, metric)[c.rows(c.baseline)]), shape_shifts(c, metric, weights)
    return [(s.arm, metric, "shape", s.change, unit, s.ci_low, s.ci_high, s.p, s.smallest_p) for s in shifts]


def _looks(c: Compared) -> list[str]:
    """Metrics of the maps of single runs."""
    return [*SHAPE_COLUMNS, "centroid_variance", *(name for name in MASK_COLUMNS if name in c.shapes)]


def _per_run(c: Compared, metric: str) -> Floats:
    """A metric of every run (R,)."""
    if metric == "accuracy":
        return c.runs[metric].to_numpy(np.float64)
    return run_metric(c, metric, np.ones((1, c.target.size)))[0]


def _as_distance(column: str, values: NDArray[np.floating]) -> Floats:
    return np.asarray(1 - values if column in SIMILARITIES else values, dtype=np.float64)


def _comparable(distances: Floats) -> NDArray[np.intp]:
    """Runs that all have a distance to one another. Those that lack the most go first, all alike in that together:
    a rule that does not know the arms leaves the runs exchangeable."""
    kept = np.arange(len(distances))
    while (missing := np.isnan(distances[np.ix_(kept, kept)]).sum(1)).any():
        kept = kept[missing < missing.max()]
    return kept


def _pair_groups(c: Compared, arm: str, kept: NDArray[np.intp] | None = None) -> Groups:
    """Pairs (P,) between an arm and the baseline, within the baseline, within the arm; of the runs ``kept``."""
    names = c.runs["arm"].to_numpy()[c.pairs]  # (P, 2)
    among = np.ones(len(c.pairs), dtype=bool) if kept is None else np.isin(c.pairs, kept).all(1)
    in_arm, in_baseline = (names == arm).sum(1), (names == c.baseline).sum(1)
    return among & (in_arm == 1) & (in_baseline == 1), among & (in_baseline == 2), among & (in_arm == 2)


def _pair_effect(distances: Floats, groups: Groups) -> Floats:
    """Effect of ``gaze.statistics.permutation`` from distances (P, ...) without their NaN, if any are left."""
    between, within_baseline, within_arm = (nan_mean(distances[group], 0) for group in groups)
    return between - (within_baseline + within_arm) / 2


def _sd(values: Floats) -> float:
    """SD (ddof 1) without the NaN; NaN for fewer than 2 values, or values equal but for rounding."""
    defined = present(values)
    sd = float(defined.std(ddof=1)) if defined.size > 1 else 0.0
    return sd if sd > ROUNDING * np.abs(defined).max(initial=0) else math.nan
