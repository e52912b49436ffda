"""CAMs of trained runs over the same evaluation images, worked out once and kept beside the analysis.

``cams/manifest.json`` says for each file which checkpoint (SHA-256), which images (SHA-256 of their pixels and classes)
and which layer it was made from. A file serves again as long as all of that stays the same; otherwise it is made anew.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning import LightningModule
from numpy.typing import NDArray

from gaze.adapters import map_size
from gaze.checkpoints import WholeCheckpoints
from gaze.compare import MIN_GRID
from gaze.config import DataError, ModelConfig
from gaze.data_config import DatasetConfig
from gaze.datamodule import GazeDataModule
from gaze.module import GazeModule
from gaze.status import atomic_path, write_json

FOLDER, MANIFEST = "cams", "manifest.json"
UNREADABLE = (OSError, ValueError, RuntimeError, EOFError, LookupError, TypeError, zipfile.BadZipFile, UnpicklingError)
FORMAT = 1  # raised when the meaning of the files changes
Say = Callable[[str], None]
Progress = Callable[[float], None]


class Run(NamedTuple):
    """A run to look at: its name, its folder, its settings (config.json)."""

    name: str
    folder: Path
    config: dict[str, Any]


class Images(NamedTuple):
    """Evaluation images that all runs are compared on: a data module, their places (N,) in its evaluation split,
    classes (N,), names of the classes, and the digest of it all."""

    data: GazeDataModule
    place: NDArray[np.int64]
    target: NDArray[np.int64]
    classes: tuple[str, ...]
    digest: str


class Gaze(NamedTuple):
    """Maps of the true class (N, H, W) float32 in 0..1, un-enlarged; logits (N, K) float32."""

    cams: NDArray[np.float32]
    logits: NDArray[np.float32]


def evaluation_images(dataset: dict[str, Any], most: int | None, say: Say) -> Images:
    """The evaluation split of a data set, or as even a choice of its classes as there is.

    Args:
        dataset: settings ``dataset`` of a run.
        most: images at most; None takes all. The choice is random and always the same.
        say: told what takes long.

    Raises:
        DataError: the images cannot be found or read.
    """
    data = GazeDataModule(DatasetConfig(**dataset), progress=say)
    target = data.data.test.targets.numpy()
    place = balanced_choice(target, len(target) if most is None else most)
    digest = hashlib.sha256(json.dumps([list(data.classes), dataset["image_size"]]).encode())
    digest.update(place.tobytes() + target[place].tobytes())
    for i in place:
        digest.update(data.data.test.images[i].numpy().tobytes())
    return Images(data, place, target[place], data.classes, digest.hexdigest())


def balanced_choice(target: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Places of ``most`` images (all, if there are no more), in order, with as many of each class as there are."""
    if most >= len(target):
        return np.arange(len(target))
    order = np.random.default_rng(0).permutation(len(target))
    turn = np.empty(len(target), dtype=np.int64)  # the how-many-th of its class each image is
    for label in np.unique(target):
        own = order[target[order] == label]
        turn[own] = np.arange(len(own))
    first = np.lexsort((np.argsort(order), turn))  # all classes' first images, then all second ones
    return np.sort(first[:most])


def check_runs(runs: Sequence[Run], checkpoint: str) -> None:
    """What would stop the comparison, before any of it begins.

    Raises:
        DataError: names every run without its checkpoint, and a map under 4x4 cells.
    """
    missing = [str(path) for path in (_checkpoint(run, checkpoint) for run in runs) if not path.is_file()]
    if missing:
        shown = "\n".join(f"  {path}" for path in missing[:5])
        more = f"\n  and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise DataError(
            f"{len(missing)} of {len(runs)} runs have no checkpoint to take the maps from:\n{shown}{more}\n"
            "Train them anew (the same command with rerun=true), or move these run folders away."
        )
    for config in (run.config for run in runs):
        size = config["dataset"]["image_size"]
        model = ModelConfig(**config["model"])
        height, width = map_size(model, size, config["dataset"]["channels"])
        if min(height, width) < MIN_GRID:
            raise DataError(
                f"{model.label} at dataset.image_size={size} has maps of {height}x{width} cells: too "
                f"coarse to compare where networks look. {MIN_GRID}x{MIN_GRID} is the least; train with larger images."
            )


