"""Which candidates are worth a study: successive halving on validation accuracy.

All candidates train for a few epochs, about the best 1/factor go on to ``factor`` times as many, and so on (Jamieson &
Talwalkar 2016). The study asks afterwards whether an augmentation moved the gaze. Nothing here may read a CAM metric:
candidates chosen by it would be chosen for the answer, and would look moved by the choice alone.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from gaze.config.train import config_hash
from gaze.errors import ConfigError
from gaze.files import atomic_path, write_json
from gaze.names import csv_cell
from gaze.runs.run import Run
from gaze.terminal import table

ACCURACY = "val/accuracy"  # the one measure that is looked at here
WHY = (
    "Screening reads val/accuracy alone, never a CAM metric. The study asks whether an augmentation moved the gaze;"
    " candidates chosen by a CAM metric would be chosen for the answer (double dipping): they would look moved by the"
    " choice alone, and the p-values of the study would be wrong. For the same reason what is left trains anew with"
    " fresh seeds: no lucky run of the screening enters the study.",
    "The evaluation set also chooses the candidates: accuracies of those that are left are optimistic.",
)


class Rung(NamedTuple):
    """One rung that is over: its ``epochs``, and the ``accuracy`` of each candidate in it, NaN for one that failed."""

    epochs: int
    accuracy: dict[str, float]


class Candidates(NamedTuple):
    """What is screened: ``names`` in their order, ``factor`` (1/factor go on), ``epochs`` of each rung."""

    names: list[str]
    factor: int
    epochs: list[int]


def rung_epochs(min_epochs: int, factor: int, rungs: int, full: int) -> list[int]:
    """``min_epochs``, ``min_epochs * factor``, ...: epochs of each of the ``rungs``.

    Args:
        min_epochs: epochs of the first rung, 1 or more.
        factor: eta, 2 or more.
        rungs: how many, 1 or more.
        full: epochs of a run of the study, which no rung may exceed.

    Raises:
        ConfigError: names all settings that are out of range.
    """
    given = {"min_epochs": (min_epochs, 1), "factor": (factor, 2), "rungs": (rungs, 1)}
    problems = [
        f"hydra.sweeper.{name}={value} must be a whole number, {least} or more."
        for name, (value, least) in given.items()
        if not isinstance(value, int) or isinstance(value, bool) or value < least
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    epochs = [min_epochs * factor**rung for rung in range(rungs)]
    if epochs[-1] > full:
        raise ConfigError(
            f"The last rung of the screening has {epochs[-1]} epochs, a run of the study trainer.max_epochs={full}. "
            "Give fewer hydra.sweeper.rungs or hydra.sweeper.min_epochs."
        )
    return epochs


# ---- the decision


def promoted(accuracy: Mapping[str, float], factor: int) -> list[str]:
    """Which candidates of one rung go on: the best n // factor of the n that have an accuracy, at least one.

    Candidates as good as the last of these go on too.

    Args:
        accuracy: of each candidate of the rung, higher is better; NaN never goes on.
        factor: eta, 2 or more.

    Returns:
        Names in the order of ``accuracy``; empty where every accuracy is NaN.
    """
    values = sorted((value for value in accuracy.values() if not math.isnan(value)), reverse=True)
    if not values:
        return []
    least = values[max(1, len(values) // factor) - 1]
    return [name for name, value in accuracy.items() if value >= least]


def remaining(names: Sequence[str], rungs: Iterable[Rung], factor: int) -> list[str]:
    """Those of ``names`` that are left after the ``rungs`` that are over."""
    left = list(names)
    for rung in rungs:
        left = promoted({name: rung.accuracy[name] for name in left}, factor)
    return left


def last_accuracy(run: Run) -> float:
    """Validation accuracy after the last epoch of a complete run, 0..1, or NaN. No other column is looked at.

    Raises:
        ConfigError: its table has no such column.
    """
    columns, rows = run.table([ACCURACY])
    if ACCURACY not in columns:
        raise ConfigError(f"{run.metrics_file} has no column {ACCURACY}.")
    return rows[-1].get(ACCURACY, math.nan)


# ---- what has been decided stays decided


def screening_key(candidates: Candidates, first: Sequence[Run]) -> str:
    """Eight hex digits, equal for equal screenings; ``first`` are the runs of the first rung."""
    words = [json.dumps(candidates), *sorted(config_hash(run.settings) for run in first)]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:8]


def save_rungs(path: Path, rungs: Sequence[Rung]) -> None:
    """Write rungs that are over, whole or not at all; null is a candidate that failed."""
    rows = [
        {"epochs": r.epochs, ACCURACY: {k: None if math.isnan(v) else v for k, v in r.accuracy.items()}} for r in rungs
    ]
    write_json(path, {"rungs": rows})


def load_rungs(path: Path) -> list[Rung]:
    """What :func:`save_rungs` wrote; nothing where there is no such file.

    Raises:
        ConfigError: the file is damaged.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rungs"]
        return [
            Rung(int(row["epochs"]), {k: math.nan if v is None else float(v) for k, v in row[ACCURACY].items()})
            for row in rows
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}). Without it the screening is decided anew.") from None


