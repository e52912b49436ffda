"""Runs that collapsed, in the tidy frame: how many there are, and their gaze left out of comparisons."""

from __future__ import annotations

import numpy as np
import pandas as pd

from gaze.runs.collapse import LATE, LOST, collapse_of
from gaze.runs.tidy import CELL_KEYS, run_keys

LOOKED_AT = ("kappa", "gaze_empty_fraction", "gaze_consistency_rms", "gaze_eta_squared")


def collapses(runs: pd.DataFrame) -> pd.Series[str]:
    """How each run collapsed (:func:`gaze.runs.collapse.collapse_of`; "" where it did not), by its keys.

    Args:
        runs: the tidy frame; of the four measures in the definition those that it has are looked at.
    """
    given = [runs[name].astype(float) if name in runs else pd.Series(float("nan"), runs.index) for name in LOOKED_AT]
    frame = pd.concat([runs[[*run_keys(runs), "epoch"]], pd.concat(given, axis=1, keys=LOOKED_AT)], axis=1)
    late = frame.sort_values("epoch").groupby(run_keys(runs), dropna=False).tail(LATE)
    groups = late.groupby(run_keys(runs), dropna=False)
    sizes, order = groups.size(), np.argsort(groups.ngroup().to_numpy(), kind="stable")
    parts = np.split(late[list(LOOKED_AT)].to_numpy()[order], np.cumsum(sizes.to_numpy())[:-1])
    return pd.Series([collapse_of(*part.T.tolist()) for part in parts], sizes.index, dtype=str)


def collapse_table(runs: pd.DataFrame) -> pd.DataFrame:
    """How many runs of each model and lambda collapsed.

    Returns:
        A row per ``study, dataset, model, lambda``: ``runs``, ``collapsed`` of them, ``lost`` (those whose gaze is not
        compared) and ``what`` ("one class is predicted or maps are empty"; "" where none did).
    """
    if runs.empty:
        return pd.DataFrame(columns=[*CELL_KEYS, "runs", "collapsed", "lost", "what"])
    found = collapses(runs).rename("how").reset_index()
    found = found.assign(collapsed=found["how"] != "", lost=found["how"].isin(LOST))
    names = {"runs": ("how", "size"), "collapsed": ("collapsed", "sum"), "lost": ("lost", "sum")}
    kinds = ("how", lambda how: " or ".join(sorted({*how} - {""})))
    return found.groupby(CELL_KEYS).agg(**names, what=kinds).reset_index()


def comparable(runs: pd.DataFrame) -> pd.DataFrame:
    """The tidy frame, the measures of the gaze empty in runs that do not tell the classes apart (:data:`LOST`)."""
    found = collapses(runs) if len(runs) else pd.Series(dtype=str)
    lost = found.index[found.isin(LOST)]
    if lost.empty:
        return runs
    rows = runs.set_index(run_keys(runs)).index.isin(lost)
    gaze = [str(name) for name in runs if str(name).startswith("gaze_")]
    return runs.assign(**{name: runs[name].mask(rows) for name in gaze})
