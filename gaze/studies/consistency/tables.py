"""Numbers to tables that a reader sees: rounded, with intervals, the published values beside ours."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gaze.errors import DataError
from gaze.measures import HUMAN, measures
from gaze.report.style import model_styles
from gaze.report.words import each, estimate, listed, number, p_value, with_sd
from gaze.report.write import TableItem
from gaze.runs.collapse import COLLAPSED, shortly
from gaze.runs.predictions import read_figures
from gaze.runs.records import Tested, read_facts
from gaze.runs.run import BEST, LAST, Run
from gaze.runs.tidy import FOLD
from gaze.statistics.intervals import folds_interval
from gaze.studies.consistency.published import (
    STUDY1_EPOCH,
    Beside,
    published_pearson,
    published_study1,
    published_study2,
)

IN_OTHER_TABLES = {"accuracy", "kappa", "gaze_consistency_grid", "gaze_entropy"}  # or in the CSV alone
IN_OTHER_TABLES |= {f"gaze_human_{name}" for name in HUMAN}
MASK_NOTE = (
    "Over the correct images with a lesion. Energy in mask: the share of the map's sum that lies on the lesion. Lift: "
    "that share over the lesion's share of the image, 1 for a gaze that is the same everywhere. Pointing game: the "
    "share of images whose map has its maximum on the lesion."
)
STUDY2_NOTE = (
    "Published: 1 run of 50 epochs at 224 px, mean of the last 5, l2 form, alpha constant. Where the runs here were "
    "trained in another way the cell says in which: such figures do not compare."
)
FOLDS_NOTE = (
    "Cross-validation: each run trains on most of the images that the others train on, so runs are no independent "
    "samples. Intervals and p of means and differences are of all folds and seeds, with the correction of Nadeau and "
    "Bengio (2003) for the shared images; SD, r and tests by relabelling take one number a seed, its mean over folds."
)
HEADED = {"support": "images", "f1": "F1", "auroc": "AUROC", "ece": "calibration error"}
CLASSES_NOTE = (
    "Of the test images, after the last epoch: mean over seeds ± SD. The intervals in a run's own classes.csv are over "
    "its images, or groups of them, and say nothing of another training."
)
TESTED_MEASURES = ("accuracy", "kappa", "balanced_accuracy", "f1_macro", "gaze_consistency")
DATASET_NAMES = {"brain_tumor_mri": "Brain Tumor MRI", "chest_xray": "Chest X-Ray"}


def pearson_item(
    table: pd.DataFrame, name: str, where: str, dataset: str, beside: Beside, judged: str = "",
    lengths: Collection[int] = (),
) -> TableItem:  # fmt: skip
    """Table 2 of one study and data set at lambda = 0; the CSV has every lambda.

    Args:
        table: rows of ``gaze.statistics.seeds.pearson_table`` of one study and data set.
        name: of the files.
        where: study and data set in words, for the caption.
        dataset: its name, to find the published values.
        beside: what sets the runs apart from those of study 1.
        judged: ends the caption: what each epoch was judged by.
        lengths: last epochs of the runs at lambda = 0.
    """
    published = published_pearson().set_index(["dataset", "model"])["r"]
    rows = []
    for row in _published_form_first(table):
        given = published.get((dataset, row.model), math.nan) if row.measure == "gaze_consistency_l2" else math.nan
        rows.append(
            {
                "model": row.model,
                "measure": _form(row.measure),
                "published r": _published(given, beside.get((row.model, 0.0))),
                "r, mean over seeds": number(row.r),
                "SD": number(row.sd),
                "95 % interval": _interval(row.ci_low, row.ci_high),
                "strangers' r": number(row.strangers_r),
                "p of pairing": p_value(row.pairing_p),
                "p (Holm)": p_value(row.pairing_p_holm),
                "seeds": str(row.n),
                "without r": f"{row.n_nan} ({row.reasons})" if row.n_nan else "0",
            }
        )
    shown = pd.DataFrame(rows)
    shown = _without_empty(shown, "published r")
    floors = sorted({(int(row.n - row.n_nan), row.pairing_floor) for row in each(table)})
    least = "; ".join(f"{n} seeds: {floor:.2g}" for n, floor in floors if n > 1)
    notes: tuple[str, ...] = (
        "r: Pearson's r of kappa and the gaze measure across the epochs of a run, then the plain mean over seeds, as "
        "published, with its interval over seeds (Fisher z). L_CAM is lower where the gaze is more consistent: r < 0 "
        "means that the gaze is more consistent where kappa is higher. For eta squared it is the other way round.",
        "An r far from 0 does not say that kappa and gaze are related: two curves that go the same way in every run "
        "have one. Strangers' r holds the kappa of each seed against the gaze of the other seeds. p of pairing: the "
        "share of all pairings of the seeds' kappas with their gazes whose mean r lies as far out; Holm over the "
        f"models, one measure at a time.{f' The smallest p that is possible: {least}.' if least else ''}",
    )
    if lengths and min(lengths) < max(lengths):
        notes = (
            f"The runs ended after {min(lengths)} to {max(lengths)} epochs: r is over all that a run has, strangers' r "
            "and p of pairing over those that all seeds of a row have.",
            *notes,
        )
    caption = f"Does the gaze follow kappa? {where}, lambda = 0 (thesis, Table 2){judged}"
    return TableItem(name, caption, table, shown, notes)


def shared_curve_item(table: pd.DataFrame, name: str, where: str) -> TableItem:
    """What is left of Table 2's r without what all seeds share, at lambda = 0 (rows of ``pearson_table``)."""
    columns = {
        "r": "r",
        "r_differences": "of first differences",
        "r_given_epoch": "given the epoch",
        "r_late": "without 2 first epochs",
        "r_repeated": "repeated measures",
        "spearman": "Spearman",
    }
    rows = [
        {"model": row.model, "measure": _form(row.measure)}
        | {title: number(getattr(row, column), 2) for column, title in columns.items()}
        for row in _published_form_first(table)
    ]
    notes = (
        "First differences: r of the changes from epoch to epoch. Given the epoch: partial r, a straight line over the "
        "epochs taken out of both. Repeated measures: one r for all runs, of deviations from each run's own means "
        "(Bakdash and Marusich 2017). The others are means over seeds. Where these differ much from r or among each "
        "other, r is the curve's more than the run's.",
    )
    return TableItem(
        name, f"r without the curve that runs share, {where}, lambda = 0", table, pd.DataFrame(rows), notes
    )


