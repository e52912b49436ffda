"""The gaze beside readers' eyes: each measure of networks between a prior in the centre and one reader's."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gaze.errors import DataError, LeftOut
from gaze.measures import HUMAN, measures
from gaze.names import printable
from gaze.report.words import each, with_sd
from gaze.report.write import TableItem
from gaze.runs.class_gaze import GazeMaps
from gaze.runs.collapse import LOST
from gaze.runs.human import NO_CEILING, PARTS, HumanFigures, read_human
from gaze.runs.run import Run
from gaze.statistics.collapse import collapses
from gaze.studies.consistency.atlas import READERS

ALL = "all classes"
CENTRE, OTHERS = "centre prior", "one reader"
HEADED = {name: measures()[f"gaze_human_{name}"].heading.removesuffix(", readers") for name in HUMAN}
KEYS = ["model", "class", "gaze", "lambda"]
COLUMNS = ["place", "part", "judged", "readers", "seed", *KEYS, "images", "measure", "value"]
LEFT = "runs that do not tell the classes apart are left out"
HOW_TO_READ = (
    "How near is the map of a correctly classified image to what readers looked at in it? People look at the centre, "
    "so a map that knows nothing of the image scores too: a centre prior, a Gaussian, stands beside the networks. One "
    "reader, held against the others of the same image, has about the most that can be hoped for. KL is lower where "
    "the two are nearer, the others are higher. sCC and sAUC take out what was looked at in other images: a broad map "
    "that knows no image has an sCC of 0 or less and an sAUC of about 0.5."
)


def readers_of(runs: pd.DataFrame, used: Mapping[str, Run]) -> tuple[pd.DataFrame, list[GazeMaps]]:
    """What the runs' ``human.npz`` say and, for the atlas, what readers looked at in the images that judge each epoch.

    Args:
        runs: rows of the tidy frame of one study and data set.
        used: its runs by their names.

    Returns:
        A row per run, part of the images (``judged``: by which each epoch is judged), class (:data:`ALL` last), gaze
        ("lambda 50", then :data:`CENTRE` and :data:`OTHERS`, whose ``lambda`` is NaN) and measure. The gaze of a run
        that does not tell the classes apart is left out.
    """
    rows, maps = list[tuple[Any, ...]](), list[GazeMaps]()
    how = collapses(runs).rename("how").reset_index()
    lost = set(how.loc[how["how"].isin(LOST), "run"])
    for own in each(runs.drop_duplicates("run")):
        for part, found in (_read(used[own.run]) if own.run in used else {}).items():
            judged = used[own.run].test_file.exists() == (part != "test")
            gazes = {} if own.run in lost else {f"lambda {own.weight:g}": (own.weight, found.network)}
            gazes |= {CENTRE: (math.nan, found.centre), OTHERS: (math.nan, found.others)}
            counts = [*found.counts, found.counts.sum()]
            for gaze, (weight, values) in gazes.items():
                for place, name in enumerate((*found.classes, ALL)):
                    keys = (place, part, judged, found.readers, own.seed, own.model, name, gaze, weight, counts[place])
                    rows += [(*keys, *pair) for pair in zip(HUMAN, values[place], strict=True)]
            if judged:
                looked = found.maps.astype(np.float32)
                maps.append(GazeMaps(own.study, own.dataset, own.model, READERS, found.classes, looked, found.counts))
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values(["model", "place", "lambda"], kind="stable", ignore_index=True), maps


def _read(run: Run) -> dict[str, HumanFigures]:
    try:
        return read_human(run)
    except DataError as error:
        warnings.warn(printable(f"{run.folder}: its yardsticks are left out: {error}"), LeftOut, stacklevel=2)
        return {}


def readers_items(by_lambda: pd.DataFrame, table: pd.DataFrame, slug: str, where: str) -> list[TableItem]:
    """Models and lambdas beside the yardsticks of the same images, then by class; none where nobody looked.

    Args:
        by_lambda: rows of ``gaze.statistics.seeds.lambda_table`` of one study and data set.
        table: of :func:`readers_of`, of the same.
        slug: ends the names of files.
        where: study and data set in words.
    """
    late = by_lambda[(by_lambda["summary"] == "last5") & by_lambda["metric"].str.startswith("gaze_human_")]
    gaze = [f"lambda {weight:g}" for weight in late["lambda"]]
    names = late["metric"].str.removeprefix("gaze_human_")
    late = late.assign(**{"class": ALL}, gaze=gaze, measure=names, n=late["n"] - late["n_nan"])
    beside = table[table["judged"].astype(bool) & (table["class"] == ALL) & table["lambda"].isna()]
    found = [("", "The gaze beside readers", late, beside, "mean of the last 5 epochs", ["model", "gaze"])]
    for part in PARTS:
        caption, own = f"The gaze beside readers by class, {part} images", table[table["part"] == part]
        found.append((f"{part}-", caption, late[:0], own, "after the last epoch", ["model", "class", "gaze"]))
    items = list[TableItem]()
    for name, caption, rows, own, when, keys in found:
        frame = pd.concat([part for part in (rows, _means(own)) if len(part)] or [rows]).dropna(subset="mean")
        if frame["lambda"].notna().any():
            notes = (f"Networks: {when}, over seeds ± SD, correct images alone; {LEFT}. {_yardsticks(own)}",)
            columns = [*KEYS, "measure", "mean", "sd", "n"]
            items.append(
                TableItem(f"readers-{name}{slug}", f"{caption}, {where}", frame[columns], _wide(frame, keys), notes)
            )
    return items


def _means(table: pd.DataFrame) -> pd.DataFrame:
    """Over seeds, ``mean``, ``sd``, ``n`` and ``images``; yardsticks, which are of no seed, have no SD."""
    how: dict[str, Any] = {"sort": False, "dropna": False}
    seeds = table.groupby([*KEYS, "measure", "seed"], **how)[["value", "images"]].mean()  # over folds
    names = {"mean": ("value", "mean"), "sd": ("value", "std"), "n": ("value", "count"), "images": ("images", "mean")}
    found = seeds.groupby([*KEYS, "measure"], **how).agg(**names).reset_index()
    return found.assign(sd=found["sd"].where(found["lambda"].notna()))


def _wide(frame: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """A column a measure, as a reader sees it."""
    shown = []
    for names, own in frame.sort_values("model", kind="stable").groupby(list(keys), sort=False):
        row: dict[str, Any] = dict(zip(keys, names, strict=True))
        known = {value.measure: with_sd(value.mean, value.sd, 2) for value in each(own)}
        row |= {HEADED[name]: known.get(name) for name in HUMAN}
        if "class" in keys:  # there is no room for both
            row["images"] = f"{own['images'].iloc[0]:.0f}"
        else:
            row["seeds"] = None if own["lambda"].isna().any() else str(own["n"].max())
        shown.append(row)
    return pd.DataFrame(shown).dropna(axis=1, how="all")


def _yardsticks(table: pd.DataFrame) -> str:
    if table.empty:
        return "No yardsticks: the runs' human.npz is not here."
    part, most = table["part"].iloc[0], table["readers"].max()
    ceiling = f"{most} readers of an image at most." if most > 1 else NO_CEILING
    return (
        f"Centre prior and one reader: all {part} images that somebody looked at, on the networks' own grid. {ceiling}"
    )
