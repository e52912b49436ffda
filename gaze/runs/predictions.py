"""What a run's final evaluation leaves: each test image in ``predictions.csv``, figures in ``classes.csv`` and the
confusion matrix in ``confusion.csv``. Free of PyTorch and pandas.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gaze.choices import shown
from gaze.errors import DataError
from gaze.files import atomic_path, read_bytes_of
from gaze.names import csv_cell, csv_value, printable
from gaze.runs.run import Run

FIGURE = ("of", "class", "measure", "value", "low", "high", "reason")  # columns of classes.csv
PROBABILITY = "p/"  # before a class's name
MOST_CLASSES = 10_000


class Predictions(NamedTuple):
    """Of N test images in their order.

    Attributes:
        classes: names (K,).
        files: below the set's root.
        groups: what they belong to, such as a patient; None for one by itself. No list where nothing is grouped.
        truth, prediction: (N,) indices of classes.
        probabilities: (N, K).
        deviation: (N,), squared, of the map of a correct image from the mean map of its class's correct ones (thesis,
            Eq. 9), 0..1; NaN for the others.
        percentile: (N,) of the deviation within its class, 0..100.
        empty: (N,) whether the map of the true class is zero.
        energy: (N,) share of that map in the mask; NaN without one, and for an empty map.
    """

    classes: tuple[str, ...]
    files: Sequence[str]
    groups: Sequence[str | None] | None
    truth: NDArray[np.int64]
    prediction: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    deviation: NDArray[np.float64]
    percentile: NDArray[np.float64]
    empty: NDArray[np.bool_]
    energy: NDArray[np.float64] | None

    @property
    def units(self) -> NDArray[np.int64]:
        """(N,) 0, 1, 2 ..., alike where images belong together."""
        names = [i if name is None else name for i, name in enumerate(self.groups or [None] * len(self.files))]
        numbers = {name: place for place, name in enumerate(dict.fromkeys(names))}
        return np.array([numbers[name] for name in names])


class ClassFigures(NamedTuple):
    """``classes.csv`` as rows by :data:`FIGURE`, and the matrix (K, K), truth down, with its names."""

    rows: list[dict[str, Any]]
    classes: tuple[str, ...]
    confusion: NDArray[np.int64]


def write_predictions(path: Path, found: Predictions) -> None:
    """One row an image; probabilities to the last bit of their 32."""
    names, groups, energy = found.classes, found.groups, found.energy
    head = ["file", *(["group"] if groups is not None else []), "truth", "prediction"]
    head += [f"{PROBABILITY}{name}" for name in names]
    head += ["gaze_deviation", "gaze_percentile", "empty_map", *([] if energy is None else ["energy_in_mask"])]
    rows: list[list[Any]] = [head]
    for i, file in enumerate(found.files):
        row: list[Any] = [file, *([] if groups is None else [groups[i] or ""])]
        row += [names[found.truth[i]], names[found.prediction[i]], *map(_number, found.probabilities[i])]
        row += [_number(found.deviation[i]), _number(found.percentile[i], 4), int(found.empty[i])]
        rows.append(row + ([] if energy is None else [_number(energy[i])]))
    write_rows(path, rows)


def read_predictions(run: Run) -> Predictions | None:
    """What :func:`write_predictions` left; None where the run is of before, or had no test image.

    Raises:
        DataError: a file that is damaged.
    """
    try:
        head, *lines = read_rows(run.predictions_file)
    except FileNotFoundError:
        return None
    name, columns = run.predictions_file.name, dict(zip(head, zip(*lines, strict=True), strict=False))
    classes = tuple(title.removeprefix(PROBABILITY) for title in head if title.startswith(PROBABILITY))
    needed = {"file", "truth", "prediction", "gaze_deviation", "gaze_percentile", "empty_map"}
    if len(set(head)) < len(head) or not needed <= set(columns) or not 0 < len(classes) <= MOST_CLASSES:
        raise DataError(f"{name} must have images, and the columns {', '.join(sorted(needed))} and {PROBABILITY}CLASS")
    numbers = {label: place for place, label in enumerate(classes)}

    def floats(column: str) -> NDArray[np.float64]:
        return np.array([float(cell or "nan") for cell in columns[column]])

    try:
        return Predictions(
            classes=classes,
            files=columns["file"],
            groups=[group or None for group in columns["group"]] if "group" in columns else None,
            truth=np.array([numbers[label] for label in columns["truth"]]),
            prediction=np.array([numbers[label] for label in columns["prediction"]]),
            probabilities=np.stack([floats(f"{PROBABILITY}{label}") for label in classes], 1).astype(np.float32),
            deviation=floats("gaze_deviation"),
            percentile=floats("gaze_percentile"),
            empty=floats("empty_map") > 0,
            energy=floats("energy_in_mask") if "energy_in_mask" in columns else None,
        )
    except (KeyError, ValueError) as error:
        raise DataError(f"{name}: {shown(error)} is no class, or no number") from error


def write_figures(run: Run, figures: Iterable[Sequence[Any]], classes: Sequence[str], confusion: NDArray[Any]) -> None:
    """``classes.csv``, a figure a row with the values of :data:`FIGURE`, and ``confusion.csv``."""
    values = ([_number(v, 6) if isinstance(v, float) else v for v in figure] for figure in figures)
    write_rows(run.classes_file, [FIGURE, *values])
    counted = ([name, *counts] for name, counts in zip(classes, confusion.tolist(), strict=True))
    write_rows(run.confusion_file, [["truth", *classes], *counted])


def write_rows(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """A CSV whose texts are :func:`gaze.names.csv_cell`, whole or not at all."""
    with atomic_path(path) as part, part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as lines:
        csv.writer(lines, lineterminator="\n").writerows([[csv_cell(cell) for cell in row] for row in rows])


def read_rows(path: Path) -> list[list[str]]:
    """Lines of such a file.

    Raises:
        FileNotFoundError: there is none.
        DataError: it is no regular file, too large, no CSV, or has lines of several lengths.
    """
    try:
        text = read_bytes_of(path).decode()
        rows = [[csv_value(cell) for cell in row] for row in csv.reader(io.StringIO(text, newline="")) if row]
    except FileNotFoundError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path.name} cannot be read: {error}") from error
    if not rows or len({len(row) for row in rows}) > 1:
        raise DataError(f"{path.name} must have lines of one length, one at least")
    return rows


def read_figures(run: Run) -> ClassFigures | None:
    """What :func:`write_figures` left; None where the run is of before, or had no test image.

    Raises:
        DataError: a file that is damaged, or of other classes than the other one.
    """
    try:
        head, *lines = read_rows(run.classes_file)
        (_, *names), *counts = read_rows(run.confusion_file)
    except FileNotFoundError:
        return None
    if tuple(head) != FIGURE:
        raise DataError(f"{run.classes_file.name} must have the columns {', '.join(FIGURE)}")
    rows = [_figure(line, run.classes_file.name) for line in lines]
    if not 0 < len(names) <= MOST_CLASSES or [row[0] for row in counts] != names or len(set(names)) < len(names):
        raise DataError(f"{run.confusion_file.name} must have the same classes down as across")
    if {row["class"] for row in rows if row["of"] == "class"} != set(names):
        raise DataError(f"{run.classes_file.name} is of other classes than {run.confusion_file.name}")
    cells = [cell for row in counts for cell in row[1:]]
    if not all(cell.isascii() and cell.isdecimal() and len(cell) < 16 for cell in cells):
        raise DataError(f"{run.confusion_file.name} must hold counts")
    return ClassFigures(rows, tuple(names), np.array(list(map(int, cells))).reshape(len(names), -1))


def _figure(line: Sequence[str], file: str) -> dict[str, Any]:
    row: dict[str, Any] = dict(zip(FIGURE, line, strict=True))
    for name in ("value", "low", "high"):
        try:
            row[name] = float(row[name] or "nan")
        except ValueError:
            raise DataError(printable(f"{file}: {name}={row[name][:40]} must be a number")) from None
        if math.isinf(row[name]):
            raise DataError(f"{file}: {name}={row[name]} must be finite")
    return row


def _number(value: Any, digits: int = 9) -> str:
    """Significant digits; empty for NaN."""
    return "" if math.isnan(value) else f"{value:.{digits}g}"
