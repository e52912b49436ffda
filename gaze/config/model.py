"""Settings of the group ``model``, and what is wrong with them as far as no library has to be asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from gaze.config.settings import FolderName, Settings, one_of

SOURCES = ("gaze", "torchvision", "timm", "own")
OF_ONES_OWN = ("target", "path", "path_digest", "kwargs", "output")


class ModelConfig(Settings):
    """Group ``model``: which network, and where in it Grad-CAM looks."""

    name: FolderName = "level2"
    channels_last: bool = True  # memory order NHWC: faster on CPUs (fp32 and bf16) and on GPUs
    source: Annotated[str, one_of(SOURCES)] = "gaze"  # gaze: level1 .. level5
    target: str | None = Field(None, alias="_target_", validate_default=True)  # own: package.Class
    path: str | None = None  # the file that has the class, where it is on no path of Python's
    path_digest: str | None = Field(None, pattern="^[0-9a-f]{12}$")  # of that file; found where it is left out
    kwargs: dict[str, Any] = {}  # of the class: what else the group holds, such as model.width=32
    output: int | str | None = None  # of a network that returns several: which is the logits
    weights: str | None = None  # null: random; default, or one of the source's own names: pretrained, downloaded once
    layer: str | None = None  # dotted name of the layer to look at; null: the last one with a spatial map
    freeze: str | None = None  # all_but_head, or a pattern of weights that training leaves as they are, layer1.*
    checkpoint: str | None = None  # weights of one's own to begin with: .pt, .pth, .ckpt or .safetensors
    checkpoint_digest: str | None = Field(None, pattern="^[0-9a-f]{12}$")  # of that file; found where it is left out
    classes: list[str] | None = None  # of the checkpoint's scores, in their order; null: its own, or the data's
    # of each channel of an image in 0..1; null: as the weights or the checkpoint's network expect them, else 0.5
    mean: list[float] | None = None
    std: list[float] | None = None

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @model_validator(mode="before")
    @classmethod
    def _arguments(cls, values: Any) -> Any:
        """What is no setting is an argument of one's own class; its name is the network's unless one is given."""
        if not isinstance(values, dict) or values.get("source") != "own":
            return values
        known = {field.alias or name for name, field in cls.model_fields.items()}
        own, others = ({k: v for k, v in values.items() if (k in known) is given} for given in (True, False))
        if others and isinstance(own.setdefault("kwargs", {}), dict):
            own["kwargs"] = {**own["kwargs"], **others}
        return own | {"name": own.get("name") or str(own.get("_target_")).rpartition(".")[2]}

    @field_validator(*OF_ONES_OWN)
    @classmethod
    def _of_a_class(cls, value: Any, info: ValidationInfo) -> Any:
        own = info.data.get("source") == "own"
        if own and info.field_name == "target" and not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", value or ""):
            raise ValueError(
                "names no class: model=own model._target_=package.Class, or model.path=FILE.py model._target_=Class"
            )
        if value not in (None, {}) and not own:
            raise ValueError("is for model=own, a network of one's own")
        return value

    @field_validator("freeze")
    @classmethod
    def _some(cls, value: str | None) -> str | None:
        if value == "":
            raise ValueError("is empty: give all_but_head, a pattern such as layer1.*, or null")
        return value

    @field_validator("weights", "layer", "mean", "std")
    @classmethod
    def _of_libraries(cls, value: Any, info: ValidationInfo) -> Any:
        if value == "":
            raise ValueError("is empty: give a name, or null")
        if value is not None and info.data.get("source") == "gaze":
            raise ValueError(f"is for model=torchvision and model=timm; model={info.data.get('name')} has none")
        if value is not None and info.field_name == "weights" and info.data.get("source") == "own":
            raise ValueError("are a library's; of one's own: model.checkpoint, or an argument, model.kwargs.weights")
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
        grey = info.data.get("source") == "own" and len(value or []) == 1
        if value is not None and not ((grey or len(value) == 3) and all(0 <= n <= 1 for n in value)):
            raise ValueError("must be three numbers, of an image in 0..1")
        if info.field_name == "std" and len(value or []) != len(info.data.get("mean") or []):
            raise ValueError("goes with model.mean: give both, or neither")
        if info.field_name == "std" and value is not None and min(value) <= 0:
            raise ValueError("must be above 0")
        return value

    @property
    def label(self) -> str:
        """Name of the network in folders, tables and figures: ``level2``, ``timm-resnet18``, ``own-Net``."""
        return model_label(vars(self))

    @property
    def own(self) -> dict[str, Any] | None:
        """Settings of a network of one's own, under their names; None of any other."""
        return self.model_dump(by_alias=True, include=set(OF_ONES_OWN)) if self.source == "own" else None

    @property
    def words(self) -> list[str]:
        """What names it on the command line: ``model=timm``, ``model.name=resnet18``."""
        if self.source == "gaze":
            return [f"model={self.name}"]
        if self.source != "own":
            return [f"model={self.source}", f"model.name={self.name}"]
        path = [] if self.path is None else [f"model.path={self.path}"]
        arguments = [f"model.kwargs.{name}={value}" for name, value in self.kwargs.items()]
        output = [] if self.output is None else [f"model.output={self.output}"]
        return ["model=own", *path, f"model._target_={self.target}", *arguments, *output]


def model_label(model: Mapping[str, Any]) -> str:
    """One name for one network: both torchvision and timm have a resnet18.

    Args:
        model: settings ``model`` of a run; one of before there were sources has none.
    """
    source = model.get("source", "gaze")
    name = model["name"] or str(model.get("_target_")).rpartition(".")[2]  # of one's own, where none is given
    return str(name) if source == "gaze" else f"{source}-{name}"
