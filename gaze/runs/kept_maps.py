"""The gaze on the same images: maps that a run kept of every evaluated image, and L_CAM on a choice of them.

L_CAM of an epoch counts the images that are classified correctly in that epoch, so it changes with them. From kept maps
it can be had on one set of images throughout. They are small: at most 8x8 cells of 8 bits (:data:`MOST_CELLS`,
``gaze.cam.pool.pool_by_cells``), and L_CAM of them is the squared form. Free of PyTorch.
"""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gaze.errors import DataError, LeftOut
from gaze.files import atomic_path, open_regular
from gaze.names import printable
from gaze.runs.arrays import DAMAGED, array, read_arrays
from gaze.runs.run import Run

MOST_CELLS = 8  # a side
NONE = 0  # ``pred`` of an image that was not evaluated, or has no finite map; else the predicted class + 1
COLUMNS = ("epoch", "gaze_consistency_cells", "gaze_consistency_fixed", "images_fixed")  # of the table


class LastMaps(NamedTuple):
    """Of a finished run: maps (N, h, w) uint8 after its last epoch, the true class (N,), and whether each epoch
    classified each image correctly (E, N).
    """

    maps: NDArray[np.uint8]
    target: NDArray[np.int64]
    correct: NDArray[np.bool_]


def open_maps(path: Path, epochs: int, images: int, shape: tuple[int, int]) -> np.memmap:
    """The file of all epochs: records ``pred`` and ``map`` (E, N), mapped for writing.

    It has its final size from the start, so an epoch is written in its place, and a run that was broken off writes it
    again. What is there already stays if it is of this shape.
    """
    kind = np.dtype([("pred", "<i4"), ("map", "u1", shape)])
    try:
        open_regular(path).close()
        there = np.lib.format.open_memmap(path, mode="r+")
        if there.dtype == kind and there.shape == (epochs, images):
            return there
    except DAMAGED:
        pass
    path.unlink(missing_ok=True)  # what is no regular file would be written into
    return np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=(epochs, images))


def consistency_of(maps: NDArray[np.uint8], target: NDArray[np.int64], chosen: NDArray[np.bool_]) -> float:
    """L_CAM, squared (thesis, Eq. 5-10), of the maps (N, h, w) of the ``chosen`` images (N,), 0..0.25.

    Classes of fewer than 2 chosen images are left out; NaN where all are, or all maps that are left are zero.
    """
    spread, number, some = 0.0, 0, False
    for label in np.unique(target[chosen]):
        own = maps[chosen & (target == label)].reshape(-1, maps[0].size) / 255.0
        if len(own) > 1:
            spread, number = spread + float(own.var(0).mean() * len(own)), number + len(own)
            some |= bool(own.any())
    return spread / number if some else float("nan")


def finish_maps(run: Run, target: NDArray[np.int64]) -> None:
    """At a run's end: its last maps and right answers into ``gaze_last.npz``, and into ``gaze_grid.csv``, a row an
    epoch, L_CAM on that epoch's correct images and on one set of images, the same in each epoch: those that are
    classified correctly in every epoch of the run's second half. Nothing where the run kept no maps.
    """
    if not run.kept_maps.exists():
        return
    kept = np.lib.format.open_memmap(run.kept_maps, mode="r")[: len(run.rows)]
    correct = kept["pred"] == target + 1
    fixed = correct[len(kept) // 2 :].all(0)
    with atomic_path(run.last_maps) as part, part.open("wb") as file:
        bits = np.packbits(correct, axis=1)
        np.savez_compressed(file, maps=kept["map"][-1], target=target.astype(np.int32), correct=bits)
    with atomic_path(run.grid_file) as part, part.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for number, epoch in enumerate(kept):
            seen = (epoch["pred"] != NONE).any()
            values = [consistency_of(epoch["map"], target, own) if seen else np.nan for own in (correct[number], fixed)]
            table.writerow([number + 1, *(f"{v:.9g}" if np.isfinite(v) else "" for v in values), int(fixed.sum())])


def last_maps(run: Run) -> LastMaps | None:
    """What :func:`finish_maps` left; None where that is absent or, which is said, cannot be read."""
    name = run.last_maps.name
    try:
        arrays = read_arrays(run.last_maps)
        maps, target = array(arrays, "maps", "u", 3, name), array(arrays, "target", "u", 1, name).astype(np.int64)
        bits = array(arrays, "correct", "u", 2, name)
        if maps.dtype != np.uint8 or bits.dtype != np.uint8 or not maps.size or not len(bits):
            raise DataError(f"{name}: maps and correct must be 8-bit numbers, and not empty")
        if len(maps) != len(target) or bits.shape[1] != (len(target) + 7) // 8:
            raise DataError(f"{name}: maps, target and correct must be of as many images")
        return LastMaps(maps, target, np.unpackbits(bits, axis=1, count=len(target)).astype(bool))
    except FileNotFoundError:
        pass
    except DataError as error:
        warnings.warn(printable(f"{run.folder}: its last maps are left out: {error}"), LeftOut, stacklevel=2)
    return None
