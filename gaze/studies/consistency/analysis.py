"""The gaze consistency study: run folders to tables, figures and one report (thesis, Tables 1-2, Fig. 1-4).

Augmentation studies are handed on to ``gaze.studies.augmentation.report``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd
from rich.console import Console

from gaze.measures import measures
from gaze.names import slug
from gaze.report.confusion import confusion_figure
from gaze.report.provenance import left_out_item
from gaze.report.write import FigureItem, Section, TableItem
from gaze.runs.class_gaze import GazeMaps
from gaze.runs.collapse import COLLAPSED
from gaze.runs.load import Runs
from gaze.runs.run import Run, methods
from gaze.statistics.schedules import schedule_table
from gaze.statistics.seeds import gaze_shift_table, lambda_table, pearson_table, scale_table
from gaze.studies.consistency import findings, overview, plots, tables
from gaze.studies.consistency.common import common_table, images_finding, three_forms_item, three_rs_item
from gaze.studies.consistency.published import STUDY1_EPOCH, STUDY2_EPOCH, UNKNOWN, Beside, differences
from gaze.studies.consistency.readers import HOW_TO_READ, readers_items, readers_of
from gaze.studies.costs import Priced, cost_finding, cost_table, costs_item, with_cost
from gaze.terminal import print_table

Items = list[TableItem | FigureItem]
MEANS = "Mean of the last 5 epochs, over seeds ± SD."
PUBLISHED = "gaze_consistency_l2"
ARM = ["model", "lambda"]
MOST_PANELS = 9  # models and lambdas whose confusion is drawn
MOST_CASES = 4  # models and lambdas that a finding in the summary names one by one


class Part(NamedTuple):
    """One study and data set: its rows, its tables, its maps."""

    where: str  # for captions
    slug: str  # for file names
    dataset: str
    runs: pd.DataFrame
    pearson: pd.DataFrame
    by_lambda: pd.DataFrame
    shift: pd.DataFrame
    scale: pd.DataFrame
    maps: list[GazeMaps]
    common: pd.DataFrame
    schedules: pd.DataFrame
    used: Mapping[str, Run]
    costs: pd.DataFrame  # a row a model and lambda, empty without costs=
    run_costs: pd.DataFrame
    readers: pd.DataFrame  # of readers_of

    @property
    def weights(self) -> list[float]:
        return sorted(self.runs["lambda"].unique())

    @property
    def lengths(self) -> list[int]:
        """The last epoch of each run at lambda = 0."""
        plain = self.runs[self.runs["lambda"] == 0]
        return sorted(plain.groupby("run")["epoch"].max())

    @property
    def judged(self) -> str:
        """What its runs' epochs were judged by, for a caption; "" where no settings say so."""
        own = [self.used[name].dataset.validation for name in self.runs["run"].unique() if name in self.used]
        words = {"test images, as published" if value == "test" else "validation images" for value in own}
        return f"; epochs judged by {' and '.join(sorted(words))}" if words else ""

    def beside(self, epochs: int, until: float = math.inf) -> Beside:
        """What sets its runs, read up to an epoch, apart from the published ones of so many epochs."""
        return differences(self.runs[self.runs["epoch"] <= until], self.used, epochs)


def split(runs: Runs, maps: list[GazeMaps], priced: Mapping[str, Priced]) -> Iterator[Part]:
    """Each study and data set by itself, with its numbers; ``priced`` is what mistakes cost, empty without costs=."""
    epochs, together, schedules = runs.epochs, common_table(runs), schedule_table(runs.epochs)
    taken: list[str] = []
    single = epochs["study"].nunique() == 1
    for (study, dataset), rows in epochs.groupby(["study", "dataset"], sort=True):
        taken.append(slug(f"{study}-{dataset}", taken))
        own = [m for m in maps if (m.study, m.dataset) == (study, dataset)]
        arms = schedules[(schedules["of_study"] == study) & (schedules["dataset"] == dataset)]
        shared = together[(together["study"] == study) & (together["dataset"] == dataset)]
        numbers = (pearson_table(rows), lambda_table(rows), gaze_shift_table(rows), scale_table(rows))
        where = str(dataset) if single else f"{study}, {dataset}"
        costs = cost_table(rows, ARM, priced), cost_table(rows, [*ARM, "seed"], priced)
        readers, looked = readers_of(rows, runs.used)
        drawn = [*own, *looked] if own else []
        yield Part(where, taken[-1], str(dataset), rows, *numbers, drawn, shared, arms, runs.used, *costs, readers)