def _published_form_first(table: pd.DataFrame) -> list[Any]:
    rows = table[table["lambda"] == 0].sort_values("measure", key=lambda m: m != "gaze_consistency_l2", kind="stable")
    return each(rows.sort_values("model", kind="stable"))


def pearson_by_lambda_item(table: pd.DataFrame, name: str, where: str) -> TableItem:
    """r at every lambda, in the two forms; for a study with several lambdas."""
    rows = []
    for (model, weight), part in table.groupby(["model", "lambda"], sort=True):
        by_measure = {row.measure: row for row in each(part)}
        row: dict[str, str | None] = {"model": str(model), "lambda": f"{weight:g}"}
        for measure in ("gaze_consistency_l2", "gaze_consistency", "gaze_eta_squared"):
            if measure in by_measure:
                r = by_measure[measure]
                row[_form(measure)] = estimate(r.r, r.ci_low, r.ci_high, r.n - r.n_nan, 2)
        rows.append({**row, "seeds": str(part["n"].iloc[0])})
    return TableItem(name, f"r of kappa and gaze by lambda, {where}: mean [95 % interval]", table, pd.DataFrame(rows))


def across_item(table: pd.DataFrame, metric: str, name: str, where: str, dataset: str, beside: Beside) -> TableItem:
    """One metric with models down and lambda across, as the thesis's Fig. 4 is read; published accuracy beneath ours.

    Args:
        table: rows of ``gaze.statistics.seeds.lambda_table`` of one study and data set.
        metric: of ``gaze.measures``.
        name: of the files.
        where: study and data set in words.
        dataset: its name, to find the published values.
        beside: what sets the runs apart from those of study 2.
    """
    measure = measures()[metric]
    rows = table[(table["metric"] == metric) & (table["summary"] == "last5")]
    rows = rows[rows["mean"].notna() | (rows["lost"] > 0)]
    weights, published = sorted(rows["lambda"].unique()), pd.DataFrame()
    if metric == "accuracy":
        published = (
            published_study2().query("dataset == @dataset").pivot(index="model", columns="lambda", values="accuracy")
        )
    shown = []
    for model in model_styles(rows["model"]):
        own = each(rows[rows["model"] == model])
        cells: dict[float, str | None] = {row.weight: _across(row, measure.digits) for row in own}
        shown.append({"model": model, **{f"{weight:g}": cells.get(weight) for weight in weights}})
        if model in published.index:
            given = published.loc[model]
            cells = {w: _published(given.get(w, math.nan), beside.get((model, w))) for w in weights}
            shown.append({"model": "published", **{f"{weight:g}": cell for weight, cell in cells.items()}})
    notes = ["Columns: lambda. Mean of the last 5 epochs, over seeds ± SD; no SD where there is one run."]
    notes += [STUDY2_NOTE] if len(published) else []
    frame = rows[["model", "lambda", "n", "n_nan", "mean", "sd", "diff", "runs", "collapsed", "what"]]
    caption = f"{measure.heading} with models down and lambda across, {where} (thesis, Fig. 4)"
    return TableItem(name, caption[0].upper() + caption[1:], frame, pd.DataFrame(shown), tuple(notes))