def gaze_of_runs(
    runs: Sequence[Run], images: Images, directory: Path, checkpoint: str, device: torch.device, progress: Progress
) -> list[Gaze]:
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
        path = _checkpoint(run, checkpoint)
        facts = {
            "checkpoint": _fingerprint(path, manifest),
            "images": {"sha256": images.digest, "number": len(images.place), "dataset": run.config["dataset"]["name"]},
            "layer": _layer(ModelConfig(**run.config["model"])),
            "precision": str(run.config["trainer"].get("precision", "32-true")),
            "format": FORMAT,
        }
        key = _key(facts)
        gaze = _kept(folder / f"{key}.npz", manifest.get(key))
        if gaze is None:
            gaze = gaze_of_run(path, images, run.config, device)
            digest = _write(gaze, folder / f"{key}.npz")
            manifest[key] = {**facts, "run": run.name, "file": f"{key}.npz", "sha256": digest}
            write_json(folder / MANIFEST, manifest)
        found.append(gaze)
        progress(number / len(runs))
    return found


def gaze_of_run(path: Path, images: Images, config: dict[str, Any], device: torch.device) -> Gaze:
    """Maps of the true classes and logits of the network in a checkpoint, in the precision that it was trained in.

    Raises:
        DataError: the checkpoint cannot be read or does not fit the images.
    """
    module = load_module(path).to(device).eval()
    if module.class_names != list(images.classes):
        raise DataError(
            f"{path} was trained on the classes {', '.join(module.class_names)}; the images are of "
            f"{', '.join(images.classes)}. Name the data set that it was trained on."
        )
    half = torch.autocast(device.type, torch.bfloat16) if config["trainer"].get("precision") == "bf16-mixed" else None
    cams, logits = [], []
    with half or nullcontext():
        for places in np.array_split(images.place, -(-len(images.place) // config["dataset"]["batch_size"])):
            batch = images.data.evaluation_batch(places.tolist())
            found = module.gaze(batch.image.to(device), batch.target.to(device))
            cams.append(found.cam.float().cpu())
            logits.append(found.logits.float().cpu())
    gaze = Gaze(torch.cat(cams).numpy(), torch.cat(logits).numpy())
    if not np.isfinite(gaze.logits).all():
        raise DataError(f"{path} gives scores that are NaN or infinite: this training broke down. Leave the run out.")
    return gaze


def compute_device(name: str) -> torch.device:
    """The device of ``compare.device``: auto takes a GPU where there is one.

    Raises:
        DataError: a GPU is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise DataError("compare.device=cuda: PyTorch finds no GPU here. Take compare.device=cpu or auto.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def load_module(path: Path) -> GazeModule:
    """The module of a checkpoint of this project, on the CPU.

    Raises:
        DataError: the file is damaged, absent, or not of this project.
    """
    try:
        checkpoint = WholeCheckpoints().load_checkpoint(path)
        module = GazeModule(**checkpoint[LightningModule.CHECKPOINT_HYPER_PARAMS_KEY])
        module.load_state_dict(checkpoint["state_dict"])
    except UNREADABLE as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{path} cannot be read as a checkpoint of this project: {first}") from error
    return module


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


def _checkpoint(run: Run, name: str) -> Path:
    return run.folder / "checkpoints" / f"{name}.ckpt"


def _fingerprint(path: Path, manifest: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Size, time and SHA-256 of a checkpoint; the last is not worked out again while size and time stay."""
    stat = path.stat()
    stamp = {"path": str(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    for entry in manifest.values():
        known = entry.get("checkpoint", {})
        if stamp.items() <= known.items():
            return dict(known)
    with path.open("rb") as file:
        return {**stamp, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _key(facts: dict[str, Any]) -> str:
    """The same for the same content, wherever it lies."""
    own = {**facts, "checkpoint": facts["checkpoint"]["sha256"], "images": facts["images"]["sha256"]}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:16]


def _write(gaze: Gaze, path: Path) -> str:
    """Write a file of maps; returns its digest."""
    with atomic_path(path) as part, part.open("wb") as file:
        np.savez(file, cams=gaze.cams, logits=gaze.logits)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _kept(path: Path, entry: dict[str, Any] | None) -> Gaze | None:
    """Maps that were made before; None where the file is absent or not as it was written."""
    if entry is None or not path.is_file():
        return None
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != entry.get("sha256"):
            return None
    with np.load(path) as arrays:
        return Gaze(arrays["cams"], arrays["logits"])
