"""CAMs of trained runs over the same evaluation images, worked out once and kept beside the analysis.

``cams/manifest.json`` says for each file which checkpoint (SHA-256), which images (SHA-256 of their pixels and classes)
and which layer it was made from. A file serves again as long as all of that stays the same; otherwise it is made anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gaze.config.model import ModelConfig
from gaze.files import atomic_path, write_json
from gaze.runs.run import Run
from gaze.studies.opened import Images, Looked, opened, precision_of

FOLDER, MANIFEST = "cams", "manifest.json"
FORMAT = 1  # raised when the meaning of the files changes
Progress = Callable[[float], None]


def gaze_of_runs(
    runs: Sequence[Run], images: Images, directory: Path, checkpoint: str, device: torch.device, progress: Progress
) -> list[Looked]:
    """Maps and logits of every run over ``images``, out of ``directory/cams`` where they are there already.

    Each run's file is written as soon as it is made, so what is broken off goes on where it was.

    Args:
        runs: of one data set; see :func:`check_runs`.
        images: from :func:`evaluation_images`.
        directory: of the analysis.
        checkpoint: "last" or "best".
        device: to work on.
        progress: told the share of the runs that is done, 0..1.

    Raises:
        DataError: a checkpoint that cannot be read, or of another network than its settings say.
    """
    folder = directory / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    manifest, found = read_manifest(directory), []
    for number, run in enumerate(runs, 1):
        path = run.checkpoint(checkpoint)
        facts = {
            "checkpoint": _fingerprint(path, manifest),
            "images": {"sha256": images.digest, "number": len(images.place), "dataset": run.settings.dataset.name},
            "layer": _layer(run.settings.model),
            "precision": precision_of(run, device),
            "format": FORMAT,
        }
        key = _key(facts)
        gaze = _kept(folder / f"{key}.npz", manifest.get(key))
        if gaze is None:
            gaze = gaze_of_run(run, images, checkpoint, device)
            with atomic_path(folder / f"{key}.npz") as part, part.open("wb") as file:
                np.savez(file, cams=gaze.cams, logits=gaze.logits)
            digest = _digest(folder / f"{key}.npz")
            manifest[key] = {**facts, "run": run.name, "file": f"{key}.npz", "sha256": digest}
            write_json(folder / MANIFEST, manifest)
        found.append(gaze)
        progress(number / len(runs))
    return found


def gaze_of_run(run: Run, images: Images, checkpoint: str, device: torch.device) -> Looked:
    """Maps of the true classes and logits of the network in a checkpoint, in the precision that it was trained in.

    Raises:
        DataError: the checkpoint cannot be read or does not fit the images.
    """
    one = opened(run, checkpoint, device)
    one.check_classes(images.classes)
    return one.look(images.pixels, torch.from_numpy(images.target))


def read_manifest(directory: Path) -> dict[str, dict[str, Any]]:
    """What lies in ``directory/cams``, by key; nothing where the manifest is absent or damaged."""
    try:
        values = json.loads((directory / FOLDER / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _layer(model: ModelConfig) -> str:
    """Where the maps of a network are taken, in words."""
    if model.source == "gaze":
        return f"{model.label}: output of forward_features"
    return f"{model.label}: {model.layer or 'the last layer with a spatial map'}"


def _fingerprint(path: Path, manifest: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Size, time and SHA-256 of a checkpoint; the last is not worked out again while size and time stay."""
    stat = path.stat()
    stamp = {"path": str(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    for entry in manifest.values():
        known = entry.get("checkpoint", {})
        if stamp.items() <= known.items():
            return dict(known)
    return {**stamp, "sha256": _digest(path)}


def _key(facts: dict[str, Any]) -> str:
    """The same for the same content, wherever it lies."""
    own = {**facts, "checkpoint": facts["checkpoint"]["sha256"], "images": facts["images"]["sha256"]}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:16]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _kept(path: Path, entry: dict[str, Any] | None) -> Looked | None:
    """Maps that were made before; None where the file is absent or not as it was written."""
    if entry is None or not path.is_file() or _digest(path) != entry.get("sha256"):
        return None
    with np.load(path) as arrays:
        return Looked(arrays["cams"], arrays["logits"])