def _across(row: Any, digits: int) -> str:
    """Mean and SD of a cell, and how it collapsed."""
    text = with_sd(row.mean, row.sd, digits)
    return ", ".join(part for part in (text, _collapsed(row)) if part)


def _collapsed(row: Any) -> str | None:
    """How many runs of a cell collapsed, and how; None where none did."""
    if not row.collapsed:
        return None
    how = shortly(row.what)
    return how if row.collapsed == row.runs else f"{row.collapsed} of {row.runs} {how}"


def _folds_notes(table: pd.DataFrame) -> list[str]:
    """What stands behind an interval, where there are folds."""
    return [FOLDS_NOTE] if (table["folds"] > 1).any() else []


def _collapse_notes(table: pd.DataFrame) -> list[str]:
    """What collapsed means, where a run did."""
    return [COLLAPSED] if (table["collapsed"] > 0).any() else []


def performance_item(
    table: pd.DataFrame, metric: str, name: str, where: str, dataset: str, beside: Beside
) -> TableItem:
    """Accuracy or kappa by model and lambda, with the difference from lambda = 0.

    Args:
        table: rows of ``gaze.statistics.seeds.lambda_table`` of one study and data set.
        metric: "accuracy" or "kappa".
        name: of the files.
        where: study and data set in words.
        dataset: its name, to find the published values.
        beside: what sets the runs apart from those of study 2.
    """
    table = table[table["metric"] == metric]
    lowest = 0.0 if metric == "accuracy" else -1.0
    published = published_study2().set_index(["dataset", "model", "lambda"])["accuracy"]
    rows = []
    for (model, weight), part in table.groupby(["model", "lambda"], sort=True):
        by_summary = {row.summary: row for row in each(part)}
        five = by_summary["last5"]
        row: dict[str, str | None] = {"model": str(model), "lambda": f"{weight:g}", "seeds": str(five.n)}
        if metric == "accuracy":
            given = published.get((dataset, model, weight), math.nan)
            row["published"] = _published(given, beside.get((str(model), five.weight)))
        for summary, title in (("last", "last epoch"), ("last5", "mean of last 5"), ("best", "best epoch")):
            r = by_summary[summary]
            low, high = max(r.ci_low, lowest), min(r.ci_high, 1.0)  # a t interval knows no bounds; NaN stays NaN
            row[title] = estimate(r.mean, low, high, (r.n - r.n_nan) * r.folds)
        pairs = 0 if math.isnan(five.n_pairs) else int(five.n_pairs) * five.folds
        row["difference from lambda 0"] = estimate(five.diff, five.diff_low, five.diff_high, pairs)
        rows.append({**row, "p (Holm)": p_value(five.p_holm), "collapsed": _collapsed(five)})
    shown = pd.DataFrame(rows)
    shown = _without_empty(shown, "published", "collapsed")
    families = table.loc[table["summary"] == "last5", "family"].dropna()
    family = f"; a family of {int(families.max())} comparisons" if len(families) else ""
    of = "fold and " if (table["folds"] > 1).any() else ""
    over = f"{of.replace(' ', 's ', 1)}seeds"
    notes = (
        f"Mean over {over} [95 % t interval over {over}, cut at the metric's bounds]. The best epoch is picked on the "
        "figures that it reports, and so flatters. The difference is that of the mean of the last 5 epochs, paired by "
        f"{of}seed; p is that of a paired t-test, adjusted by Holm over the whole table{family}. It trusts that "
        f"differences are near to normal, which so few seeds cannot show.",
        *_folds_notes(table),
        *((STUDY2_NOTE,) if "published" in shown else ()),
        *_collapse_notes(table),
    )
    return TableItem(name, f"{metric.capitalize()} by lambda, {where} (thesis, Fig. 4)", table, shown, notes)


