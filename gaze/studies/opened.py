"""One run folder opened, to look with its network at images: what ``check=RUN`` and ``explain=RUN`` share."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning import LightningModule
from numpy.typing import NDArray
from torch import Tensor

from gaze.backbones.library import map_size
from gaze.config.analysis import CompareConfig
from gaze.config.data import DatasetConfig
from gaze.config.model import ModelConfig
from gaze.data.datamodule import Batch, GazeDataModule
from gaze.errors import DataError
from gaze.metrics.compare import MIN_GRID
from gaze.runs.load import run_folders
from gaze.training.checkpoints import WholeCheckpoints
from gaze.training.module import GazeModule

UNREADABLE = (OSError, ValueError, RuntimeError, EOFError, LookupError, TypeError, zipfile.BadZipFile, UnpicklingError)
Say = Callable[[str], None]


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


def _checkpoint(run: Run, name: str) -> Path:
    return run.folder / "checkpoints" / f"{name}.ckpt"


IS_A_RUN = (
    "A run folder is what python train.py leaves: it holds config.json and checkpoints/, as "
    "outputs/STUDY/DATASET/MODEL/lambda=0/seed=0."
)
Progress = Callable[[float], None]


class Looked(NamedTuple):
    """Maps (N, H, W) float32 in 0..1, un-enlarged, of the classes asked for, and probabilities (N, K) float32."""

    cams: NDArray[np.float32]
    probabilities: NDArray[np.float32]


class OneRun(NamedTuple):
    """A run with its network, in evaluation mode on the device.

    Attributes:
        run: name, folder and settings.
        checkpoint: the file that the weights come from.
        module: of the run.
        dataset: settings of its images.
        device: where it works.
    """

    run: Run
    checkpoint: Path
    module: GazeModule
    dataset: DatasetConfig
    device: torch.device

    @property
    def classes(self) -> list[str]:
        return self.module.class_names

    def precision(self) -> AbstractContextManager[Any]:
        """The precision that the run was trained in; head and CAM stay in float32 anyway."""
        half = self.run.config["trainer"].get("precision") == "bf16-mixed"
        return torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext()

    def prepare(self, pixels: Tensor, target: Tensor) -> Batch:
        """Bytes (B, C, S, S) on the host as the network gets them: floats in -1..1 on the device."""
        batch = Batch(pixels.to(self.device), target.to(self.device), torch.arange(len(target)), None)
        return GazeDataModule(self.dataset).prepare(batch, training=False)

    def score(self, target: Tensor) -> Callable[[Tensor], Tensor]:
        """Images (B, C, S, S) -> probability of the classes ``target`` (B,)."""

        def probability(images: Tensor) -> Tensor:
            with torch.no_grad(), self.precision():
                logits = self.module(images)
            return logits.float().softmax(1).gather(1, target[:, None])[:, 0]

        return probability

    def look(self, pixels: Tensor, target: Tensor | None, progress: Progress = lambda share: None) -> Looked:
        """Maps and probabilities of many images, batch by batch.

        Args:
            pixels: (N, C, S, S) uint8.
            target: classes to explain (N,); None explains the predicted ones.
            progress: told the share that is done, 0..1.

        Raises:
            DataError: scores that are NaN or infinite.
        """
        cams, probabilities = [], []
        for places in batches(len(pixels), self.dataset.batch_size):
            batch = self.prepare(pixels[places], torch.zeros(len(places), dtype=torch.int64))
            with self.precision():
                with torch.no_grad():
                    wanted = self.module(batch.image).argmax(1) if target is None else target[places].to(self.device)
                found = self.module.gaze(batch.image, wanted)
            cams.append(found.cam.float().cpu())
            probabilities.append(found.logits.float().softmax(1).cpu())
            progress((int(places[-1]) + 1) / len(pixels))
        looked = Looked(torch.cat(cams).numpy(), torch.cat(probabilities).numpy())
        if not np.isfinite(looked.probabilities).all():
            raise DataError(f"{self.checkpoint} gives scores that are NaN or infinite: this training broke down.")
        return looked


def batches(number: int, size: int) -> list[Tensor]:
    """Places 0 .. number - 1 in rows of at most ``size``."""
    return list(torch.arange(number).split(size)) if number else []


def open_run(folder: Path, config: CompareConfig) -> OneRun:
    """Settings, checkpoint and network of a run folder; looks at everything that can be wrong before any image is read.

    Args:
        folder: of the run.
        config: of which checkpoint and device count.

    Raises:
        DataError: no run folder, no checkpoint, maps under 4x4, a checkpoint of another network than the run's
            settings say, no GPU where one is asked for.
    """
    folder = folder.expanduser()
    values = _settings(folder)
    run = Run(folder.name, folder, values)
    try:
        dataset = DatasetConfig(**values["dataset"])
        names = values["model"]["name"], values["trainer"], values["study"], values["seed"]
    except (KeyError, TypeError) as error:
        raise DataError(f"{folder / 'config.json'} is not of this version of the project: {error}.") from error
    device = compute_device(config.device)
    check_runs([run], config.checkpoint)
    checkpoint = folder / "checkpoints" / f"{config.checkpoint}.ckpt"
    module = load_module(checkpoint)
    of_checkpoint = (module.hparams["model"], module.hparams["image_size"], module.hparams["in_channels"])
    of_settings = (names[0], dataset.image_size, dataset.channels)
    if of_checkpoint != of_settings:
        there, said = (f"{m} on {s}x{s} images of {c} channel(s)" for m, s, c in (of_checkpoint, of_settings))
        raise DataError(
            f"{checkpoint} is of another network than its run: it holds {there}, config.json says {said}. Put the "
            "run's own checkpoint back, or train it anew (the same command with rerun=true)."
        )
    return OneRun(run, checkpoint, module.to(device).eval(), dataset, device)


def _settings(folder: Path) -> dict[str, Any]:
    """``config.json`` of a run."""
    if not folder.is_dir():
        kind = "is a file, no run folder" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {kind}. {IS_A_RUN}")
    path = folder / "config.json"
    if not path.is_file():
        inside = [str(run) for run in islice(run_folders(folder), 5)]
        hint = "\nRuns in it:\n  " + "\n  ".join(inside) if inside else ""
        raise DataError(f"{folder} is no run folder: config.json is missing. {IS_A_RUN}{hint}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}. {IS_A_RUN}") from error
    if not isinstance(values, dict):
        raise DataError(f"{path} holds no settings. {IS_A_RUN}")
    return values
