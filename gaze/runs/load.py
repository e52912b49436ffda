"""Run folders, or a tidy CSV, to one DataFrame: a row per run and epoch.

    runs = load_runs("outputs")          # every finished run below outputs/
    runs = load_runs("epochs.csv")       # the same, from the file that analyze.py wrote

A run is known by what its ``config.json`` says (study, dataset, model, lambda, seed), not by its folder's name.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from gaze.config.analysis import LEFT_OUT
from gaze.config.model import model_label
from gaze.errors import DataError
from gaze.runs.folder import RERUN, flat_settings
from gaze.runs.status import read_status, run_state
from gaze.runs.tidy import RUN_KEYS, TIDY_COLUMNS, add_derived, check_tidy, read_tidy_csv

__all__ = ["RUN_KEYS", "TIDY_COLUMNS", "Runs", "load_runs", "read_runs"]

RENAMED = {"train/lambda": "lambda_t", "train/loss": "train_loss", "val/loss": "loss"}
LISTING = [*RUN_KEYS, "run", "state", "used", "epochs", "max_epochs", "reason"]
NOT_RUNS = ("previous", RERUN, "checkpoints", "pictures", ".hydra")  # folders inside a run


class Runs(NamedTuple):
    """What was found.

    Attributes:
        epochs: a row per run and epoch, the tidy columns first; only the runs that are used.
        listing: a row per run found: its keys, ``run`` (its folder below the source), state (complete,
            unfinished, failed, duplicate, unreadable), used, epochs, max_epochs, reason.
        configs: settings of each used run by ``run``; empty from a CSV.
        environments: versions, device and commit likewise.
    """

    epochs: pd.DataFrame
    listing: pd.DataFrame
    configs: dict[str, dict[str, Any]]
    environments: dict[str, dict[str, Any]]


class _Found(NamedTuple):
    """One run folder as it lies on the disk."""

    row: dict[str, Any]  # of the listing
    table: pd.DataFrame
    config: dict[str, Any]
    environment: dict[str, Any]


def load_runs(path: str | Path, include: Sequence[str] = ()) -> pd.DataFrame:
    """All finished runs as one DataFrame, a row per run and epoch.

    Args:
        path: a folder with run folders anywhere below it, or a CSV file with at least the tidy columns
            ``study dataset model lambda seed epoch accuracy kappa gaze_consistency gaze_consistency_l2
            gaze_eta_squared loss`` (accuracy 0..1, epoch from 1).
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
) -> Runs:
    """Like :func:`load_runs`, with the list of what was left out.

    Args:
        path, include: as there.
        study: only this one.
        arms: runs that differ in their augmentation are no duplicates of each other.
        without: studies to leave out.
    """
    unknown = sorted(set(include) - set(LEFT_OUT))
    if unknown:
        raise DataError(f"include={unknown[0]} is unknown: {', '.join(LEFT_OUT)}.")
    path = Path(path)
    if not path.exists():
        raise DataError(f"source={path}: there is no such file or folder. Train first (python train.py), or name one.")
    found = list(_from_folder(path)) if path.is_dir() else list(_from_csv(path))
    if not found:
        raise DataError(
            f"source={path}: no run in this folder. A run folder holds config.json and metrics.csv; "
            "python train.py leaves one below outputs/."
        )
    found = [run for run in _of_study(found, study, path) if run.row["study"] not in without]
    _mark_duplicates(found, arms)
    for run in found:
        run.row["used"] = run.row["state"] == "complete" or (run.row["state"] in include and run.row["epochs"] > 0)
    used = [run for run in found if run.row["used"]]
    listing = pd.DataFrame([run.row for run in found], columns=LISTING)
    if not used:
        raise DataError(f"source={path}: none of the {len(found)} runs can be used.\n{_reasons(listing)}")
    epochs = add_derived(pd.concat([run.table for run in used], ignore_index=True))
    key = [*RUN_KEYS, "run", "epoch"]
    return Runs(
        epochs.sort_values(key, ignore_index=True),
        listing.sort_values([*RUN_KEYS, "run"], ignore_index=True),
        {run.row["run"]: run.config for run in used if run.config},
        {run.row["run"]: run.environment for run in used if run.environment},
    )


def _reasons(listing: pd.DataFrame, most: int = 5) -> str:
    lines = [f"{row.run}: {row.state}, {row.reason}" for row in listing.head(most).itertuples()]
    rest = len(listing) - most
    hint = "analyze.py include=[unfinished,failed] takes those that have epochs all the same."
    return "\n".join([*lines, *([f"and {rest} more"] if rest > 0 else []), hint])


# ---- folders


def run_folders(root: Path) -> Iterator[Path]:
    """Folders below ``root`` (itself included) that hold a run, in order of name; earlier runs under
    ``previous/`` are none.
    """
    for folder, inner, files in os.walk(root):
        if "config.json" in files or "metrics.csv" in files:
            inner.clear()
            yield Path(folder)
        inner[:] = sorted(name for name in inner if name not in NOT_RUNS)


def _from_folder(root: Path) -> Iterator[_Found]:
    for folder in run_folders(root):
        name = folder.relative_to(root).as_posix()
        yield _read_folder(folder, name if name != "." else folder.resolve().name)


