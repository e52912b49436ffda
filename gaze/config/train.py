"""Typed schema of ``conf/``, checked before any data is read or any GPU is touched.

Hydra composes plain YAML; :func:`check_config` turns it into dataclasses and names everything that is
wrong with it in one error. ``lambda`` is a Python keyword, so in Python it is ``cfg["lambda"]`` on the
Hydra side and ``TrainConfig.lambda_`` on this one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from gaze.choices import DISTANCES, METHODS, SOURCES, did_you_mean, unknown
from gaze.config.analysis import AnalyzeConfig, analysis_problems
from gaze.config.augmentation import AugmentationConfig
from gaze.config.data import DatasetConfig, dataset_problems, is_folder_name
from gaze.config.model import ModelConfig, model_problems
from gaze.errors import ConfigError

REFERENCES = ("ema", "batch")
PRECISIONS = ("32-true", "64-true", "bf16-mixed", "16-mixed")
WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    str | None: "text or null",
    int | None: "a whole number or null",
    list[float]: "a list of numbers, such as [0.9, 1.0]",
    list[str]: "a list of words, such as [failed]",
    list[str] | None: "a list of words, or null",
    dict[str, int] | None: "whole numbers by class name, or null",
}


@dataclass
class GazeConfig:
    """Group ``gaze``: the regulariser (thesis, Eq. 11-18)."""

    method: str = "grad_cam"  # of gaze.choices.METHODS
    distance: str = "squared"  # of gaze.choices.DISTANCES
    reference: str = "ema"  # ema (Eq. 17) | batch
    ema_decay: float = 0.9
    min_samples: int = 2  # correct images that a class needs in a batch
    second_order: bool = True  # differentiate alpha too; false as in the published runs
    start_epoch: int = 2  # T0 and T1 of Eq. 18; epochs count from 1
    end_epoch: int = 10
    common_grid: int = 7  # tiles a side of the grid on which networks with other map sizes are compared


@dataclass
class OptimizerConfig:
    """Adam and ReduceLROnPlateau on val/loss, as published."""

    lr: float = 1e-4
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    weight_decay: float = 0.0
    plateau_factor: float = 0.1
    plateau_patience: int = 5


@dataclass
class PicturesConfig:
    """What the GradCAM callback draws."""

    every_n_epochs: int = 1  # 0 draws nothing
    images_per_class: int = 2  # overlays of the same evaluation images each time


@dataclass
class TrainConfig:
    """The whole of ``conf/train.yaml``."""

    study: str = "default"
    seed: int = 0
    lambda_: float = 0.0
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    augmentation: Any = field(default_factory=AugmentationConfig)
    gaze: GazeConfig = field(default_factory=GazeConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    pictures: PicturesConfig = field(default_factory=PicturesConfig)
    trainer: dict[str, Any] = field(default_factory=dict)
    resume: bool = True  # go on with an interrupted run from its last checkpoint
    rerun: bool = False  # train a finished run anew

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values with the user's own key names: what a checkpoint and a logger may hold.

        ``resume`` and ``rerun`` are about one start, not about the run, and are left out.
        """
        values = {**asdict(self), "augmentation": self.augmentation.model_dump()}
        del values["resume"], values["rerun"]
        values["lambda"] = values.pop("lambda_")
        return values


