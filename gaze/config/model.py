"""Settings of the group ``model``, and what is wrong with them as far as no library has to be asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ValidationInfo, field_validator

from gaze.config.settings import FolderName, Settings, one_of

SOURCES = ("gaze", "torchvision", "timm")


class ModelConfig(Settings):
    """Group ``model``: which network, and where in it Grad-CAM looks."""

    name: FolderName = "level2"
    channels_last: bool = True  # memory order NHWC: faster on CPUs (fp32 and bf16) and on GPUs
    source: Annotated[str, one_of(SOURCES)] = "gaze"  # gaze: level1 .. level5
    weights: str | None = None  # null: random; default, or one of the source's own names: pretrained, downloaded once
    layer: str | None = None  # dotted name of the layer to look at; null: the last one with a spatial map

    @field_validator("weights", "layer")
    @classmethod
    def _of_libraries(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value == "":
            raise ValueError("is empty: give a name, or null")
        if value is not None and info.data.get("source") == "gaze":
            raise ValueError(f"is for model=torchvision and model=timm; model={info.data.get('name')} has none")
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
