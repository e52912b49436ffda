"""What each augmentation did to the gaze, in tables: every metric of the study, and how far it stands out of noise.

Aggregation is image -> class mean -> class-balanced mean, per run or pair of runs (the study's specification). The
sample of every test and every interval is the run. A run without any usable map has no gaze to compare: it counts in
``dead_rate``, nowhere else.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from gaze.statistics.bootstrap import nan_mean, resampled_means
from gaze.statistics.intervals import TIE, Floats, present
from gaze.statistics.permutation import ROUNDING, arms_table, effect_intervals, mean_shift, permutation_p
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
    """A metric of single runs, of an arm against the baseline: means over runs, then
    ``gaze.statistics.permutation.mean_shift``; all but ``p``, ``smallest_p`` and ``sd_ratio`` in the metric's unit."""

    arm: str
    baseline: float
    arm_mean: float
    change: float
    ci_low: float
    ci_high: float
    p: float
    smallest_p: float
    sd_ratio: float


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


def run_metric(c: Compared, metric: str) -> Floats:
    """A metric of every run.

    Args:
        c: the study.
        metric: a key of ``c.shapes``: its class-balanced mean; "centroid_variance": within a class, between the
            centroids of its images, in squared image sides, 0..1, class-balanced over the classes with at least 2
            usable maps; "dead_rate": plain share of the images, 0..1; "accuracy": that of ``c.runs``.

    Returns:
        (R,); NaN for a run without a value.

    Raises:
        KeyError: no such metric.
    """
    if metric == "accuracy":
        return c.runs[metric].to_numpy(np.float64)
    if metric == "dead_rate":
        return np.asarray(1 - c.valid.mean(1))
    if metric != "centroid_variance":
        return class_balanced(c.shapes[metric], c.target)
    points = np.stack([c.shapes["centroid_y"], c.shapes["centroid_x"]])  # (2, R, N)
    variances = []
    for k in np.unique(c.target):
        own = points[..., c.target == k]
        count = (~np.isnan(own[0])).sum(1)  # (R,)
        squares = nan_mean((own - nan_mean(own, -1)[..., None]) ** 2, -1).sum(0)
        variances.append(np.where(count > 1, squares * count / np.maximum(count - 1, 1), np.nan))
    return nan_mean(np.stack(variances), 0)


def run_table(c: Compared) -> pd.DataFrame:
    """Every run in one row: how well it classifies, and where and how widely it looks.

    Returns:
        ``run``, ``arm``, ``seed``, ``accuracy`` (0..1) and ``kappa`` (-1..1) as given, ``dead_rate`` (0..1, share of
        the images whose map is zero or flat), ``n_valid`` (images whose map is not), then :func:`run_metric` of
        ``dispersion``, ``entropy``, ``gini``, ``centroid_y``, ``centroid_x``, ``centroid_variance`` and, where the
        set has masks, ``mask_energy``, ``mask_lift``.
    """
    table = c.runs[["run", "arm", "seed", "accuracy", "kappa"]].reset_index(drop=True)
    table["dead_rate"] = run_metric(c, "dead_rate")
    table["n_valid"] = c.valid.sum(1)
    for metric in _looks(c):
        table[metric] = run_metric(c, metric)
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


def shape_shifts(c: Compared, metric: str) -> list[Shift]:
    """A metric of single runs in every arm against the baseline.

    Args:
        c: the study.
        metric: as for :func:`run_metric`.

    Returns:
        One of each arm other than the baseline, in their order; NaN where an arm or the baseline has no value.
    """
    names, values = c.runs["arm"].to_list(), run_metric(c, metric)
    baseline, *means = (float(nan_mean(values[c.rows(arm)])) for arm in (c.baseline, *c.arms))
    return [
        Shift(arm, baseline, mean, *mean_shift(values, names, c.baseline, arm))
        for arm, mean in zip(c.arms, means, strict=True)
    ]


