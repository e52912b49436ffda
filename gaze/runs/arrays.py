"""NumPy's files of a run's folder, which may come from strangers: bounded, without pickles, checked by name."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gaze.errors import DataError
from gaze.files import open_regular

MOST = 1 << 30  # bytes of all arrays of a file: last maps of 4 million images in 8x8 cells are a quarter of it
KINDS = {"u": "whole numbers", "f": "numbers", "U": "texts"}
DAMAGED: tuple[type[Exception], ...] = (OSError, ValueError, TypeError, EOFError, RuntimeError, MemoryError)
DAMAGED += (SyntaxError, TokenError, zipfile.BadZipFile, zlib.error)  # a header is a Python literal
Arrays = dict[str, NDArray[Any]]


def read_arrays(path: Path) -> Arrays:
    """Arrays of an ``.npz`` file by their names.

    Raises:
        FileNotFoundError: there is none.
        DataError: it is no regular file, no such archive, or larger than :data:`MOST` when unpacked.
    """
    try:
        with open_regular(path, MOST) as file, zipfile.ZipFile(file) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size > MOST:
                raise DataError(f"{path.name} unpacks to {size:,} bytes, and at most {MOST:,} are read")
            arrays = {}
            for name in archive.namelist():
                with archive.open(name) as entry:
                    arrays[name.removesuffix(".npy")] = np.lib.format.read_array(entry, allow_pickle=False)
            return arrays
    except FileNotFoundError:
        raise
    except DAMAGED as error:
        raise DataError(f"{path.name} cannot be read: {error}") from error


def array(arrays: Arrays, name: str, kind: str, axes: int, file: str) -> NDArray[Any]:
    """One of them, which must be of a kind of :data:`KINDS`, finite, and have so many ``axes``.

    Raises:
        DataError: it is not there, or another.
    """
    if name not in arrays:
        raise DataError(f"{file} has no {name}")
    own = arrays[name]
    kinds = {"u": "iu", "f": "fiu", "U": "U"}[kind]
    if own.dtype.kind not in kinds or own.ndim != axes or (kind != "U" and not np.isfinite(own).all()):
        is_now = f"{own.dtype} of shape {own.shape}"
        raise DataError(f"{file}: {name} is {is_now}, and must be finite {KINDS[kind]} with {axes} axes")
    return own
