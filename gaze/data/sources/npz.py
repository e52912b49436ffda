"""Files of MedMNIST (Yang et al. 2023): arrays ``{train,val,test}_{images,labels}`` in one ``.npz`` file.

Images are (N, H, W) or (N, H, W, 3) uint8, labels (N,) or (N, 1) whole numbers from 0, which name the classes. Each
array is looked at in the archive's directory and in its header before room is made for it; pickles are not read.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gaze.config.data import DatasetConfig
from gaze.data.audit import Record, pixel_digest
from gaze.data.decode import Half, convert_image
from gaze.errors import DataError
from gaze.files import open_regular

PREFIXES = {"train": "train", "validation": "val", "test": "test"}
MOST_BYTES = 1 << 36  # of an array; MedMNIST's largest, 224 px in colour, is a quarter of it
MOST_RATIO = 500  # bytes that one of the file may unpack to; images of MedMNIST stay below 20
MOST_CLASSES = 10_000
DAMAGED: tuple[type[Exception], ...] = (OSError, ValueError, TypeError, EOFError, RuntimeError, NotImplementedError)
DAMAGED += (MemoryError, SyntaxError, TokenError, zipfile.BadZipFile, zlib.error)  # a header is a Python literal
WANTED = "dataset=npz reads MedMNIST's files: arrays {train,val,test}_images and _labels."


def parts_of(path: Path) -> list[str]:
    """The parts of which a file has images: some of "train", "validation" and "test".

    Raises:
        DataError: it cannot be read, or an array is missing, of another shape than it should be, or too large.
    """
    with _opened(path) as archive:
        names = set(archive.namelist())
        parts = [part for part, prefix in PREFIXES.items() if f"{prefix}_images.npy" in names]
        for part in parts:
            shape, labels = _checked(path, archive, part)
            if labels[0] != shape[0]:
                raise DataError(f"{path}: {part} has {shape[0]:,} images and {labels[0]:,} labels.")
    if not parts:
        raise DataError(f"{path} has no images. {WANTED}")
    return parts


def read_part(path: Path, part: str, config: DatasetConfig) -> Half:
    """One part, converted and resized as files of images are (:mod:`gaze.data.decode`).

    Raises:
        DataError: as :func:`parts_of`, or labels below 0 or beyond :data:`MOST_CLASSES`.
    """
    with _opened(path) as archive:
        _checked(path, archive, part)
        pixels, targets = (_read(archive, f"{PREFIXES[part]}_{what}.npy") for what in ("images", "labels"))
    labels = targets.reshape(-1)
    if labels.min() < 0 or labels.max() >= MOST_CLASSES:
        raise DataError(f"{path}: labels of {part} are {labels.min()} .. {labels.max()}, and must be from 0.")
    size = config.image_size
    images = np.zeros((len(pixels), config.channels, size, size), np.uint8)
    records: list[Record | None] = []
    for i, (values, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
        source = Image.fromarray(values)
        image = convert_image(source, config.channels)
        resized = np.asarray(image.resize((size, size), Image.Resampling[config.resampling.upper()]))
        images[i] = resized.reshape(size, size, config.channels).transpose(2, 0, 1)
        records.append(Record(f"{part}/{i:05d}", part, label, pixel_digest(np.asarray(image)), image.size, source.mode))
    return Half(images, records, [])


def classes_of(where: str, halves: Mapping[str, Half]) -> tuple[str, ...]:
    """Names of the classes, "0", "1" and so on, of which each part must have images.

    Raises:
        DataError: one class alone, or a class that a part has no image of.
    """
    seen = {part: {r.label for r in half.records if r is not None} for part, half in halves.items()}
    classes = range(max(2, 1 + max(max(own) for own in seen.values())))
    for part, own in seen.items():
        if absent := [label for label in classes if label not in own]:
            more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            raise DataError(f"{where}: {part} has no image of label {', '.join(map(str, absent[:5]))}{more}.")
    return tuple(map(str, classes))


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except FileNotFoundError:
        raise DataError(f"dataset.root={path} does not exist. {WANTED}") from None
    except DataError:
        raise
    except DAMAGED as error:
        cause = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path} cannot be read: {cause}. {WANTED}") from error


def _checked(path: Path, archive: zipfile.ZipFile, part: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of a part's images and labels."""
    (shape, kind), (labels, label_kind) = (_header(path, archive, part, what) for what in ("images", "labels"))
    if kind != np.uint8 or not (len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)) or 0 in shape:
        raise DataError(
            f"{path}: {part} images are {kind} of shape {shape}, and must be uint8, (N, H, W) or (N, H, W, 3)."
        )
    if len(labels) == 2 and labels[1] > 1:
        raise DataError(f"{path}: {part} has {labels[1]} labels an image; gaze's classifiers take one class an image.")
    if label_kind.kind not in "iu" or math.prod(labels) != labels[0]:
        raise DataError(f"{path}: {part} labels are {label_kind} of shape {labels}, and must be whole numbers, (N, 1).")
    return shape, labels


def _header(path: Path, archive: zipfile.ZipFile, part: str, what: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    name = f"{PREFIXES[part]}_{what}.npy"
    if name not in archive.namelist():
        raise DataError(f"{path} has no {name.removesuffix('.npy')}. {WANTED}")
    entry = archive.getinfo(name)
    with archive.open(entry) as file:
        shape, kind = _read_header(file)
        size = file.tell() + math.prod(shape) * kind.itemsize
    if size != entry.file_size or size > MOST_BYTES or size > 1_000_000 + MOST_RATIO * entry.compress_size:
        raise DataError(
            f"{path}: {name} says that it has {size:,} bytes, out of {entry.compress_size:,} in the archive: that is "
            "damaged, or made to fill a memory."
        )
    return shape, kind


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)  # type: ignore[arg-type]
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = read(file)  # type: ignore[arg-type]
    if kind.hasobject or not shape:
        raise ValueError("an array of Python objects, which are not read" if kind.hasobject else "a single value")
    return shape, kind


def _read(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(name) as entry:
        array: NDArray[Any] = np.lib.format.read_array(entry, allow_pickle=False)
        return array
