"""A data set's decoded images as memory-mapped files, built once however many runs start together.

An entry is a folder of ``.npy`` arrays, ``facts.json`` and ``entry.json``, which says what the rest must be::

    <cache>/<name>-<16 hex digits: what was asked for>-<16 hex digits: and what it was made from>/

It is written beside its place and renamed into it, so a process that is killed leaves nothing that counts. A run
never fails because of its cache: where it cannot be used, one line says so and the images are made as without it.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_dir

Say = Callable[[str], None]

FORMAT = 2  # of what stands in an entry: raise it when arrays or facts change their meaning
ENTRY_FILE, FACTS_FILE = "entry.json", "facts.json"
OFF = ("off", "false")  # YAML reads a bare off as false


class Entry(NamedTuple):
    """What is kept: ``arrays`` of uint8 by name, contiguous, and ``facts`` that JSON can hold.

    ``images`` is their number, for the reader. ``lasting`` is False where another try may give something else;
    such an entry is not kept.
    """

    arrays: dict[str, NDArray[np.uint8]]
    facts: Any
    images: int
    lasting: bool = True


class Request(NamedTuple):
    """Which entry is wanted.

    ``name`` begins its folder's name. ``wanted`` holds the settings, JSON-able; ``made_from()`` what the entry is
    made from as it is now, such as the sizes and times of its files. When only the latter changes, the new entry
    takes the old one's place.
    """

    name: str
    wanted: Mapping[str, Any]
    made_from: Callable[[], Any]


def cache_folder(setting: str | None) -> Path | None:
    """Where entries are kept; None for nowhere.

    Args:
        setting: of ``dataset.cache``. "auto" is ``$GAZE_CACHE`` (a folder, or "off") if set, else
            the system's place for caches: ``$XDG_CACHE_HOME/gaze`` or ``~/.cache/gaze`` on Linux;
            "off" or None is nowhere; anything else is a folder.
    """
    if setting == "auto":
        setting = os.environ.get("GAZE_CACHE") or user_cache_dir("gaze", appauthor=False)
    if setting is None or setting.lower() in OFF:
        return None
    try:
        return Path(setting).expanduser().absolute()
    except RuntimeError:  # no home
        return None


def cached(folder: Path | None, request: Request, build: Callable[[], Entry], say: Say, verb: str = "decoded") -> Entry:
    """The entry that is wanted: out of the cache, or built and then kept there.

    The arrays of a kept entry are mapped copy-on-write: processes share its pages, and what is written into them
    stays in the process that did.

    Args:
        folder: from :func:`cache_folder`.
        request: which entry.
        build: makes it. What it raises is passed on, and nothing is kept.
        say: called with one line on what was read, built or found wrong.
        verb: what ``build`` does to the images.
    """
    if folder is None:
        return build()
    made_from = request.made_from()
    prefix = f"{request.name}-{_digest(request.wanted)[:16]}-"
    key = _digest([FORMAT, request.wanted, made_from])
    place = folder / f"{prefix}{key[:16]}"
    try:
        found = _read(place, key)
        if found is None:
            with _locked(folder, prefix, say):
                found = _read(place, key)  # another process may have built it meanwhile
                if found is None:
                    if os.path.lexists(place):
                        say(f"{place} is damaged or was not written by this program: it is built anew")
                    return _build(place, prefix, key, made_from, request, build, say, verb)
    except _Unusable as error:
        say(f"the cache {folder} cannot be used ({error}): going on without it")
        return build()
    say(f"read {found.images:,} images from the cache {place}")
    return found


class _Unusable(Exception):
    """The cache's folder cannot be written to or locked."""


@contextmanager
def _locked(folder: Path, prefix: str, say: Say) -> Iterator[None]:
    """One process at a time for all entries of one prefix. The system frees the lock of a process that is killed."""
    from filelock import FileLock, Timeout  # not needed to read an entry

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{prefix[:-1]}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"another process fills the cache {folder}; waiting for it")
            lock.acquire()
    except (OSError, NotImplementedError) as error:  # the latter where the file system has no locks
        raise _Unusable(_cause(error)) from error
    try:
        yield
    finally:
        lock.release()


