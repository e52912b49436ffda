"""Settings of ``conf/train.yaml``, checked before any data is read or any GPU is touched.

Hydra composes plain YAML; :func:`check_config` turns it into pydantic models and names everything that is wrong with it
in one error. ``lambda`` is a Python keyword, so in Python it is ``cfg["lambda"]`` on the Hydra side and
``TrainConfig.lambda_`` on this one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, ValidationInfo, field_validator

from gaze.choices import DISTANCES, GUIDANCE, METHODS, MOVES, SOURCES, shown
from gaze.config.analysis import AnalyzeConfig
from gaze.config.augmentation import AugmentationConfig
from gaze.config.built import (
    AdamConfig,
    Built,
    OptimizerConfig,
    PlateauConfig,
    SchedulerConfig,
    class_problems,
    optimizer_problems,
)
from gaze.config.data import DatasetConfig
from gaze.config.model import ModelConfig
from gaze.config.settings import MOST, FolderName, Settings, one_of
from gaze.config.trainer import trainer_problems
from gaze.errors import ConfigError
from gaze.files import file_digest

REFERENCES = ("ema", "batch")  # classes have
VIEW = "view"  # of the same image
OF_A_START = {"resume", "rerun", "logger"}  # settings that are about one start, not about the run


class GazeConfig(Settings):
    """Group ``gaze``: the regulariser (thesis, Eq. 11-18)."""

    method: Annotated[str, one_of(METHODS)] = "grad_cam"  # which CAM
    distance: Annotated[str, one_of(DISTANCES)] = "squared"  # squared: Eq. 9; l2: as in the published runs
    reference: Annotated[str, one_of((*REFERENCES, VIEW))] = "ema"  # ema: Eq. 17
    ema_decay: float = Field(0.9, ge=0, lt=1)
    min_samples: int = Field(2, ge=1, le=MOST)  # correct images that a class needs in a batch
    second_order: bool = True  # differentiate alpha too; false as in the published runs
    start_epoch: int = Field(2, ge=0, le=MOST)  # T0 and T1 of Eq. 18; epochs count from 1
    end_epoch: int = Field(10, le=MOST)
    common_grid: int = Field(7, ge=2, le=1024)  # tiles a side of the grid on which networks with other maps compare
    mask_weight: float = Field(0.0, ge=0, le=MOST)  # weight of the loss that guides the gaze into the masks
    mask_form: Annotated[str, one_of(GUIDANCE)] = "energy"
    mask_start_epoch: int = Field(2, ge=0, le=MOST)  # its curriculum, as Eq. 18
    mask_end_epoch: int = Field(10, le=MOST)
    keep_maps: bool = True  # keep each evaluated image's map of each epoch, 8x8 at most, 8 bit

    @property
    def guided_by_readers(self) -> bool:
        """Whether a loss guides by what people looked at."""
        return self.mask_weight > 0 and self.mask_form == "attention"

    @field_validator("end_epoch", "mask_end_epoch")
    @classmethod
    def _after_start(cls, value: int, info: ValidationInfo) -> int:
        first = str(info.field_name).replace("end", "start")
        start = info.data.get(first, 0)
        if value < start:
            what = "lambda" if first == "start_epoch" else "gaze.mask_weight"
            raise ValueError(f"(T1) is before gaze.{first}={start} (T0): {what} grows from T0 to T1")
        return value


class LossConfig(Settings):
    """Group ``loss``: the cross entropy, in training and as ``val/loss``; the gaze loss does not read it."""

    class_weights: Literal["balanced"] | dict[str, float] | None = None  # balanced: n / (K n_c), of training images
    label_smoothing: float = Field(0.0, ge=0, lt=1)

    @field_validator("class_weights", mode="before")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        weights = list(value.values()) if isinstance(value, dict) else []
        numbers = all(isinstance(w, int | float) and not isinstance(w, bool) and 0 < w < math.inf for w in weights)
        if not (value in (None, "balanced") or (weights and numbers)):
            raise ValueError("must be null, balanced or a number above 0 by the class's name, {NAME: 2.5}")
        return value


class PicturesConfig(Settings):
    """Group ``pictures``: what the GradCAM callback draws."""

    every_n_epochs: int = Field(5, ge=0, le=MOST)  # and after the last epoch; 0 draws nothing
    images_per_class: int = Field(2, ge=1, le=MOST)  # overlays of the same evaluation images each time


class TrainConfig(Settings):
    """The whole of ``conf/train.yaml``."""

    study: FolderName = "default"
    seed: int = Field(0, ge=0, lt=2**32)
    dataset: DatasetConfig = DatasetConfig()
    model: ModelConfig = ModelConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    lambda_: float = Field(0.0, alias="lambda", ge=-MOST, le=MOST)
    gaze: GazeConfig = GazeConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = AdamConfig()
    scheduler: SchedulerConfig = PlateauConfig()
    pictures: PicturesConfig = PicturesConfig()
    dfr: bool = False  # after training, the last layer is retrained on the validation images, each group alike
    measure: bool = False  # evaluate model.checkpoint once, without training
    trainer: dict[str, Any] = {}
    callbacks: dict[str, Built] = {}
    logger: dict[str, Built] = {"tensorboard": Built(_target_="gaze.training.loggers.EpochTensorBoard")}
    resume: bool = True  # go on with an interrupted run from its last checkpoint
    rerun: bool = False  # train a finished run anew

    @field_validator("optimizer", "scheduler", mode="before")
    @classmethod
    def _by_target(cls, value: Any, info: ValidationInfo) -> Any:
        kind: type[Built] = OptimizerConfig if info.field_name == "optimizer" else SchedulerConfig
        try:
            return kind.of(value) if isinstance(value, Mapping) else value
        except ConfigError as error:
            raise ValueError("\n".join(f"{info.field_name}.{line}" for line in str(error).splitlines())) from None

    @field_validator("lambda_")
    @classmethod
    def _of_one_class(cls, value: float, info: ValidationInfo) -> float:
        augmentation = info.data.get("augmentation", AugmentationConfig())
        if value and augmentation.on("label"):
            raise ValueError(
                f"with augmentation={augmentation.name}: a mixed image has no one class whose gaze could be compared. "
                "Take lambda=0, or another augmentation"
            )
        return value

    @field_validator("gaze")
    @classmethod
    def _fits(cls, value: GazeConfig, info: ValidationInfo) -> GazeConfig:
        augmentation = info.data.get("augmentation", AugmentationConfig())
        dataset = info.data.get("dataset", DatasetConfig())
        if value.mask_weight and augmentation.on("label"):
            raise ValueError(
                f"gaze.mask_weight={value.mask_weight:g} with augmentation={augmentation.name}: a mixed image has no "
                "one class and no one mask. Take gaze.mask_weight=0, or another augmentation."
            )
        moved = [name for name in MOVES if name in augmentation.on("image")]
        if info.data.get("lambda_") and value.reference == VIEW and moved:
            raise ValueError(
                f"gaze.reference={VIEW} warps maps back through flips and crops, and not through "
                f"augmentation.{moved[0]}: leave it out, or take another reference."
            )
        if value.guided_by_readers and not dataset.has_readers:
            raise ValueError(
                f"gaze.mask_form=attention guides by what people looked at, and dataset={dataset.name} does not say: "
                "give dataset.fixations=FILE or dataset.attention_dir=PATH, or take another form."
            )
        if value.mask_weight and not (value.guided_by_readers or dataset.may_have_masks):
            raise ValueError(
                f"gaze.mask_weight={value.mask_weight:g} guides by masks, and dataset={dataset.name} has none: give "
                "dataset.mask_dir=PATH or dataset.guide_dir=PATH, or leave it out."
            )
        return value

    @field_validator("dfr")
    @classmethod
    def _held_out(cls, value: bool, info: ValidationInfo) -> bool:
        dataset = info.data.get("dataset")
        if value and dataset and (dataset.marker is None or (dataset.validation == "test" and not dataset.folds)):
            raise ValueError(
                "retrains the last layer on held-out images of each group: give dataset.marker={} and "
                "dataset.validation=0.3"
            )
        return value

    @field_validator("measure")
    @classmethod
    def _something_trained(cls, value: bool, info: ValidationInfo) -> bool:
        if value and "model" in info.data and info.data["model"].checkpoint is None:
            raise ValueError("evaluates a network that was trained elsewhere: give model.checkpoint=PATH")
        return value

    @field_validator("trainer")
    @classmethod
    def _once(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        return {**value, "max_epochs": 1} if info.data.get("measure") else value

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values with the user's own key names: what a checkpoint and a logger may hold.

        :data:`OF_A_START` is left out.
        """
        return self.model_dump(by_alias=True, serialize_as_any=True, exclude=OF_A_START)


