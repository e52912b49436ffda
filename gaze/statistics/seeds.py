"""Tables over runs, and the intervals and tests in them.

The unit of every interval and test here is the seed: epochs of one run follow from one another and are never samples.
Every table takes ``runs``, the tidy frame of ``gaze.runs.load`` (a row per run and epoch), and gives a plain
DataFrame, for an empty frame one with the same columns; two rows for one epoch of a run are a ValueError. Several runs
of one study, dataset, model, lambda and seed (duplicates included on purpose) are averaged first and count as one seed;
so are the folds of a cross-validation, of which the intervals and t tests of a mean take every run, corrected for the
training images that they share (:func:`gaze.statistics.intervals.folds_interval`).
The gaze of runs that do not tell the classes apart counts as missing (``gaze.statistics.collapse``), but for r.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gaze.measures import compared
from gaze.runs.tidy import CELL_KEYS, FOLD, RUN_KEYS, run_keys
from gaze.statistics.bootstrap import nan_mean
from gaze.statistics.collapse import collapse_table, comparable
from gaze.statistics.intervals import (
    Floats,
    fisher_interval,
    folds_interval,
    folds_p,
    holm,
    present,
    sign_flip_floor,
    sign_flip_p,
)
from gaze.statistics.pairing import (
    constant,
    correlation_matrix,
    given_epoch,
    of_differences,
    pairing_floor,
    pairing_test,
    pearson,
    repeated_measures,
)
from gaze.statistics.power import ENOUGH, paired_power

HELD_AGAINST_KAPPA = (
    *("gaze_consistency", "gaze_consistency_l2", "gaze_consistency_grid"),
    *("gaze_consistency_all", "gaze_consistency_fixed", "gaze_eta_squared"),
)
LEFT_OUT_EPOCHS = 2  # of r_late: the first ones, in which every network changes most
BEST_METRICS = ("accuracy", "kappa")  # a consistency is no goal by itself: its "best" would mean nothing
SCALE_MEASURES = ("gaze_consistency_l2", "gaze_consistency_rms", "gaze_consistency_grid_rms", "gaze_eta_squared")
SUMMARIES = ("last", "last5", "best")
LAST_EPOCHS = 5  # of last5
ROUNDING = 16 * np.finfo(np.float64).eps  # a spread below this share of the values is rounding

SeedValues = dict[tuple[Any, ...], dict[int, Floats]]
Interval = Callable[[Floats, int], tuple[float, float]]


def run_correlations(runs: pd.DataFrame, measures: Sequence[str] = HELD_AGAINST_KAPPA) -> pd.DataFrame:
    """Correlation of Cohen's kappa with each gaze measure across the epochs of each run (thesis, Table 2).

    Args:
        runs: the tidy frame, with ``kappa``.
        measures: columns to hold against kappa. One that is absent, or NaN in every row, is left out.

    Returns:
        A row per run and measure: ``study, dataset, model, lambda, seed`` (and ``run`` where the frame has it),
        ``measure``, ``epochs`` (with both values finite), ``pearson`` and ``spearman`` (-1..1 or NaN), ``reason``
        (why NaN, such as "constant kappa"; "" if it is not). Constant means equal in every digit.
    """
    keys, given = _given(runs, measures)
    if not given:
        return pd.DataFrame(columns=[*keys, "measure", "epochs", "pearson", "spearman", "reason"])
    each, (kappa, *gazes), _ = _series(runs, keys, ["kappa", *given])
    parts = []
    for measure, gaze in zip(given, gazes, strict=True):
        both = np.isfinite(kappa) & np.isfinite(gaze)
        ranks = [pd.DataFrame(np.where(both, v, np.nan)).rank(axis=1).to_numpy(np.float64) for v in (kappa, gaze)]
        reasons = _reasons(kappa, gaze, both, measure)
        own = {"epochs": both.sum(1), "pearson": pearson(kappa, gaze), "spearman": pearson(*ranks), "reason": reasons}
        parts.append(each.assign(measure=measure, **own))
    return pd.concat(parts).sort_index(kind="stable", ignore_index=True)  # a run's measures side by side


def _reasons(kappa: Floats, gaze: Floats, both: NDArray[np.bool_], measure: str) -> list[str]:
    """Why a run (of R) has no r; "" where it has one."""
    found = ["" if number > 1 else "fewer than 2 epochs" for number in both.sum(1)]
    named = {"kappa": kappa, measure: gaze}
    flat = {name: constant(v, both) & (both.sum(1) > 1) for name, v in named.items()}
    absent = {name: np.asarray(~np.isfinite(v).any(1)) for name, v in named.items()}
    for word, where in (("constant", flat), ("no", absent)):
        for run in np.flatnonzero(np.any([*where.values()], 0)):
            found[run] = f"{word} {' and '.join(name for name in named if where[name][run])}"
    return found


def pearson_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Pearson's r of kappa and each gaze measure, averaged over seeds (thesis, Table 2).

    Returns:
        A row per ``study, dataset, model, lambda, measure``, sorted so (measures as in ``HELD_AGAINST_KAPPA``): ``n``
        seeds, ``n_nan`` of them without a defined r, ``r`` (plain mean of the defined, as published), ``sd`` between
        seeds, ``ci_low`` and ``ci_high`` (:func:`fisher_interval`, 95 %), ``p`` (:func:`sign_flip_p` of the seeds' r,
        of "mean r = 0" and of nothing else, not adjusted; NaN for fewer than 2), ``p_floor`` (the smallest p that so
        many seeds can give), ``spearman`` (plain mean), ``reasons`` (runs without an r, such as "constant kappa: 1
        run").

        Is there more than the curve that all seeds share? ``strangers_r``, ``pairing_p``
        (:func:`gaze.statistics.pairing.pairing_test`), ``pairing_floor``, ``pairing_p_holm`` over the models of one
        study, dataset, lambda and measure, ``pairing_family`` (their number); and r with the shared part taken out:
        ``r_differences``, ``r_given_epoch``, ``r_late`` (without the first two epochs), each the mean over seeds, and
        ``r_repeated`` (:func:`gaze.statistics.pairing.repeated_measures`).
    """
    keys = [*CELL_KEYS, "measure"]
    rows = []
    cells = runs.groupby(CELL_KEYS, dropna=False).indices if len(runs) else {}
    for cell, of_cell in run_correlations(runs).groupby(CELL_KEYS, dropna=False):
        given = ["kappa", *of_cell["measure"].unique()]
        own = runs.iloc[cells.get(cell, [])].replace([np.inf, -np.inf], np.nan)
        # the mean of a seed's runs
        wide = [part.pivot_table(given, "seed", "epoch", dropna=False) for part in _by_fold(own)]
        folds = [part.reindex(np.unique(own["seed"])) for part in wide]
        for measure, part in of_cell.groupby("measure"):
            series = [[fold[name].to_numpy(np.float64) for name in ("kappa", measure)] for fold in folds]
            rows.append((*cell, measure, *_pearson_row(part), *_pairing_row(series)))
    names = ["n", "n_nan", "r", "sd", "ci_low", "ci_high", "p", "p_floor", "spearman", "reasons"]
    table = pd.DataFrame(rows, columns=[*keys, *names, *PAIRING_COLUMNS])
    family = table.groupby(["study", "dataset", "lambda", "measure"], dropna=False)["pairing_p"]
    table["pairing_p_holm"] = family.transform(lambda p: pd.Series(holm(p), p.index)) if rows else table["pairing_p"]
    table["pairing_family"] = family.transform("size") if rows else table["pairing_p"]
    return _sorted(table, keys)


