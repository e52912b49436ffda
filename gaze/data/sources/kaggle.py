"""Published sets from Kaggle, pinned to a version, downloaded once."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gaze.data.cache import Say
from gaze.data.decode import cause_of
from gaze.errors import DataError

WAYS_OUT = (
    "Two ways on: dataset.root=PATH uses a copy on this machine, in the folders that Kaggle delivers; "
    "dataset=phantom draws its images and needs no download."
)


# ---- Kaggle


def downloaded(handle: str) -> Path | None:
    """Folder of a Kaggle data set that was downloaded before; None where it was not.

    Raises:
        DataError: the handle pins no version.
    """
    place, _, _ = _place(handle)
    version = handle.rpartition("/")[2]
    folder = place / "versions" / version
    # kagglehub's own test; it works without a lock, so on a cache that is read-only too
    return folder if (place / f"{version}.complete").exists() and folder.is_dir() else None


def _place(handle: str) -> tuple[Path, Path, str]:
    """Where kagglehub keeps a data set, its cache, and a name of one word."""
    match = re.fullmatch(r"([\w-]+)/([\w-]+)/versions/(\d+)", handle)
    if not match:
        raise DataError(f"dataset.handle={handle!r} must pin a version: owner/name/versions/N.")
    owner, name, version = match.groups()
    cache = Path(os.environ.get("KAGGLEHUB_CACHE", Path.home() / ".cache" / "kagglehub"))
    return cache / "datasets" / owner / name, cache, f"{owner}-{name}-{version}"


def download(handle: str, say: Say) -> Path:
    """Folder of a Kaggle data set, downloaded into kagglehub's cache unless it is there already.

    One process downloads, others wait: kagglehub itself has no lock. A finished download needs no network.

    Args:
        handle: with its version pinned, ``owner/name/versions/N``.
        say: called with a line when a download starts or waits.

    Raises:
        DataError: names the set, the cause and the ways around it.
    """
    place, cache, name = _place(handle)
    found = downloaded(handle)
    if found is not None:
        return found
    try:
        return _download_alone(handle, cache / f"gaze-{name}.lock", say)
    except Exception as error:  # kagglehub raises its own, requests', OSError, BadZipFile and more
        raise DataError(
            f"Cannot download {handle} from Kaggle: {type(error).__name__}: {cause_of(error)}. "
            f"If it fails again, delete {place}. {WAYS_OUT}"
        ) from error


def _download_alone(handle: str, lock_file: Path, say: Say) -> Path:
    from filelock import FileLock, Timeout

    lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"Another process downloads {handle}; waiting for it ({lock_file})")
        lock.acquire()
    try:
        import kagglehub  # type: ignore[import-untyped]

        say(f"Downloading {handle} to {lock_file.parent} (nothing is fetched if it is complete there)")
        return Path(kagglehub.dataset_download(handle))
    finally:
        lock.release()