def _build(
    place: Path,
    prefix: str,
    key: str,
    made_from: Any,
    request: Request,
    build: Callable[[], Entry],
    say: Say,
    verb: str,
) -> Entry:
    """Build an entry and keep it, if it can be kept. The lock is held."""
    built = build()
    if not built.lasting or request.made_from() != made_from:
        why = "some of their files changed meanwhile" if built.lasting else "some of them could not be read this time"
        say(f"{verb} {built.images:,} images; they are not kept in the cache: {why}")
        return built
    try:
        _write(place, prefix, key, built)
        kept = _read(place, key)
    except OSError as error:
        say(f"the cache {place.parent} cannot be used ({_cause(error)}): going on without it")
        return built
    if kept is None:  # a file system without maps, say
        _discard(place)
        say(f"the cache {place.parent} does not give back what was written: going on without it")
        return built
    megabytes = sum(array.nbytes for array in kept.arrays.values()) / 1e6
    say(f"{verb} {kept.images:,} images into the cache {place} ({megabytes:,.1f} MB)")
    return kept


def _write(place: Path, prefix: str, key: str, entry: Entry) -> None:
    """Write a whole entry, rename it into its place and remove those whose place it takes."""
    part = place.with_name(f".{prefix}{secrets.token_hex(4)}.part")
    try:
        part.mkdir()
        for name, array in entry.arrays.items():
            # On a full disk a map would kill the process, and np.save may lose the end without a word; write() raises.
            with (part / f"{name}.npy").open("wb") as file:
                np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
                file.write(array.data)
                _to_disk(file)
        facts = json.dumps(entry.facts).encode()
        about = {"key": key, "images": entry.images, "facts": hashlib.sha256(facts).hexdigest()}
        about["arrays"] = {name: list(array.shape) for name, array in entry.arrays.items()}
        for name, content in ((FACTS_FILE, facts), (ENTRY_FILE, json.dumps(about).encode())):
            with (part / name).open("wb") as file:
                file.write(content)
                _to_disk(file)
        _discard(place)
        part.rename(place)
    except BaseException:
        _discard(part)
        raise
    for other in place.parent.iterdir():  # superseded entries, and what a killed process left
        if other != place and (other.name.startswith(prefix) or other.name.startswith(f".{prefix}")):
            _discard(other)


def _to_disk(file: Any) -> None:
    """Else a machine that stops may leave an entry whose name is there and whose bytes are not."""
    file.flush()
    os.fsync(file.fileno())


def _discard(path: Path) -> None:
    """Remove an entry. Who has it mapped keeps it; where such files cannot be removed (Windows), they stay."""
    try:
        if path.is_symlink() or path.is_file():
            path.unlink()
            return
        (path / ENTRY_FILE).unlink(missing_ok=True)  # first: half an entry is none
    except OSError:
        return
    shutil.rmtree(path, ignore_errors=True)


def _read(place: Path, key: str) -> Entry | None:
    """The entry in ``place``; None where there is none that can be trusted."""
    try:
        about = json.loads((place / ENTRY_FILE).read_bytes())
        facts = (place / FACTS_FILE).read_bytes()
        if about["key"] != key or about["facts"] != hashlib.sha256(facts).hexdigest():
            return None
        arrays = {name: _map(place / f"{name}.npy", shape) for name, shape in about["arrays"].items()}
        return Entry(arrays, json.loads(facts), int(about["images"]))
    except Exception:  # a damaged header alone raises ValueError, SyntaxError, EOFError, OverflowError and more
        return None


def _map(path: Path, shape: list[int]) -> NDArray[np.uint8]:
    array: NDArray[np.uint8] = np.lib.format.open_memmap(path, mode="c")
    if array.dtype != np.uint8 or list(array.shape) != shape or not array.flags.c_contiguous:
        raise ValueError(f"{path} holds {array.dtype} {array.shape}, not uint8 {shape}")
    return array


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _cause(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
