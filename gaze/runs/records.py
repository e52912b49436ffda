"""What the JSON files of a run's folder may hold. They may come from strangers: each is read here, bounded and checked.

A file that is not there says nothing; one that cannot be read, or holds what cannot be, is named with key, value and
what is allowed. Keys that are not listed are of other versions, and pass.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from gaze.choices import shown
from gaze.config.settings import Settings
from gaze.errors import ConfigError, DataError
from gaze.files import read_bytes_of

DEEPEST = 20  # groups within groups; settings have 3
Seconds = Annotated[float, Field(ge=0)]
Figures = dict[str, Annotated[float, Field(allow_inf_nan=True)]]  # kappa of one class is NaN


class Record(Settings):
    """What is known of a file; its other keys pass."""

    model_config = ConfigDict(extra="allow")


class Status(Record):
    """``status.json``, as :func:`gaze.runs.status.tracked` writes it."""

    state: Literal["running", "complete", "failed", "interrupted"]
    started: str = ""
    host: str | None = None
    pid: int | None = None
    seconds: Seconds = 0.0
    ends: Seconds = 0.0
    epochs: int = Field(0, ge=0)
    resumed_from_epoch: int = Field(0, ge=0)
    error: str = ""
    traceback: str = ""
    metrics: Figures = Field({})
    metrics_sha256: str | None = None


class Environment(Record):
    """``environment.json``, as ``gaze.training.environment`` makes it."""

    started: str = ""
    command: str = ""
    python: str | None = None
    device: str | None = None
    commit: str | None = None
    packages: dict[str, str | None] | None = None


class Audit(Record):
    """``audit.json``: of it only the folder of the images is read back."""

    root: str | None = Field(None, alias="dataset.root")


class Images(Record):
    """``images.json``, as ``gaze.data.sources.listing`` makes it; of each split a number of images as well."""

    classes: list[str] = Field([])
    sha256: str = ""


class Tested(Record):
    """``test.json``: figures on the test images by their names in the log, of the last and of the best weights."""

    last: Figures = Field({})
    best: Figures = Field({})


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds named values.

    Raises:
        FileNotFoundError: there is none.
        DataError: it is no regular file, too large, no JSON, no object, or deeper than :data:`DEEPEST`.
    """
    try:
        values = json.loads(read_bytes_of(path))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"{path.name} cannot be read: {error}") from error
    except RecursionError:
        raise DataError(_too_deep(path)) from None
    if not isinstance(values, dict):
        raise DataError(f"{path.name} must be an object with named values, and is {shown(values)}")
    if not _within(values, DEEPEST):
        raise DataError(_too_deep(path))
    return values


def _too_deep(path: Path) -> str:
    return f"{path.name} is nested deeper than {DEEPEST} levels"


def _within(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_within(own, levels - 1) for own in inner if isinstance(own, dict | list))


def endless(values: Any, name: str = "") -> str:
    """The first ``name=value`` of a number in nested ``values`` that is not finite; "" where all are."""
    if isinstance(values, float):
        return "" if math.isfinite(values) else f"{name}={values}"
    pairs = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    return next(filter(None, (endless(own, f"{name}.{key}".lstrip(".")) for key, own in pairs)), "")


def read_record(path: Path, kind: type[Record]) -> dict[str, Any]:
    """What a file of a run says, by its keys; empty where there is none.

    Raises:
        DataError: as :func:`read_json`; a value that cannot be, by its key and with what is allowed.
    """
    try:
        values = read_json(path)
        kind(**values)
    except FileNotFoundError:
        return {}
    except ConfigError as error:
        raise DataError(f"{path.name}: {error}") from None
    return values


def read_facts(path: Path, kind: type[Record]) -> dict[str, Any]:
    """The same where nothing depends on it: empty, too, where the file cannot be used."""
    try:
        return read_record(path, kind)
    except DataError:
        return {}