def summary(runs: Runs, parts: list[Part]) -> list[str]:
    """What was found beyond the sentences of :func:`lead`, most important first."""
    lines: list[str | None] = []
    for part in parts:
        lines.append(findings.pearson_finding(part.pearson, part.where))
        if len(part.shift) <= MOST_CASES:  # of more the table tells
            lines.append(findings.shift_finding(part.shift, part.by_lambda, part.where))
        lines.append(images_finding(part.pearson, part.by_lambda, part.common, part.where))
        lines.append(findings.scale_finding(part.scale, part.where))
        lines.append(cost_finding(part.costs, ARM, part.where))
    lines += findings.notes_on(runs)
    return [line for line in lines if line]


def lead(parts: list[Part]) -> list[Section]:
    """The first thing on the page: of each part a picture of models and lambdas, and one sentence a model."""
    found = []
    for part in parts:
        items = _overview(part) if len(part.weights) > 1 else _correlation(part, PUBLISHED)
        text = [findings.headline(part.runs)]
        if len(part.weights) == 1:  # else it stands under the figures
            text += [
                f"In the sentences below: {MEANS[0].lower()}{MEANS[1:]}",
                *([COLLAPSED] if part.by_lambda["collapsed"].any() else []),
            ]
        said = findings.level_findings(part.by_lambda)
        title = f"What lambda does: {part.where}" if len(part.weights) > 1 else part.where
        found.append(Section(title, tuple(text), tuple(items), tuple(said)))
    return found


def _overview(part: Part) -> list[FigureItem]:
    """Two maps of numbers: performance, and consistency in the form that a person can read or else as published."""
    colour = "Colour: difference from lambda 0." if 0 in part.weights else "No runs at lambda 0, so no colour."
    tested = f" In the sentences: {findings.TESTED}" if part.by_lambda["n_pairs"].max() >= findings.FEWEST else ""
    items = []
    readings = (COLLAPSED, f"Lower is more consistent, which is not the same as right.{tested}")
    for metrics, reading in zip(findings.SENTENCE, readings, strict=True):
        if not (metric := findings.first(metrics, part.by_lambda)):
            continue
        heading = measures()[metric].heading
        caption = f"{heading[0].upper()}{heading[1:]} by model and lambda, {part.where}"
        name = f"overview-{_short(metric)}-{part.slug}"
        drawn = _drawn(name, caption, overview.overview_figure, part.by_lambda, metric)
        items += [item._replace(notes=(f"{MEANS} {colour} {overview.HATCHED}", reading)) for item in drawn]
    return items


def sections(runs: Runs, parts: list[Part]) -> list[Section]:
    """The report from top to bottom, behind :func:`lead`."""
    left, looked = left_out_item(runs.listing), methods(runs.used.values())
    follow = [item for part in parts for item in _follow(part)]
    known = any(part.dataset in tables.DATASET_NAMES for part in parts)
    if not known:
        follow.append(tables.published_item())
    unknown = (UNKNOWN,) if known and not runs.used else ()
    found = [
        Section("Models down, lambda across", unknown, tuple(item for part in parts for item in _across(part))),
        Section("Does the gaze follow classification performance?", (plots.CORRELATION, *unknown), tuple(follow)),
        Section(
            "What does lambda do to learning?",
            ("Accuracy and kappa on the evaluation set.",),
            tuple(item for part in parts for item in _learning(part)),
        ),
        Section(
            "What does lambda do to the gaze?",
            (
                "A gaze that gets more consistent may have become its class's own, or the same for every class. RMS "
                "deviation and eta squared together tell which.",
            ),
            tuple(item for part in parts for item in _gaze(part)),
        ),
        Section(
            "On one scale",
            (
                "The thesis leaves open a metric that does not depend on the map's resolution, and a scale that a "
                "person can read. Four readings of the same gazes:",
            ),
            tuple(item for part in parts for item in _scale(part)),
        ),
        Section("Which classes does it know?", (), tuple(item for part in parts for item in _classes(part))),
        Section("Where does it look?", *_atlas(parts)),
        *_readers(parts),
        Section("How to read this", tuple(text.format(looked) for text in findings.HOW_TO_READ), ()),
        Section("The runs", (), (tables.runs_item(runs.listing), *([left] if left else []))),
    ]
    # A table without rows, where a whole measure is missing, is no table.
    found = [s._replace(items=tuple(i for i in s.items if isinstance(i, FigureItem) or len(i.shown))) for s in found]
    return [section for section in found if section.items or section.text]


