"""Files that are written whole or not at all."""

from __future__ import annotations

import json
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
    with atomic_path(path) as part:
        part.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
