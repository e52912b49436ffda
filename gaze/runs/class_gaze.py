"""Class-mean gaze of runs, for the gaze atlas: out of run folders, or from the file beside a tidy CSV."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gaze.errors import DataError, LeftOut
from gaze.files import atomic_path
from gaze.names import printable
from gaze.runs.arrays import Arrays, array, read_arrays
from gaze.runs.run import Run, run_named
from gaze.runs.tidy import ROUNDING, RUN_KEYS

MAPS_FILE = "class_gaze.npz"  # beside the CSV that an analysis writes


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
    pools: dict[tuple[Any, ...], list[_Drawn]] = {}
    last = epochs.groupby([*RUN_KEYS, "run"], sort=True, as_index=False)["epoch"].max()
    for study, dataset, model, weight, _, run, epoch in last.itertuples(index=False, name=None):
        maps = _drawn(run_named(path, run).maps_file)
        if maps is not None and maps.epoch == epoch:
            key = (study, dataset, model, weight, maps.classes)
            pools.setdefault((key, maps.gaze.shape), []).append(maps)
    return [GazeMaps(*key, *_together(members)) for (key, _), members in pools.items()]  # type: ignore[call-arg]


def _together(members: Sequence[_Drawn]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Mean over all correct images of several runs, and their number for each class."""
    counts = np.stack([maps.counts for maps in members]).sum(0)
    total = np.stack([maps.gaze * maps.counts[:, None, None] for maps in members]).sum(0)
    return (total / np.maximum(counts, 1)[:, None, None]).astype(np.float32), counts


def read_run_maps(run: Run) -> GazeMaps | None:
    """Class-mean gaze that a run drew last; None where its file is absent or damaged."""
    maps, s = _drawn(run.maps_file), run.settings
    return maps and GazeMaps(s.study, s.dataset.name, run.label, s.lambda_, maps.classes, maps.gaze, maps.counts)


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
    known = set(epochs[["study", "dataset", "model", "lambda"]].itertuples(index=False, name=None))
    items = []
    try:
        arrays = read_arrays(path)
        for number in sorted({name.partition("/")[0] for name in arrays}, key=lambda text: (len(text), text)):
            keys = array(arrays, f"{number}/keys", "U", 1, path.name)
            study, dataset, model, weight = map(str, keys[:4])  # older files have a fifth
            if (study, dataset, model, float(weight)) in known:
                maps = _checked(arrays, f"{number}/", "gaze", path.name)
                items.append(GazeMaps(study, dataset, model, float(weight), maps.classes, maps.gaze, maps.counts))
    except FileNotFoundError:
        pass
    except (DataError, ValueError) as error:
        _left_out(path, error)
    return items


class _Drawn(NamedTuple):
    """Class-mean gaze as a file has it; epoch 0 where it does not say."""

    classes: tuple[str, ...]
    gaze: NDArray[np.float32]
    counts: NDArray[np.int64]
    epoch: int = 0


def _drawn(path: Path) -> _Drawn | None:
    """What a run drew last; None where its file is absent or, which is said, cannot be read."""
    try:
        arrays = read_arrays(path)
        maps = _checked(arrays, "", "class_gaze", path.name)
        return maps._replace(epoch=int(array(arrays, "epoch", "u", 0, path.name)))
    except FileNotFoundError:
        pass
    except DataError as error:
        _left_out(path, error)
    return None


def _checked(arrays: Arrays, prefix: str, name: str, file: str) -> _Drawn:
    gaze, counts = array(arrays, prefix + name, "f", 3, file), array(arrays, prefix + "counts", "f", 1, file)
    classes = tuple(map(str, array(arrays, prefix + "classes", "U", 1, file)))
    if not len(gaze) == len(counts) == len(classes) > 0 or not gaze.size:
        raise DataError(f"{file}: {len(gaze)} maps, {len(counts)} counts and {len(classes)} classes must be as many")
    if gaze.min() < 0 or gaze.max() > 1 + ROUNDING or counts.min() < 0 or counts.max() > 2**31:
        raise DataError(f"{file}: {prefix}{name} must be 0..1, and {prefix}counts 0 or more")
    return _Drawn(classes, gaze.astype(np.float32), counts.astype(np.int64))


def _left_out(path: Path, error: Exception) -> None:
    warnings.warn(printable(f"{path.parent}: left out of the gaze atlas: {error}"), LeftOut, stacklevel=2)