def gaze_item(table: pd.DataFrame, name: str, where: str) -> TableItem:
    """The gaze's measures by model and lambda, mean of the last 5 epochs."""
    table = table[table["metric"].isin(set(measures()) - IN_OTHER_TABLES)]
    measured = set(table.loc[table["mean"].notna(), "metric"])  # other data sets may have masks, this one none
    columns = [m for name, m in measures().items() if name in measured]
    columns.sort(key=lambda measure: not measure.root_of)  # what a person can read comes first
    rows = []
    for (model, weight), part in table[table["summary"] == "last5"].groupby(["model", "lambda"], sort=True):
        by_metric = {row.metric: row for row in each(part)}
        row: dict[str, str | None] = {"model": str(model), "lambda": f"{weight:g}"}
        for m in columns:
            if m.name in by_metric:
                row[m.heading] = with_sd(by_metric[m.name].mean, by_metric[m.name].sd, m.digits)
        cell = each(part)[0]
        rows.append({**row, "seeds": str(cell.n), "collapsed": _collapsed(cell)})
    notes = (
        "Mean ± SD over seeds of the mean of the last 5 epochs; no SD where there is one run. RMS deviation: the "
        "square root of L_CAM in its squared form, in units of the map's own 0..1 range. Common grid: maps pooled to "
        "the same few tiles first, whatever their size. Eta squared: the share of the gaze's variance that the class "
        "explains.",
        *((MASK_NOTE,) if "gaze_mask_energy" in measured else ()),
        *_collapse_notes(table),
    )
    shown = _without_empty(pd.DataFrame(rows), "collapsed")
    return TableItem(name, f"The gaze by lambda, {where}", table, shown, notes)