def _read_folder(folder: Path, name: str) -> _Found:
    row: dict[str, Any] = dict.fromkeys(LISTING)
    row |= {"run": name, "state": "unreadable", "used": False, "epochs": 0, "reason": ""}
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        keys = {
            "study": str(config["study"]),
            "dataset": str(config["dataset"]["name"]),
            "model": model_label(config["model"]),
            "lambda": float(config["lambda"]),
            "seed": int(config["seed"]),
        }
        row |= keys | {"max_epochs": int(config["trainer"]["max_epochs"])}
        table = _read_metrics(folder / "metrics.csv", keys, name)
    except KeyError as error:
        row["reason"] = f"config.json has no {error}"
        return _Found(row, pd.DataFrame(), {}, {})
    except FileNotFoundError:
        row["reason"] = "config.json is missing"
        return _Found(row, pd.DataFrame(), {}, {})
    except (OSError, ValueError, TypeError, DataError) as error:
        row["reason"] = str(error).splitlines()[0]
        return _Found(row, pd.DataFrame(), {}, {})
    row["epochs"] = len(table)
    row["state"], row["reason"] = _state(folder, config, len(table))
    return _Found(row, table, config, _read_json(folder / "environment.json"))


def _read_metrics(path: Path, keys: Mapping[str, Any], name: str) -> pd.DataFrame:
    """``metrics.csv`` with tidy names; no row where the run has not finished an epoch."""
    if not path.exists() or path.stat().st_size == 0:
        return pd.DataFrame(columns=[*TIDY_COLUMNS, "run"])
    table = pd.read_csv(path)
    table = table.rename(columns=lambda column: RENAMED.get(column, column.removeprefix("val/")))
    table = table.drop(columns=[column for column in table if "/" in str(column)])
    frame = pd.DataFrame({key: [value] * len(table) for key, value in keys.items()})
    frame = pd.concat([frame, table], axis=1).assign(run=name)
    return check_tidy(frame, path.name)


def _state(folder: Path, config: Mapping[str, Any], epochs: int) -> tuple[str, str]:
    """State of a run, and why it is not complete."""
    trainer, status = config["trainer"], read_status(folder)
    progress = f"{epochs} of {trainer['max_epochs']} epochs"
    if status is not None and status["state"] == "failed":
        return "failed", f"{str(status.get('error', 'no message')).splitlines()[0]} ({progress})"
    if status is not None and status["state"] != "complete":
        word = "still running" if run_state(folder) == "running" else "interrupted"
        return "unfinished", f"{word}: {progress}"
    # max_steps and max_time end a run before its last epoch, and well.
    cut = status is not None and any(trainer.get(key) not in (None, -1) for key in ("max_steps", "max_time"))
    if epochs < trainer["max_epochs"] and not (cut and epochs > 0):
        return "unfinished", progress
    return "complete", ""


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


# ---- CSV


def _from_csv(path: Path) -> Iterator[_Found]:
    table = read_tidy_csv(path)
    for keys, rows in table.groupby([*RUN_KEYS, "run"], sort=False):
        row = dict(zip([*RUN_KEYS, "run"], keys, strict=True))
        row |= {"state": "complete", "used": True, "epochs": len(rows), "max_epochs": None, "reason": ""}
        yield _Found(row, rows, {}, {})


# ---- choosing


def _of_study(found: list[_Found], study: str | None, path: Path) -> list[_Found]:
    if study is None:
        return found
    chosen = [run for run in found if run.row["study"] == study]
    if not chosen:
        names = sorted({run.row["study"] for run in found if run.row["study"] is not None})
        raise DataError(f"study={study}: no run of it in {path}. Studies there: {', '.join(names) or 'none'}.")
    return chosen


def _mark_duplicates(found: list[_Found], arms: bool) -> None:
    """Of several complete runs with equal keys the one started last stands; the others are marked."""
    groups: dict[tuple[Any, ...], list[_Found]] = {}
    for run in found:
        if run.row["state"] == "complete":
            arm = json.dumps(run.config.get("augmentation"), sort_keys=True) if arms else ""
            groups.setdefault((*(run.row[key] for key in RUN_KEYS), arm), []).append(run)
    for group in groups.values():
        # Stable: where no start is known, the first one stands.
        group.sort(key=lambda run: str(run.environment.get("started", "")), reverse=True)
        for other in group[1:]:
            other.row["state"] = "duplicate"
            other.row["reason"] = f"same keys as {group[0].row['run']}{_difference(group[0].config, other.config)}"


def _difference(kept: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    if not kept or not other:
        return ""
    a, b = flat_settings(kept), flat_settings(other)
    names = sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
    return f", other settings: {', '.join(names)}" if names else ", same settings"


def mixed_settings(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Settings that differ among runs of one study and data set, though they are none of the runs' keys.

    Such runs are compared as if they were alike, so a reader must know.

    Returns:
        The values of each such setting, by its dotted name with study and data set before it.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for config in configs.values():
        flat = flat_settings(config)
        # A cache changes no figure.
        own = ("study", "dataset.name", "model.name", "model.source", "lambda", "seed", "dataset.cache")
        kept = {name: value for name, value in flat.items() if name not in own and not name.startswith("pictures.")}
        groups.setdefault(f"{flat['study']}, {flat['dataset.name']}", []).append(kept)
    mixed = {}
    for where, members in groups.items():
        for name in sorted(set().union(*members)):
            values = {json.dumps(member.get(name)): member.get(name) for member in members}
            if len(values) > 1:
                mixed[f"{where}: {name}"] = [values[text] for text in sorted(values)]
    return mixed
