"""The report of runs with a marker: each arm's worst group held against plain runs, and beside it the gaze."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

from gaze.errors import DataError
from gaze.measures import label, measures
from gaze.report.provenance import left_out_item
from gaze.report.style import add_legend, dress, model_styles, new_figure
from gaze.report.words import each, estimate, number, p_value, with_sd
from gaze.report.write import FigureItem, Section, TableItem, write_report
from gaze.runs.load import Runs
from gaze.runs.records import Tested, read_facts
from gaze.runs.run import LAST, Run
from gaze.statistics.intervals import TIE, holm
from gaze.statistics.permutation import mean_shift
from gaze.studies.arms import PLAIN, setting_arms
from gaze.studies.costs import Priced, cost_table, costs_item, with_cost
from gaze.terminal import print_table, say

WORST, GAZES = "worst_group_accuracy", ("gaze_marker_energy", "gaze_mask_lift")
DRAWS, LEVEL = 9999, 0.05
HOW_TO_READ = (
    "Worst group: the least accuracy among the groups (class x marker) of the test images, by the last weights. "
    "Accuracy is that of all test images. The gaze is that of the images that epochs were judged by, after the last "
    "epoch: their markers are independent of the class, and it is known before a test image is looked at.",
    "The test takes a run for a sample: all relabellings of the runs of two arms, or Welch's p where that is larger, "
    "and Holm over the arms. Not shown is not the same as no effect.",
    "An association says which runs go together, not what made them so: an arm changes more than the gaze. Within "
    "arms, each rank is taken less its arm's mean.",
)


def run_study(
    runs: Runs, directory: Path, console: Console, provenance: Mapping[str, Any], priced: Mapping[str, Priced]
) -> list[Path]:
    """Tables, a figure and a report of one study whose images have markers.

    Args:
        runs: of one study, read with ``arms=True``.
        directory: where to write.
        console: for tables.
        provenance: for the end of the report.
        priced: what the mistakes of each run cost; empty without costs=.

    Returns:
        Every path written.

    Raises:
        DataError: no run has groups, or there is one arm, or none is plain.
    """
    found = run_table(runs)
    if found[WORST].isna().all() or PLAIN not in set(found["arm"]) or found["arm"].nunique() < 2:
        raise DataError(
            "kind=shortcut needs runs of images with a marker (dataset=phantom_shortcut, dataset.marker={}) in several "
            "arms, plain ones among them."
        )
    arms, with_gaze = arm_table(found), association_table(found)
    lines = [_said(row) for row in each(arms) if row.arm != PLAIN]
    gaze = [_association(row) for row in each(with_gaze)]
    table, costs = arms_item(arms), cost_table(found, ["arm"], priced)
    tables = [table]
    if len(costs):
        without, table = len(found) - int(costs["runs"].sum()), with_cost(table, costs, ["arm"])
        tables = [table, costs_item(costs, ["arm"], "costs", found["study"].iloc[0], without)]
    print_table(console, table.caption, table.shown, table.shown.columns.difference(["arm"]))
    for line in (*lines, *gaze):
        say(console, line, whole=False)
    figure = FigureItem("worst_group_and_gaze", "Worst group against the gaze, one point a run", gaze_figure(found))
    left = left_out_item(runs.listing)
    sections = [
        Section("Does the gaze go with it?", (), (figure, _association_item(with_gaze)), tuple(gaze)),
        Section("The runs", (), (_runs_item(found), *([left] if left else []))),
        Section("How to read this", HOW_TO_READ, ()),
    ]
    study = found["study"].iloc[0]
    lead = [Section("Which arm mends the shortcut?", (), tuple(tables), tuple(lines))]
    return write_report(f"A marker in the images: {study}", gaze, sections, provenance, directory, lead)


def run_table(runs: Runs) -> pd.DataFrame:
    """A row a run: ``arm``, figures of the test images, and the gaze after the last epoch."""
    arms, rows = setting_arms(runs.used.values()), list[dict[str, Any]]()
    for own in each(runs.epochs.sort_values("epoch").drop_duplicates("run", keep="last")):
        run: Run = runs.used[own.run]
        last = run.rows[-1]
        tested = read_facts(run.test_file, Tested).get(LAST) or {f"test/{key[4:]}": last[key] for key in last}
        keys = {"study": own.study, "arm": arms[own.run], "seed": own.seed, "run": own.run}
        test = {name: tested.get(f"test/{name}", math.nan) for name in (WORST, "accuracy")}
        rows.append(keys | test | {name: last.get(f"val/{name}", math.nan) for name in GAZES})
    table = pd.DataFrame(rows)
    return table.sort_values(["arm", "seed"], key=lambda c: c.ne(PLAIN) if c.name == "arm" else c, kind="stable")


def arm_table(found: pd.DataFrame) -> pd.DataFrame:
    """A row an arm, plain runs first: means and SDs, and of the worst group the change from plain runs with its 95 %
    interval, ``p`` (:func:`gaze.statistics.permutation.mean_shift`), ``p_holm`` over the arms, and ``verdict``."""
    rows, names = [], list(dict.fromkeys(found["arm"]))
    for arm in names:
        own = found[found["arm"] == arm]
        row: dict[str, Any] = {"arm": arm, "runs": len(own)}
        for name in (WORST, "accuracy", *GAZES):
            row |= {name: own[name].mean(), f"{name}_sd": own[name].std()}
        if arm != PLAIN:
            row |= mean_shift(found[WORST], list(found["arm"]), PLAIN, arm)._asdict()
        rows.append(row)
    table, tests = pd.DataFrame(rows), len(names) - 1
    others = table["arm"] != PLAIN
    table.loc[others, "p_holm"] = holm(table.loc[others, "p"].fillna(1.0))
    level = LEVEL * (1 + TIE)
    able = tests * table["smallest_p"] <= level
    shown = np.where(table["change"] > 0, "mended", "made worse")
    verdict = np.where(~able, "too few runs", np.where(table["p_holm"] <= level, shown, "not shown"))
    table["verdict"] = pd.Series(verdict, table.index).where(others, None)
    return table


def association_table(found: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rho, over runs, of the worst group and each reading of the gaze: of all runs, and ``within`` arms,
    with a two-sided p of values dealt out anew within each arm."""
    rows, rng = [], np.random.default_rng(0)
    for name in GAZES:
        own = found.dropna(subset=[WORST, name])
        both = own[[WORST, name]].rank()
        within = (both - both.groupby(own["arm"]).transform("mean")).to_numpy()  # (R, 2)
        codes = own["arm"].factorize()[0]
        rho, p = _cosine(*within.T), math.nan
        if not math.isnan(rho):
            drawn = [_cosine(within[_dealt(codes, rng), 0], within[:, 1]) for _ in range(DRAWS)]
            p = (1 + np.sum(np.abs(drawn) >= abs(rho) - TIE)) / (1 + DRAWS)
        rows.append({"gaze": name, "runs": len(own), "rho": both.corr().iloc[0, 1], "within": rho, "p": p})
    return pd.DataFrame(rows)


