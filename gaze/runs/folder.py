"""A run's folder: may this run use it, is the run finished already, and where does an interrupted one go on?

A finished run with the same settings is skipped; an interrupted one resumes; a folder that holds epochs of other
settings is refused. What has to make room is moved to ``previous/<n>/``, never deleted.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gaze.config.train import TrainConfig, place_free
from gaze.errors import BusyError, ConfigError
from gaze.files import write_json
from gaze.runs.status import LOCK_FILE, STATUS_FILE, busy_message, is_first_process, read_status, run_state

RERUN = "rerun"  # where a run is trained anew while the old one stands
METRICS = "metrics.csv"
MOVING = "moving.json"  # in rerun/: the move of a complete rerun has begun
OWN_FILES = (
    ".hydra", "config.json", METRICS, "maps.npz", "environment.json", "audit.json", "pictures", "checkpoints",
    "hparams.yaml", STATUS_FILE,
)  # fmt: skip


class Plan(NamedTuple):
    """What to do in a run's folder.

    Attributes:
        action: "skip" (finished), "resume", or "start".
        directory: where to train: the run's folder, or ``rerun/`` below it.
    """

    action: str
    directory: Path


def plan_run(directory: Path, config: TrainConfig, held: bool = False) -> Plan:
    """What a start with ``config`` means for ``directory``; changes nothing there.

    Args:
        directory: the run's folder.
        config: its settings.
        held: this process holds the folder, see :func:`gaze.runs.status.locked`.

    Raises:
        ConfigError: the folder holds epochs of other settings.
        BusyError: another process is at work in it.
    """
    if not held and run_state(directory) == "running":
        raise BusyError(busy_message(directory))
    if config.rerun and _epochs(directory):
        inner = directory / RERUN
        same = not differences(inner, config)
        return Plan("resume" if config.resume and same and _epochs(inner) else "start", inner)
    other = differences(directory, config)
    if not _epochs(directory) and not (directory / "checkpoints").exists():
        return Plan("start", directory)  # nothing to lose
    if other:
        raise ConfigError(
            f"{directory} holds a run with other settings:\n  "
            + "\n  ".join(f"{name}: {was} there, {now} now" for name, (was, now) in other.items())
            + "\nGive this run another study=, or rerun=true to train it anew (the old run is kept until then)."
        )
    if is_finished(directory):
        return Plan("skip", directory)
    return Plan("resume" if config.resume else "start", directory)


def is_finished(directory: Path) -> bool:
    """Whether the run ended well and its ``metrics.csv`` is still the one that it wrote."""
    status = read_status(directory)
    return (
        status is not None
        and status["state"] == "complete"
        and status.get("metrics_sha256", "") == metrics_digest(directory)
    )


def finished_run(directory: Path, config: TrainConfig) -> dict[str, float] | None:
    """Last row of ``metrics.csv`` of a run that need not be trained again, else None. Takes milliseconds.

    Raises:
        GazeError: as :func:`plan_run`.
    """
    if not is_first_process() or plan_run(directory, config).action != "skip":
        return None
    return read_metrics(directory)[-1]


def read_metrics(directory: Path) -> list[dict[str, float]]:
    """Rows of ``metrics.csv``; empty fields are left out."""
    with (directory / METRICS).open(newline="", encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def metrics_digest(directory: Path) -> str | None:
    """SHA-256 of ``metrics.csv``; None where it is missing."""
    try:
        return hashlib.sha256((directory / METRICS).read_bytes()).hexdigest()
    except OSError:
        return None


def differences(directory: Path, config: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Settings in which the run in ``directory`` differs from ``config``: dotted name -> (there, now).

    A setting that the run's version did not know counts as its default. Nothing where there is no run.
    """
    try:
        values = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        there = flat_settings(place_free(values))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}
    now, default = flat_settings(place_free(config.to_dict())), flat_settings(TrainConfig().to_dict())
    pairs = {name: (there.get(name, default.get(name)), now.get(name)) for name in sorted(there.keys() | now.keys())}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def flat_settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted names, such as ``optimizer.lr``."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


# ---- making room


def finish_rerun(directory: Path) -> None:
    """Put a complete rerun in the place of the old run, which goes to ``previous/<n>/``.

    A process that dies in between leaves the rest to the next call: what is new, and where the old goes, is written
    down before the first file moves.
    """
    inner = directory / RERUN
    if is_finished(inner) and not (inner / MOVING).exists():
        new = [path.name for path in inner.iterdir() if path.name != LOCK_FILE]
        write_json(inner / MOVING, {"new": sorted(new), "old_to": _next_previous(directory).name})
    if not (inner / MOVING).exists():
        return
    plan = json.loads((inner / MOVING).read_text(encoding="utf-8"))
    target = directory / "previous" / plan["old_to"]
    target.mkdir(parents=True, exist_ok=True)
    for path in own_files(directory):
        if path.name not in plan["new"] or (inner / path.name).exists():
            path.rename(target / path.name)
    for name in plan["new"]:
        if (inner / name).exists():
            (inner / name).rename(directory / name)
    shutil.rmtree(inner)


def move_to_previous(directory: Path) -> None:
    """Before a start: no curve may mix two runs, and nothing is deleted."""
    left = own_files(directory)
    if not left:
        return
    target = _next_previous(directory)
    target.mkdir(parents=True)
    for path in left:
        path.rename(target / path.name)


def own_files(directory: Path) -> list[Path]:
    """What a run left in its folder."""
    named = [directory / name for name in OWN_FILES if (directory / name).exists()]
    return named + list(directory.glob("events.out.tfevents.*"))


def _next_previous(directory: Path) -> Path:
    number = 1
    while (directory / "previous" / str(number)).exists():
        number += 1
    return directory / "previous" / str(number)


def _epochs(directory: Path) -> int:
    """Whole epochs that a run left; a damaged table counts as one."""
    try:
        return max(0, len((directory / METRICS).read_text(encoding="utf-8").splitlines()) - 1)
    except FileNotFoundError:
        return 0
    except (OSError, ValueError):
        return 1
