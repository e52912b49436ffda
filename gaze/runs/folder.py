"""A run's folder: may this run use it, is the run finished already, and where does an interrupted one go on?

A finished run with the same settings is skipped; an interrupted one resumes; a folder that holds epochs of other
settings is refused. What has to make room is moved to ``previous/<n>/``; no epoch is deleted.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from gaze.config.settings import FolderName, Settings
from gaze.config.train import TrainConfig, place_free
from gaze.errors import BusyError, ConfigError, DataError
from gaze.files import write_json
from gaze.runs.records import Images, read_json, read_record
from gaze.runs.run import Run
from gaze.runs.status import LOCK_FILE, busy_message, is_first_process

MOVING = "moving.json"  # in a rerun: the move of a complete one has begun


class _Moving(Settings):
    """:data:`MOVING`: names of what is new, and the number of the folder that the old run goes to."""

    new: list[FolderName]
    old_to: Annotated[str, Field(pattern="^[0-9]+$")]


class Plan(NamedTuple):
    """What to do with a run.

    Attributes:
        action: "skip" (finished), "resume", or "start".
        run: what to train: the run itself, or its rerun.
    """

    action: str
    run: Run


def plan_run(run: Run, held: bool = False) -> Plan:
    """What a start with the settings of ``run`` means for its folder; changes nothing there.

    Args:
        run: with the settings that are given now.
        held: this process holds the folder, see :func:`gaze.runs.status.locked`.

    Raises:
        ConfigError: the folder holds epochs of other settings.
        DataError: its settings cannot be read.
        BusyError: another process is at work in it.
    """
    config = run.settings
    if not held and run.state == "running":
        raise BusyError(busy_message(run.folder))
    if config.rerun and run.begun:
        same = config.resume and run.rerun.begun and _same(run.rerun)
        return _resumed(run.rerun) if same else Plan("start", run.rerun)
    if not run.begun and not run.checkpoints.exists():
        return Plan("start", run)  # nothing to lose
    try:
        other = differences(run)
    except DataError as error:
        raise DataError(
            f"{run.folder} holds a run whose settings cannot be read:\n  {error}\nWhether they are those that are "
            "given now is not known. Put its own config.json back, give this run another study=, or rerun=true to "
            "train it anew (the old run is kept until then)."
        ) from error
    if other:
        raise ConfigError(
            f"{run.folder} holds a run with other settings:\n  "
            + "\n  ".join(f"{name}: {was} there, {now} now" for name, (was, now) in other.items())
            + "\nGive this run another study=, or rerun=true to train it anew (the old run is kept until then)."
        )
    if run.finished:
        return Plan("skip", run)
    return _resumed(run) if config.resume else Plan("start", run)


def _same(run: Run) -> bool:
    try:
        return not differences(run)
    except DataError:
        return False


def _resumed(run: Run) -> Plan:
    changes = changed_images(run)
    if changes:
        raise ConfigError(
            f"{run.folder} was begun with other images than those in {run.dataset.root or run.dataset.handle}:\n  "
            + "\n  ".join(changes)
            + "\nPut the images back, give this run another study=, or start it over with resume=false (what is there "
            "goes to previous/)."
        )
    return Plan("resume", as_begun(run))


def changed_images(run: Run, seen: dict[str, Any] | None = None) -> list[str]:
    """How the images at hand differ from those that a run was trained with, a line each.

    Args:
        run: nothing is known of one that keeps no list of its images, or whose images are not on this machine.
        seen: lists by settings, for many runs in a row.
    """
    try:
        was = read_record(run.images_file, Images)
    except DataError as error:
        return [f"which they were is not known: {error} Put the file back, or remove it to go without."]
    if not was:
        return []
    from gaze.data.sources.listing import files_at_hand  # a drawn set needs no look at files

    seen = {} if seen is None else seen
    key = run.dataset.model_dump_json()
    now = seen[key] if key in seen else seen.setdefault(key, files_at_hand(run.dataset))
    if now is None or now == was:
        return []
    if "error" in now:
        return [str(now["error"])]
    told = {name: (was.get(name), now.get(name)) for name in [*was, *now] if name != "sha256"}
    lines = [
        f"{name}: {_shown(before)} then, {_shown(after)} now"
        for name, (before, after) in told.items()
        if before != after
    ]
    return lines or ["names, sizes or labels of some of their files"]


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def as_begun(run: Run) -> Run:
    """The run with the window and the interpolation that it was begun with, where they follow from the images and the
    network, and with images turned as they were before there was ``dataset.orient``."""
    config, begun = run.settings, Run(run.folder).settings.dataset
    if config.dataset.window == "auto":
        config = with_dataset(config, window=begun.window)
    if config.dataset.interpolation == "auto":
        config = with_dataset(config, interpolation=begun.resampling)
    if begun.orient is None:
        config = with_dataset(config, orient=None)
    return run if config is run.settings else replace(run, given=config)


def with_dataset(config: TrainConfig, **changes: Any) -> TrainConfig:
    """Settings with others of their data set."""
    return config.model_copy(update={"dataset": config.dataset.model_copy(update=changes)})


def finished_row(run: Run) -> dict[str, float] | None:
    """Last row of a run that need not be trained again, else None. Takes milliseconds.

    Raises:
        GazeError: as :func:`plan_run`.
    """
    if not is_first_process() or plan_run(run).action != "skip":
        return None
    return run.rows[-1]


def differences(run: Run) -> dict[str, tuple[Any, Any]]:
    """Settings in which what stands in a run's folder differs from those that are given: dotted name -> (there, now).

    A setting that the run's version did not know counts as its default.

    Raises:
        DataError: the settings that stand there cannot be read.
    """
    kept, given = Run(run.folder), run.settings.to_dict()
    if kept.values == given:
        return {}
    there, now = (flat_settings(place_free(values)) for values in (kept.settings.to_dict(), given))
    for name in ("window", "interpolation"):
        if getattr(run.settings.dataset, name) == "auto":
            there.pop(f"dataset.{name}", None)  # what it was for those images and that network
    if there.get("dataset.orient", "") is None:  # a run from before there was a choice goes on as it was
        now["dataset.orient"] = None
    if now.get("dataset.root") and there.get("dataset.root"):
        now["dataset.root"], there["dataset.root"] = run.dataset.root, run.where(there["dataset.root"])
    pairs = {name: (there.get(name), now.get(name)) for name in sorted(there.keys() | now.keys())}
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


def finish_rerun(run: Run) -> None:
    """Put a complete rerun in the place of the old run, which goes to ``previous/<n>/``.

    A process that dies in between leaves the rest to the next call: what is new, and where the old goes, is written
    down before the first file moves.

    Raises:
        DataError: what is written down does not stay within the run's folder, or cannot be read.
    """
    inner, moving = run.rerun.folder, run.rerun.folder / MOVING
    if run.rerun.finished and not moving.exists():
        new = [path.name for path in inner.iterdir() if path.name not in (LOCK_FILE, run.previous.name)]
        write_json(moving, {"new": sorted(new), "old_to": _next_previous(run).name})
    if not moving.exists():
        return
    try:
        plan = _Moving(**read_json(moving))
    except (OSError, DataError, ConfigError) as error:
        raise DataError(
            f"{moving} is not of this project: {error}\nNothing was moved. Remove {inner}, or put its files in place."
        ) from error
    target = run.previous / plan.old_to
    target.mkdir(parents=True, exist_ok=True)
    for path in run.files:
        if path.name not in plan.new or (inner / path.name).exists():
            path.rename(target / path.name)
    for name in plan.new:
        if (inner / name).exists():
            (inner / name).rename(run.folder / name)
    for left in sorted(run.rerun.previous.glob("*")):  # attempts that were begun anew
        left.rename(_next_previous(run))
    shutil.rmtree(inner)


def move_to_previous(run: Run) -> None:
    """Before a start: no curve may mix two runs, and no epoch is deleted. A start that was killed before its first one
    leaves nothing to keep.
    """
    left = run.files
    if not left:
        return
    if not run.metrics_file.exists() and not run.checkpoints.exists():
        for path in left:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        return
    target = _next_previous(run)
    target.mkdir(parents=True)
    for path in left:
        path.rename(target / path.name)
    was = Run(target)
    if was.status.get("state") == "running":  # it was killed
        write_json(was.status_file, {**was.status, "state": "interrupted"})


def _next_previous(run: Run) -> Path:
    number = 1
    while os.path.lexists(run.previous / str(number)):
        number += 1
    return run.previous / str(number)