def check_analysis(cfg: DictConfig) -> AnalyzeConfig:
    """Typed form of what Hydra composed from ``conf/analyze.yaml``.

    Raises:
        ConfigError: names every setting that is unknown, of the wrong type or out of its range.
    """
    values = _plain(cfg)
    if isinstance(values.get("include"), str):  # include=failed, as a person would write it
        values["include"] = [values["include"]]
    schema = OmegaConf.structured(AnalyzeConfig)
    problems = _fill(schema, values)
    config = OmegaConf.to_object(schema)
    assert isinstance(config, AnalyzeConfig)
    problems += analysis_problems(config)
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def check_config(cfg: DictConfig, trainer: bool = True) -> TrainConfig:
    """Typed form of a composed config.

    Args:
        cfg: what Hydra composed from ``conf/train.yaml``.
        trainer: False leaves :func:`check_trainer` to the caller, which takes seconds for importing Lightning.

    Raises:
        ConfigError: names every setting that is unknown, of the wrong type or out of its range.
    """
    values = _plain(cfg)
    weight, augmentation = values.pop("lambda", 0.0), values.pop("augmentation", {})
    schema = OmegaConf.structured(TrainConfig, flags={"allow_objects": True})
    problems = [*_lambda_problems(weight), *_fill(schema, values)]
    schema.lambda_ = 0.0 if problems else weight
    config = OmegaConf.to_object(schema)
    assert isinstance(config, TrainConfig)
    try:
        config.augmentation = AugmentationConfig(**augmentation)
    except ValidationError as error:
        problems += [str(e["ctx"]["error"]) if "ctx" in e else f"augmentation.name: {e['msg']}" for e in error.errors()]
    problems += [*_range_problems(config), *_mixing_problems(config)]
    problems += [*dataset_problems(config.dataset), *model_problems(config.model)]
    if trainer:
        problems += _trainer_problems(config.trainer)
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def check_trainer(config: TrainConfig) -> None:
    """The arguments of Lightning's Trainer; the first call imports Lightning.

    Raises:
        ConfigError: names every one that is unknown or out of its range.
    """
    problems = _trainer_problems(config.trainer)
    if problems:
        raise ConfigError("\n".join(problems))


def _plain(cfg: DictConfig) -> dict[Any, Any]:
    try:
        values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{getattr(error, 'full_key', None) or 'config'}: {str(error).splitlines()[0]}") from error
    assert isinstance(values, dict)
    return values