# ---- for people


def introduction(candidates: Candidates, seeds: int, baseline: str, study: Sequence[Run]) -> list[str]:
    """What is about to happen, how much it is, and what it is blind to.

    Args:
        candidates: what is screened.
        seeds: runs of each candidate in each rung.
        baseline: the arm that is always in the study.
        study: all runs that the study would have without screening.
    """
    number, epochs, text = len(candidates.names), 0, []
    for rung in candidates.epochs:
        epochs += rung * number * seeds
        after = max(1, number // candidates.factor)
        text.append(f"{number} x {seeds} runs of {rung} epochs, {after} of {number} go on")
        number = after
    full = int(study[0].settings.trainer["max_epochs"])
    arms = Counter(run.settings.augmentation.name for run in study)
    runs = arms[baseline] + number * max(n for name, n in arms.items() if name != baseline)
    return [
        f"Screening of {len(candidates.names)} augmentations (more go on where accuracies tie): {'; '.join(text)}."
        f" {epochs} epochs.",
        f"Then the study, {baseline} and those {number}: {runs} runs of {full} epochs, {runs * full} epochs. Together"
        f" {epochs + runs * full}; the study without screening has {len(study) * full}.",
        *WHY,
    ]


def screening_rows(names: Sequence[str], rungs: Sequence[Rung], left: Sequence[str]) -> list[list[str]]:
    """A row per candidate: name, accuracy at each rung (4 digits, "" where there is none), what became of it.

    Those that came furthest stand first, of these the most accurate.
    """
    ranked = []
    for name in names:
        own = [rung.accuracy.get(name, math.nan) for rung in rungs]
        last = [rung for rung in rungs if name in rung.accuracy][-1]
        failed = math.isnan(last.accuracy[name])
        place = "kept" if name in left else f"{'failed' if failed else 'dropped'} at {last.epochs} epochs"
        rank = (name not in left, -last.epochs, math.inf if failed else -last.accuracy[name])
        ranked.append((rank, [name, *("" if math.isnan(value) else f"{value:.4f}" for value in own), place]))
    return [row for _, row in sorted(ranked, key=itemgetter(0))]


def screening_table(rows: Sequence[Sequence[str]], rungs: Sequence[Rung], seeds: int) -> Table:
    """``rows`` of :func:`screening_rows` for a terminal."""
    title = f"validation accuracy, mean of {seeds} seeds" if seeds > 1 else "validation accuracy"
    epochs = [f"{rung.epochs} epochs" for rung in rungs]
    return table(title, ["augmentation", *epochs, ""], rows, epochs)


def write_rows(path: Path, rows: Sequence[Sequence[str]], rungs: Sequence[Rung]) -> None:
    """The same as CSV: ``augmentation, accuracy_3_epochs, ..., outcome``."""
    with atomic_path(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["augmentation", *(f"accuracy_{rung.epochs}_epochs" for rung in rungs), "outcome"])
        writer.writerows([csv_cell(cell) for cell in row] for row in rows)
