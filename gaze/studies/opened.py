"""Runs opened to look with their networks at images: what ``check=RUN``, ``explain=RUN`` and the augmentation study
share.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.plugins.precision import DoublePrecision, MixedPrecision, Precision
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gaze.backbones.library import map_size
from gaze.backbones.own import trust
from gaze.config.analysis import CompareConfig
from gaze.config.data import DatasetConfig
from gaze.config.model import model_label
from gaze.config.words import again
from gaze.data.cache import OFF
from gaze.data.datamodule import Batch, GazeDataModule
from gaze.data.datasets import balanced_choice
from gaze.data.decode import cause_of, decode_image
from gaze.data.sources.kaggle import downloaded
from gaze.errors import DataError
from gaze.metrics.compare import MIN_GRID
from gaze.runs.folder import changed_images
from gaze.runs.run import LAST, Run, methods, run_in
from gaze.training.checkpoints import DAMAGED, load_whole
from gaze.training.module import GazeModule

Say = Callable[[str], None]
Progress = Callable[[float], None]


# ---- images


class Images(NamedTuple):
    """Evaluation images that all runs are compared on: a data module, their places (N,) in its evaluation split,
    classes (N,), names of the classes, and the digest of it all."""

    data: GazeDataModule
    place: NDArray[np.int64]
    target: NDArray[np.int64]
    classes: tuple[str, ...]
    digest: str

    @property
    def pixels(self) -> Tensor:
        """(N, C, S, S) uint8."""
        images = self.data.data.evaluated.images
        return images if len(self.place) == len(images) else images[torch.from_numpy(self.place)]


def evaluation_images(dataset: DatasetConfig, most: int | None, say: Say) -> Images:
    """The evaluation split of a data set, or as even a choice of its classes as there is.

    Args:
        dataset: settings ``dataset`` of a run.
        most: images at most; None takes all. The choice is random and always the same.
        say: told what takes long.

    Raises:
        DataError: the images cannot be found or read.
    """
    data = images_at_hand(dataset, say)
    target = data.data.evaluated.targets.numpy()
    place = balanced_choice(target, len(target) if most is None else most)
    digest = hashlib.sha256(json.dumps([list(data.classes), dataset.image_size]).encode())
    digest.update(place.tobytes() + target[place].tobytes())
    for i in place:
        digest.update(data.data.evaluated.images[i].numpy().tobytes())
    return Images(data, place, target[place], data.classes, digest.hexdigest())


def images_at_hand(dataset: DatasetConfig, say: Say) -> GazeDataModule:
    """A data set, loaded with its own masks and without what readers looked at: no study needs what guided a training,
    which may lie elsewhere by now. Settings may be a stranger's: they are decoded into this user's own cache, or none,
    and nothing is downloaded.

    Raises:
        DataError: the images cannot be found or read.
    """
    if dataset.root is None and dataset.handle is not None and downloaded(dataset.handle) is None:
        raise DataError(
            f"The images, {dataset.handle} of Kaggle, are not on this machine, and an analysis downloads nothing. If "
            f"you trust that name: python -c 'import kagglehub; kagglehub.dataset_download(\"{dataset.handle}\")'"
        )
    cache = dataset.cache if (dataset.cache or "off").lower() in OFF else "auto"
    changes = {"cache": cache, "fixations": None, "attention_dir": None, "guide_dir": None}
    data = GazeDataModule(dataset.model_copy(update=changes), progress=say)
    data.setup("test")
    return data


def check_images(runs: Sequence[Run]) -> None:
    """Raise DataError where the images at hand are not those that a run was trained with."""
    seen: dict[str, Any] = {}
    for run in runs:
        changes = changed_images(run, seen)
        if changes:
            raise DataError(
                f"{run.folder} was trained with other images than those in {run.dataset.root or run.dataset.handle}: "
                f"{'; '.join(changes)}. Put them back."
            )


def batches(number: int, size: int) -> list[Tensor]:
    """Places 0 .. number - 1 in rows of at most ``size``."""
    return list(torch.arange(number).split(size)) if number else []


# ---- runs


def check_runs(runs: Sequence[Run], checkpoint: str, trusted: bool = False) -> None:
    """What would stop any look at the networks of runs, before it begins.

    Args:
        runs: to look at.
        checkpoint: which of theirs.
        trusted: whether a user said that the code which they name may be imported.

    Raises:
        DataError: names every run without its checkpoint, or whose network is code that nobody trusts.
    """
    missing = [str(path) for path in (run.checkpoint(checkpoint) for run in runs) if not path.is_file()]
    if missing:
        shown = "\n".join(f"  {path}" for path in missing[:5])
        more = f"\n  and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise DataError(
            f"{len(missing)} of {len(runs)} runs have no checkpoint to take the maps from:\n{shown}{more}\n"
            "Train them anew (the same command with rerun=true), or move these run folders away."
        )
    foreign = {run.settings.model: run for run in runs if run.settings.model.source == "own"}
    for model, run in foreign.items():
        if not trusted:
            named = f"{model.target}{'' if model.path is None else f' in {model.path}'}"
            raise DataError(
                f"{run.folder} has a network of its author's own, {named}, and looking with it runs that code. If you "
                f"trust it: {again('trust=true') or 'gaze.load_run(RUN, trust=True)'}"
            )
        trust(model)


def check_maps(runs: Sequence[Run]) -> None:
    """What would stop the comparison of pairs of maps, before any of it begins.

    Raises:
        DataError: names a run with a map under 4x4 cells.
    """
    for run in runs:
        height, width = _map_size(run)
        if min(height, width) < MIN_GRID:
            raise DataError(
                f"{run.label} at dataset.image_size={run.settings.dataset.image_size} has maps of {height}x{width} "
                "cells: too coarse to compare where networks look, which an augmentation study does. "
                f"{MIN_GRID}x{MIN_GRID} is the least; take larger images (dataset.image_size)"
                f"{'' if run.settings.model.source == 'gaze' else ' or an earlier layer (model.layer)'}."
            )


def _map_size(run: Run) -> tuple[int, int]:
    dataset = run.settings.dataset
    if run.given is not None:  # the user's own command
        trust(run.settings.model)
    return map_size(run.settings.model, dataset.image_size, dataset.channels)


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
        checkpoint = load_whole(path)
        # It has weights of its own: whatever it says of others, nothing is downloaded.
        module = GazeModule(
            **{**checkpoint[LightningModule.CHECKPOINT_HYPER_PARAMS_KEY], "weights": None, "trust": False}
        )
        module.load_state_dict(checkpoint["state_dict"])
    except (*DAMAGED, UnpicklingError) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{path} cannot be read as a checkpoint of this project: {first.rstrip('.')}. Put the run's own file back, "
            "take its other one (checkpoint=best or last), or train it anew (the same command with rerun=true)."
        ) from error
    return module


def precision_of(run: Run, device: torch.device) -> str:
    """The precision that a run was trained in, or the nearest one that ``device`` allows."""
    if run.precision == "16-mixed" and device.type == "cpu":
        return "bf16-mixed"  # as Lightning trains there
    if run.precision == "bf16-mixed" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return "32-true"
    return run.precision


def how_looked(runs: Sequence[Run], device: torch.device) -> list[str]:
    """With which CAM runs are looked at, which maps are coarse, and where not in their own precision."""
    coarse = sorted({size for size in map(_map_size, runs) if min(size) < MIN_GRID})
    pairs = {(run.precision, precision_of(run, device)) for run in runs}
    lines = [f"The gaze is a map of {methods(runs)}."] + [
        f"A map has {height}x{width} cells: it tells roughly where the network looks, and the rank correlation of two "
        "such maps says little."
        for height, width in coarse
    ]
    return lines + [
        f"Trained with trainer.precision={own}, which {device.type} does not allow: looked at in {used}."
        for own, used in sorted(pairs)
        if own != used
    ]


class Looked(NamedTuple):
    """Maps (N, H, W) float32 in 0..1, un-enlarged, of the classes asked for, and logits (N, K) float32."""

    cams: NDArray[np.float32]
    logits: NDArray[np.float32]

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """(N, K)."""
        found: NDArray[np.float32] = torch.from_numpy(self.logits).softmax(1).numpy()
        return found


class Prediction(NamedTuple):
    """Of one image: the class that the network takes it for, the probability of each by its name, and the map (H', W')
    in [0, 1] of that class, un-enlarged."""

    label: str
    probabilities: dict[str, float]
    map: NDArray[np.float32]


class Opened(NamedTuple):
    """A run with its network, in evaluation mode on the device.

    Attributes:
        run: name, folder and settings.
        checkpoint: the file that the weights come from.
        module: of the run.
        device: where it works.
        plugin: Lightning's own, of the precision that the run was trained in (see :func:`precision_of`).
    """

    run: Run
    checkpoint: Path
    module: GazeModule
    device: torch.device
    plugin: Precision

    @property
    def classes(self) -> list[str]:
        return self.module.class_names

    @property
    def title(self) -> str:
        """The run in a headline, and its checkpoint where it is not the last one."""
        return self.run.title + ("" if self.checkpoint.stem == LAST else f", {self.checkpoint.stem} checkpoint")

    @property
    def dataset(self) -> DatasetConfig:
        return self.run.dataset

    def precision(self) -> AbstractContextManager[Any]:
        """As in the run's own evaluation; head and CAM stay in float32 at least."""
        return self.plugin.forward_context()

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raise DataError where images are of other classes than the network's."""
        if list(classes) != self.classes:
            raise DataError(
                f"{self.checkpoint} was trained on the classes {', '.join(self.classes)}; the images are of "
                f"{', '.join(classes)}. Name the data set that it was trained on."
            )

    def prepare(self, pixels: Tensor, target: Tensor) -> Batch:
        """Bytes (B, C, S, S) on the host as the network gets them: floats in -1..1 on the device."""
        batch = Batch(pixels.to(self.device), target.to(self.device), torch.arange(len(target)), None)
        return GazeDataModule(self.dataset).prepare(batch, training=False)

    def predict(self, images: Any) -> Any:
        """What the network says of an image, and where it looks: ``label, probabilities, map = run.predict("a.png")``.

        Converted and resized as the run's own images were (``dataset.window`` and all).

        Args:
            images: an image, or a list of them: a file, one of Pillow's, or pixels (H, W), (H, W, 3) or (C, H, W), as
                whole numbers of 8 or 16 bits or floating in 0..1. Pixels (B, C, H, W) are a list.

        Returns:
            A :class:`Prediction`, or a list of them.

        Raises:
            DataError: what cannot be read as an image, with the reason.
        """
        several = isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4
        pixels = [_pixels(image, self.dataset) for image in (images if several else [images])]
        if not pixels:
            return []
        looked = self.look(torch.stack(pixels), None)
        found = [
            Prediction(self.classes[int(p.argmax())], dict(zip(self.classes, map(float, p), strict=True)), cam)
            for p, cam in zip(looked.probabilities, looked.cams, strict=True)
        ]
        return found if several else found[0]

    def score(self, target: Tensor) -> Callable[[Tensor], Tensor]:
        """Images (B, C, S, S) -> probability of the classes ``target`` (B,)."""

        def probability(images: Tensor) -> Tensor:
            with torch.no_grad(), self.precision():
                logits = self.module(images)
            return logits.float().softmax(1).gather(1, target[:, None])[:, 0]

        return probability

    def look(self, pixels: Tensor, target: Tensor | None, progress: Progress = lambda share: None) -> Looked:
        """Maps and logits of many images, batch by batch.

        Args:
            pixels: (N, C, S, S) uint8.
            target: classes to explain (N,); None explains the predicted ones.
            progress: told the share that is done, 0..1.

        Raises:
            DataError: scores that are NaN or infinite.
        """
        cams, logits = [], []
        for places in batches(len(pixels), self.dataset.batch_size):
            batch = self.prepare(pixels[places], torch.zeros(len(places), dtype=torch.int64))
            with self.precision():
                found = self.module.look(batch.image, None if target is None else target[places].to(self.device))
            cams.append(found.cam.float().cpu())
            logits.append(found.logits.float().cpu())
            progress((int(places[-1]) + 1) / len(pixels))
        looked = Looked(torch.cat(cams).numpy(), torch.cat(logits).numpy())
        if not np.isfinite(looked.logits).all():
            raise DataError(f"{self.checkpoint} gives scores that are NaN or infinite: this training broke down.")
        return looked