def config_hash(config: TrainConfig) -> str:
    """Twelve hex digits, equal for equal runs; neither the order of keys nor the places of files count."""
    text = json.dumps(place_free(config.to_dict()), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def place_free(values: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run without those that only say where it runs and where its files lie.

    ``dataset.root`` stays for a folder of one's own: there it says which images. A published set is the same
    wherever its copy lies.
    """
    dataset, trainer = dict(values["dataset"]), dict(values["trainer"])
    dataset.pop("cache", None)
    trainer.pop("accelerator", None)
    if SOURCES[dataset["kind"]].needs != ("root",):
        dataset.pop("root", None)
    return {**values, "dataset": dataset, "trainer": trainer}


def _lambda_problems(value: Any) -> list[str]:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return []
    return [f"lambda={value} is not a finite number. Write for example lambda=50, 0 or -100."]


def _fill(schema: DictConfig, values: dict[Any, Any], path: str = "") -> list[str]:
    """Put values into the typed schema one by one, so that every problem is found; those are returned."""
    known = ["lambda" if key == "lambda_" else str(key) for key in schema]
    problems = []
    for key, value in values.items():
        name = f"{path}{key}"
        if key not in known:
            problems.append(f"{name}={value}: there is no such setting. {_near(str(key), known)}")
        elif isinstance(value, dict) and dataclasses.is_dataclass(OmegaConf.get_type(schema, key)):
            problems += _fill(schema[key], value, f"{name}.")
        else:
            try:
                schema[key] = value
            except OmegaConfBaseException:
                wanted = get_type_hints(OmegaConf.get_type(schema))[key]
                shown = "null" if value is None else value
                problems.append(f"{name}={shown} must be {WORDS.get(wanted, 'a group of settings')}.")
    return problems


def _near(name: str, known: list[str]) -> str:
    return did_you_mean(name, known).rstrip() or f"Known: {', '.join(sorted(known))}."


def _range_problems(c: TrainConfig) -> list[str]:
    g, o = c.gaze, c.optimizer
    rules = [
        (0 <= c.seed < 2**32, f"seed={c.seed} must be in 0 .. 2^32 - 1."),
        (
            is_folder_name(c.study),
            f"study={c.study} names a folder: give one name without a slash.",
        ),
        (g.method in METHODS, unknown("gaze.method", g.method, METHODS)),
        (g.distance in DISTANCES, unknown("gaze.distance", g.distance, DISTANCES)),
        (g.reference in REFERENCES, f"gaze.reference={g.reference} is unknown: {' or '.join(REFERENCES)}."),
        (0 <= g.ema_decay < 1, f"gaze.ema_decay={g.ema_decay} must be in [0, 1)."),
        (g.min_samples >= 1, f"gaze.min_samples={g.min_samples} must be 1 or more."),
        (g.common_grid >= 2, f"gaze.common_grid={g.common_grid} must be 2 or more tiles a side."),
        (g.start_epoch >= 0, f"gaze.start_epoch={g.start_epoch} must be 0 or more (epochs count from 1)."),
        (
            g.end_epoch >= g.start_epoch,
            f"gaze.end_epoch={g.end_epoch} (T1) is before gaze.start_epoch={g.start_epoch} (T0): "
            "lambda grows from T0 to T1, so T1 must not be smaller.",
        ),
        (0 < o.lr < math.inf, f"optimizer.lr={o.lr} must be a finite number above 0."),
        (
            len(o.betas) == 2 and all(0 <= b < 1 for b in o.betas),
            f"optimizer.betas={o.betas} must be two numbers in [0, 1).",
        ),
        (0 < o.eps < math.inf, f"optimizer.eps={o.eps} must be a finite number above 0."),
        (
            0 <= o.weight_decay < math.inf,
            f"optimizer.weight_decay={o.weight_decay} must be a finite number, 0 or more.",
        ),
        (0 < o.plateau_factor < 1, f"optimizer.plateau_factor={o.plateau_factor} must be between 0 and 1."),
        (o.plateau_patience >= 0, f"optimizer.plateau_patience={o.plateau_patience} must be 0 or more."),
        (
            c.pictures.every_n_epochs >= 0,
            f"pictures.every_n_epochs={c.pictures.every_n_epochs} must be 0 (none) or more.",
        ),
        (
            c.pictures.images_per_class >= 1,
            f"pictures.images_per_class={c.pictures.images_per_class} must be 1 or more.",
        ),
    ]
    return [message for ok, message in rules if not ok]


def _mixing_problems(c: TrainConfig) -> list[str]:
    if c.lambda_ == 0 or not c.augmentation.on("label"):
        return []
    return [
        f"lambda={c.lambda_:g} with augmentation={c.augmentation.name}: a mixed image has no one class whose gaze "
        "could be compared. Take lambda=0, or another augmentation."
    ]


def _trainer_problems(trainer: dict[str, Any]) -> list[str]:
    """Lightning's own argument names; the ones that this project sets itself are refused."""
    from lightning import Trainer  # slow to import: only when a config is really checked

    known = [name for name in inspect.signature(Trainer.__init__).parameters if name != "self"]
    own = {"logger", "callbacks", "default_root_dir", "enable_checkpointing", "enable_progress_bar"}
    problems = [
        f"trainer.{key}={trainer[key]}: Lightning's Trainer has no such argument. {_near(key, known)}"
        for key in trainer
        if key not in known
    ]
    problems += [
        f"trainer.{key}={trainer[key]}: this project sets it itself. Leave it out." for key in trainer if key in own
    ]
    precision = str(trainer.get("precision", "32-true"))
    if precision not in (*PRECISIONS, "32", "64"):
        problems.append(
            f"trainer.precision={precision} is not supported: {', '.join(PRECISIONS)}. "
            "(Pure half precision loses the Grad-CAM map, which is computed in float32.)"
        )
    epochs = trainer.get("max_epochs", 1)
    if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 1:
        problems.append(f"trainer.max_epochs={epochs} must be a whole number, 1 or more.")
    if trainer.get("limit_val_batches", 1) == 0 or trainer.get("check_val_every_n_epoch", 1) != 1:
        problems.append(
            "trainer.limit_val_batches=0 and trainer.check_val_every_n_epoch other than 1 leave epochs without a "
            "kappa and a gaze consistency. Take neither; limit_val_batches=1 is the least."
        )
    return problems
