"""Run folders, or a tidy CSV, to one DataFrame: a row per run and epoch.

    runs = load_runs("outputs")          # every finished run below outputs/
    runs = load_runs("epochs.csv")       # the same, from the file that analyze.py wrote

A run is known by what its ``config.json`` says (study, dataset, model, lambda, seed), not by its folder's name.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gaze.config.analysis import LEFT_OUT
from gaze.config.train import OF_A_START, TrainConfig, place_free
from gaze.errors import DataError
from gaze.measures import measures
from gaze.runs.folder import flat_settings
from gaze.runs.kept_maps import COLUMNS
from gaze.runs.run import Run, runs_below
from gaze.runs.tidy import FOLD, RUN_KEYS, absent_columns, add_derived, check_columns, check_tidy, read_tidy_csv

# Settings that say which run it is, or change no figure; and lambda's schedule, which parts runs by itself.
KEYS_AND_PLACES = {
    "study",
    "dataset.name",
    "model.name",
    "model.source",
    "lambda",
    "seed",
    "dataset.cache",
    "model.checkpoint",
    "model.path",
    "dataset.fold",
}
KEYS_AND_PLACES |= {"gaze.start_epoch", "gaze.end_epoch", "gaze.keep_maps"}
PARTS = ("variant", "of_study", FOLD)  # of a study: columns that only some runs have
LISTING = [*RUN_KEYS, "run", "state", "used", "epochs", "max_epochs", "reason"]


class Runs(NamedTuple):
    """What was found.

    Attributes:
        epochs: a row per run and epoch, the tidy columns first; only the runs that are used. ``variant`` says which
            settings a part of a study has where the runs of one study differ in them, ``of_study`` of which study a
            later schedule of lambda is a part.
        listing: a row per run found: its keys, ``run`` (its folder below the source), state (complete,
            unfinished, failed, duplicate, without folds, unreadable), used, epochs, max_epochs, reason.
        used: each used run by its ``run``; empty from a CSV.
        absent: tidy columns that a CSV lacks.
    """

    epochs: pd.DataFrame
    listing: pd.DataFrame
    used: dict[str, Run]
    absent: tuple[str, ...] = ()


class Found(NamedTuple):
    """A run with its row of the listing, the columns of its table under tidy names, an epoch a value, and the run; None
    where it stands in a CSV.
    """

    row: dict[str, Any]
    table: dict[str, NDArray[Any]]
    run: Run | None


def load_runs(path: str | Path, include: Sequence[str] = ()) -> pd.DataFrame:
    """All finished runs as one DataFrame, a row per run and epoch.

    Args:
        path: a folder with run folders anywhere below it, or a CSV file with at least the columns ``study model seed
            epoch kappa`` and one of the gaze; known as well are ``dataset lambda accuracy gaze_consistency
            gaze_consistency_l2 gaze_eta_squared loss`` and the other measures (accuracy 0..1, epoch from 1).
        include: of "unfinished", "failed", "duplicate": runs to take that are otherwise left out (with a warning).

    Raises:
        DataError: nothing there, a column that is missing, a value that cannot be.
    """
    runs = read_runs(path, include)
    left = runs.listing[~runs.listing["used"]]
    if len(left):
        kinds = ", ".join(f"{number} {state}" for state, number in left["state"].value_counts().items())
        warnings.warn(f"{path}: runs left out: {kinds}. read_runs(path).listing says which and why.", stacklevel=2)
    return runs.epochs


def read_runs(
    path: str | Path,
    include: Sequence[str] = (),
    study: str | None = None,
    *,
    arms: bool = False,
    without: Sequence[str] = (),
    found: Sequence[Found] | None = None,
) -> Runs:
    """Like :func:`load_runs`, with the list of what was left out.

    Args:
        path, include: as there.
        study: only this one.
        arms: runs that differ in their augmentation are no duplicates of each other.
        without: studies to leave out.
        found: what :func:`find_runs` has read there already.
    """
    unknown = sorted(set(include) - set(LEFT_OUT))
    if unknown:
        raise DataError(f"include={unknown[0]} is unknown: {', '.join(LEFT_OUT)}.")
    path = Path(path)
    every = find_runs(path, study) if found is None else found
    found = [own._replace(row=dict(own.row)) for own in _of_study(every, study, path)]
    found = [own for own in found if own.row["study"] not in without]
    if not arms:
        _part_by_settings([own for own in found if own.run and own.row["state"] in ("complete", *include)])
    for own in found if arms else ():
        if (fold := own.row.pop(FOLD, None)) is not None:  # maps of other images do not compare
            own.row["study"] += f", fold {fold}"
    _part_by_schedule(found)
    _mark_duplicates(found, arms)
    for own in found:
        own.row["used"] = own.row["state"] == "complete" or (own.row["state"] in include and own.row["epochs"] > 0)
    _mark_without_folds([own for own in found if own.row["used"] and FOLD in own.row])
    used = [own for own in found if own.row["used"]]
    listing = pd.DataFrame([own.row for own in found], columns=LISTING)
    if not used:
        raise DataError(f"source={path}: none of the {len(found)} runs can be used.\n{_reasons(listing)}")
    epochs = add_derived(check_tidy(_frame(used), str(path)))
    key = [*RUN_KEYS, "run"]
    return Runs(
        epochs.sort_values([*key, "epoch"], ignore_index=True),
        listing.sort_values(key, ignore_index=True),
        {own.run.name: own.run for own in used if own.run},
        () if path.is_dir() else absent_columns(path),
    )


def find_runs(path: Path, study: str | None = None) -> Sequence[Found]:
    """All runs in a folder or a CSV, read; of a folder, where ``study`` is named, only those of it.

    Raises:
        DataError: there is none.
    """
    if not path.exists():
        raise DataError(f"source={path}: there is no such file or folder. Train first (python train.py), or name one.")
    if not path.is_dir():
        return list(_from_csv(path))
    runs = list(runs_below(path))
    if not runs:
        raise DataError(
            f"source={path}: no run in this folder. A run folder holds config.json and metrics.csv; "
            "python train.py leaves one below outputs/."
        )
    if study is not None:
        names = {run.folder: _study_of(run) for run in runs}
        runs = [run for run in runs if _is_of(names[run.folder], study)]
        if not runs:
            raise _no_study(study, path, names.values())
    return _checked([_read_run(run) for run in runs])


def _reasons(listing: pd.DataFrame, most: int = 5) -> str:
    lines = [f"{row.run}: {row.state}, {row.reason}" for row in listing.head(most).itertuples()]
    rest = len(listing) - most
    hint = "analyze.py include=[unfinished,failed] takes those that have epochs all the same."
    return "\n".join([*lines, *([f"and {rest} more"] if rest > 0 else []), hint])


# ---- folders


def _read_run(run: Run) -> Found:
    row: dict[str, Any] = dict.fromkeys(LISTING)
    row |= {"run": run.name, "state": "unreadable", "epochs": 0, "reason": ""}
    try:
        row |= run.keys | {"max_epochs": int(run.settings.trainer["max_epochs"])}
        row |= {} if run.dataset.fold is None else {FOLD: run.dataset.fold}
        run.check_files()
        table = _tidy_table(run)
    except (OSError, DataError) as error:
        row["reason"] = "; ".join(str(error).splitlines())
        return Found(row, {}, run)
    row["epochs"] = len(table["epoch"]) if table else 0
    row["state"], row["reason"] = _state(run, row["epochs"])
    return Found(row, table, run)


def _tidy_table(run: Run) -> dict[str, NDArray[Any]]:
    """Its columns under tidy names; none where the run has not finished an epoch."""
    known = {measure.column: measure.name for measure in measures().values() if measure.column}
    known |= {name: name for name in ("epoch", "step")}
    columns, rows = run.table(known)
    if not columns:
        return {}
    table = {known[column]: _values(rows, column) for column in columns if column in known}
    check_columns([*table, *RUN_KEYS], run.metrics_file.name)
    _each_epoch_once(rows, run.metrics_file.name)
    grid = run.table(COLUMNS, run.grid_file)[1]
    _each_epoch_once(grid, run.grid_file.name)
    same = {row["epoch"]: row for row in grid if "epoch" in row}
    more = [same.get(row.get("epoch", nan), {}) for row in rows]
    names = dict.fromkeys(name for row in same.values() for name in row if name != "epoch")
    return table | {name: _values(more, name) for name in names}


def _each_epoch_once(rows: Sequence[Mapping[str, float]], source: str) -> None:
    seen = set()
    for line, row in enumerate(rows, 2):
        if row.get("epoch") in seen:
            raise DataError(f"{source}, line {line}: epoch={row['epoch']:g} occurs twice. Mend it, or remove the row.")
        seen |= {row["epoch"]} if "epoch" in row else set()


def _values(rows: Sequence[Mapping[str, float]], column: str) -> NDArray[Any]:
    return np.array([row.get(column, nan) for row in rows])


def _checked(found: Sequence[Found]) -> Sequence[Found]:
    """The runs, those with a value that cannot be as unreadable: one look for thousands, which mostly finds nothing."""
    with_rows = [own for own in found if own.row["epochs"]]
    if not with_rows or _problem(with_rows, "") is None:
        return found
    return [own if not (own.run and own.row["epochs"]) else _unless_bad(own, own.run) for own in found]


def _problem(found: Sequence[Found], source: str) -> str | None:
    try:
        check_tidy(_frame(found), source)
    except (ValueError, TypeError, OverflowError, DataError) as error:
        return str(error).splitlines()[0]
    return None


def _unless_bad(own: Found, run: Run) -> Found:
    reason = _problem([own], run.metrics_file.name)
    return own if reason is None else Found(own.row | {"state": "unreadable", "epochs": 0, "reason": reason}, {}, run)


def _frame(found: Sequence[Found]) -> pd.DataFrame:
    """Tables of runs one below the other, each row with the keys of its run."""
    lengths = [own.row["epochs"] for own in found]
    keys = [*RUN_KEYS, "run", *dict.fromkeys(name for own in found for name in own.row if name in PARTS)]
    columns: dict[str, Any] = dict.fromkeys(name for own in found for name in own.table)
    for name in columns.keys() - keys:
        parts = [own.table.get(name, np.full(n, nan)) for own, n in zip(found, lengths, strict=True)]
        columns[name] = np.concatenate(parts)
    for key in keys:
        columns[key] = pd.Series([own.row.get(key, nan) for own in found]).repeat(lengths).array
    return pd.DataFrame(columns)


def _state(run: Run, epochs: int) -> tuple[str, str]:
    """State of a run, and why it is not complete."""
    trainer, status = run.settings.trainer, run.status
    progress = f"{epochs} of {trainer['max_epochs']} epochs"
    if status.get("state") == "failed":
        return "failed", f"{next(iter(status.get('error', '').splitlines()), 'no message')} ({progress})"
    if status.get("state", "complete") != "complete":
        word = "still running" if run.state == "running" else "interrupted"
        return "unfinished", f"{word}: {progress}"
    # max_steps, max_time and a callback such as early stopping end a run before its last epoch, and well.
    ends = [trainer.get(key) not in (None, -1) for key in ("max_steps", "max_time")]
    cut = bool(status) and (any(ends) or bool(run.settings.callbacks))
    if epochs < trainer["max_epochs"] and not (cut and epochs > 0):
        return "unfinished", progress
    return "complete", ""


# ---- CSV


def _from_csv(path: Path) -> Iterator[Found]:
    table = read_tidy_csv(path)
    for keys, rows in table.groupby([*RUN_KEYS, "run"], sort=False):
        row = dict(zip([*RUN_KEYS, "run"], keys, strict=True))
        row |= {"state": "complete", "epochs": len(rows), "max_epochs": None, "reason": ""}
        row |= {FOLD: int(rows[FOLD].iloc[0])} if FOLD in rows and rows[FOLD].notna().all() else {}
        yield Found(row, {str(name): rows[name].to_numpy() for name in rows}, None)


# ---- choosing


def _of_study(found: Sequence[Found], study: str | None, path: Path) -> Sequence[Found]:
    if study is None:
        return found
    chosen = [own for own in found if _is_of(own.row["study"], study)]
    if not chosen:
        raise _no_study(study, path, (own.row["study"] for own in found))
    return chosen


def _is_of(name: Any, study: str) -> bool:
    return f"{name}, ".startswith(f"{study}, ")  # a CSV has its parts


def _no_study(study: str, path: Path, names: Iterable[Any]) -> DataError:
    known = ", ".join(sorted({str(name) for name in names if name is not None})) or "none"
    return DataError(f"study={study}: no run of it in {path}. Studies there: {known}.")


def _study_of(run: Run) -> Any:
    """What its settings, of which nothing else is looked at, say; None where they cannot be read."""
    try:
        return run.values["study"]
    except (DataError, ValueError, TypeError, KeyError):
        return None


def _part_by_settings(found: Sequence[Found]) -> None:
    """Runs with the same keys and other settings, such as dataset.image_size, are no duplicates: of their study, each
    combination of the settings that differ becomes a study of its own, named by it. The least one keeps the name. So do
    numbers of folds, none among them.
    """
    studies: dict[tuple[str, str], dict[tuple[Any, ...], list[Found]]] = {}
    for own in found:
        key = (*(own.row[name] for name in RUN_KEYS), own.row.get(FOLD))
        studies.setdefault(key[:2], {}).setdefault(key, []).append(own)
    for (study, _), cells in studies.items():
        twins = [[own.run for own in cell if own.run] for cell in cells.values() if len(cell) > 1]
        names = {name for runs in twins for name in differing(runs) if _compared(name)}
        members = [own for cell in cells.values() for own in cell if own.run]
        flat = [flat_settings(place_free(own.run.settings.to_dict())) for own in members if own.run]
        telling = _telling(flat, [name for name in names | {"dataset.folds"} if any(name in own for own in flat)])
        if not telling:
            continue
        values = [tuple(own.get(name) for name in telling) for own in flat]
        least = min(
            values, key=lambda row: [(v is not None, v if isinstance(v, int | float) else 0, str(v)) for v in row]
        )
        for own, row in zip(members, values, strict=True):
            words = [f"{_leaf(name)} {value}" for name, value in zip(telling, row, strict=True)]
            other = [word for word, value, usual in zip(words, row, least, strict=True) if value != usual]
            own.row["study"] = ", ".join([study, *other])
            own.row["variant"] = ", ".join(words)


def _telling(flat: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """Of the settings those that tell runs apart which the ones before do not; a group's name comes first."""
    kept: list[str] = []
    for name in sorted(names, key=lambda name: (not name.endswith(".name"), name)):
        several = [{json.dumps([own.get(key) for key in keys]) for own in flat} for keys in (kept, [*kept, name])]
        if len(several[0]) < len(several[1]):
            kept.append(name)
    return kept