def _pixels(image: Any, dataset: DatasetConfig) -> Tensor:
    """Bytes (C, S, S) of an image in any form that :meth:`Opened.predict` takes."""
    channels, size, name = dataset.channels, dataset.image_size, type(image).__name__
    window = None if dataset.window == "auto" else dataset.window  # it never met an image that needs one
    try:
        if isinstance(image, str | Path):
            name = str(image)
            how = bool(dataset.orient), dataset.resampling
            found = decode_image(Path(image).expanduser(), channels, size, window, *how)
            return torch.from_numpy(found.pixels.copy())
        own = image if isinstance(image, Image.Image) else Image.fromarray(_values(image))
        with TemporaryDirectory() as folder:  # one way of reading for all
            file = Path(folder, "image.png")
            own.save(file, exif=own.getexif())
            return _pixels(file, dataset)
    except DataError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error and more
        raise DataError(f"{name} cannot be read as an image: {cause_of(error)}.") from error


def _values(pixels: Any) -> NDArray[Any]:
    """Pixels as Pillow takes them: (H, W) or (H, W, 3), of 8 or 16 bits."""
    values = np.asarray(pixels.detach().cpu() if isinstance(pixels, Tensor) else pixels)
    if values.ndim == 3 and values.shape[0] in (1, 3) and values.shape[2] != 3:
        values = values.transpose(1, 2, 0)
    values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] != 3):
        raise ValueError(f"pixels are (H, W), (H, W, 3) or (C, H, W), not {values.shape}")
    if np.issubdtype(values.dtype, np.floating):
        if not (values.size and values.min() >= 0 and values.max() <= 1):
            raise ValueError("floating pixels must be in 0..1")
        values = np.rint(values * 255).astype(np.uint8)
    if values.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"pixels must be uint8, uint16 or floating, not {values.dtype}")
    return np.ascontiguousarray(values)


