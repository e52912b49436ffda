"""``share=RUN``: a copy of a run without patients' ids, images, and places on this machine.

Each file is on a list here, read as what it must be and written anew; whatever else lies in the folder stays behind.
"""

from __future__ import annotations

import io
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from gaze.errors import BusyError, ConfigError, DataError
from gaze.files import open_regular, read_bytes_of, write_json
from gaze.names import shown_name
from gaze.runs.arrays import DAMAGED, read_arrays
from gaze.runs.human import read_human, write_human
from gaze.runs.predictions import read_figures, read_rows, write_rows
from gaze.runs.records import Environment, Tested, read_json, read_record
from gaze.runs.run import Run
from gaze.runs.status import LOCK_FILE
from gaze.terminal import say

OF_STATUS = ("started", "finished", "seconds", "epochs", "resumed_from_epoch", "device", "metrics", "metrics_sha256")
OF_ENVIRONMENT = ("started", "python", "platform", "device", "threads", "commit", "packages")
OF_AUDIT = (
    "name", "train_counts", "validation_counts", "test_counts", "widths", "heights", "common_sizes", "modes", "remarks",
    "window", "dropped",
)  # fmt: skip
OF_MAPS = ("class_gaze", "counts", "cams", "indices", "classes", "epoch", "maps", "target", "correct")
# settings that say where something lies
PLACES = {"root", "table", "mask_dir", "guide_dir", "fixations", "attention_dir", "cache", "checkpoint", "path"}
DAMAGED_RUN: tuple[type[Exception], ...] = (DataError, AttributeError, LookupError, *DAMAGED)
IN_USE = re.compile(r"(train|validation|test) image \d+")  # a twin's name in the audit of a set with patients
REPLACED = (
    "files are called by their number in their part, groups by a number (split.csv, predictions.csv, audit.json)",
    "paths in the settings are cut to their last part; dataset.group, a pattern in files' names, is left out",
    "of audit.json, environment.json and status.json no path, command, host, process, name of a file or error is kept",
)


def share_run(run: Run, directory: Path, console: Console) -> list[Path]:
    """Write the copy into a new folder in ``directory``, whole or not at all.

    Args:
        run: that has ended.
        directory: where the folder is made, named by the run's keys.
        console: told what was left out or replaced.

    Returns:
        Every path written.

    Raises:
        BusyError: it is still being trained.
        ConfigError: the folder is there already.
        DataError: its table or its settings cannot be read; a link leads out of its folder.
    """
    if run.state == "running":
        raise BusyError(f"{run.folder} is still being trained: share it when it has ended.")
    keys = run.keys
    last = (f"lambda={keys['lambda']:g}", f"seed={keys['seed']}")
    name = "-".join([*(str(keys[key]) for key in ("study", "dataset", "model")), *last])
    target = directory / re.sub(r"[^A-Za-z0-9._+=,-]+", "-", name)
    if os.path.lexists(target):
        raise ConfigError(f"{target} is there already. Remove it, or name another folder: hydra.run.dir=PATH.")
    with TemporaryDirectory(prefix=".share-", dir=directory) as part:
        copy = Run(Path(part) / "run")
        copy.pictures.mkdir(parents=True)
        left = _Sharing(run, copy).write()
        write_json(copy.shared_file, {"left out": left, "replaced": list(REPLACED)})
        copy.folder.rename(target)
    for title, lines in (("Left out", left), ("Replaced", REPLACED)):
        say(console, "\n".join([f"{title}:", *(f"  {line}" for line in lines)]))
    say(console, f"Look at it before you send it: {target}")
    return sorted(path for path in target.rglob("*") if path.is_file())