def _follow(part: Part) -> Items:
    plain = part.runs[part.runs["lambda"] == 0]
    items: Items = []
    if len(plain):
        items.append(
            tables.pearson_item(
                part.pearson,
                f"pearson-{part.slug}",
                part.where,
                part.dataset,
                part.beside(STUDY1_EPOCH),
                part.judged,
                part.lengths,
            )
        )
        items.append(tables.shared_curve_item(part.pearson, f"shared-curve-{part.slug}", part.where))
        items.append(three_rs_item(part.pearson, f"images-{part.slug}", part.where))
        items += _correlation(part, "gaze_consistency")
        items += _correlation(part, PUBLISHED) if len(part.weights) > 1 else []  # else at the top
        item = tables.study1_item(
            part.runs, f"study1-{part.slug}", part.where, part.dataset, part.beside(STUDY1_EPOCH, STUDY1_EPOCH)
        )
        items += [item] if item else []
    if len(part.weights) > 1 or not len(plain):
        items.append(tables.pearson_by_lambda_item(part.pearson, f"pearson-lambda-{part.slug}", part.where))
    return items


def _correlation(part: Part, measure: str) -> list[FigureItem]:
    words, plain = measures()[measure].form, part.runs[part.runs["lambda"] == 0]
    caption = f"Gaze consistency, {words}, against kappa, {part.where}, lambda = 0"
    name = f"correlation-{words.partition(' ')[0]}-{part.slug}"
    return _drawn(name, caption, plots.correlation_figure, plain, part.dataset, measure, part.pearson)


def _across(part: Part) -> Items:
    if len(part.weights) == 1:
        return []
    named = (part.where, part.dataset, part.beside(STUDY2_EPOCH))
    return [
        tables.across_item(part.by_lambda, metric, f"across-{_short(metric)}-{part.slug}", *named)
        for metric in ("accuracy", "kappa", "gaze_consistency_rms", PUBLISHED)
    ]


def _learning(part: Part) -> Items:
    tested = tables.tested_item(part.runs, part.used, f"tested-{part.slug}", part.where)
    items: Items = [] if tested is None else [tested]
    items += [_performance(part, metric) for metric in ("accuracy", "kappa")]
    if len(part.costs):
        without, single = part.runs["run"].nunique() - len(part.run_costs), f"Run by run, {part.where}"
        items.append(costs_item(part.costs, ARM, f"costs-{part.slug}", part.where, without))
        items.append(costs_item(part.run_costs, [*ARM, "seed"], f"run-costs-{part.slug}", single))
    if (part.schedules["smallest_p"] < 0.05).any():  # fewer runs could not answer
        items.append(tables.schedule_item(part.schedules, f"schedules-{part.slug}", part.where))
    for metric in ("accuracy", "kappa"):
        caption = f"{metric.capitalize()} over epochs, {part.where}"
        items += _drawn(f"curves-{metric}-{part.slug}", caption, plots.curve_figure, part.runs, part.dataset, metric)
    return items


def _performance(part: Part, metric: str) -> TableItem:
    """With what the mistakes cost beside it, where that is known."""
    beside = part.beside(STUDY2_EPOCH)
    item = tables.performance_item(part.by_lambda, metric, f"{metric}-{part.slug}", part.where, part.dataset, beside)
    return with_cost(item, part.costs, ARM) if metric == "accuracy" and len(part.costs) else item


def _gaze(part: Part) -> Items:
    items: Items = [tables.gaze_item(part.by_lambda, f"gaze-{part.slug}", part.where)]
    if len(part.shift):
        items.append(tables.shift_item(part.shift, f"shift-{part.slug}", part.where))
        items.append(three_forms_item(part.by_lambda, part.common, f"images-lambda-{part.slug}", part.where))
    drawn: list[FigureItem] = []
    if len(part.weights) > 1:
        caption = f"More alike, or more its class's? {part.where}"
        drawn += _drawn(f"eta-{part.slug}", caption, plots.eta_figure, part.runs, part.dataset)
    for measure, words in (("gaze_consistency_rms", "RMS deviation of the gaze"), ("gaze_eta_squared", "Eta squared")):
        name = f"curves-{_short(measure)}-{part.slug}"
        caption = f"{words} over epochs, {part.where}"
        drawn += _drawn(name, caption, plots.curve_figure, part.runs, part.dataset, measure)
    left = findings.not_drawn(part.by_lambda)
    return items + [item._replace(notes=(left,)) if left else item for item in drawn]