PAIRING_COLUMNS = (
    *("strangers_r", "pairing_p", "pairing_floor"),
    *("r_differences", "r_given_epoch", "r_late", "r_repeated"),
)


def _as_far_as_all(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Series (seeds, T) up to the last epoch of the seed that ended first; one without any value does not count."""
    there = np.isfinite(x) | np.isfinite(y)
    ends = x.shape[1] - there[:, ::-1].argmax(1)
    end = min(ends[there.any(1)], default=0)
    return x[:, :end], y[:, :end]


def _by_fold(runs: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each fold of a cross-validation; all of them without one."""
    return [part for _, part in runs.groupby(FOLD, dropna=False)] if FOLD in runs else [runs]


def _pairing_row(folds: Sequence[Sequence[Floats]]) -> tuple[float, ...]:
    """PAIRING_COLUMNS of the seeds' kappa and gaze, each (seeds, epochs), of each fold. Seeds are paired as wholes, by
    the mean over folds of their r, over the epochs that each of them came to: an r over more is another one.
    """
    found = pairing_test(np.mean([correlation_matrix(*_as_far_as_all(x, y)) for x, y in folds], 0))
    means = [
        float(nan_mean([each(x[:, first:], y[:, first:]) for x, y in folds]))
        for each, first in ((of_differences, 0), (given_epoch, 0), (pearson, LEFT_OUT_EPOCHS))
    ]
    repeated = float(nan_mean([repeated_measures(x, y) for x, y in folds]))
    return found.strangers, found.p, pairing_floor(found.n), *means, repeated


def run_summaries(runs: pd.DataFrame) -> pd.DataFrame:
    """Each run's metrics in one number, in three ways.

    Returns:
        A row per run and metric, of the measures that :mod:`gaze.measures` compares by lambda (one that is absent, or
        NaN in every row, is left out): ``study, dataset, model, lambda, seed`` (and ``run``), ``metric``, ``last`` (at
        the run's last epoch, even if NaN), ``last5`` (mean over the last 5 epochs, or all if fewer, without the NaN
        among them), ``best`` (highest of all epochs, for accuracy and kappa only; picked on the figures that it
        reports, so it flatters), ``epochs``.
    """
    keys, given = _given(runs, compared())
    if not given:
        return pd.DataFrame(columns=[*keys, "metric", *SUMMARIES, "epochs"])
    each, series, epochs = _series(runs, keys, given)
    parts = []
    for metric, values in zip(given, series, strict=True):
        best = np.fmax.reduce(values, 1) if metric in BEST_METRICS else math.nan  # fmax passes NaN over
        late = nan_mean(values[:, -LAST_EPOCHS:], axis=1)
        parts.append(each.assign(metric=metric, last=values[:, -1], last5=late, best=best, epochs=epochs))
    return pd.concat(parts).sort_index(kind="stable", ignore_index=True)  # a run's metrics side by side


def lambda_table(runs: pd.DataFrame) -> pd.DataFrame:
    """What each lambda did to each metric, and whether it differs from lambda = 0 by more than seeds do.

    A comparison pairs the seeds that both have. Its p is that of the paired t-test (Student 1908), adjusted by
    :func:`holm` within a family: all comparisons of one study, dataset, metric and summary, over models and lambdas.
    A reader scans that whole table for its smallest p, so that whole table is what can raise a false alarm.

    Returns:
        A row per ``study, dataset, model, lambda, metric, summary`` (last, last5; best for accuracy and kappa), sorted
        so: ``folds`` (1 without cross-validation), ``n`` seeds, ``n_nan`` of them without a value, ``mean``, ``sd``,
        ``ci_low``, ``ci_high`` (t, 95 %); against lambda = 0 of the same study, dataset and model: ``n_pairs``,
        ``diff``, ``diff_low``, ``diff_high`` (t, 95 %, not adjusted), ``p`` (NaN for under 2 pairs, or differences
        equal but for rounding), ``p_holm``, ``family`` (its number of comparisons, those with a NaN p among them),
        ``power`` (:func:`paired_power`: the chance of finding a difference of twice the seeds' SD; NaN with folds).
        Those of lambda = 0 itself are NaN. At the end ``runs, collapsed, lost, what`` of
        :func:`gaze.statistics.collapse.collapse_table`.
    """
    values = _seed_values(runs)
    rows = []
    for (*cell, weight, metric, summary), seeds in values.items():
        plain = values.get((*cell, 0.0, metric, summary), {})
        compared = (math.nan,) * 5 if weight == 0 else _compare(seeds, plain)
        folds = max(map(len, seeds.values()))
        rows.append((*cell, weight, metric, summary, folds, *_describe(list(seeds.values())), *compared))
    keys = [*CELL_KEYS, "metric", "summary"]
    names = ["folds", "n", "n_nan", "mean", "sd", "ci_low", "ci_high", "n_pairs", "diff", "diff_low", "diff_high", "p"]
    table = pd.DataFrame(rows, columns=[*keys, *names])
    table = _sorted(_with_family(table, ["study", "dataset", "metric", "summary"]), keys)
    return table.merge(collapse_table(runs), on=CELL_KEYS, how="left")


def scale_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Does a model stand apart by its map size? The l2 form scales as 1 / sqrt(H'W'), the others have no such factor.

    Returns:
        A row per ``study, dataset, measure, model`` (none without runs at lambda = 0), at the last epoch: ``n``
        seeds, ``n_nan`` of them without a value, ``mean``, ``sd``; ``ratio`` of the mean to the geometric mean of the
        other models' means (NaN without one, or where a mean is not positive), ``others_low`` and ``others_high`` (the
        smallest and largest of those), ``inside`` (the mean lies within them; False where that is not defined). The
        lowest and the highest model are never inside: that alone says nothing, the ratio does.
    """
    rows, tables = [], dict[tuple[Any, ...], dict[Any, list[Floats]]]()
    for (study, dataset, model, weight, metric, summary), seeds in _seed_values(runs).items():
        if weight == 0 and summary == "last" and metric in SCALE_MEASURES:
            tables.setdefault((study, dataset, metric), {})[model] = list(seeds.values())
    for key, models in tables.items():
        means = {model: float(nan_mean(np.concatenate(values))) for model, values in models.items()}
        for model, values in models.items():
            others = present([mean for other, mean in means.items() if other != model])
            rows.append((*key, model, *_describe(values)[:4], *_beside(means[model], others)))
    keys = ["study", "dataset", "measure", "model"]
    names = ["n", "n_nan", "mean", "sd", "ratio", "others_low", "others_high", "inside"]
    return _sorted(pd.DataFrame(rows, columns=[*keys, *names]), keys)


def gaze_shift_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Does lambda make the gaze more its class's, or only more alike?

    Both differences to lambda = 0 are taken over the same seeds: those where all four values are defined.

    Returns:
        A row per ``study, dataset, model, lambda`` other than 0, of means over the last 5 epochs: ``folds, n_pairs``;
        ``diff_rms, diff_rms_low, diff_rms_high`` (gaze_consistency_rms, in the map's 0..1 range; below 0: more
        alike), ``diff_eta, diff_eta_low, diff_eta_high`` (gaze_eta_squared; above 0: more its class's), both with 95 %
        t intervals, not adjusted; ``p``, the larger of the two paired t-tests', as a reading takes both; ``p_holm,
        family, power`` as in :func:`lambda_table`, over the models and lambdas of one study and dataset; ``reading`` in
        words. It ends in "(not shown beyond seed noise)" unless p_holm <= 0.05, in "(underpowered)" where so few pairs
        would miss even a difference of twice the seeds' SD in more than one of five studies, and is "not defined"
        without pairs, or where a difference is exactly 0 or NaN; "not compared: ..." where that is why.
    """
    return _not_compared(_shift_table(_seed_values(runs)), runs)