def _leaf(name: str) -> str:
    """A dotted setting as a part of a study's name: ``image_size``, ``augmentation``, ``dataset.seed``."""
    name = name.removesuffix(".name")
    last = name.rpartition(".")[2]
    return name if last in RUN_KEYS else last


def _compared(name: str) -> bool:
    """Whether runs that differ in a setting are to be compared with care, or apart."""
    return name not in KEYS_AND_PLACES and not name.startswith("pictures.")


def _part_by_schedule(found: Sequence[Found]) -> None:
    """Of one study's runs, those whose lambda turns later than the earliest ones' become a study of their own, named by
    the epochs; a run at lambda = 0 has no such schedule.
    """
    turned: dict[tuple[str, int, int], list[Found]] = {}
    for own in found:
        if own.run and own.row["state"] != "unreadable" and own.row["lambda"]:
            gaze = own.run.settings.gaze
            turned.setdefault((own.row["study"], gaze.start_epoch, gaze.end_epoch), []).append(own)
    several = {study for study, *_ in turned if sum(other[0] == study for other in turned) > 1}
    for own in found:
        if own.row["study"] in several and own.table:
            own.row["of_study"] = own.row["study"]
    for (study, start, end), later in turned.items():
        if (study, start, end) != min(key for key in turned if key[0] == study):
            for own in later:
                own.row["study"] = f"{study}, lambda from epoch {start} to {end}"


