"""The tidy columns of an analysis: their names, what may stand in them, and how they are read and written."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gaze.errors import DataError
from gaze.files import MOST_BYTES, open_regular, write_csv
from gaze.measures import measures
from gaze.names import csv_values

RUN_KEYS = ["study", "dataset", "model", "lambda", "seed"]
FOLD = "fold"  # of a cross-validation, from 0: a column where there is one
CELL_KEYS = [key for key in RUN_KEYS if key != "seed"]  # what the seeds of one table row share
NEEDED = ["study", "model", "seed", "epoch", "kappa"]
ASSUMED: dict[str, Any] = {"dataset": "unnamed", "lambda": 0.0}  # where a CSV has no such column
TIDY_COLUMNS = [
    *RUN_KEYS,
    *("epoch", "accuracy", "kappa", "gaze_consistency", "gaze_consistency_l2", "gaze_eta_squared", "loss"),
]
MOST_EXACT = 2.0**53 - 1  # whole numbers up to here are exact as floats, which a column with a gap is read as
KEY_RANGES = {"lambda": (-np.inf, np.inf), "seed": (0.0, MOST_EXACT), "epoch": (1.0, MOST_EXACT)}
FOLD_RANGE = (0.0, 999.0)
TEXTS = ("study", "dataset", "model", "run", "variant", "of_study")  # in which null, nan and NA are names
EMPTY = ["", "NA", "N/A", "n/a", "<NA>", "#N/A", "NaN", "nan", "-nan", "-NaN", "null", "NULL", "None"]  # in the others
# From pandas 3.1 on numbers are always read to the last bit, and the option to ask for it is deprecated.
EXACT: dict[str, Any] = (
    {} if tuple(map(int, pd.__version__.split(".")[:2])) >= (3, 1) else {"float_precision": "round_trip"}
)
Ranges = dict[str, tuple[float, float]]
ROUNDING = 1e-6  # float32 sums may end that far outside their range


def run_keys(runs: pd.DataFrame) -> list[str]:
    """The columns that identify a run."""
    return [*RUN_KEYS, *(name for name in (FOLD, "run") if name in runs)]


def check_tidy(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """The table with its columns in order and in their types.

    Args:
        table: at least the columns ``NEEDED`` and one of a gaze consistency; of the other tidy ones, those that are
            absent become ``ASSUMED``, or empty.
        source: its name, for messages.

    Raises:
        DataError: a column is missing, a key is empty, or a value is no number or out of its range; each named.
    """
    check_columns(list(map(str, table)), source)
    table = table.assign(**{column: value for column, value in ASSUMED.items() if column not in table})
    table = table.assign(**{column: np.nan for column in TIDY_COLUMNS if column not in table})
    # NaN is allowed except in the keys.
    ranges = KEY_RANGES | {name: measure.range for name, measure in measures().items() if name in table}
    ranges |= {FOLD: FOLD_RANGE} if FOLD in table else {}
    for column in ("study", "dataset", "model"):
        _refuse(table[column].isna(), table[column], source, column, "is empty")
        table[column] = table[column].astype(str)
    if not _plainly_good(table, ranges):
        _check_numbers(table, ranges, source)
    for column in ranges:
        table[column] = table[column].astype("int64" if column in ("seed", "epoch") else "float64")
    if "gaze_empty_fraction" in table:
        _without_empty(table)
    return table[[*TIDY_COLUMNS, *(column for column in table if column not in TIDY_COLUMNS)]]


def check_columns(table: Collection[str], source: str) -> None:
    """What :func:`check_tidy` asks of the names of a table's columns.

    Raises:
        DataError: names those that are missing.
    """
    missing = [column for column in NEEDED if column not in table]
    gaze = [name for name in measures() if name.startswith("gaze_")]
    missing += [] if missing or any(name in table for name in gaze) else ["of the gaze"]
    if missing:
        raise DataError(
            f"{source}: no column {', '.join(missing)}. Needed: {', '.join(NEEDED)} and one of the gaze, such as "
            f"gaze_consistency or gaze_consistency_l2; read as well: "
            f"{', '.join(column for column in TIDY_COLUMNS if column not in NEEDED)}."
        )


def _without_empty(table: pd.DataFrame) -> None:
    """No consistency where every correct image's map was empty: earlier versions wrote 0 there, as if perfect."""
    empty = table["gaze_empty_fraction"] == 1
    for column in table.columns[table.columns.str.startswith("gaze_consistency")]:
        of_others = column in ("gaze_consistency_all", "gaze_consistency_fixed")  # images, which may have maps
        table[column] = table[column].mask(empty & ((table[column] == 0) | (not of_others)))


def _plainly_good(table: pd.DataFrame, ranges: Ranges) -> bool:
    """True where all numbers are in order: one look for hundreds of runs, before the search for what is wrong."""
    columns = list(ranges)
    if not all(table[column].dtype.kind in "if" for column in columns):
        return False
    values = table[columns].to_numpy(np.float64)  # (rows, columns)
    low, high = np.array(list(ranges.values())).T
    inside = ((values >= low - ROUNDING) & (values <= high + ROUNDING)) | np.isnan(values)
    keys = values[:, [columns.index(column) for column in ("lambda", "seed", "epoch")]]
    return bool(inside.all() and np.isfinite(keys).all() and (keys[:, 1:] % 1 == 0).all())


