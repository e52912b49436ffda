"""Settings of the group ``model``, and what is wrong with them as far as no library has to be asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gaze.config.data import is_folder_name

SOURCES = ("gaze", "torchvision", "timm")


@dataclass
class ModelConfig:
    """Group ``model``: which network, and where in it Grad-CAM looks."""

    name: str = "level2"
    channels_last: bool = True  # memory order NHWC: faster on CPUs (fp32 and bf16) and on GPUs
    source: str = "gaze"  # gaze (level1 .. level5) | torchvision | timm
    weights: str | None = None  # null: random; default, or one of the source's own names: pretrained, downloaded once
    layer: str | None = None  # dotted name of the layer to look at; null: the last one with a spatial map

    @property
    def label(self) -> str:
        """Name of the network in folders, tables and figures: ``level2``, ``timm-resnet18``."""
        return model_label({"name": self.name, "source": self.source})


def model_label(model: Mapping[str, Any]) -> str:
    """One name for one network: both torchvision and timm have a resnet18.

    Args:
        model: settings ``model`` of a run; one of before there were sources has none.
    """
    source = model.get("source", SOURCES[0])
    return str(model["name"]) if source == SOURCES[0] else f"{source}-{model['name']}"


def model_problems(m: ModelConfig) -> list[str]:
    """What is wrong with these settings, a line each."""
    rules = [
        (m.source in SOURCES, f"model.source={m.source} is unknown: {', '.join(SOURCES)}."),
        (is_folder_name(m.name), f"model.name={m.name} names a folder: give one name without a slash."),
        (
            m.source != SOURCES[0] or (m.weights is None and m.layer is None),
            f"model.weights and model.layer are for model=torchvision and model=timm; model={m.name} has neither.",
        ),
        (m.weights != "", "model.weights= is empty: null, default, or a name of such weights."),
        (m.layer != "", "model.layer= is empty: give a layer's dotted name, or null to have it found."),
    ]
    return [message for ok, message in rules if not ok]
