"""``human.npz`` of a run: how near its gaze is to readers', two yardsticks, what they looked at. Free of PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gaze.errors import DataError
from gaze.files import atomic_path
from gaze.measures import HUMAN
from gaze.runs.arrays import array, read_arrays
from gaze.runs.run import Run

MISSING = -1e9  # stands for NaN in the file, whose numbers are finite
PARTS = ("validation", "test")
NO_CEILING = "Each image has one reader: no ceiling."


class HumanFigures(NamedTuple):
    """Of the images of a part that somebody looked at, after the last epoch; 7 measures as in
    :data:`gaze.measures.HUMAN`, by class and, in the last row, of all classes together.

    Attributes:
        classes: names (K,).
        readers: most readers of an image.
        counts: images of each class that somebody looked at (K,).
        network: (K + 1, 7), correct images alone; NaN where not defined.
        centre: of a Gaussian in the centre (K + 1, 7).
        others: of one reader against the other readers of an image (K + 1, 7); NaN where each image has one.
        maps: mean density of each class (K, H, W) on the gaze's grid, the highest 1.
    """

    classes: tuple[str, ...]
    readers: int
    counts: NDArray[np.int64]
    network: NDArray[np.float64]
    centre: NDArray[np.float64]
    others: NDArray[np.float64]
    maps: NDArray[np.float64]


def write_human(run: Run, found: Mapping[str, HumanFigures]) -> None:
    """Plain arrays, by the part of the images (:data:`PARTS`); whole or not at all."""
    arrays = {f"{part}/{name}": np.nan_to_num(np.asarray(own), nan=MISSING) if name != "classes" else np.asarray(own)
              for part, figures in found.items() for name, own in figures._asdict().items()}  # fmt: skip
    with atomic_path(run.human_file) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read_human(run: Run) -> dict[str, HumanFigures]:
    """What :func:`write_human` left; empty where nobody looked at the run's images, or where the file is of before
    it said at which part of them.

    Raises:
        DataError: a file that is damaged.
    """
    name, found = run.human_file.name, dict[str, HumanFigures]()
    try:
        arrays = read_arrays(run.human_file)
    except FileNotFoundError:
        return found
    for part in PARTS:
        if f"{part}/classes" not in arrays:
            continue
        classes = tuple(map(str, array(arrays, f"{part}/classes", "U", 1, name)))
        counts, maps = array(arrays, f"{part}/counts", "u", 1, name), array(arrays, f"{part}/maps", "f", 3, name)
        values = {key: array(arrays, f"{part}/{key}", "f", 2, name) for key in ("network", "centre", "others")}
        if not (
            {own.shape for own in values.values()} == {(len(classes) + 1, len(HUMAN))}
            and len(counts) == len(maps) == len(classes) > 0
            and maps.size
        ):
            raise DataError(f"{name} must have a row for each of its {len(classes)} classes, and 7 measures")
        known = {key: np.where(own == MISSING, np.nan, own.astype(np.float64)) for key, own in values.items()}
        readers, looked = int(array(arrays, f"{part}/readers", "u", 0, name)), counts.astype(np.int64)
        found[part] = HumanFigures(classes, readers, looked, maps=maps.clip(0, 1).astype(np.float64), **known)
    return found
