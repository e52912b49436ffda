"""Where people looked: fixations of readers (``dataset.fixations``), or maps (``dataset.attention_dir``), by image.

A CSV has a row for each fixation; its columns are those of ``dataset.fixation_layout``:

    gaze      file_name,x,y,duration (ms) and, where there is one, reader; others, such as t, are not read
    egd-cxr   fixations.csv of Karargyris et al. 2021 (doi:10.1038/s41597-021-00863-5): one reader
    reflacx   metadata_phase_N.csv of Bigolin Lanfredi et al. 2022 (doi:10.1038/s41597-022-01441-z), beside it the
              folders ID/fixations.csv: each reading is a reader

Coordinates are pixels of the image as its file has it, x to the right and y downwards from the upper left corner, or
shares of it. A fixation belongs to the image of that path, with or without its suffix, or of that name alone where it
is the only one. An image's map is ``sum(duration x Gaussian)`` over its fixations: exact integrals over each pixel.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gaze.cam.pool import pool_to_grid
from gaze.choices import shown
from gaze.config.data import DatasetConfig
from gaze.data.audit import first_few
from gaze.data.decode import convert_image, read_frame
from gaze.data.masks import file_beside
from gaze.data.sources.listing import bare
from gaze.data.sources.table import MOST_BYTES, text_columns
from gaze.errors import DataError
from gaze.files import read_bytes_of
from gaze.names import printable

if TYPE_CHECKING:
    from gaze.data.datasets import ImageData, Split

ROWS = "Its rows name images by their paths below dataset.root, or by their names."
MAPS = "Maps stand there as their images do: SPLIT/CLASS/NAME.png, or .npy."


class Fixation(NamedTuple):
    """One row of a file: pixels or shares, milliseconds."""

    file: str
    reader: str
    x: float
    y: float
    duration: float


@dataclasses.dataclass(frozen=True)
class Human:
    """What people looked at in the N images of a split.

    Attributes:
        size: S, pixels a side of an image and its map.
        readings: of each image, by reader, (F, 3): x and y as shares of the image, duration in ms.
        sds: of a fixation's Gaussian in each image, as shares of its width and of its height.
        maps: (S, S) by an image's place, where maps were given instead.
    """

    size: int
    readings: Sequence[dict[str, Tensor]]
    sds: Sequence[tuple[float, float]]
    maps: dict[int, Tensor]

    @cached_property
    def places(self) -> list[int]:
        """Images that somebody looked at."""
        return [i for i, own in enumerate(self.readings) if own or i in self.maps]

    def drawn(self, place: int, points: Iterable[Tensor]) -> Tensor:
        """Density, which sums to 1, and number of the fixations ``points``, each (F, 3), on each pixel (2, S, S)."""
        x, y, duration = torch.cat(list(points)).unbind(1)
        edges = torch.arange(self.size + 1) / self.size
        across, down = (
            torch.special.ndtr((edges - at[:, None]) / sd).diff(dim=1)  # (F, S): a Gaussian's integral over each pixel
            for at, sd in zip((x, y), self.sds[place], strict=True)
        )
        density = (down * duration[:, None]).T @ across
        cell = [(at * self.size).long().clamp(max=self.size - 1) for at in (y, x)]
        counts = torch.zeros_like(density).index_put_((cell[0], cell[1]), torch.ones_like(x), accumulate=True)
        return torch.stack([density / density.sum(), counts])

    def own(self, place: int) -> Tensor:
        """The same of all readers of an image; zeros where nobody looked. A map has no fixations."""
        if self.readings[place]:
            return self.drawn(place, self.readings[place].values())
        found = torch.zeros(2, self.size, self.size)
        if place in self.maps:
            found[0] = self.maps[place] / self.maps[place].sum()
        return found

    @cached_property
    def total(self) -> Tensor:
        """Sum over all images (2, S, S)."""
        found = torch.zeros(2, self.size, self.size)
        for place in self.places:
            found += self.own(place)
        return found

    def batch(self, places: Sequence[int]) -> Tensor:
        """(B, 4, S, S) as :func:`gaze.metrics.saliency.saliency` takes it: of each image, and of all others."""
        own = torch.stack([self.own(i) for i in places]) if places else torch.zeros(0, 2, self.size, self.size)
        return torch.cat([own, (self.total - own).clamp(min=0)], 1)

    def masks(self, places: Sequence[int]) -> Tensor:
        """Densities (B, 1, S, S), the highest 1, in place of lesion masks; zeros where nobody looked."""
        own = torch.stack([self.own(i)[:1] for i in places]) if places else torch.zeros(0, 1, self.size, self.size)
        return own / own.amax((2, 3), keepdim=True).clamp(min=torch.finfo(own.dtype).tiny)


# ---- files


def read_fixations(config: DatasetConfig) -> list[Fixation]:
    """What ``dataset.fixations`` holds, before an image is decoded.

    Raises:
        DataError: a file that cannot be read, lacks a column, or has a value that cannot be (its row is named).
    """
    file = Path(str(config.fixations)).expanduser()
    if config.fixation_layout == "gaze":
        cells = _columns(file, "file_name", "x", "y", "duration")
        return _fixations(file, cells, cells["file_name"], cells.get("reader"), ("x", "y", "duration"), 1)
    if config.fixation_layout == "egd-cxr":
        cells = _columns(file, "DICOM_ID", "X_ORIGINAL", "Y_ORIGINAL", "FPOGD")
        return _fixations(file, cells, cells["DICOM_ID"], None, ("X_ORIGINAL", "Y_ORIGINAL", "FPOGD"), 1000)
    names, found = ("x_position", "y_position", "timestamp_end_fixation", "timestamp_start_fixation"), list[Fixation]()
    readings = _columns(file, "id", "dicom_id", "eye_tracking_data_discarded")
    for reading, image, discarded in zip(*list(readings.values())[:3], strict=True):
        if discarded.lower() == "true":
            continue
        if not reading.isalnum():
            raise DataError(f"{file}: id={shown(reading)} must be the name of a folder beside it.")
        own = file.parent / reading / "fixations.csv"
        cells = _columns(own, *names)
        count = len(cells["x_position"])
        found += _fixations(own, cells, [image] * count, [reading] * count, names, 1000)
    return found


def _columns(file: Path, *needed: str) -> dict[str, list[str]]:
    """Cells without blanks around them, the needed columns first."""
    try:
        columns = text_columns(file, read_bytes_of(file, MOST_BYTES))
    except OSError as error:
        raise DataError(f"{file} cannot be read (dataset.fixations): {error.strerror or error}.") from error
    if missing := [name for name in needed if name not in columns]:
        raise DataError(
            f"{file} has no column {', '.join(missing)}; it has: {', '.join(first_few(list(columns), 20))}. "
            "dataset.fixation_layout says whose columns they are."
        )
    return {name: [cell.strip() for cell in columns[name]] for name in dict.fromkeys((*needed, *columns))}


def _fixations(
    file: Path,
    cells: dict[str, list[str]],
    files: Sequence[str],
    readers: Sequence[str] | None,
    names: Sequence[str],
    unit: float,
) -> list[Fixation]:
    """Rows of one file; ``names`` are columns of x, y, and of a duration, or of an end and a start, in ``unit`` ms."""
    columns = [[_number(file, row, name, cell) for row, cell in enumerate(cells[name], 1)] for name in names]
    x, y, end, *start = columns
    durations = [a - b for a, b in zip(end, start[0], strict=True)] if start else end
    for row, duration in enumerate(durations, 1):
        if duration < 0:
            raise DataError(f"{file}, row {row}: a duration of {duration:g} must be 0 or more.")
    rows = zip(files, readers or [""] * len(files), x, y, durations, strict=True)
    return [Fixation(name, reader, a, b, duration * unit) for name, reader, a, b, duration in rows]


def _number(file: Path, row: int, name: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{file}, row {row}: {name}={shown(cell)} must be a number.")
    return value


def _attention(config: DatasetConfig, paths: Sequence[str], size: int) -> dict[int, Tensor]:
    """Maps (S, S) of the images that have one in ``dataset.attention_dir``, by their places."""
    root, found = Path(config.root or "") / Path(str(config.attention_dir)).expanduser(), dict[int, Tensor]()
    if not root.is_dir():
        raise DataError(f"dataset.attention_dir={config.attention_dir}: {root} is no folder. {MAPS}")
    for place, path in enumerate(paths):
        file = file_beside(root, path, [".npy", ".png"])
        if file is None:
            continue
        try:
            values = torch.as_tensor(_values(file), dtype=torch.float32)
            if values.ndim != 2 or not values.isfinite().all() or values.min() < 0:
                raise ValueError("it must be (H, W), finite, 0 or more")
        except (OSError, ValueError, TypeError, SyntaxError, EOFError) as error:
            raise DataError(f"{file} is no map of attention: {error}.") from error
        if values.any():
            found[place] = pool_to_grid(values[None], size)[0]
    return found


def _values(file: Path) -> NDArray[Any]:
    if file.suffix == ".npy":
        found = np.load(io.BytesIO(read_bytes_of(file, MOST_BYTES)), allow_pickle=False)
        return np.asarray(found, dtype=np.float64)
    frame = read_frame(file)
    return np.asarray(frame.values if frame.image is None else convert_image(frame.image, 1), dtype=np.float64)


# ---- to images


def with_human(data: ImageData, config: DatasetConfig, fixations: Sequence[Fixation]) -> ImageData:
    """The set, each of its splits with what people looked at in its images; what is left out is a warning.

    Raises:
        DataError: nobody looked at any of its images.
    """
    parts = {name: getattr(data, name) for name in ("train", "validation", "test")}
    splits = {name: split for name, split in parts.items() if split is not None}
    size, places = next(iter(splits.values())).images.shape[-1], _by_name(splits)
    readings: dict[tuple[str, int], dict[str, list[tuple[float, float, float]]]] = defaultdict(dict)
    outside, unknown = list[str](), list[str]()
    for each in fixations:
        where = next((places[key] for key in _names(printable(each.file)) if places.get(key)), None)
        if where is None:
            unknown.append(each.file)
            continue
        width, height = (1, 1) if config.fixation_unit == "relative" else _size(splits[where[0]], where[1])
        x, y = each.x / width, each.y / height
        if 0 <= x <= 1 and 0 <= y <= 1:
            readings[where].setdefault(each.reader, []).append((x, y, each.duration))
        else:
            outside.append(each.file)
    seen = dict[str, Human | None]()
    for name, split in splits.items():
        # Whoever looked for no time at all has not looked.
        own = [
            {who: torch.tensor(rows) for who, rows in readings[name, i].items() if any(row[2] for row in rows)}
            if (name, i) in readings else {}
            for i in range(len(split.targets))
        ]  # fmt: skip
        shapes = [_size(split, i) for i in range(len(split.targets))]
        sds = [(config.fixation_sigma, config.fixation_sigma * width / height) for width, height in shapes]
        maps = {} if config.attention_dir is None else _attention(config, split.paths, size)
        human = Human(size, own, sds, maps)
        seen[name] = human if human.places else None
    if not any(seen.values()):
        key, remedy = ("attention_dir", MAPS) if config.attention_dir else ("fixations", ROWS)
        left = _left(outside, unknown, len(fixations), data.private)
        raise DataError(
            f"dataset.{key}={getattr(config, key)}: nobody looked at an image of {config.name}{left}. {remedy}"
        )
    if outside or unknown:
        data.audit.warnings.append("fixations left out" + _left(outside, unknown, len(fixations), data.private))
    return dataclasses.replace(data, **{name: splits[name]._replace(human=own) for name, own in seen.items()})


def _left(outside: Sequence[str], unknown: Sequence[str], of: int, private: bool) -> str:
    """``": 3 of 90 lie outside their image (a.png), 2 of 90 are of no image of this set (b.png)"``."""
    said = []
    for files, what in ((outside, "lie outside their image"), (unknown, "are of no image of this set")):
        names = "" if private else f" ({', '.join(first_few(list(dict.fromkeys(files))))})"
        said += [f"{len(files):,} of {of:,} {what}{names}"] if files else []
    return f": {', '.join(said)}" if said else ""


def _names(path: str) -> list[str]:
    """What an image may be called: its path, the same without a suffix, its name alone."""
    return [path, bare(path), PurePosixPath(bare(path)).name]


def _by_name(splits: dict[str, Split]) -> dict[str, tuple[str, int] | None]:
    """Split and place of each image by its names; None for what several images are called."""
    found = dict[str, tuple[str, int] | None]()
    for name, split in splits.items():
        for place, path in enumerate(split.paths):
            for key in dict.fromkeys(_names(path)):
                found[key] = None if key in found else (name, place)
    return found


def _size(split: Split, place: int) -> tuple[int, int]:
    """Width and height of an image before it was resized."""
    return (split.images.shape[-1], split.images.shape[-2]) if split.sizes is None else split.sizes[place]