def tested_item(runs: pd.DataFrame, used: Mapping[str, Run], name: str, where: str) -> TableItem | None:
    """Figures on the test images of runs that each epoch judged by others; None where there are none.

    Args:
        runs: rows of the tidy frame of one study and data set.
        used: its runs by their names.
    """
    known, rows = measures(), list[dict[str, Any]]()
    for own in each(runs.drop_duplicates("run")):
        tested = read_facts(used[own.run].test_file, Tested) if own.run in used else {}
        for weights, figures in ((name, tested[name]) for name in (LAST, BEST) if name in tested):
            keys = {"model": own.model, "lambda": own.weight, "seed": own.seed, "weights": weights}
            keys |= {FOLD: getattr(own, FOLD, math.nan)}
            rows.append(keys | {m: figures.get(f"test/{m}", math.nan) for m in TESTED_MEASURES})
    if not rows:
        return None
    frame, shown = pd.DataFrame(rows), list[dict[str, Any]]()
    folds = int(frame[FOLD].nunique())
    for (model, weight, which), part in frame.groupby(["model", "lambda", "weights"], sort=True):
        after, seeds = "last epoch" if which == LAST else "best kappa", str(part["seed"].nunique())
        row = {"model": model, "lambda": f"{weight:g}", "weights": after, "seeds": seeds}
        for m in (known[name] for name in TESTED_MEASURES):
            of_all = estimate(part[m.name].mean(), *folds_interval(part[m.name], folds), len(part), m.digits)
            row[m.heading] = of_all if folds else with_sd(part[m.name].mean(), part[m.name].std(), m.digits)
        shown.append(row)
    spread = "folds and seeds [95 % interval]" if folds else "seeds ± SD"
    notes = (
        f"Evaluated once, when a run was complete; mean over {spread}. Weights: those after the last epoch, or at the "
        "best kappa of the validation images. All other tables and figures are of the validation images.",
        *((FOLDS_NOTE,) if folds else ()),
    )
    return TableItem(name, f"On the test images, {where}", frame, pd.DataFrame(shown), notes)


def figures_by_class(
    runs: pd.DataFrame, used: Mapping[str, Run]
) -> tuple[pd.DataFrame, dict[tuple[str, ...], dict[str, NDArray[np.int64]]], int]:
    """What the runs' ``classes.csv`` and ``confusion.csv`` say: a row a figure and run; by the classes' names, the
    confusion matrix of each model and lambda, summed over its runs; and how many runs have none that are whole.

    Args:
        runs: rows of the tidy frame of one study and data set.
        used: its runs by their names.
    """
    rows, summed, without = list[dict[str, Any]](), dict[tuple[str, ...], dict[str, NDArray[np.int64]]](), 0
    for own in each(runs.drop_duplicates("run")):
        try:
            found = read_figures(used[own.run]) if own.run in used else None
        except DataError:
            found = None
        if found is None:
            without += 1
            continue
        keys = {"model": own.model, "lambda": own.weight, "seed": own.seed}
        rows += [keys | {name: row[name] for name in ("of", "class", "measure", "value")} for row in found.rows]
        arms = summed.setdefault(found.classes, {})
        arm = f"{own.model}, lambda {own.weight:g}"
        arms[arm] = arms.get(arm, 0) + found.confusion
    return pd.DataFrame(rows, columns=["model", "lambda", "seed", "of", "class", "measure", "value"]), summed, without


def classes_item(figures: pd.DataFrame, of: Sequence[str], name: str, caption: str) -> TableItem:
    """Figures by class and their means (``of`` class and macro), or over all images (all), for each model and lambda.

    Args:
        figures: of :func:`figures_by_class`.
        of: which of its rows.
    """
    part = figures[figures["of"].isin(of)]
    keys, shown = ["model", "lambda", "of", "class"], list[dict[str, Any]]()
    seeds = part.groupby([*keys, "measure", "seed"], sort=False)["value"].mean().reset_index()  # over folds
    for (model, weight, kind, label), own in seeds.groupby(keys, sort=False):
        means = own.groupby("measure", sort=False)["value"]
        row = {"model": model, "lambda": f"{weight:g}", "class": label if kind == "class" else "mean over classes"}
        row |= {"seeds": str(own["seed"].nunique())}
        for measure, values in means:
            digits = 0 if measure == "support" else 3
            sd = values.std() if measure != "support" else math.nan
            row[HEADED.get(str(measure), str(measure).replace("_", " "))] = with_sd(values.mean(), sd, digits)
        shown.append(row if kind != "all" else {key: value for key, value in row.items() if key != "class"})
    return TableItem(name, caption, part, pd.DataFrame(shown), (CLASSES_NOTE,))