def check_analysis(cfg: DictConfig) -> AnalyzeConfig:
    """Typed form of what Hydra composed from ``conf/analyze.yaml``.

    Raises:
        ConfigError: names every setting that is unknown, of the wrong type or out of its range.
    """
    return AnalyzeConfig(**plain(cfg))


def check_config(cfg: DictConfig, trainer: bool = True) -> TrainConfig:
    """Typed form of a composed config.

    Args:
        cfg: what Hydra composed from ``conf/train.yaml``.
        trainer: False leaves :func:`check_trainer` to the caller, which takes seconds for importing Lightning.

    Raises:
        ConfigError: names every setting that is unknown, of the wrong type or out of its range.
    """
    values, problems = plain(cfg), []
    try:
        config = TrainConfig(**values)
    except ConfigError as error:
        problems.append(str(error))
    else:
        problems += built_problems(config) if trainer else []
    if trainer and isinstance(values.get("trainer", {}), dict):
        problems += trainer_problems(values.get("trainer", {}))
    if problems:
        raise ConfigError("\n".join(problems))
    return _with_digest(config)


def _with_digest(config: TrainConfig) -> TrainConfig:
    """Settings that say which checkpoint, and which code, they mean, whatever stands at its path later."""
    found = {f"{key}_digest": _digest_of(config.model, key) for key in ("checkpoint", "path")}
    return config.model_copy(update={"model": config.model.model_copy(update=found)})


