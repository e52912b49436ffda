"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# ---- files


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path to write to that takes the place of ``path`` at the end, whole, or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write ``values`` for people and programs, whole or not at all."""
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    with atomic_path(path) as part:  # bytes of a path that are no UTF-8 become the escapes that JSON has for them
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def printable(text: str) -> str:
    """A name of a file as one line that any UTF-8 file takes: line breaks, other control characters and bytes that are
    no UTF-8 (surrogates, in Python) are escaped as in a Python string.
    """
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", lambda found: ascii(found[0])[1:-1], text)