def _classes(part: Part) -> Items:
    """Figures by class, over all test images, and who is taken for whom."""
    figures, summed, without = tables.figures_by_class(part.runs, part.used)
    if figures.empty:
        return []
    items: Items = [
        tables.classes_item(figures, of, f"{name}-{part.slug}", f"{caption}, {part.where}")
        for of, name, caption in (
            (("class", "macro"), "classes", "Figures by class"), (("all",), "over-images", "Figures over all images"),
        )
    ]  # fmt: skip
    left = (f"{without} runs without classes.csv, or with a damaged one, are left out.",) if without else ()
    for number, (names, arms) in enumerate(summed.items()):
        shown = dict(list(arms.items())[:MOST_PANELS])
        more = (f"The first {MOST_PANELS} of {len(arms)} models and lambdas.",) if len(arms) > MOST_PANELS else ()
        caption = f"Confusion of the test images, summed over seeds, {part.where}"
        name = f"confusion-{part.slug}" + f"-{number}" * (number > 0)
        drawn = _drawn(name, caption, confusion_figure, shown, names, f"{part.where}: test images, all seeds")
        items += [item._replace(notes=(*more, *left)) for item in drawn]
    return items


def _scale(part: Part) -> Items:
    if part.scale.empty:
        return []
    caption = f"Four readings of consistency, {part.where}"
    figure = _drawn(f"scale-{part.slug}", caption, plots.scale_figure, part.runs, part.dataset)
    several = part.scale["model"].nunique() > findings.OTHERS
    return [*([tables.scale_item(part.scale, f"readings-{part.slug}", part.where)] if several else []), *figure]


def _atlas(parts: list[Part]) -> tuple[tuple[str, ...], tuple[FigureItem, ...]]:
    """Text and figures of the atlas section."""
    items: list[FigureItem] = []
    for part in parts:
        if part.maps:
            caption = f"Mean gaze of each class over its correct images, last epoch, {part.where}"
            caption += "; first what readers looked at, its highest 1" if len(part.readers) else ""
            items += _drawn(f"atlas-{part.slug}", caption, plots.atlas_figure, part.maps, part.dataset)
    if not items:
        return (
            "No maps: these runs drew no pictures (pictures.every_n_epochs=0), only their small files are here, or the "
            "CSV has no class_gaze.npz beside it.",
        ), ()
    return ("Seeds together. A lesion-like spot, a border or a corner is easier to see than to measure.",), tuple(items)


def _readers(parts: list[Part]) -> list[Section]:
    """None where no run has readers."""
    items = [item for p in parts for item in readers_items(p.by_lambda, p.readers, p.slug, p.where)]
    return [Section("Does it look where readers looked?", (HOW_TO_READ,), tuple(items))] if items else []


def _short(metric: str) -> str:
    return metric.removeprefix("gaze_")


def _drawn(name: str, caption: str, draw: Callable[..., Any], *data: Any) -> list[FigureItem]:
    """A figure; none where no row has what it shows."""
    try:
        return [FigureItem(name, caption, draw(*data))]
    except ValueError:
        return []


def print_tables(parts: list[Part], console: Console) -> None:
    """The tables that answer the two published questions, in the columns that a terminal has room for."""
    for part in parts:
        if len(part.pearson[part.pearson["lambda"] == 0]):
            beside = part.beside(STUDY1_EPOCH)
            item = tables.pearson_item(part.pearson, "x", part.where, part.dataset, beside, part.judged)
            _print(item, {"r, mean over seeds": "r"}, ("SD", "95 % interval", "without r"), console)
        item = _performance(part, "accuracy")
        renamed = {"mean of last 5": "last 5 epochs", "difference from lambda 0": "less lambda 0"}
        _print(item, renamed, ("last epoch", "best epoch"), console)
        if len(part.costs):
            _print(
                costs_item(part.costs, ARM, "x", part.where), {}, ("runs", "difference", "decisions changed"), console
            )
        item = tables.gaze_item(part.by_lambda, "x", part.where)
        _print(item, {"RMS deviation": "RMS"}, ("L_CAM squared", "L_CAM l2", "seeds", "empty fraction"), console)
        for item in readers_items(part.by_lambda, part.readers, "x", part.where)[:1]:
            _print(item, {}, ("SIM", "NSS", "seeds"), console)


def _print(item: TableItem, renamed: Mapping[str, str], dropped: tuple[str, ...], console: Console) -> None:
    if item.shown.empty:
        return
    shown = item.shown.drop(columns=[c for c in dropped if c in item.shown]).rename(columns=dict(renamed))
    shown = shown.dropna(axis=1, how="all")
    print_table(console, item.caption, shown, shown.columns.difference(["model", "measure", "lambda", "gaze"]))
