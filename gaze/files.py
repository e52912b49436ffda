"""Files that are written whole or not at all, nowhere but where they belong, and read without waiting for ever."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from gaze.errors import DataError
from gaze.names import csv_text

if TYPE_CHECKING:  # who trains does without it
    import pandas as pd

MOST_BYTES = 64 << 20  # of a text file of a run: 100,000 epochs of 30 columns are half of it
PART = re.compile(r"\..*\.[0-9a-f]{8}\.part")


class UnreadableFile(DataError, OSError):
    """What stands there is no regular file, or one that is too large. An OSError, as where nothing stands there."""


# ---- reading


def open_regular(path: Path, most: int | None = None) -> BinaryIO:
    """Open a regular file to read its bytes. A FIFO (which would wait for ever), a device (which has no end) and a
    socket are refused, behind a link as well.

    Args:
        path: the file.
        most: bytes that it may have; None for a file of which only a part is read, or which is mapped.

    Raises:
        UnreadableFile: it is no regular file, or larger.
        OSError: it is not there, or this user may not read it.
    """
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 - Path.open takes no opener; closed below
    about = os.fstat(file.fileno())
    what = ""
    if not stat.S_ISREG(about.st_mode):
        what = f"{path} is no regular file but a {'FIFO' if stat.S_ISFIFO(about.st_mode) else 'device or the like'}"
    elif most is not None and about.st_size > most:
        what = f"{path} has {about.st_size:,} bytes, and at most {most:,} are read"
    if what:
        file.close()
        raise UnreadableFile(what)
    return file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_bytes_of(path: Path, most: int = MOST_BYTES) -> bytes:
    """All of a regular file, as :func:`open_regular` opens it. A file that grows meanwhile is read up to ``most``."""
    with open_regular(path, most) as file:
        return file.read(most)


def file_digest(path: Path) -> str:
    """Twelve hex digits of SHA-256 over a regular file's bytes; the same file is read once.

    Raises:
        OSError: as :func:`open_regular`.
    """
    about = path.stat()
    return _digest(path.absolute(), about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=256)
def _digest(path: Path, *stamp: int) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(cast(FileIO, file), "sha256").hexdigest()[:12]


# ---- writing


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path to write to that takes the place of ``path`` at the end, whole, or not at all.

    Its name is drawn and its file made anew, so that nothing that stands there is followed or overwritten. What a
    killed process leaves is for :func:`remove_parts`.
    """
    part = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.part")
    try:
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield part
        part.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(part)):
            # None on a full disk; and a drawn name says nothing to anybody
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write ``values`` for people and programs, whole or not at all."""
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    with atomic_path(path) as part:  # bytes of a path that are no UTF-8 become the escapes that JSON has for them
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table whole or not at all, as :func:`csv_text`."""
    with atomic_path(path) as part:
        part.write_bytes(csv_text(table).encode("utf-8", "backslashreplace"))


def check_links(folder: Path, *names: str) -> None:
    """Refuse links that lead out of a folder that is read or written; the folder itself may be one.

    Args:
        folder: that somebody may have sent. Nothing where there is none.
        names: folders or files that count of it; all of it where none is named.

    Raises:
        DataError: names the first link, and where it leads.
    """
    home = Path(os.path.realpath(folder))
    for entry in _below(folder, names):
        if entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(home):
            raise DataError(
                f"{entry.path} is a link out of its folder, to {os.path.realpath(entry.path)}: what belongs to "
                f"{folder} stands in it. Put the file or folder itself there, or remove the link."
            )


def remove_parts(folder: Path, *names: str) -> None:
    """Remove what a killed process left unfinished; nobody else may write there. Arguments: :func:`check_links`."""
    for entry in _below(folder, names):
        if PART.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
            Path(entry.path).unlink(missing_ok=True)


def _below(folder: str | Path, names: Collection[str] = ()) -> Iterator[os.DirEntry[str]]:
    """What stands in a folder, at any depth, through no link."""
    try:
        with os.scandir(folder) as found:
            entries = [entry for entry in found if not names or entry.name in names or PART.fullmatch(entry.name)]
    except OSError:  # none, or one that may not be listed
        return
    for entry in entries:
        yield entry
        if entry.is_dir(follow_symlinks=False):
            yield from _below(entry.path)