def _shift_table(values: SeedValues) -> pd.DataFrame:
    """:func:`gaze_shift_table` of the seeds' values."""
    rows, measures = [], ("gaze_consistency_rms", "gaze_eta_squared")
    for *cell, weight in dict.fromkeys(key[:4] for key in values if key[3] != 0):
        four = [values.get((*cell, w, m, "last5"), {}) for m in measures for w in (weight, 0.0)]
        rms, rms_plain, eta, eta_plain = _paired(*four)
        shifts = _difference(rms, rms_plain), _difference(eta, eta_plain)
        p = float(np.max([shift[3] for shift in shifts]))
        rows.append((*cell, weight, rms.shape[1], len(rms), *shifts[0][:3], *shifts[1][:3], p))
    differences = [f"diff_{m}{end}" for m in ("rms", "eta") for end in ("", "_low", "_high")]
    table = pd.DataFrame(rows, columns=[*CELL_KEYS, "folds", "n_pairs", *differences, "p"])
    table = _with_family(table, ["study", "dataset"])
    table["reading"] = [_reading(*row) for row in table[["diff_rms", "diff_eta", "p_holm", "power"]].to_numpy()]
    return _sorted(table, CELL_KEYS)


def _not_compared(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The reading of rows without pairs where no run, or none at lambda = 0, tells the classes apart."""
    if table.empty:
        return table
    cells = collapse_table(runs)
    lost = cells[cells["lost"] == cells["runs"]].set_index(CELL_KEYS)["what"].to_dict()
    for i, *cell, weight in table.loc[table["n_pairs"] == 0, CELL_KEYS].itertuples():
        own, plain = lost.get((*cell, weight)), lost.get((*cell, 0.0))
        if own or plain:
            table.loc[i, "reading"] = f"not compared: {own}" if own else f"not compared: {plain} at lambda 0"
    return table


def _describe(values: Sequence[Floats], interval: Interval = folds_interval) -> tuple[float, ...]:
    """n, n_nan, mean, sd, low, high of the seeds' values, each of all folds (F,); a seed with a NaN has no value."""
    seeds = [own for own in values if not np.isnan(own).any()]
    means, folds = [own.mean() for own in seeds], max(map(len, seeds), default=1)
    sd = float(np.std(means, ddof=1)) if len(seeds) > 1 else math.nan
    ends = interval(np.concatenate([*seeds, []]), folds)
    return (len(values), len(values) - len(seeds), float(nan_mean(means)), sd, *ends)


def _given(runs: pd.DataFrame, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The columns that identify a run, and those of ``names`` that hold anything."""
    return run_keys(runs), [name for name in names if name in runs and runs[name].notna().any()]


def _series(
    runs: pd.DataFrame, keys: list[str], names: Sequence[str]
) -> tuple[pd.DataFrame, list[Floats], NDArray[np.int64]]:
    """The key of each run (R rows); the series of each of ``names`` (R, T), epochs in order, NaN before a shorter run;
    and the number of epochs (R,).
    """
    if (twice := runs.duplicated([*keys, "epoch"])).any():
        row = runs.loc[twice, [*keys, "epoch"]].iloc[0].to_dict()
        raise ValueError(f"Two rows for one epoch of a run: {row}. Runs that share a key need a column 'run'.")
    runs = runs.sort_values([*keys, "epoch"])
    of_run = runs.groupby(keys, sort=False, dropna=False).ngroup().to_numpy(np.int64)  # in order
    epochs = np.bincount(of_run).astype(np.int64)
    places = epochs.max(initial=1) - np.repeat(epochs, epochs) + runs.groupby(of_run).cumcount().to_numpy(np.int64)
    cube = np.full((len(names), len(epochs), epochs.max(initial=1)), np.nan)
    cube[:, of_run, places] = runs[list(names)].to_numpy(np.float64).T
    first = np.cumsum(epochs) - epochs
    return runs[keys].iloc[first].reset_index(drop=True), list(cube), epochs


def _sorted(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    order = {name: i for i, name in enumerate((*compared(), *SUMMARIES))}
    named = ("measure", "metric", "summary")
    return table.sort_values(by, key=lambda c: c.map(order) if c.name in named else c, ignore_index=True)


def _pearson_row(part: pd.DataFrame) -> tuple[Any, ...]:
    """n .. reasons of pearson_table, from the runs of one row."""
    seeds = part.groupby("seed", dropna=False)[["pearson", "spearman"]].mean()
    n, n_nan, *moments = _describe([*seeds[["pearson"]].to_numpy()], lambda r, _: fisher_interval(r))
    p = sign_flip_p(seeds["pearson"]) if n - n_nan > 1 else math.nan
    counts = part.loc[part["reason"] != "", "reason"].value_counts().sort_index()
    reasons = "; ".join(f"{reason}: {count} run{'s' * (count > 1)}" for reason, count in counts.items())
    return n, n_nan, *moments, p, sign_flip_floor(int(n - n_nan)), float(nan_mean(seeds["spearman"])), reasons


def _seed_values(runs: pd.DataFrame) -> SeedValues:
    """{(study, dataset, model, lambda, metric, summary): {seed: its value in each fold (F,)}}, a value the mean of its
    runs. F is 1 without cross-validation.
    """
    keys, fold = [*CELL_KEYS, "metric", "summary", "seed"], [FOLD] if FOLD in runs else []
    long = run_summaries(comparable(runs)).melt([*RUN_KEYS, *fold, "metric"], list(SUMMARIES), "summary", "value")
    long = long[(long["summary"] != "best") | long["metric"].isin(BEST_METRICS)]
    folds: dict[tuple[Any, ...], list[float]] = {}
    means = long.groupby([*keys, *fold], dropna=False)["value"].mean().reset_index()
    for *key, value in means.itertuples(index=False, name=None):
        folds.setdefault(tuple(key[: len(keys)]), []).append(value)
    values: SeedValues = {}
    for (*cell, seed), own in folds.items():
        values.setdefault(tuple(cell), {})[seed] = np.array(own, np.float64)
    return values


def _paired(first: Mapping[int, Floats], *others: Mapping[int, Floats]) -> Floats:
    """Values of the seeds that all have and where none is NaN: (number of mappings, seeds, folds)."""
    seeds = [seed for seed in first if all(seed in o and len(o[seed]) == len(first[seed]) for o in others)]
    rows = [[values[seed] for values in (first, *others)] for seed in seeds]
    columns = np.stack(rows, 1) if rows else np.empty((1 + len(others), 0, 1))
    return columns[:, ~np.isnan(columns).any((0, 2))]


def _compare(seeds: Mapping[int, Floats], plain: Mapping[int, Floats]) -> tuple[float, ...]:
    """n_pairs, diff, diff_low, diff_high, p."""
    a, b = _paired(seeds, plain)
    return (len(a), *_difference(a, b))


def _difference(a: Floats, b: Floats) -> tuple[float, float, float, float]:
    """Mean difference of pairs (seeds, folds), its 95 % t interval, and p of the paired t-test."""
    difference, folds, p = a - b, a.shape[1], math.nan
    if difference.size > 1 and np.ptp(difference) > ROUNDING * max(np.abs(a).max(), np.abs(b).max()):
        p = folds_p(difference, folds)
    return (float(nan_mean(difference)), *folds_interval(difference, folds), p)


def _with_family(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """``p_holm``, ``family`` and ``power`` of the comparisons with lambda = 0, a family for each value of ``keys``."""
    family = table[table["lambda"] != 0].groupby(keys, dropna=False)["p"]
    table["p_holm"] = family.transform(lambda p: pd.Series(holm(p), p.index))
    table["family"] = family.transform("size")
    pairs = table[["n_pairs", "family"]].to_numpy(np.float64)
    known = ~(np.isnan(pairs).any(1) | (table["folds"] > 1))  # of seeds; what folds share is not known
    table["power"] = [paired_power(int(n), int(m)) if ok else math.nan for (n, m), ok in zip(pairs, known, strict=True)]
    return table


def _beside(mean: float, others: Floats) -> tuple[float, float, float, bool]:
    """ratio, others_low, others_high, inside."""
    if others.size == 0:
        return math.nan, math.nan, math.nan, False
    ratio = mean / math.exp(np.log(others).mean()) if mean > 0 and (others > 0).all() else math.nan
    return ratio, float(others.min()), float(others.max()), bool(others.min() <= mean <= others.max())


def _reading(rms: float, eta: float, p_holm: float, power: float) -> str:
    if any(math.isnan(diff) or diff == 0 for diff in (rms, eta)):
        return "not defined"
    own = "less" if eta < 0 else "and more" if rms < 0 else "more"
    text = f"{'more' if rms < 0 else 'less'} alike, {own} its class's"
    if p_holm <= 0.05:  # NaN: False
        return text
    return f"{text} ({'underpowered' if power < ENOUGH else 'not shown beyond seed noise'})"