def profile_table(c: Compared, alpha: float = 0.05) -> pd.DataFrame:
    """Every metric of every arm against the baseline, in units of the baseline's run-to-run SD.

    The specification's "Is it more than retraining noise?". One cell of an arm is confirmatory, "pearson": its test is
    that of ``gaze.statistics.permutation``, by Holm over the arms. All others are exploratory (Benjamini & Hochberg
    1995), over all of them that were tested. Which are is fixed by the number of runs, before any value is looked at.

    Args:
        c: the study; its baseline has at least 2 runs.
        alpha: level of a mark, between 0 and 1: family-wise for "pearson", a false discovery rate for the others.

    Returns:
        A row per arm and metric, metrics within arms: ``arm``, ``metric``, ``kind``:
        "pair" (``c.columns``): ``effect`` is that of ``gaze.statistics.permutation`` on the class-balanced distances
        (similarities as 1 - x), ``p`` one-sided, ``unit_sd`` the SD (ddof 1) of the distances between baseline runs.
        Runs that share no usable image with others are left out;
        "shape" (those of single runs, dead_rate, accuracy): ``effect`` is the difference of the means over runs,
        arm - baseline, ``p`` two-sided, ``unit_sd`` the SD (ddof 1) of the baseline's runs.
        ``z`` = effect / unit_sd, NaN where that is 0 or NaN; ``ci_low``, ``ci_high``: 95 % interval of the effect over
        runs, for these images, not adjusted for the number of cells; ``q``: p adjusted, by Holm for "pearson", else by
        Benjamini & Hochberg; ``family``: number of tests that it is adjusted for; ``smallest_p`` that so many runs can
        give; ``underpowered``: that is above alpha (for "pearson" times the number of arms), p and q are NaN then;
        ``marked``: q <= alpha.

    Raises:
        ValueError: ``alpha`` not in (0, 1).
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha lies between 0 and 1, got {alpha}.")
    by_metric = [_pair_cells(c, column) for column in c.columns]
    by_metric += [_shape_cells(c, metric) for metric in (*_looks(c), "dead_rate", "accuracy")]
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


def _pair_cells(c: Compared, column: str) -> list[Cell]:
    distances, names = distance_matrix(c, column), c.runs["arm"].to_numpy()
    cells: list[Cell] = []
    for arm in c.arms:
        both = np.concatenate([c.rows(c.baseline), c.rows(arm)])  # two other arms may lack a costly column
        kept = both[_comparable(distances[np.ix_(both, both)])]
        compared, labels = distances[np.ix_(kept, kept)], list(names[kept])
        own = kept[names[kept] == c.baseline]
        unit = _sd(distances[np.ix_(own, own)][np.triu_indices(own.size, 1)])
        size, low, high, p, smallest = [math.nan] * 5
        if min(labels.count(arm), labels.count(c.baseline)) > 1:
            size, p, _, smallest, _ = permutation_p(compared, labels, c.baseline, arm)
            _, low, high, *_ = effect_intervals(compared, labels, c.baseline, arm)
        cells.append((arm, column, "pair", size, unit, low, high, p, smallest))
    return cells


def _shape_cells(c: Compared, metric: str) -> list[Cell]:
    unit, shifts = _sd(run_metric(c, metric)[c.rows(c.baseline)]), shape_shifts(c, metric)
    return [(s.arm, metric, "shape", s.change, unit, s.ci_low, s.ci_high, s.p, s.smallest_p) for s in shifts]


def _looks(c: Compared) -> list[str]:
    """Metrics of the maps of single runs."""
    return [*SHAPE_COLUMNS, "centroid_variance", *(name for name in MASK_COLUMNS if name in c.shapes)]


def _as_distance(column: str, values: NDArray[np.floating]) -> Floats:
    return np.asarray(1 - values if column in SIMILARITIES else values, dtype=np.float64)


def _comparable(distances: Floats) -> NDArray[np.intp]:
    """Runs that all have a distance to one another. Those that lack the most go first, all alike in that together:
    a rule that does not know the arms leaves the runs exchangeable."""
    kept = np.arange(len(distances))
    while (missing := np.isnan(distances[np.ix_(kept, kept)]).sum(1)).any():
        kept = kept[missing < missing.max()]
    return kept


def _pair_groups(c: Compared, arm: str) -> Groups:
    """Pairs (P,) between an arm and the baseline, within the baseline, within the arm."""
    names = c.runs["arm"].to_numpy()[c.pairs]  # (P, 2)
    in_arm, in_baseline = (names == arm).sum(1), (names == c.baseline).sum(1)
    return (in_arm == 1) & (in_baseline == 1), in_baseline == 2, in_arm == 2


def _pair_effect(distances: Floats, groups: Groups) -> Floats:
    """Effect of ``gaze.statistics.permutation`` from distances (P, ...) without their NaN, if any are left."""
    between, within_baseline, within_arm = (nan_mean(distances[group], 0) for group in groups)
    return between - (within_baseline + within_arm) / 2


def _sd(values: Floats) -> float:
    """SD (ddof 1) without the NaN; NaN for fewer than 2 values, or values equal but for rounding."""
    defined = present(values)
    sd = float(defined.std(ddof=1)) if defined.size > 1 else 0.0
    return sd if sd > ROUNDING * np.abs(defined).max(initial=0) else math.nan
