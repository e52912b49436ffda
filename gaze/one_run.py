"""One run folder opened, to look with its network at images: what ``check=RUN`` and ``explain=RUN`` share."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gaze.analysis_config import CompareConfig
from gaze.config import DataError
from gaze.data_config import DatasetConfig
from gaze.datamodule import Batch, GazeDataModule
from gaze.module import GazeModule
from gaze.runs import run_folders
from gaze.store import Run, check_runs, compute_device, load_module

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
