"""The report of an augmentation study: what ``study`` measured, as numbers, tables, figures and sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console

from gaze.config.analysis import AnalyzeConfig
from gaze.report.provenance import left_out_item
from gaze.report.words import each, number, p_value
from gaze.report.write import FigureItem, Section, TableItem, write_report
from gaze.runs.load import Runs
from gaze.runs.tidy import write_tidy_csv
from gaze.statistics.permutation import arms_table
from gaze.studies.arms import arm_settings
from gaze.studies.augmentation import findings as study_findings
from gaze.studies.augmentation import moved_plots, profile_plots
from gaze.studies.augmentation import tables as study_tables
from gaze.studies.augmentation.association import CostAssociation, cost_and_distance
from gaze.studies.augmentation.compared import Compared
from gaze.studies.augmentation.effects import distance_matrix, image_table, pair_table, profile_table, run_table
from gaze.studies.augmentation.questions import question_table
from gaze.studies.augmentation.study import Measured, measure, study_parts
from gaze.studies.costs import TITLE, Priced, cost_table, costs_item
from gaze.studies.opened import check_maps, check_runs
from gaze.terminal import print_table, say

SHORT = {1: "on what matters?", 2: "varies less?", 3: "gain with gaze?"}
MOVED = {  # verdicts of ``arms_table``
    "moved": "moved by more than training again moves it",
    "not shown": "not shown to move by more than training again moves it",
    "underpowered": "underpowered, too few seeds to tell whether it moved",
}
PAIRS_FILE, IMAGES_FILE = "pairs.csv", "images.csv"
Items = list[TableItem | FigureItem]


class Numbers(NamedTuple):
    """What the statistics say of a part."""

    distances: NDArray[np.float64]
    arms: pd.DataFrame
    runs: pd.DataFrame
    profile: pd.DataFrame
    questions: pd.DataFrame
    images: pd.DataFrame
    costs: pd.DataFrame  # a row an arm, empty without costs=
    association: CostAssociation | None


def run_study(
    runs: Runs, config: AnalyzeConfig, directory: Path, console: Console, provenance: Mapping[str, Any],
    priced: Mapping[str, Priced],
) -> list[Path]:  # fmt: skip
    """Compare the CAMs of an augmentation study and write its CSVs, tables, figures and report.

    Args:
        runs: of one study, read with ``arms=True``.
        config: from ``gaze.config.train.check_analysis``.
        directory: where to write; CAMs are kept there.
        console: for progress and tables.
        provenance: for the end of the report.
        priced: what the mistakes of each run cost; empty without costs=.

    Returns:
        Every path written, CAMs apart.

    Raises:
        GazeError: nothing to compare, images or checkpoints that cannot be read; before any long work if possible.
    """
    parts = study_parts(runs.used.values(), config.compare.baseline)
    for part in parts:  # all of them, before any long work
        check_runs(part.runs, config.compare.checkpoint, config.trust)
        check_maps(part.runs)
    measured = [measure(part, config.compare, directory, console) for part in parts]
    with console.status("statistics"):
        numbers = [_numbers(own.compared, priced) for own in measured]
    both = list(zip(measured, numbers, strict=True))
    for own, found in both:
        _print(own, found, console)
    written = _write_tables(both, directory)
    lines = [line for own, found in both for line in _summary(own, found, len(both) > 1)]
    lead = [_lead(own, found) for own, found in both]
    sections = [section for own, found in both for section in _sections(own, found, len(both) > 1)]
    sections.append(Section("How to read this", study_findings.HOW_TO_READ_STUDY, ()))
    if left := left_out_item(runs.listing):
        sections.append(Section("Runs that were left out", (), (left,)))
    title = f"What augmentation does to the gaze: {measured[0].part.runs[0].settings.study}"
    with console.status("figures"):
        return written + write_report(title, lines, sections, provenance, directory, lead)


def _numbers(c: Compared, priced: Mapping[str, Priced]) -> Numbers:
    distances, runs = distance_matrix(c), run_table(c)
    arms = arms_table(distances, list(c.runs["arm"]), c.baseline)
    costs, association = cost_table(c.runs, ["arm"], priced), None
    if len(costs):
        runs["cost"] = [priced[name].costs[0].mean() if name in priced else math.nan for name in runs["run"]]
        association = cost_and_distance(c, runs["cost"].to_numpy())
    numbers = (distances, arms, runs, profile_table(c), question_table(c), image_table(c))
    return Numbers(*numbers, costs, association)


def _write_tables(both: Sequence[tuple[Measured, Numbers]], directory: Path) -> list[Path]:
    """The long tables, with the part that each row belongs to."""
    tables = {
        PAIRS_FILE: [pair_table(own.compared).assign(part=own.part.where) for own, _ in both],
        IMAGES_FILE: [found.images.assign(part=own.part.where) for own, found in both],
    }
    for name, parts in tables.items():
        write_tidy_csv(pd.concat(parts, ignore_index=True), directory / name)
    return [directory / name for name in tables]


def _summary(own: Measured, found: Numbers, several: bool) -> list[str]:
    """What was found, most important first."""
    lines = [
        study_findings.noise_finding(found.arms),
        *(study_findings.question_finding(found.questions, question) for question in (1, 2)),
        study_findings.association_finding(found.questions),
        study_findings.accuracy_finding(found.runs, own.compared.baseline),
        *([] if found.association is None else [study_findings.cost_finding(found.association)]),
        study_findings.where_finding(found.profile),
        *own.part.notes,
    ]
    return [f"{own.part.where}: {line}" if several else line for line in lines]


def _lead(own: Measured, found: Numbers) -> Section:
    """The first thing on the page: what each arm changes as a picture, and one sentence an arm."""
    where, caption = own.part.where, f"What each augmentation changes, {own.part.where}"
    picture = FigureItem(f"profile-{own.part.slug}", caption, profile_plots.profile_figure(found.profile))
    return Section(f"In short: {where}", (study_findings.headline(own.compared),), (picture,), _sentences(own, found))


def _sentences(own: Measured, found: Numbers) -> tuple[str, ...]:
    """One an arm: is its gaze moved, do the questions that can be answered pass, and the accuracy beside it."""
    arms = {row.arm: row for row in each(found.arms)}
    answers = found.questions.drop_duplicates(["arm", "question"]).set_index(["arm", "question"])["answer"]
    accuracy = found.runs.groupby("arm")["accuracy"].mean()
    said = []
    for arm in own.compared.arms:
        row, change = arms[arm], accuracy[arm] - accuracy[own.compared.baseline]
        p = "" if math.isnan(row.p_holm) else f" (effect {number(row.effect)}, p {p_value(row.p_holm)})"
        parts = [
            f"gaze {MOVED[row.verdict]}{p}",
            *(f"{SHORT[question]} {answers[arm, question]}" for question in (1, 2)),
        ]
        said.append(f"{arm}: {'; '.join(parts)}; accuracy {number(accuracy[arm])} ({change:+.3f}).")
    return tuple(said)


def _sections(own: Measured, found: Numbers, several: bool) -> list[Section]:
    """A part from top to bottom."""
    c, slug, where = own.compared, own.part.slug, own.part.where
    settings = arm_settings(own.part.runs)
    items: dict[str, Items] = {
        "Is it more than retraining noise?": [
            study_tables.arms_item(c, found.arms, found.distances, f"arms-{slug}", where),
            FigureItem(
                f"noise-{slug}",
                f"Distances of the gazes of two runs, {where}",
                profile_plots.noise_figure(c, found.arms, found.distances),
            ),
        ],
        "The three questions": [
            study_tables.criteria_item(found.questions, found.runs, c.baseline, f"criteria-{slug}", where),
            FigureItem(
                f"gain-{slug}",
                f"Does the gain go with the gaze? {where}",
                profile_plots.gain_figure(found.images, found.questions),
            ),
            study_tables.questions_item(found.questions, f"questions-{slug}", where),
        ],
        "What each augmentation changes": [
            study_tables.profile_item(found.profile, f"profile-{slug}-numbers", where),
            study_tables.measures_item(found.profile, f"measures-{slug}"),
        ],
        "Where does the gaze go?": _pictures(own, found),
        "The arms and the runs": [
            study_tables.augmentations_item(
                {arm: settings[arm] for arm in (c.baseline, *c.arms)}, f"augmentations-{slug}"
            ),
            study_tables.runs_item(found.runs, f"runs-{slug}", where),
        ],
    }
    if found.association is not None:
        without = int(found.runs["cost"].isna().sum())
        items[TITLE] = [
            costs_item(found.costs, ["arm"], f"costs-{slug}", where, without),
            study_tables.association_item(found.association, f"moved-and-cost-{slug}", where),
        ]
    suffix = f" ({where})" if several else ""
    return [Section(f"{title}{suffix}", (), tuple(shown)) for title, shown in items.items()]


def _pictures(own: Measured, found: Numbers) -> Items:
    c, slug, where = own.compared, own.part.slug, own.part.where
    items: Items = [
        FigureItem(f"where-{slug}", f"Mean gaze and where it moved, {where}", moved_plots.where_figure(c, list(c.arms)))
    ]
    for place, arm in enumerate(c.arms, 1):
        rows = found.images[found.images["arm"] == arm]
        if rows["excess_distance"].notna().any():
            figure = moved_plots.moved_figure(c, rows, arm, own.pictures, own.masks)
            caption = f"{arm}: where the gaze moved most and least, {where}"
            items.append(FigureItem(f"moved-{slug}-{place}", caption, figure))
    return items


def _print(own: Measured, found: Numbers, console: Console) -> None:
    """The answers, in the columns that a terminal has room for."""
    c = own.compared
    for line in (study_findings.headline(c), *own.part.notes):
        say(console, line, whole=False)
    arms = study_tables.arms_item(c, found.arms, found.distances, "x", own.part.where)
    noise = arms.shown[["arm", "runs", "verdict", "effect", "p (Holm)", "accuracy (SD)"]]
    answers = found.questions.drop_duplicates(["arm", "question"]).pivot(
        index="arm", columns="question", values="answer"
    )
    criteria = answers.loc[list(c.arms)].rename(columns=SHORT).reset_index()
    for caption, shown in ((arms.caption, noise), (f"The three questions, {own.part.where}", criteria)):
        print_table(console, caption, shown, ("runs", "effect", "p (Holm)"))