def _dealt(codes: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Places (R,) dealt out anew within each arm."""
    order = np.lexsort((rng.random(len(codes)), codes))
    dealt = np.empty_like(order)
    dealt[np.argsort(codes, kind="stable")] = order
    return dealt


def _cosine(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size > TIE else math.nan


def gaze_figure(found: pd.DataFrame) -> Figure:
    """Worst group against energy on the marker and lift on the lesion, a point a run, arms coloured."""
    shown = [name for name in GAZES if found[name].notna().any()]
    figure = new_figure(4.2 * max(1, len(shown)), 4.2)
    styles = model_styles(found["arm"])
    for axis, name in zip(np.atleast_1d(figure.subplots(1, max(1, len(shown)), sharey=True)), shown, strict=False):
        for arm, own in found.groupby("arm"):
            style = styles[str(arm)]
            axis.plot(own[name], own[WORST], style.marker, color=style.colour, markersize=6, alpha=0.85)
        dress(axis, "", label(name), label(WORST))
        axis.locator_params(axis="x", nbins=5)
    add_legend(figure, [style.line2d(arm, linestyle="") for arm, style in styles.items()])
    return figure


def arms_item(arms: pd.DataFrame) -> TableItem:
    """The table of :func:`arm_table`, as numbers and as a reader sees it."""
    known, rows = measures(), []
    for row in arms.to_dict("records"):
        means = {
            known[name].heading: with_sd(row[name], row[f"{name}_sd"], known[name].digits)
            for name in (WORST, "accuracy", *GAZES)
        }
        tested = row["arm"] != PLAIN
        change = estimate(row["change"], row["ci_low"], row["ci_high"], row["runs"]) if tested else None
        more = {"less plain": change, "p (Holm)": p_value(row["p_holm"]), "verdict": row["verdict"]}
        rows.append({"arm": row["arm"], "runs": str(row["runs"])} | means | more)
    caption = "Worst group on the test images by arm, mean over runs \N{PLUS-MINUS SIGN} SD"
    return TableItem("arms", caption, arms, pd.DataFrame(rows))


def _association_item(table: pd.DataFrame) -> TableItem:
    shown = pd.DataFrame(
        {
            "gaze": [measures()[name].title for name in table["gaze"]],
            "runs": table["runs"].astype(str),
            "rho, all runs": table["rho"].map(number),
            "rho within arms": table["within"].map(number),
            "p within arms": table["p"].map(p_value),
        }
    )
    return TableItem("association", "Association of the gaze with the worst group (Spearman)", table, shown)


def _runs_item(found: pd.DataFrame) -> TableItem:
    known = measures()
    shown = found[["arm", "seed"]].astype(str)
    for name in (WORST, "accuracy", *GAZES):
        shown[known[name].heading] = found[name].map(lambda value, digits=known[name].digits: number(value, digits))
    return TableItem("runs", "The runs", found, shown)


def _said(row: Any) -> str:
    p = "" if math.isnan(row.p_holm) else f", p {p_value(row.p_holm)} after Holm"
    return f"{row.arm}: worst group {number(row.worst_group_accuracy)} ({row.change:+.3f}{p}): {row.verdict}."


def _association(row: Any) -> str:
    title = measures()[row.gaze].title
    if math.isnan(row.within):
        return f"{title}: no association can be told from {row.runs} runs."
    return (
        f"{title} and the worst group: association over {row.runs} runs, rho {number(row.rho)}; within arms "
        f"{number(row.within)} (p {p_value(row.p)})."
    )