def schedule_item(table: pd.DataFrame, name: str, where: str) -> TableItem:
    """Lambdas and schedules against plain training, runs relabelled (rows of ``schedule_table`` of one data set)."""
    known = measures()
    rows = [
        {
            "model": row.model,
            "lambda": f"{row.weight:g}" + row.study.partition(row.of_study)[2].replace(", lambda", ""),
            "summed lambda": number(row.lambda_sum, 0),
            "against": row.against,
            "measure": known[row.measure].heading + ", last 5 epochs" * (row.summary == "last5"),
            "mean": number(row.mean, digits),
            "change": estimate(row.change, row.ci_low, row.ci_high, min(row.n, row.n_against), digits),
            "p (Holm)": p_value(row.p_holm),
            "SD ratio": number(row.sd_ratio, 2),
            "runs": f"{row.n} and {row.n_against}",
        }
        for row in each(table)
        for digits in (known[row.measure].digits,)
    ]
    least, families = table["smallest_p"].min(), " and ".join(f"{n:.0f}" for n in table["family"].unique())
    notes = (
        "After the last epoch where nothing else is said. Change [95 % interval over runs]; p by relabelling the runs "
        f"of the two arms, two-sided, Holm over the {families} comparisons of one reading, those of a later schedule "
        f"apart; the smallest p before Holm is {least:.2g}. SD ratio: of the runs of this arm to those that it is held "
        "against.",
    )
    return TableItem(name, f"Lambda and when it acts, runs relabelled, {where}", table, pd.DataFrame(rows), notes)


def shift_item(table: pd.DataFrame, name: str, where: str) -> TableItem:
    """Does lambda make the gaze more its class's, or only more alike?"""
    shown = pd.DataFrame(
        {
            "model": row.model,
            "lambda": f"{row.weight:g}",
            "pairs": str(row.n_pairs),
            "change of RMS deviation": estimate(
                row.diff_rms, row.diff_rms_low, row.diff_rms_high, row.n_pairs * row.folds
            ),
            "change of eta squared": estimate(
                row.diff_eta, row.diff_eta_low, row.diff_eta_high, row.n_pairs * row.folds
            ),
            "p (Holm)": p_value(row.p_holm),
            "reading": row.reading,
        }
        for row in each(table)
    )
    notes = (
        "Difference from lambda = 0 [95 % t interval over paired seeds, not adjusted], mean of the last 5 epochs. p: "
        "the larger of both paired t-tests', since a reading takes both, after Holm over the rows; a reading without "
        "brackets has 0.05 or less. Underpowered: so few pairs would miss even a difference of twice the seeds' SD in "
        "more than one of five studies. Only correct images have a gaze: where accuracy fell, other and fewer images "
        "stand behind the change.",
        *_folds_notes(table),
    )
    return TableItem(name, f"More its class's, or only more alike? {where}", table, shown, notes)


def scale_item(table: pd.DataFrame, name: str, where: str) -> TableItem:
    """The four readings of consistency per model: which of them set a model apart?"""
    rows = []
    for row in each(table):
        digits = 5 if row.measure == "gaze_consistency_l2" else 3
        rows.append(
            {
                "reading": _form(row.measure),
                "model": row.model,
                "mean": number(row.mean, digits),
                "SD": number(row.sd, digits),
                "seeds": str(row.n),
                "ratio to the others": number(row.ratio, 2),
                "the others": _interval(row.others_low, row.others_high, digits, " .. "),
                "among them": None if math.isnan(row.ratio) else "yes" if row.inside else "no",
            }
        )
    notes = (
        "Last epoch, lambda = 0. Ratio: to the geometric mean of the other models. One model is always the lowest and "
        "one the highest: look at the ratio. Pooling takes out what is finer than a tile, and only fine maps have "
        "that: on the grid their deviation falls by it alone.",
    )
    return TableItem(name, f"One scale for maps of every size? {where}", table, pd.DataFrame(rows), notes)