def _digest_of(model: ModelConfig, key: str) -> str | None:
    path, known = getattr(model, key), getattr(model, f"{key}_digest")
    if path is None:
        return known
    try:
        digest = file_digest(Path(path).expanduser())
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"model.{key}={shown(path, 200)} cannot be read: {why}.") from error
    if known not in (None, digest):
        raise ConfigError(
            f"model.{key}={shown(path, 200)} is another file than asked for: its digest is {digest}, "
            f"model.{key}_digest={known}."
        )
    return digest


def check_trainer(config: TrainConfig) -> None:
    """The arguments of Lightning's Trainer, and what a ``_target_`` names; the first call imports Lightning.

    Raises:
        ConfigError: names every one that is unknown, out of its range, or refused by its class.
    """
    problems = trainer_problems(config.trainer) or built_problems(config)
    if problems:
        raise ConfigError("\n".join(problems))


def built_problems(config: TrainConfig) -> list[str]:
    """A line for each ``_target_`` that cannot be built as it is given."""
    problems = optimizer_problems(config.optimizer, config.scheduler, config.trainer.get("max_epochs", 1))
    return problems + class_problems({"logger": config.logger, "callbacks": config.callbacks})


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Values of a composed config.

    Raises:
        ConfigError: an interpolation that leads nowhere, a value that is missing.
    """
    try:
        values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "config"
        node = getattr(error, "child_node", None)
        given = "" if node is None else f"={shown(node._value())}"
        raise ConfigError(f"{key}{given}: {str(error).splitlines()[0]}") from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def config_hash(config: TrainConfig) -> str:
    """Twelve hex digits, equal for equal runs; neither the order of keys nor the places of files count."""
    text = json.dumps(place_free(config.to_dict()), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def place_free(values: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run without those that only say where it runs and where its files lie.

    ``dataset.root`` stays for a folder of one's own: there it says which images. A published set is the same
    wherever its copy lies. A window is left out that follows from the images, an interpolation
    that does from the network.
    """
    dataset, trainer = dict(values["dataset"]), dict(values["trainer"])
    dataset.pop("cache", None)
    for name in ("window", "interpolation"):
        if dataset.get(name) in ("auto", None):
            dataset.pop(name, None)
    trainer.pop("accelerator", None)
    if "handle" in SOURCES[dataset["kind"]].needs:
        dataset.pop("root", None)
    model = {key: value for key, value in values["model"].items() if key not in ("checkpoint", "path")}  # digests say
    return {**values, "dataset": dataset, "model": model, "trainer": trainer}
