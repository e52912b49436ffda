"""What became of a run: ``status.json`` in its folder, and files that are written whole or not at all."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STATES = ("running", "complete", "failed", "interrupted")
STATUS_FILE = "status.json"
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%z"


@contextmanager
def tracked(directory: Path, owner: bool = True) -> Iterator[None]:
    """Keep ``directory/status.json`` true while a run goes on in the ``with`` block.

    state: "running" inside, then "complete", "failed" (with the error) or "interrupted" (Ctrl-C, or an exit
    that was asked for). A process that is killed leaves "running" behind.

    Args:
        directory: the run's folder.
        owner: False in the processes of a run that do not own its folder; nothing is written then.
    """
    started, clock = time.strftime(TIME_FORMAT), time.monotonic()

    def note(state: str, **more: Any) -> None:
        if owner:
            write_json(directory / STATUS_FILE, {"state": state, "started": started, **more})

    def ended() -> dict[str, Any]:
        return {"finished": time.strftime(TIME_FORMAT), "seconds": round(time.monotonic() - clock, 3)}

    note("running")
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        note("interrupted", **ended())
        raise
    except BaseException as error:
        note("failed", **ended(), error=f"{type(error).__name__}: {error}")
        raise
    note("complete", **ended())


def read_status(directory: Path) -> dict[str, Any] | None:
    """What ``tracked`` wrote into a folder; None where there is no such file, or none that can be read."""
    try:
        status = json.loads((directory / STATUS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return status if isinstance(status, dict) and status.get("state") in STATES else None


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path to write to that takes the place of ``path`` at the end, whole, or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write ``values`` for people and programs, whole or not at all."""
    with atomic_path(path) as part:
        part.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
