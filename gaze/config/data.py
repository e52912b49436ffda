"""Settings of the group ``dataset``: where images come from and how they are read (see ``gaze.data.datasets``)."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, ValidationInfo, field_validator, model_serializer

from gaze.choices import SOURCES, did_you_mean, either, readers
from gaze.config.settings import MOST, FolderName, Settings, one_of

Counts = dict[str, Annotated[int, Field(ge=0, le=MOST)]]  # images of each class
Window = Literal["auto", "file", "image"] | list[int] | list[float] | None
DRAWN = {"train_images": 640, "test_images": 320}  # by the phantom
ROLES = ("file_name", "label", "patient", "split", "mask")  # of a table's columns
SMALLEST = 4  # pixels of a marker's longer side
WORDS = ("auto", "test", "split", "folder")  # of dataset.validation


def _is_number(word: str) -> bool:
    try:
        return float(word) is not None
    except ValueError:
        return False


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.01 <= value <= 0.5


class MarkerConfig(Settings):
    """Group ``dataset.marker``: a marker that goes with the class (see ``gaze.data.marker``)."""

    form: Literal["letter", "ruler"] = "letter"
    classes: list[str] | None = Field(None, min_length=1)  # that it goes with; null: the later half of them
    agreement: float = Field(0.95, ge=0, le=1)  # share of training images that have it as their class says
    test: Literal["opposite", "none", "balanced"] = "opposite"  # of test images: with the wrong classes, or no class
    size: float = Field(0.12, gt=0, le=1)  # its longer side, as a share of the image's
    jitter: float = Field(0.04, ge=0, le=1)  # how far it moves from the upper left corner, likewise
    masked: bool = False  # its place is filled with the image's mean instead, in every image

    @field_validator("jitter")
    @classmethod
    def _within(cls, value: float, info: ValidationInfo) -> float:
        if value + info.data.get("size", 0) > 1:
            raise ValueError("and dataset.marker.size are more than 1 together: the marker would leave the image")
        return value


class DatasetConfig(Settings):
    """Group ``dataset``."""

    name: FolderName = "phantom"
    kind: Annotated[str, one_of(SOURCES)] = "phantom"
    image_size: int = Field(224, ge=2, le=16_384)  # images become (channels, image_size, image_size)
    channels: int = 1  # 1 grey, 3 RGB
    batch_size: int = Field(32, ge=1, le=MOST)
    # balanced: each class as often as another, with replacement; group: each group (class x marker)
    sampler: Literal["shuffle", "balanced", "group"] = "shuffle"
    # [low, high] become 0 and 255 in images beyond 8 bits; auto: of the training images; file: what a DICOM file says;
    # image: of each image; null: [0, 65535], or what the bits of a DICOM file hold
    window: Window = "auto"
    # of resizing, antialiased; auto: as a library says of a network's own weights, else bilinear
    interpolation: Literal["auto", "bilinear", "bicubic", "lanczos", "nearest"] = "auto"
    orient: bool | None = True  # whether an EXIF orientation is applied; null: as in older runs, which did not
    frames: Literal["first", "all"] = "first"  # of a file that holds several; all: images of one group
    train_images: int | None = Field(
        None, ge=1, le=MOST
    )  # phantom: drawn; others: as even a choice of classes, null for all
    test_images: int | None = Field(None, ge=1, le=MOST)
    seed: int = Field(0, ge=0, lt=2**63)  # of the images drawn or chosen, apart from the run's own seed
    # files
    handle: str | None = None  # Kaggle handle with its version pinned: owner/name/versions/N
    root: str | None = None  # a local copy; needed offline and for kind folder; the file of kind npz
    table: str | None = None  # kind table: CSV, TSV, Parquet or decathlon JSON (see gaze.data.sources.table)
    columns: dict[str, str] | None = None  # what a table calls file_name, label, patient, split and mask
    outside: bool = False  # whether a table may name files outside root
    train_dir: str = "train"  # folders of class folders, below root
    test_dir: str = "test"
    val_dir: str = "val"
    train_counts: Counts | None = None  # images per class that the published set has
    test_counts: Counts | None = None
    on_bad_image: Literal["error", "skip"] = "error"  # what an unreadable image does
    drop_leaked: bool | None = Field(None, exclude=True)  # older word for on_leak: true drops, false warns
    on_leak: Literal["warn", "error", "drop"] = "warn"  # what training images do that also stand in the test set, or
    # whose group does
    test: float | None = None  # share of train that becomes the test images of a set that has none
    # cross-validation: fold 0..folds-1 is held out, as the test part of a set that has none, else for validation
    folds: int | None = Field(None, ge=2, le=1000)
    fold: int | None = Field(None, ge=0, le=999)
    # what each epoch is judged by: the test images, a share of train, or the set's own part (split or folder); auto:
    # that part where there is one, else 0.15
    validation: Literal["auto", "test", "split", "folder"] | float = "test"
    group: str | None = None  # regular expression: images whose file names give the same are kept together
    # of what is drawn; ultrasound: null takes the reference's every fifth image
    split_seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    mask_dir: str | None = None  # masks in the images' own folders and names, below root or absolute; null for none
    on_missing_mask: Literal["error", "empty"] = "error"  # what an image without a mask file does
    annotated: float = Field(1.0, gt=0, le=1)  # share of each class's masks that guide, drawn by the run's seed
    # masks of training images alone that guide in place of the set's own, such as people drew, in the images' own
    # folders and names
    guide_dir: str | None = None
    cache: str | None = "auto"  # where decoded images are kept: auto | off | a folder (see gaze.data.cache)
    # ultrasound: images and masks side by side, no split published (see gaze.data.sources.ultrasound)
    classes: list[str] | None = None  # class folders to take; null takes all
    counts: Counts | None = None  # images per class that the published set has, before it is split
    test_fraction: float = Field(0.2, gt=0, lt=1)  # of each class
    marker: MarkerConfig | None = None  # drawn into the images of any source

    # where people looked (see gaze.data.human)
    fixations: str | None = None  # CSV of readers' fixations
    fixation_layout: Literal["gaze", "egd-cxr", "reflacx"] = "gaze"  # whose columns it has
    fixation_unit: Literal["pixel", "relative"] = "pixel"  # of the original image, or shares of its sides
    # SD of a fixation's Gaussian as a share of the image's width: one degree for 28 cm of width seen from 65 cm
    fixation_sigma: float = Field(0.04, gt=0, le=0.5)
    attention_dir: str | None = None  # maps instead, in the images' own folders and names, below root or absolute

    @property
    def has_readers(self) -> bool:
        """Whether people looked at some of the images."""
        return self.fixations is not None or self.attention_dir is not None

    @property
    def may_have_masks(self) -> bool:
        """Whether the settings leave room for masks; the files may still have none."""
        return self.mask_dir is not None or self.guide_dir is not None or SOURCES[self.kind].masks

    @property
    def private(self) -> bool:
        """Whether names of files may hold patients' ids: groups are read from them, or a table may name patients."""
        return self.group is not None or self.kind == "table"

    @field_validator("channels")
    @classmethod
    def _grey_or_colour(cls, value: int) -> int:
        if value not in (1, 3):
            raise ValueError("must be 1 (grey) or 3 (RGB)")
        return value

    @property
    def resampling(self) -> str:
        """``interpolation``; bilinear where nothing says otherwise, as in older runs."""
        return "bilinear" if self.interpolation == "auto" else self.interpolation

    @field_validator("window", mode="before")
    @classmethod
    def _low_and_high(cls, value: Any) -> Any:
        pair = isinstance(value, list) and len(value) == 2 and {type(end) for end in value} <= {int, float}
        if not (value in ("auto", "file", "image", None) or (pair and -(2**31) <= value[0] < value[1] < 2**31)):
            raise ValueError("must be auto, file, image, null or two numbers [low, high], which become 0 and 255")
        return value

    @field_validator("validation", mode="before")
    @classmethod
    def _share(cls, value: Any) -> Any:
        if not (_is_share(value) or value in WORDS):
            raise ValueError(
                "must be test (each epoch is judged by the test images, as published), a share of the training images, "
                "0.01 to 0.5, such as 0.15, split or folder (the set's own validation part), or auto (that part where "
                "there is one, else 0.15)"
            )
        return value

    @field_validator("test", mode="before")
    @classmethod
    def _test_share(cls, value: Any) -> Any:
        if value is not None and not _is_share(value):
            raise ValueError("must be a share of the images, 0.01 to 0.5, such as 0.2, or null")
        return value

    @field_validator("folds")
    @classmethod
    def _no_share(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("test") is not None:
            raise ValueError("holds out a fold, and dataset.test a share: leave one of them out")
        return value

    @field_validator("fold")
    @classmethod
    def _of_folds(cls, value: int | None, info: ValidationInfo) -> int | None:
        folds = info.data.get("folds")
        if "folds" in info.data and (value is None) != (folds is None):
            raise ValueError(
                "goes with dataset.folds: give both, such as dataset.folds=5 dataset.fold=0,1,2,3,4, or none"
            )
        if value is not None and folds is not None and value >= folds:
            raise ValueError(f"must be 0 to {folds - 1}, with dataset.folds={folds}")
        return value

    @property
    def draws_test(self) -> bool:
        """Whether the test images of a set that has none are drawn."""
        return self.test is not None or self.folds is not None

    @field_validator("marker")
    @classmethod
    def _seen(cls, value: MarkerConfig | None, info: ValidationInfo) -> MarkerConfig | None:
        if value is None and info.data.get("sampler") == "group":
            raise ValueError("leaves dataset.sampler=group without groups: give dataset.marker={}, or balanced")
        pixels = SMALLEST if value is None else round(value.size * info.data.get("image_size", 224))
        if pixels < SMALLEST:
            raise ValueError(f"is {pixels} pixels long: {SMALLEST} or more, by a larger dataset.marker.size")
        return value

    @field_validator("columns")
    @classmethod
    def _roles(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        for role in value or {}:
            if role not in ROLES:
                raise ValueError(f"names {role}, and a table has {either(ROLES)}. {did_you_mean(role, ROLES)}".strip())
        return value

    @field_validator("group")
    @classmethod
    def _pattern(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"must be a regular expression: {error}") from None
        return value

    @field_validator("train_images", "test_images")
    @classmethod
    def _number_drawn(cls, value: int | None, info: ValidationInfo) -> int | None:
        return DRAWN[str(info.field_name)] if value is None and info.data.get("kind") == "phantom" else value

    @field_validator("*")
    @classmethod
    def _of_its_source(cls, value: Any, info: ValidationInfo) -> Any:
        name, source = str(info.field_name), SOURCES.get(info.data.get("kind", ""))
        if source is None:
            return value
        if not source.reads(name) and value != cls.model_fields[name].default:
            own, called = source.groups or (source.name,), str(info.data.get("name"))
            others = either(group for other in readers(name) for group in other.groups or (other.name,))
            raise ValueError(
                f"is for dataset={others}; dataset={called if called in own else own[0]} does not read it. "
                "Take one of them, or leave it out"
            )
        given = {**info.data, name: value}
        if name in source.needs and given.keys() >= set(source.needs) and not any(given[key] for key in source.needs):
            wanted = " or ".join(f"dataset.{key}" for key in source.needs)
            raise ValueError(f"leaves dataset={given.get('name')} without images: give {wanted}, {source.title}")
        return value

    @model_serializer(mode="wrap")
    def _read(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what its source does not read: in config.json and report it would seem to mean something."""
        source = SOURCES.get(self.kind)
        return {name: value for name, value in whole(self).items() if source is None or source.reads(name)}

    @field_validator("on_leak")
    @classmethod
    def _older_word(cls, value: str, info: ValidationInfo) -> str:
        drop = info.data.get("drop_leaked")
        return value if drop is None else "drop" if drop else "warn"

    @field_validator("mask_dir")
    @classmethod
    def _not_empty(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("frames") == "all":
            raise ValueError(
                "has a mask for each file, and dataset.frames=all takes several images of it: leave one out"
            )
        if value is not None and not value.strip():
            raise ValueError("must be a folder of masks, or null")
        return value

    @field_validator("fixation_unit")
    @classmethod
    def _of_gaze(cls, value: str, info: ValidationInfo) -> str:
        if value == "relative" and info.data.get("fixation_layout") != "gaze":
            raise ValueError("is of dataset.fixation_layout=gaze; the others have pixels")
        return value

    @field_validator("attention_dir")
    @classmethod
    def _one_of_both(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("fixations") is not None:
            raise ValueError("has maps of what people looked at, and dataset.fixations makes them: leave one out")
        return value

    @field_validator("cache", mode="before")
    @classmethod
    def _place(cls, value: Any) -> Any:
        word = str(value).strip().lower()
        if (word in ("", "true", "on", "none", "null", "~") and value is not None) or _is_number(word):
            raise ValueError("must be auto, off or a folder")
        return "off" if value is False else value

    @field_validator("classes")
    @classmethod
    def _two_or_more(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and not len(set(value)) == len(value) >= 2:
            raise ValueError("must name two or more classes, each once")
        return value
