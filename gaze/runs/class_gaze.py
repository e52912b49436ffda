"""Class-mean gaze of runs, for the gaze atlas: out of run folders, or from the file beside a tidy CSV."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gaze.files import atomic_path
from gaze.runs.run import Run, run_named
from gaze.runs.tidy import RUN_KEYS

MAPS_FILE = "class_gaze.npz"  # beside the CSV that an analysis writes
NEEDED = {"class_gaze", "counts", "classes", "epoch"}  # arrays of a run's file of maps


class GazeMaps(NamedTuple):
    """Class-mean gaze of one run at its last epoch, or of several seeds together.

    Attributes:
        study, dataset, model, weight: the run's keys; weight is lambda.
        classes: names (K).
        gaze: mean maps (K, H, W) in [0, 1].
        counts: correct images behind each (K,).
    """

    study: str
    dataset: str
    model: str
    weight: float
    classes: tuple[str, ...]
    gaze: NDArray[np.float32]
    counts: NDArray[np.int64]


def read_maps(path: str | Path, epochs: pd.DataFrame) -> list[GazeMaps]:
    """Class-mean gaze of the runs in ``epochs``, of the last epoch, seeds together.

    Read from the runs' folders, or from ``class_gaze.npz`` beside a CSV. A run that drew no pictures in its
    last epoch has none, and neither has a file that cannot be read.

    Args:
        path: the source that ``epochs`` was read from.
        epochs: from :func:`read_runs`.
    """
    path = Path(path)
    if path.is_file():
        return _read_maps_file(path.with_name(MAPS_FILE), epochs)
    pools: dict[tuple[Any, ...], list[dict[str, NDArray[Any]]]] = {}
    last = epochs.groupby([*RUN_KEYS, "run"], sort=True, as_index=False)["epoch"].max()
    for study, dataset, model, weight, _, run, epoch in last.itertuples(index=False, name=None):
        maps = _load_npz(run_named(path, run).maps_file)
        if maps.keys() >= NEEDED and int(maps["epoch"]) == epoch:
            key = (study, dataset, model, weight, tuple(map(str, maps["classes"])))
            pools.setdefault((key, maps["class_gaze"].shape), []).append(maps)
    return [GazeMaps(*key, *_together(members)) for (key, _), members in pools.items()]  # type: ignore[call-arg]


def _together(members: Sequence[dict[str, NDArray[Any]]]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Mean over all correct images of several runs, and their number for each class."""
    counts = np.stack([maps["counts"] for maps in members]).sum(0).astype(np.int64)
    total = np.stack([maps["class_gaze"] * maps["counts"][:, None, None] for maps in members]).sum(0)
    return (total / np.maximum(counts, 1)[:, None, None]).astype(np.float32), counts


def read_run_maps(run: Run) -> GazeMaps | None:
    """Class-mean gaze that a run drew last; None where its file is absent or damaged."""
    maps = _load_npz(run.maps_file)
    if not maps.keys() >= NEEDED:
        return None
    s, classes = run.settings, tuple(map(str, maps["classes"]))
    gaze, counts = maps["class_gaze"], maps["counts"].astype(np.int64)
    return GazeMaps(s.study, s.dataset.name, run.label, s.lambda_, classes, gaze, counts)


def write_maps(maps: Sequence[GazeMaps], path: Path) -> None:
    """Write what :func:`read_maps` reads back, as plain arrays."""
    arrays: dict[str, Any] = {}
    for number, item in enumerate(maps):
        keys = np.asarray([item.study, item.dataset, item.model, repr(item.weight)])
        values = {"keys": keys, "classes": np.asarray(item.classes), "gaze": item.gaze, "counts": item.counts}
        arrays |= {f"{number}/{name}": value for name, value in values.items()}
    with atomic_path(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _read_maps_file(path: Path, epochs: pd.DataFrame) -> list[GazeMaps]:
    arrays = _load_npz(path)
    known = set(epochs[["study", "dataset", "model", "lambda"]].itertuples(index=False, name=None))
    items = []
    for number in sorted({int(name.partition("/")[0]) for name in arrays}):
        study, dataset, model, weight = map(str, arrays[f"{number}/keys"][:4])  # older files have a fifth
        if (study, dataset, model, float(weight)) in known:
            classes = tuple(map(str, arrays[f"{number}/classes"]))
            gaze, counts = arrays[f"{number}/gaze"], arrays[f"{number}/counts"]
            items.append(GazeMaps(study, dataset, model, float(weight), classes, gaze, counts))
    return items


def _load_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Arrays of a file; none where it is absent or damaged."""
    try:
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return {}