def _mark_duplicates(found: Sequence[Found], arms: bool) -> None:
    """Of several complete runs with equal keys the one started last stands; the others are marked."""
    groups: dict[tuple[Any, ...], list[Found]] = {}
    for own in found:
        if own.row["state"] == "complete":
            arm = repr(own.run.settings.augmentation) if arms and own.run else ""
            groups.setdefault((*(own.row[key] for key in RUN_KEYS), own.row.get(FOLD), arm), []).append(own)
    for group in groups.values():
        if len(group) > 1:  # stable: where no start is known, the first one stands
            group.sort(key=lambda own: str(own.run.environment.get("started", "")) if own.run else "", reverse=True)
        kept = group[0]
        for other in group[1:]:
            other.row.update(state="duplicate", reason=f"same keys as {kept.row['run']}")
            if kept.run and other.run:
                names = ", ".join(differing([kept.run, other.run]))
                other.row["reason"] += f", other settings: {names}" if names else ", same settings"


def _mark_without_folds(used: Sequence[Found]) -> None:
    """A seed whose folds are not all there is not used: its mean would be over other images than other seeds'."""
    seeds, numbers = dict[tuple[Any, ...], list[Found]](), dict[tuple[Any, ...], int]()
    for own in used:
        key = tuple(own.row[key] for key in RUN_KEYS)
        seeds.setdefault(key, []).append(own)
        number = own.run.dataset.folds or 0 if own.run else own.row[FOLD] + 1  # a CSV does not say how many
        numbers[key[:2]] = max(numbers.get(key[:2], 0), number)
    for key, members in seeds.items():
        number = numbers[key[:2]]
        if missing := sorted(set(range(number)) - {own.row[FOLD] for own in members}):
            reason = f"its seed has no finished fold {', '.join(map(str, missing))} of {number}"
            for own in members:
                own.row.update(state="without folds", used=False, reason=reason)


def differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Values of each setting that differs among ``runs``, by its dotted name."""
    settings = [run.settings for run in runs]
    groups = {
        name for name in TrainConfig.model_fields
        if name not in OF_A_START and any(getattr(own, name) != getattr(settings[0], name) for own in settings)
    }  # fmt: skip
    flat = [flat_settings(own.model_dump(by_alias=True, serialize_as_any=True, include=groups)) for own in settings]
    found = {}
    for name in sorted(set().union(*flat)):
        values = {json.dumps(own.get(name)): own.get(name) for own in flat}
        if len(values) > 1:
            found[name] = [values[text] for text in sorted(values)]
    return found


def mixed_settings(runs: Runs) -> dict[str, list[Any]]:
    """Settings that differ among used runs of one study, or part of it, and data set, though they are no keys.

    Such runs are compared as if they were alike, so a reader must know.

    Returns:
        The values of each such setting, by its dotted name with study and data set before it.
    """
    groups: dict[str, list[Run]] = {}
    for row in runs.listing.itertuples():
        if row.run in runs.used:
            groups.setdefault(f"{row.study}, {row.dataset}", []).append(runs.used[str(row.run)])
    return {
        f"{where}: {name}": values
        for where, members in groups.items()
        for name, values in differing(members).items()
        if _compared(name)
    }
