"""The gaze of two lambdas on the same images: those that every run of both classifies correctly.

L_CAM counts each run's own correct images, so where lambda changes which these are, it changes for that alone. Here the
runs' last maps (``gaze.runs.kept_maps``) are compared on one set of images a pair of lambdas.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from gaze.report.words import each, estimate, listed, number, p_value
from gaze.report.write import TableItem
from gaze.runs.collapse import LOST
from gaze.runs.kept_maps import LastMaps, consistency_of, last_maps
from gaze.runs.load import Runs
from gaze.runs.tidy import CELL_KEYS, FOLD
from gaze.statistics.bootstrap import nan_mean
from gaze.statistics.collapse import collapses
from gaze.statistics.intervals import mean_interval

FORMS = {"gaze_consistency": "correct images", "gaze_consistency_all": "all images"}
COLUMNS = [*CELL_KEYS, "images", "evaluated", "n_pairs", "plain", "mean", "diff", "diff_low", "diff_high"]


def common_table(runs: Runs) -> pd.DataFrame:
    """Each lambda against 0 on the images that all their runs classify correctly after the last epoch.

    Returns:
        A row per ``study, dataset, model, lambda`` other than 0: ``images`` of ``evaluated``; over the ``n_pairs``
        seeds that both have ``plain`` (mean L_CAM at lambda 0, squared, on maps of 8x8 cells at most), ``mean`` (at
        this lambda) and their difference with its 95 % t interval. Runs that do not tell the classes
        apart are left out. No row where another kept no maps, or where they were not evaluated on the same images,
        as those of folds never are.
    """
    cells: dict[tuple[str, ...], dict[float, dict[int, LastMaps | None]]] = {}
    alone = runs.epochs
    alone = alone[alone[FOLD].isna()].drop(columns=FOLD) if FOLD in alone else alone
    found_runs = collapses(alone).rename("how").reset_index() if runs.used and len(alone) else alone[:0]
    for study, dataset, model, weight, seed, name, how in found_runs.itertuples(index=False, name=None):
        if how in LOST:
            continue
        kept = cells.setdefault((study, dataset, model), {}).setdefault(weight, {})
        kept[seed] = last_maps(runs.used[name])
    rows = []
    for cell, arms in sorted(cells.items()):
        for weight in sorted(set(arms) - {0.0} if 0.0 in arms else ()):
            found = _compared(arms[weight], arms[0.0])
            rows += [(*cell, weight, *found)] if found else []
    return pd.DataFrame(rows, columns=COLUMNS)


def _compared(arm: dict[int, LastMaps | None], plain: dict[int, LastMaps | None]) -> tuple[Any, ...] | None:
    """images .. diff_high."""
    kept = [*arm.values(), *plain.values()]
    known = [own for own in kept if own is not None]
    if len(known) < len(kept) or not all(np.array_equal(own.target, known[0].target) for own in known):
        return None
    target, chosen = known[0].target, np.logical_and.reduce([own.correct[-1] for own in known])
    a, b = (
        np.array([consistency_of(own[seed].maps, target, chosen) for seed in arm if seed in plain])  # type: ignore[union-attr]
        for own in (arm, plain)
    )
    difference = a - b
    means = (float(nan_mean(values)) for values in (b, a, difference))
    return int(chosen.sum()), len(target), int((~np.isnan(difference)).sum()), *means, *mean_interval(difference)


def three_forms_item(by_lambda: pd.DataFrame, common: pd.DataFrame, name: str, where: str) -> TableItem:
    """What lambda does to L_CAM on three choices of images, side by side.

    Args:
        by_lambda: rows of ``gaze.statistics.seeds.lambda_table`` of one study and data set.
        common: rows of :func:`common_table` of the same.
        name: of the files.
        where: study and data set in words.
    """
    last = by_lambda[(by_lambda["summary"] == "last") & (by_lambda["lambda"] != 0)]
    rows = []
    for row in each(common):
        own = last[(last["model"] == row.model) & (last["lambda"] == row.weight)].set_index("metric")
        shown: dict[str, str | None] = {"model": row.model, "lambda": f"{row.weight:g}"}
        found: dict[str, Any] = {title: own.loc[metric] for metric, title in FORMS.items() if metric in own.index}
        found["same images"] = row._asdict()
        for title, cell in found.items():
            shown[title] = estimate(cell["diff"], cell["diff_low"], cell["diff_high"], int(cell["n_pairs"]), 4)
        said = {_side(cell["diff_low"], cell["diff_high"]) for cell in found.values()}
        shown |= {"how many": f"{row.images} of {row.evaluated}", "at lambda 0": number(row.plain, 4)}
        rows.append({**shown, "agree": "yes" if len(said) == 1 else "NO"})
    notes = (
        "Difference of L_CAM (squared) from lambda = 0 after the last epoch [95 % t interval over paired seeds, not "
        "adjusted]. Correct images: each run's own, as published. All images: every evaluated image with the map of "
        "its true class, each class alike. Same images: those that all runs of both lambdas classify correctly, on "
        "maps of 8x8 cells at most. They agree where all three intervals lie on one side of 0, or all hold it; else "
        "L_CAM as published may say which images count rather than where the network looks.",
    )
    return TableItem(name, f"What lambda does to L_CAM, on which images? {where}", common, pd.DataFrame(rows), notes)


def three_rs_item(pearson: pd.DataFrame, name: str, where: str) -> TableItem:
    """r of kappa and L_CAM on three choices of images, side by side (rows of ``pearson_table``)."""
    forms = {**FORMS, "gaze_consistency_fixed": "same images"}
    table = pearson[(pearson["lambda"] == 0) & pearson["measure"].isin(list(forms))]
    rows = []
    for model, part in table.groupby("model", sort=True):
        own = {row.measure: row for row in each(part)}
        shown: dict[str, str | None] = {"model": str(model)}
        for measure, title in forms.items():
            if measure in own:
                row = own[measure]
                shown |= {title: number(row.r, 2), f"strangers', {title}": number(row.strangers_r, 2)}
                shown[f"p (Holm), {title}"] = p_value(row.pairing_p_holm)
        # A p that is NaN is below nothing: no relation is shown.
        said = {np.sign(row.r - row.strangers_r) if row.pairing_p_holm < 0.05 else 0 for row in own.values()}
        rows.append({**shown, "agree": None if len(own) < 3 else "yes" if len(said) == 1 else "NO"})
    notes = (
        "Correct images: those of the epoch, as published, so that their number and kind change with kappa. All "
        "images: every evaluated image with the map of its true class, each class alike. Same images: those that the "
        "run classifies correctly in every epoch of its second half, in all its epochs, on maps of 8x8 cells at most. "
        "They agree where the pairing test says the same of all three; else r of L_CAM as published may say which "
        "images count rather than where the network looks.",
    )
    shown_table = pd.DataFrame(rows) if table["measure"].nunique() > 1 else pd.DataFrame()
    return TableItem(name, f"r of kappa and L_CAM, on which images? {where}, lambda = 0", table, shown_table, notes)


def _side(low: float, high: float) -> int:
    """1 where an interval lies above 0, -1 where it lies below, else 0."""
    return int(low > 0) - int(high < 0)


def images_finding(pearson: pd.DataFrame, by_lambda: pd.DataFrame, common: pd.DataFrame, where: str) -> str | None:
    """Where the choice of images changes what is found; None where it nowhere does."""
    rs, changes = three_rs_item(pearson, "", "").shown, three_forms_item(by_lambda, common, "", "").shown
    turned = [str(row.model) for row in each(rs) if row.agree == "NO"] if len(rs) else []
    parts = [f"whether kappa and L_CAM are related beyond the shared curve for {listed(turned)}"] if turned else []
    turned = [f"{row.model} at {row.weight}" for row in each(changes) if row.agree == "NO"] if len(changes) else []
    parts += [f"what lambda does to L_CAM at the last epoch for {listed(turned)}"] if turned else []
    if not parts:
        return None
    said = " and ".join(parts)
    return f"Which images count, the correct ones, all or the same ones ({where}), changes {said}."
