"""Settings of ``conf/analyze.yaml``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from gaze.config.settings import MOST, FolderName, Settings, one_of

LEFT_OUT = ("unfinished", "failed", "duplicate")  # runs that an analysis takes only when asked to
Most = Annotated[int, Field(ge=10, le=MOST)] | None  # evaluation images, of each class alike; null takes all


class CompareConfig(Settings):
    """Group ``compare``: how an augmentation study holds CAMs against each other."""

    baseline: str = "none"  # the arm that the others are held against
    images: Most = 1000
    checkpoint: Literal["last", "best"] = "last"
    device: Literal["auto", "cpu", "cuda"] = "auto"


class ReviewConfig(Settings):
    """Group ``review``: experts look at a run's images, see ``gaze.studies.review``."""

    run: str | None = None  # a run folder; review=RUN says the same
    against: str | None = None  # another one of the same images: which gaze looks better?
    images: Literal["test", "train"] = "test"  # train: what is drawn guides a training on the same set
    file: str | None = None  # of the answers; null takes review.sqlite in the run's folder
    order: Literal["worst", "uncertain", "costly", "random"] = "worst"  # costly: by costs=FILE
    blind: bool = True  # the prediction is shown after the answer
    repeat: Annotated[float, Field(ge=0, le=1)] = 0.1  # share of the images that come twice
    port: Annotated[int, Field(ge=1024, le=65535)] = 8765  # or the next one that is free
    report: bool = False  # no page: what comes of the answers, and what was drawn as masks to train on


class AnalyzeConfig(Settings):
    """The whole of ``conf/analyze.yaml``."""

    source: str = "outputs"  # a folder of runs, or a tidy CSV
    study: FolderName | None = None  # one study; null takes all, apart from each other
    include: list[Annotated[str, one_of(LEFT_OUT)]] = []
    kind: Literal["auto", "consistency", "augmentation", "shortcut"] = "auto"
    check: str | None = None  # a run folder: is its gaze faithful?
    check_images: Most = 200
    explain: str | None = None  # a run folder: where does its network look?
    export: bool = False  # of explain: write logits and map as one program of PyTorch, too
    share: str | None = None  # a run folder: a copy without patients' ids
    costs: str | None = None  # of a study: a YAML of what each mistake costs
    review: ReviewConfig = ReviewConfig()
    annotations: str | None = None  # COCO or Label Studio JSON: masks for the images below images=ROOT
    # of explain: a folder or a file; null takes the run's evaluation images
    images: Annotated[str | None, Field(validate_default=True)] = None
    checkpoint: Literal["last", "best"] | None = None  # of check and explain; null takes compare.checkpoint
    compare: CompareConfig = CompareConfig()
    trust: bool = False  # import the networks of one's own that runs name, which runs their code

    @field_validator("include", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value  # include=failed, as a person would write it

    @field_validator("explain")
    @classmethod
    def _one_question(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("check") is not None:
            raise ValueError("asks another question than check: give one of them at a time")
        return value

    @field_validator("export")
    @classmethod
    def _of_explain(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("explain") is None:
            raise ValueError("belongs to explain=RUN: name the run, too")
        return value

    @field_validator("share")
    @classmethod
    def _by_itself(cls, value: str | None, info: ValidationInfo) -> str | None:
        others = [name for name in ("study", "check", "explain") if info.data.get(name) is not None]
        if value is not None and others:
            raise ValueError(f"asks another question than {others[0]}: give one of them at a time")
        return value

    @field_validator("costs")
    @classmethod
    def _of_runs(cls, value: str | None, info: ValidationInfo) -> str | None:
        others = [name for name in ("check", "explain", "share") if info.data.get(name) is not None]
        if value is not None and others:
            raise ValueError(f"belongs to studies, not to {others[0]}: leave one of them out")
        return value

    @field_validator("review")
    @classmethod
    def _alone(cls, value: ReviewConfig, info: ValidationInfo) -> ReviewConfig:
        others = [name for name in ("study", "check", "explain", "share") if info.data.get(name) is not None]
        if value.run is not None and others:
            raise ValueError(f"review={value.run} asks another question than {others[0]}: give one of them at a time")
        if value.run is None and value != ReviewConfig():
            raise ValueError("review.* belongs to review=RUN: name the run, too")
        if value.order == "costly" and info.data.get("costs") is None:
            raise ValueError("review.order=costly needs what mistakes cost: costs=costs.yaml")
        return value

    @field_validator("annotations")
    @classmethod
    def _by_themselves(cls, value: str | None, info: ValidationInfo) -> str | None:
        others = [name for name in ("study", "check", "explain", "share", "costs") if info.data.get(name) is not None]
        others += ["review"] if info.data.get("review", ReviewConfig()).run is not None else []
        if value is not None and others:
            raise ValueError(f"asks for something else than {others[0]}: give one of them at a time")
        return value

    @field_validator("checkpoint")
    @classmethod
    def _of_one_run(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("check") is None and info.data.get("explain") is None:
            raise ValueError("belongs to check=RUN and explain=RUN; of an augmentation study it is compare.checkpoint")
        return value

    @field_validator("compare")
    @classmethod
    def _named_checkpoint(cls, value: CompareConfig, info: ValidationInfo) -> CompareConfig:
        named = info.data.get("checkpoint")
        return value if named is None else value.model_copy(update={"checkpoint": named})

    @field_validator("images")
    @classmethod
    def _with_explain(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("explain") is None and info.data.get("annotations") is None:
            raise ValueError("belongs to explain=RUN or annotations=JSON: name the run, too")
        if value is None and info.data.get("annotations") is not None:
            raise ValueError("is missing: annotations=JSON needs the root of its images, images=ROOT")
        return value