class _Sharing:
    """One copy: its files, and what images and groups are called in all of them."""

    def __init__(self, run: Run, copy: Run) -> None:
        self.run, self.copy = run, copy
        self.images: dict[tuple[str, str], int] = {}  # (part, file) -> place in the part
        self.groups: dict[str, str] = {"": ""}
        self.files: dict[Path, Callable[[Path, Path], None]] = {
            run.config_file: self._config,
            run.status_file: self._status,
            run.metrics_file: self._table,
            run.grid_file: self._table,
            run.split_file: self._split,  # before those that need its numbers
            run.predictions_file: self._predictions,
            run.audit_file: self._audit,
            run.environment_file: self._environment,
            run.test_file: self._test,
            run.classes_file: self._figures,
            run.confusion_file: self._figures,
            run.maps_file: self._arrays,
            run.last_maps: self._arrays,
            run.kept_maps: self._kept_maps,
            run.human_file: self._human,
            run.gaze_picture: self._picture,
            run.confusion_picture: self._picture,
        }

    def write(self) -> list[str]:
        """Write them; what was left out, a line each."""
        left = []
        for file, write in self.files.items():
            goal = self.copy.folder / file.relative_to(self.run.folder)
            try:
                write(file, goal)
            except FileNotFoundError:
                continue
            except DAMAGED_RUN as error:
                if file in (self.run.config_file, self.run.metrics_file):
                    raise DataError(f"{file} cannot be shared: {error}") from error
                goal.unlink(missing_ok=True)
                left.append(f"{file.name}: it cannot be read")
        return [*left, *self._left_out()]

    def _left_out(self) -> list[str]:
        run = self.run
        why = {
            run.checkpoints: "the weights, so that check= and explain= do not take the copy",
            run.images_file: "its digest is of the files' names",
            run.hydra: "paths and commands",
            run.previous: "earlier attempts",
        }
        lines = [f"{path.name}: {reason}" for path, reason in why.items() if path.exists()]
        pictures = [path for path in run.pictures.glob("*") if path not in self.files]
        lines += [f"{run.pictures.name}: {len(pictures)} that may show patients' images"] if pictures else []
        events = [*run.folder.glob("events.out.tfevents.*"), *run.folder.glob("hparams.yaml")]
        lines += ["TensorBoard's files: host and pictures"] if events else []
        known = {*self.files, *why, run.pictures, run.folder / LOCK_FILE, *events}
        others = [path for path in run.folder.iterdir() if path not in known]
        return lines + ([f"what else lies in the folder: {len(others)}"] if others else [])

    # ---- a kind of file each: read as what it must be, written anew

    def _config(self, file: Path, goal: Path) -> None:
        values = placeless(self.run.settings.to_dict())
        if values["dataset"].get("group") is not None:
            values["dataset"]["group"] = None
        write_json(goal, values)

    def _status(self, file: Path, goal: Path) -> None:
        if not file.exists():
            raise FileNotFoundError(file)
        write_json(goal, {"state": self.run.state, **placeless(_only(self.run.status, OF_STATUS))})

    def _table(self, file: Path, goal: Path) -> None:
        self.run.table(file=file)  # names of columns, and numbers
        goal.write_bytes(read_bytes_of(file))

    def _split(self, file: Path, goal: Path) -> None:
        (head, *rows), places = read_rows(file), Counter[str]()
        if head[:2] != ["part", "file"]:
            raise DataError(f"{file.name} must begin with part and file")
        for part, name, *_ in rows:
            self.images[part, name] = places[part]
            places[part] += 1
        self._numbered(goal, head, rows, [self.images[row[0], row[1]] for row in rows])

    def _predictions(self, file: Path, goal: Path) -> None:
        head, *rows = read_rows(file)
        if head[0] != "file":
            raise DataError(f"{file.name} must begin with file")
        self._numbered(goal, head, rows, [self.images.get(("test", row[0]), i) for i, row in enumerate(rows)])

    def _numbered(self, goal: Path, head: list[str], rows: Sequence[list[str]], places: Sequence[int]) -> None:
        for row, place in zip(rows, places, strict=True):
            row[head.index("file")] = shown_name("", place, True)
            if "group" in head:
                at = head.index("group")
                row[at] = self.groups.setdefault(row[at], f"group {len(self.groups) - 1}")
        write_rows(goal, [head, *rows])

    def _audit(self, file: Path, goal: Path) -> None:
        audit = read_json(file)
        called = {name: shown_name("", place, True, part) for (part, name), place in self.images.items()}
        twins = dict(audit.get("twins") or {})
        groups = twins.pop("groups", [])
        own = [
            [name if IN_USE.fullmatch(name) else called.get(name, "left out") for name in map(str, group)]
            for group in groups
        ]
        counts = {name: len(audit.get(name) or []) for name in ("unreadable", "ignored", "warnings")}
        numbers = {name: value for name, value in twins.items() if isinstance(value, int)}
        write_json(goal, {**placeless(_only(audit, OF_AUDIT)), "twins": {"groups": own, **numbers}, **counts})

    def _environment(self, file: Path, goal: Path) -> None:
        found = read_record(file, Environment)
        if not found:
            raise FileNotFoundError(file)
        write_json(goal, placeless(_only(found, OF_ENVIRONMENT)))

    def _test(self, file: Path, goal: Path) -> None:
        found = read_record(file, Tested)
        if not found:
            raise FileNotFoundError(file)
        write_json(goal, _only(found, tuple(Tested.model_fields)))

    def _figures(self, file: Path, goal: Path) -> None:
        if read_figures(self.run) is None:
            raise FileNotFoundError(file)
        write_rows(goal, read_rows(file))

    def _arrays(self, file: Path, goal: Path) -> None:
        arrays = {name: own for name, own in read_arrays(file).items() if name in OF_MAPS}
        kept = {name: own for name, own in arrays.items() if own.dtype.kind in "biuf" or name == "classes"}
        np.savez_compressed(goal, **kept)  # type: ignore[arg-type]

    def _kept_maps(self, file: Path, goal: Path) -> None:
        open_regular(file).close()
        maps = np.lib.format.open_memmap(file, mode="r")
        if maps.dtype.names != ("pred", "map"):
            raise DataError(f"{file.name} must hold pred and map")
        np.save(goal, maps, allow_pickle=False)

    def _human(self, file: Path, goal: Path) -> None:
        open_regular(file).close()
        write_human(self.copy, read_human(self.run))

    def _picture(self, file: Path, goal: Path) -> None:
        with Image.open(io.BytesIO(read_bytes_of(file)), formats=["PNG"]) as picture:
            pixels = picture.convert("RGB")
        pixels.info.clear()
        pixels.save(goal, format="png")


def _only(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}


def placeless(values: Any, name: str = "") -> Any:
    """Nested values with the last part of each path: of settings that say where something lies, and of every text that
    is an absolute path on any system.
    """
    if isinstance(values, dict):
        return {key: placeless(value, str(key)) for key, value in values.items()}
    if isinstance(values, list):
        return [placeless(value, name) for value in values]
    if not isinstance(values, str) or not (name in PLACES or re.match(r"[/~\\]|[A-Za-z]:[/\\]|\w+://", values)):
        return values
    return re.split(r"[/\\]", values.rstrip("/\\"))[-1].lstrip("~").strip(".") or "images"