def _check_numbers(table: pd.DataFrame, ranges: Ranges, source: str) -> None:
    for column, (low, high) in ranges.items():
        numbers = pd.to_numeric(table[column], errors="coerce").astype("float64")
        text = numbers.isna() & table[column].notna()
        _refuse(text, table[column], source, column, "is not a number")
        outside = (numbers < low - ROUNDING) | (numbers > high + ROUNDING)
        unit = " (a share, not per cent)" if column == "accuracy" else ""
        _refuse(outside, numbers, source, column, f"is outside {low:.16g} .. {high:.16g}{unit}")
        table[column] = numbers
    for column in ("lambda", "seed", "epoch"):
        _refuse(table[column].isna(), table[column], source, column, "is empty")
    for column in (name for name in ("seed", "epoch", FOLD) if name in ranges):
        _refuse(table[column] % 1 > 0, table[column], source, column, "is not a whole number")


def _refuse(bad: pd.Series, values: pd.Series, source: str, column: str, what: str) -> None:
    if bad.any():
        place = int(np.flatnonzero(bad)[0])
        shown = "" if pd.isna(values.iloc[place]) else f"={values.iloc[place]}"
        more = f" ({int(bad.sum())} rows in all)" if bad.sum() > 1 else ""
        # Line 1 is the header.
        raise DataError(f"{source}, line {place + 2}: {column}{shown} {what}{more}. Mend it, or remove the row.")


def read_tidy_csv(path: Path) -> pd.DataFrame:
    """A tidy CSV each row with the ``run`` it belongs to. A semicolon or a tab may stand for the comma between values.

    Without a column ``run`` a run is what its keys say; a second row for the same epoch begins a second run,
    named ``... #2``.

    Raises:
        DataError: as :func:`check_tidy`; no CSV; no rows; or an epoch twice in a named run.
    """
    try:
        signs = _signs(path)
        with open_regular(path) as file:
            empty = {name: [""] if name in TEXTS else EMPTY for name in _columns(path)}
            types: dict[str, Any] = dict.fromkeys(TEXTS, str)
            table = pd.read_csv(file, dtype=types, keep_default_na=False, na_values=empty, **signs, **EXACT)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError, OSError) as error:
        raise DataError(f"source={path}: this cannot be read as a CSV file ({error}).") from error
    table = check_tidy(csv_values(table), str(path))
    if table.empty:
        raise DataError(f"source={path}: a header without rows. Nothing to analyse.")
    if "run" in table:
        table["run"] = table["run"].astype(str)
        twice = table.duplicated([*RUN_KEYS, "run", "epoch"])
        _refuse(twice, table["epoch"], str(path), "epoch", "occurs twice in one run")
        return table
    base = [f"{s}/{d}/{m}/lambda={w:g}/seed={n}" for s, d, m, w, n in table[RUN_KEYS].itertuples(index=False)]
    if FOLD in table:
        base = [name + (f"/fold={fold:g}" if fold >= 0 else "") for name, fold in zip(base, table[FOLD], strict=True)]
    copy = table.groupby([*run_keys(table), "epoch"], dropna=False).cumcount()
    table["run"] = [name if n == 0 else f"{name} #{n + 1}" for name, n in zip(base, copy, strict=True)]
    return table


def absent_columns(path: Path) -> tuple[str, ...]:
    """Tidy columns that a CSV does not have."""
    there = _columns(path)
    return tuple(name for name in TIDY_COLUMNS if name not in there)


def _columns(path: Path) -> list[str]:
    with open_regular(path) as file:
        return list(pd.read_csv(file, nrows=0, **_signs(path)))


def _signs(path: Path) -> dict[str, Any]:
    """What stands between values, and in numbers: a spreadsheet whose decimal sign is the comma writes semicolons."""
    with open_regular(path) as lines:
        head, first = (lines.readline(MOST_BYTES).decode("utf-8-sig") for _ in range(2))
    between = max(",;\t", key=head.count)
    return {"sep": between, "decimal": "," if between != "," and "," in first else "."}


def write_tidy_csv(table: pd.DataFrame, path: Path) -> None:
    """Write what :func:`read_tidy_csv` reads back bit for bit."""
    write_csv(path, table)


def add_derived(table: pd.DataFrame) -> pd.DataFrame:
    """Measures that are square roots of others, such as RMS deviations in units of the map's own 0..1 range. Runs
    without the common grid get empty columns.
    """
    table = table.copy()
    for name, measure in measures().items():
        if measure.root_of:
            if measure.root_of not in table:
                table[measure.root_of] = np.nan
            table[name] = np.sqrt(table[measure.root_of].astype("float64").clip(lower=0))
    return table