def study1_item(runs: pd.DataFrame, name: str, where: str, dataset: str, beside: Beside) -> TableItem | None:
    """Published study 1 beside ours, at epoch 20 or the last before it; None for other data sets."""
    published = published_study1()
    published = published[published["dataset"] == dataset].set_index("model")
    if published.empty:
        return None
    runs = runs[(runs["lambda"] == 0) & (runs["epoch"] <= STUDY1_EPOCH)]
    last = runs[runs["epoch"] == runs.groupby("run")["epoch"].transform("max")]
    columns = ["accuracy", "kappa", "gaze_consistency_l2"]
    ours = last.groupby("model")[columns].mean().join(last.groupby("model").size().rename("size"))
    ours = ours.rename(columns={column: f"{column}_ours" for column in columns})
    both = published[columns].add_suffix("_published").join(ours, how="outer").reset_index()
    rows = []
    for row in both.to_dict("records"):
        shown: dict[str, str | None] = {"model": str(row["model"])}
        for column, title, digits in (("accuracy", "accuracy", 3), ("kappa", "kappa", 3), (columns[2], "L_CAM, l2", 4)):
            differs = beside.get((row["model"], 0.0))
            shown[f"{title}, published"] = _published(row[f"{column}_published"], differs, digits)
            shown[f"{title}, here"] = number(row[f"{column}_ours"], digits)
        if not math.isnan(row["size"]):
            shown["seeds here"] = str(int(row["size"]))
        rows.append(shown)
    notes = ("Published: lambda = 0, 224 px, epoch 20, mean of 6 seeds. Another way of training is named in the cell.",)
    return TableItem(name, f"Published study 1 beside these runs, {where}", both, pd.DataFrame(rows), notes)


def published_item() -> TableItem:
    """The thesis's Table 2 as it stands, for a report on data sets that it does not have."""
    table = published_pearson()
    wide = table.pivot(index="model", columns="dataset", values="r").rename(columns=DATASET_NAMES)
    shown = wide.map(lambda r: number(r, 4)).reset_index().rename_axis(columns=None)
    notes = ("Mean over 6 seeds of r(kappa, L_CAM in the l2 form) across 20 epochs, lambda = 0.",)
    return TableItem("published_table2", "The thesis's Table 2", table, shown, notes)


def runs_item(listing: pd.DataFrame) -> TableItem:
    """How many runs there are of what, the used ones."""
    used = listing[listing["used"]]
    rows = []
    for (study, dataset, model), part in used.groupby(["study", "dataset", "model"], sort=True):
        low, high = part["epochs"].min(), part["epochs"].max()
        rows.append(
            {
                "study": study,
                "dataset": dataset,
                "model": model,
                "lambda": listed(f"{w:g}" for w in sorted(part["lambda"].unique())),
                "seeds": listed(str(s) for s in sorted(part["seed"].unique())),
                "epochs": str(low) if low == high else f"{low} .. {high}",
                "runs": str(len(part)),
            }
        )
    return TableItem("runs", "The runs behind this report", listing, pd.DataFrame(rows))


def _without_empty(shown: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Without those of ``columns`` that hold nothing."""
    return shown.drop(columns=[name for name in columns if name in shown and shown[name].isna().all()])


def _published(value: float, differs: str | None, digits: int = 3) -> str | None:
    """A published figure, and what sets the runs here apart from those behind it."""
    text = number(value, digits)
    return f"{text} (here {differs})" if text and differs else text


def _form(name: str) -> str:
    measure = measures()[name]
    return measure.form or measure.heading


def _interval(low: float, high: float, digits: int = 3, between: str = ", ") -> str | None:
    if math.isnan(low) or math.isnan(high):
        return None
    inner = f"{number(low, digits)}{between}{number(high, digits)}"
    return inner if between == " .. " else f"[{inner}]"
