"""Settings of the group ``model``, and what is wrong with them as far as no library has to be asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from gaze.config.settings import FolderName, Settings, one_of

SOURCES = ("gaze", "torchvision", "timm")


class ModelConfig(Settings):
    """Group ``model``: which network, and where in it Grad-CAM looks."""

    name: FolderName = "level2"
    channels_last: bool = True  # memory order NHWC: faster on CPUs (fp32 and bf16) and on GPUs
    source: Annotated[str, one_of(SOURCES)] = "gaze"  # gaze: level1 .. level5
    weights: str | None = None  # null: random; default, or one of the source's own names: pretrained, downloaded once
    layer: str | None = None  # dotted name of the layer to look at; null: the last one with a spatial map
    checkpoint: str | None = None  # weights of one's own to begin with: .pt, .pth, .ckpt or .safetensors
    checkpoint_digest: str | None = Field(None, pattern="^[0-9a-f]{12}$")  # of that file; found where it is left out
    classes: list[str] | None = None  # of the checkpoint's scores, in their order; null: its own, or the data's
    # of each channel of an image in 0..1; null: as the weights or the checkpoint's network expect them, else 0.5
    mean: list[float] | None = None
    std: list[float] | None = None

    @field_validator("weights", "layer", "mean", "std")
    @classmethod
    def _of_libraries(cls, value: Any, info: ValidationInfo) -> Any:
        if value == "":
            raise ValueError("is empty: give a name, or null")
        if value is not None and info.data.get("source") == "gaze":
            raise ValueError(f"is for model=torchvision and model=timm; model={info.data.get('name')} has none")
        return value

    @field_validator("checkpoint")
    @classmethod
    def _instead_of_weights(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("is empty: give a file, or null")
        if value is not None and info.data.get("weights") is not None:
            raise ValueError(f"and model.weights={info.data['weights']} are two sets of weights: leave out one")
        return value

    @field_validator("classes")
    @classmethod
    def _of_a_checkpoint(cls, value: list[str] | None, info: ValidationInfo) -> list[str] | None:
        if value is not None and info.data.get("checkpoint") is None:
            raise ValueError("are those of model.checkpoint, which is not given")
        if value is not None and not len(set(value)) == len(value) >= 2:
            raise ValueError("must name two or more classes, each once")
        return value

    @field_validator("mean", "std")
    @classmethod
    def _a_channel_each(cls, value: list[float] | None, info: ValidationInfo) -> list[float] | None:
        if value is not None and (len(value) != 3 or not all(0 <= n <= 1 for n in value)):
            raise ValueError("must be three numbers, of an image in 0..1")
        if info.field_name == "std" and (value is None) != (info.data.get("mean") is None):
            raise ValueError("goes with model.mean: give both, or neither")
        if info.field_name == "std" and value is not None and min(value) <= 0:
            raise ValueError("must be above 0")
        return value

    @property
    def label(self) -> str:
        """Name of the network in folders, tables and figures: ``level2``, ``timm-resnet18``."""
        return model_label(vars(self))


def model_label(model: Mapping[str, Any]) -> str:
    """One name for one network: both torchvision and timm have a resnet18.

    Args:
        model: settings ``model`` of a run; one of before there were sources has none.
    """
    source = model.get("source", "gaze")
    return str(model["name"]) if source == "gaze" else f"{source}-{model['name']}"