def load_run(
    folder: str | Path,
    checkpoint: Literal["last", "best"] = "last",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    trust: bool = False,
) -> Opened:
    """A run's network, ready to look at images: ``gaze.load_run(folder).predict("image.png")``.

    Nothing that stands in the folder is executed, and its images are not needed.

    Args:
        folder: of the run.
        checkpoint: last, or best (highest kappa).
        device: auto, cpu or cuda.
        trust: whether the class of a network of its author's own may be imported, which runs its code.

    Raises:
        DataError: as :func:`open_run`.
    """
    return open_run(Path(folder), CompareConfig(checkpoint=checkpoint, device=device), trust)


def open_run(folder: Path, config: CompareConfig, trusted: bool = False) -> Opened:
    """A run folder that somebody named; looks at everything that can be wrong before any image is read.

    Args:
        folder: of the run.
        config: of which checkpoint and device count.
        trusted: as of :func:`check_runs`.

    Raises:
        DataError: no run folder, no checkpoint, a checkpoint of another network than the run's settings say, no GPU
            where one is asked for.
    """
    run = run_in(folder)
    device = compute_device(config.device)
    check_runs([run], config.checkpoint, trusted)
    return opened(run, config.checkpoint, device)


def opened(run: Run, checkpoint: str, device: torch.device) -> Opened:
    """A run with the network of one of its checkpoints.

    Raises:
        DataError: the checkpoint cannot be read, or is of another network than the run's settings say.
    """
    path, dataset = run.checkpoint(checkpoint), run.settings.dataset
    module = load_module(path)
    own = module.hparams
    label = model_label({"name": own["model"], "source": own["source"]})
    of_checkpoint = (label, own["image_size"], own["in_channels"])
    of_settings = (run.label, dataset.image_size, dataset.channels)
    if of_checkpoint != of_settings:
        there, said = (f"{m} on {s}x{s} images of {c} channel(s)" for m, s, c in (of_checkpoint, of_settings))
        raise DataError(
            f"{path} is of another network than its run: it holds {there}, config.json says {said}. Put the "
            "run's own checkpoint back, or train it anew (the same command with rerun=true)."
        )
    name = precision_of(run, device)
    plain = {"64-true": DoublePrecision, "32-true": Precision}
    plugin = plain[name]() if name in plain else MixedPrecision(name, device.type)  # type: ignore[arg-type]
    plugin.convert_module(module)
    return Opened(run, path, module.to(device).eval(), device, plugin)
