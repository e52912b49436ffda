"""What the tables say, in sentences that claim no more than the tables do."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import zip_longest

import pandas as pd

from gaze.measures import measures
from gaze.report.style import model_styles
from gaze.report.words import each, number, p_value, with_sd
from gaze.runs.load import Runs, mixed_settings
from gaze.runs.tidy import ASSUMED, FOLD, TIDY_COLUMNS
from gaze.statistics.power import ENOUGH

CURVE = "not shown to be more than that curve"
FEW = "too few seeds to tell"
OTHERS = 2  # models beside one at least, for a sentence or a table on "the others"
FEWEST = 3  # seeds from which on a finding is called clear: two that agree by chance give a short interval

SENTENCE = (  # the two halves of a model's sentence; of each the first metric that there is
    {"accuracy": ("accuracy", "lower", "higher"), "kappa": ("kappa", "lower", "higher")},
    dict.fromkeys(("gaze_consistency_rms", "gaze_consistency_l2"), ("gaze", "more consistent", "less consistent")),
)

TESTED = (
    "lower, higher, more or less consistent is said where p < 0.05, paired t-tests of the last 5 epochs over at least "
    f"{FEWEST} seeds, adjusted by Holm over all models and lambdas. Underpowered: no such p, from so few seeds that "
    "even a difference of twice their SD would be missed in more than one of five studies."
)

HOW_TO_READ = (  # {} is the CAM method
    "Gaze: the {} map of a correctly classified image, scaled to 0..1. Gaze consistency L_CAM: the mean "
    "deviation of these gazes from their class's mean gaze. Lower is more consistent, which is not the same as right.",
    "L_CAM has two forms. Squared (Eq. 9) is a variance of values in 0..1, so it lies in 0..0.25; its square root, the "
    "RMS deviation, 0..0.5, is in units of the map's own range: 0.2 says that a cell is typically a fifth of the range "
    "away from its class's mean. The published l2 form is not squared and shrinks as 1/sqrt(cells), so maps of "
    "different sizes do not compare in it.",
    "Common grid: the same deviation after each map is pooled to a few equal tiles, so that a network with fine maps "
    "is not judged by detail that one with coarse maps cannot have.",
    "L_CAM counts the images that are classified correctly, and those change with the epoch and with lambda. Over all "
    "images: every image counts, with the map of its true class, each class alike. Same images: those that the run "
    "classifies correctly in every epoch of its second half count in all its epochs, on maps of 8x8 cells at most.",
    "Eta squared: the share of the gaze's variance that the class explains. 0: no class structure, or one gaze shared "
    "by all classes; 1: each class has its own fixed gaze. L_CAM falls both where all share one gaze and where each "
    "class has its own; eta squared tells these two apart. It is above 0 by chance where images are few, by (classes - "
    "1)/(images - 1) on average; epsilon squared is not.",
    "Kappa: agreement beyond chance, 0 where one class alone is predicted. The learning rate "
    "follows the images that each epoch is judged by, the test images as in the thesis or a part of the training ones "
    "(dataset.validation): these are validation figures. Test figures, where there are any, have a table of their own.",
    "Seeds are the samples. Intervals are 95 % and, with two or three seeds, wide for good reason; a p that cannot be "
    "small with so few seeds says nothing against an effect.",
)


def pearson_finding(table: pd.DataFrame, where: str) -> str | None:
    """Whose gaze follows kappa beyond what all seeds share, at lambda = 0 (rows of ``pearson_table``)."""
    rows = table[(table["lambda"] == 0) & table["measure"].isin(["gaze_consistency", "gaze_consistency_l2"])]
    rows = rows[rows["measure"] == rows["measure"].min()]  # squared where there is one
    if rows.empty:
        return None
    found: dict[str, list[str]] = {
        key: []
        for key in (
            "more consistent where kappa is higher",
            "less consistent where kappa is higher",
            CURVE,
            FEW,
            "no r",
        )
    }
    for row in each(rows):
        text = f"{row.model} (r {number(row.r, 2)}, strangers' {number(row.strangers_r, 2)}"
        if math.isnan(row.r):
            found["no r"].append(str(row.model))
        elif math.isnan(row.pairing_p_holm) or row.pairing_floor * row.pairing_family >= 0.05:
            found[FEW].append(f"{row.model} (r {number(row.r, 2)})")
        elif row.pairing_p_holm >= 0.05:
            found[CURVE].append(f"{text})")
        else:
            way = "more" if row.r < row.strangers_r else "less"
            found[f"{way} consistent where kappa is higher"].append(f"{text}, p {p_value(row.pairing_p_holm)})")
    said = "; ".join(f"{words}: {', '.join(models)}" for words, models in found.items() if models)
    form, family = measures()[rows["measure"].iloc[0]].short, int(rows["pairing_family"].max())
    return (
        f"Is a run's gaze related to its kappa, beyond the training curve that all seeds share ({where}; r of kappa "
        f"and {form}, pairing test{f', Holm over {family} models' if family > 1 else ''})? {said}."
    )


def level_findings(table: pd.DataFrame) -> list[str]:
    """One sentence a model: what lambda did to its accuracy and to its gaze, and where it collapsed.

    Args:
        table: rows of ``gaze.statistics.seeds.lambda_table`` of one study and data set.
    """
    table = table[table["summary"] == "last5"]
    said = []
    for model, cells in ((model, table[table["model"] == model]) for model in model_styles(table["model"])):
        own = cells[cells["mean"].notna()]
        halves = [(half, name) for half in SENTENCE if (name := first(half, own))]
        several = own["lambda"].nunique() > 1
        parts = [_by_lambda(own[own["metric"] == name], several, name, *half[name]) for half, name in halves]
        parts += _collapsed(cells.drop_duplicates("lambda"))
        alone = not several and table["lambda"].nunique() > 1
        only = f" (lambda {own['lambda'].iloc[0]:g} alone)" if alone else ""
        said.append(f"{model}{only}: {'; '.join(parts)}.")
    return said


def _collapsed(cells: pd.DataFrame) -> list[str]:
    """How the runs of one model collapsed, and at which lambdas; ``cells``: a row a lambda."""
    said = []
    for what, gone in cells[cells["collapsed"] > 0].groupby("what"):
        counts = [f" ({row.collapsed} of {row.runs} runs)" if row.runs > 1 else "" for row in each(gone)]
        every = len(gone) == len(cells) > 1 and (gone["collapsed"] == gone["runs"]).all()
        place = "every lambda" if every else f"lambda {_joined(gone['lambda'], counts)}"
        said.append(f"collapsed ({what}) at {place}")
    return said


def not_drawn(table: pd.DataFrame) -> str | None:
    """Whose gaze is left out of figures because it is not compared (rows of ``lambda_table``); None where none is."""
    lost = table[table["lost"] > 0].drop_duplicates(["model", "lambda"])
    if lost.empty:
        return None
    said = []
    for (model, what), cells in lost.groupby(["model", "what"]):
        counts = [f" ({row.lost} of {row.runs} runs)" if row.lost < row.runs else "" for row in each(cells)]
        said.append(f"{model} at lambda {_joined(cells['lambda'], counts)} ({what})")
    return f"Without the runs whose gaze is not compared: {'; '.join(said)}."


def first(metrics: Iterable[str], table: pd.DataFrame) -> str:
    """The first of the metrics that has a mean in ``gaze.statistics.seeds.lambda_table``; "" if none has."""
    given = set(table.loc[table["mean"].notna(), "metric"])
    return next((name for name in metrics if name in given), "")


def _by_lambda(rows: pd.DataFrame, several: bool, metric: str, subject: str, lower: str, higher: str) -> str:
    """What lambda did to one metric: where seeds allow a test what it shows, else how far the means reach."""
    digits, title = measures()[metric].digits, measures()[metric].heading
    plain, others = rows[rows["lambda"] == 0], rows[rows["lambda"] != 0]
    if len(rows) == 1:
        place = f" at lambda {rows['lambda'].iloc[0]:g}" if several else ""
        return f"{title} {with_sd(rows['mean'].iloc[0], rows['sd'].iloc[0], digits)}{place}"
    if plain.empty:
        return f"{title} {_span(others, digits)}"
    if not (others["n_pairs"] >= FEWEST).any():
        elsewhere = "elsewhere " if len(others) > 1 else ""
        return f"{title} {_span(plain, digits)}, {elsewhere}{_span(others, digits)}"
    clear = (others["p_holm"] < 0.05) & (others["n_pairs"] >= FEWEST)
    few = others["power"] < ENOUGH
    groups = {lower: clear & (others["diff"] < 0), higher: clear & (others["diff"] > 0)}
    groups |= {"no change shown": ~clear & ~few, "underpowered": ~clear & few}
    said = []
    for words, part in ((words, others[chosen]) for words, chosen in groups.items() if chosen.any()):
        low, high = (number(size, digits) for size in (part["diff"].abs().min(), part["diff"].abs().max()))
        by = f" (by {low if low == high else f'{low} to {high}'})" if words in (lower, higher) else ""
        said.append(f"{words} at {_joined(part['lambda'])}{by}")
    return f"{subject} {', '.join(said)}"


def _span(rows: pd.DataFrame, digits: int) -> str:
    """The smallest and the largest mean, and where."""
    lowest, *_, highest = sorted([*each(rows), *each(rows)], key=lambda row: row.mean)
    low, high = number(lowest.mean, digits), number(highest.mean, digits)
    if len(rows) == 1:
        return f"{low} at lambda {lowest.weight:g}"
    return f"{low} (at {lowest.weight:g}) to {high} (at {highest.weight:g})" if low != high else str(low)


def _joined(weights: Iterable[float], behind: Iterable[str] = ()) -> str:
    *most, last = (f"{weight:g}{text}" for weight, text in zip_longest(weights, behind, fillvalue=""))
    return f"{', '.join(most)} and {last}" if most else last


def shift_finding(table: pd.DataFrame, by_lambda: pd.DataFrame, where: str) -> str | None:
    """What lambda did to the gaze (rows of ``gaze_shift_table``), and at what price (of ``lambda_table``)."""
    table = table[table["reading"] != "not defined"]
    if table.empty:
        return None
    rows = by_lambda[(by_lambda["metric"] == "accuracy") & (by_lambda["summary"] == "last5")]
    price = {(row.model, row.weight): f" (accuracy {row.diff:+.2f})" for row in each(rows) if not math.isnan(row.diff)}
    readings: dict[str, list[str]] = {}
    for row in each(table):
        case = f"{row.model} at {row.weight:g}{price.get((row.model, row.weight), '')}"
        readings.setdefault(str(row.reading), []).append(case)
    texts = [f"{reading}: {', '.join(cases)}" for reading, cases in readings.items()]
    return f"What lambda does to the gaze ({where}): {'; '.join(texts)}."


def scale_finding(table: pd.DataFrame, where: str, model: str = "level1") -> str | None:
    """Does level 1 stand apart by its map size alone (rows of ``scale_table``)?"""
    rows = {row.measure: row for row in each(table) if row.model == model and not math.isnan(row.ratio)}
    if "gaze_consistency_l2" not in rows or table["model"].nunique() <= OTHERS:
        return None
    parts = [f"{rows['gaze_consistency_l2'].ratio:.2f} times the other models' in the l2 form"]
    names = {"gaze_consistency_rms": "as RMS deviation", "gaze_consistency_grid_rms": "on the common grid"}
    parts += [f"{rows[m].ratio:.2f} times {words}" for m, words in names.items() if m in rows]
    text = f"Does {model} stand apart ({where})? Its deviation is {', '.join(parts)}."
    if "gaze_consistency_grid_rms" not in rows:
        return text + " These runs have no reading on the common grid."
    if rows["gaze_consistency_l2"].inside:
        return f"{text} It lies among the others even in the l2 form."
    grid = rows["gaze_consistency_grid_rms"]
    span = f"{grid.others_low:.3f} .. {grid.others_high:.3f}"
    place = "among" if grid.inside else "outside"
    return f"{text} On the grid ({grid.mean:.3f}) it lies {place} the others ({span}). Means, without a test."


def notes_on(runs: Runs) -> list[str]:
    """What a reader must know before the figures: runs left out, settings that differ, values that are missing."""
    notes, listing, epochs = list[str](), runs.listing, runs.epochs
    left = listing.loc[~listing["used"], "state"].value_counts()
    if len(left):
        notes.append(f"Left out: {', '.join(f'{n} {state}' for state, n in left.items())}; the list is below.")
    for name, values in mixed_settings(runs).items():
        shown = ", ".join(map(str, values[:6])) + (" ..." if len(values) > 6 else "")
        notes.append(f"Mixed settings, compared as if they were alike: {name} is {shown}.")
    folded = epochs[epochs[FOLD].notna()] if FOLD in epochs else epochs[:0]
    for (study, dataset), rows in folded.groupby(["study", "dataset"]):
        notes.append(
            f"{study}, {dataset}: cross-validation of {rows[FOLD].nunique()} folds. Folds share training images, so no "
            "test counts them as samples of their own; intervals of means are corrected for that."
        )
    lengths = epochs.groupby(["study", "dataset", "run"], as_index=False)["epoch"].max()
    several = lengths.groupby(["study", "dataset"], as_index=False)["epoch"].nunique()
    for row in each(several[several["epoch"] > 1]):
        notes.append(f"{row.study}, {row.dataset}: runs of different length; each is read at its own last epoch.")
    assumed = [name for name in ASSUMED if name in runs.absent]
    notes += [f"No column {name}: it is taken as {ASSUMED[name]} throughout." for name in assumed]
    missing = [name for name in TIDY_COLUMNS if epochs[name].isna().all()]
    if missing:
        notes.append(f"Not measured: {', '.join(missing)}. Tables and figures that need it are left out.")
    for column in ("kappa", "gaze_consistency"):
        empty = epochs[epochs[column].isna()]
        if len(empty) and column not in missing:
            notes.append(
                f"{column} is empty in {len(empty)} of {len(epochs)} rows ({empty['run'].nunique()} runs); these "
                "epochs are left out of correlations and means, and a run without any value is counted as such."
            )
    variants = epochs.get("variant", pd.Series(dtype=str)).dropna()
    if len(variants):
        parts = epochs.loc[variants.index, ["study", "variant"]].drop_duplicates().sort_values("study")
        said = "; ".join(f'"{row.study}" has {row.variant}' for row in each(parts))
        notes.append(f"Runs with the same keys and other settings are compared apart: {said}.")
    elif epochs["study"].nunique() > 1:
        names = ", ".join(sorted(epochs["study"].unique()))
        notes.append(f"Several studies ({names}) are kept apart; study=NAME takes one.")
    alone = epochs if FOLD not in epochs else epochs[epochs[FOLD].isna()]  # folds give an interval by themselves
    if len(alone) and alone.groupby(["study", "dataset"])["seed"].nunique().min() == 1:
        notes.append("Where a study has one seed there is no interval and no p: a direction, not a result.")
    return notes


def headline(epochs: pd.DataFrame) -> str:
    """How much there is, in a sentence."""
    runs = epochs["run"].nunique()
    weights = ", ".join(f"{w:g}" for w in sorted(epochs["lambda"].unique()))
    sets = ", ".join(sorted(epochs["dataset"].unique()))
    seeds, models = epochs["seed"].nunique(), epochs["model"].nunique()
    return (
        f"{runs} run{'s' * (runs != 1)} of {sets}: {models} model{'s' * (models != 1)}, lambda {weights}, "
        f"{seeds} seed{'s' * (seeds != 1)}, up to {epochs['epoch'].max()} epochs."
    )
