"""``human.npz`` of a run: how near its gaze is to readers', two yardsticks, what they looked at. Free of PyTorch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gaze.errors import DataError
from gaze.files import atomic_path
from gaze.measures import HUMAN
from gaze.runs.arrays import array, read_arrays
from gaze.runs.run import Run

MISSING = -1e9  # stands for NaN in the file, whose numbers are finite


class HumanFigures(NamedTuple):
    """Of the test images that somebody looked at, after the last epoch; 7 measures as in :data:`gaze.measures.HUMAN`.

    Attributes:
        classes: names (K,).
        readers: most readers of an image.
        counts: images of each class that somebody looked at (K,).
        network: by class (K, 7), correct images alone; NaN where not defined.
        centre: of a Gaussian in the centre (7,), all of the images.
        others: of one reader against the other readers of an image (7,); NaN where each image has one.
        maps: mean density of each class (K, H, W) on the gaze's grid, the highest 1.
    """

    classes: tuple[str, ...]
    readers: int
    counts: NDArray[np.int64]
    network: NDArray[np.float64]
    centre: NDArray[np.float64]
    others: NDArray[np.float64]
    maps: NDArray[np.float64]


def write_human(run: Run, found: HumanFigures) -> None:
    """Plain arrays, whole or not at all."""
    arrays = {name: np.nan_to_num(np.asarray(own), nan=MISSING) if name != "classes" else np.asarray(own)
              for name, own in found._asdict().items()}  # fmt: skip
    with atomic_path(run.human_file) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read_human(run: Run) -> HumanFigures | None:
    """What :func:`write_human` left; None where nobody looked at the run's images.

    Raises:
        DataError: a file that is damaged.
    """
    name = run.human_file.name
    try:
        arrays = read_arrays(run.human_file)
    except FileNotFoundError:
        return None
    classes = tuple(map(str, array(arrays, "classes", "U", 1, name)))
    counts, maps = array(arrays, "counts", "u", 1, name), array(arrays, "maps", "f", 3, name)
    axes = {"network": 2, "centre": 1, "others": 1}
    values = {key: array(arrays, key, "f", number, name).astype(np.float64) for key, number in axes.items()}
    shapes = [own.shape for own in values.values()]
    k, m = len(classes), len(HUMAN)
    if not (shapes == [(k, m), (m,), (m,)] and len(counts) == len(maps) == k > 0 and maps.size):
        raise DataError(f"{name} must have a row for each of its {k} classes and a value for each of {m} measures")
    values = {key: np.where(own == MISSING, np.nan, own) for key, own in values.items()}
    readers = int(array(arrays, "readers", "u", 0, name))
    return HumanFigures(classes, readers, counts.astype(np.int64), maps=maps.clip(0, 1).astype(np.float64), **values)
