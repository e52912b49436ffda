"""Typed schema of ``conf/dataset`` and its rules; :mod:`gaze.config.train` takes both into the whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gaze.choices import SOURCES, Source, unknown


@dataclass
class DatasetConfig:
    """Group ``dataset``: where images come from and how they are read (see ``gaze.data.datasets``)."""

    name: str = "phantom"
    kind: str = "phantom"  # of gaze.choices.SOURCES
    image_size: int = 224  # images become (channels, image_size, image_size)
    channels: int = 1  # 1 grey, 3 RGB
    batch_size: int = 32
    # folder and kaggle
    root: str | None = None  # a local copy; needed offline and for kind folder
    handle: str | None = None  # Kaggle handle with its version pinned: owner/name/versions/N
    train_dir: str = "train"  # folders of class folders, below root
    test_dir: str = "test"
    train_counts: dict[str, int] | None = None  # images per class that the published set has
    test_counts: dict[str, int] | None = None
    on_bad_image: str = "error"  # error | skip: what an unreadable image does
    drop_leaked: bool = False  # drop training images that also stand in the test set
    mask_dir: str | None = None  # masks in the images' own folders and names, below root or absolute; null for none
    on_missing_mask: str = "error"  # error | empty: what an image without a mask file does
    cache: str | None = "auto"  # where decoded images are kept: auto | off | a folder (see gaze.data.cache)
    # ultrasound: images and masks side by side, no split published (see gaze.data.sources.ultrasound)
    classes: list[str] | None = None  # class folders to take; null takes all
    counts: dict[str, int] | None = None  # images per class that the published set has, before it is split
    test_fraction: float = 0.2  # of each class
    split_seed: int | None = None  # a number draws another split than the reference's every fifth image
    # phantom
    seed: int = 0  # of the images, apart from the run's own seed
    train_images: int = 640
    test_images: int = 320


def dataset_problems(d: DatasetConfig) -> list[str]:
    """What is out of its range or does not go together, a line each."""
    source = SOURCES.get(d.kind, Source(d.kind, "", "", ""))
    alone = {setting for other in SOURCES.values() for setting in other.takes}  # those that some kinds have
    rules = [
        (is_folder_name(d.name), f"dataset.name={d.name} names a folder: give one name without a slash."),
        (d.kind in SOURCES, unknown("dataset.kind", d.kind, SOURCES)),
        (
            not source.needs or any(getattr(d, setting) for setting in source.needs),
            f"dataset={d.name} needs {' or '.join(f'dataset.{setting}' for setting in source.needs)}: {source.title}.",
        ),
        *(
            (
                getattr(d, setting) is None or setting in source.takes or d.kind not in SOURCES,
                f"dataset.{setting}={getattr(d, setting)} is for dataset.kind="
                f"{' or '.join(name for name, other in SOURCES.items() if setting in other.takes)}. Leave it out.",
            )
            for setting in sorted(alone)
        ),
        (d.batch_size >= 1, f"dataset.batch_size={d.batch_size} must be 1 or more."),
        (d.image_size >= 2, f"dataset.image_size={d.image_size} must be 2 or more pixels."),
        (d.channels in (1, 3), f"dataset.channels={d.channels} must be 1 (grey) or 3 (RGB)."),
        (d.on_bad_image in ("error", "skip"), f"dataset.on_bad_image={d.on_bad_image} must be error or skip."),
        (
            d.cache is None or d.cache.strip().lower() not in ("", "true", "on"),
            f"dataset.cache={d.cache} must be auto, off or a folder.",
        ),
        (d.train_images >= 1, f"dataset.train_images={d.train_images} must be 1 or more."),
        (d.test_images >= 1, f"dataset.test_images={d.test_images} must be 1 or more."),
        (d.mask_dir is None or bool(d.mask_dir.strip()), "dataset.mask_dir= must be a folder of masks, or null."),
        (
            d.on_missing_mask in ("error", "empty"),
            f"dataset.on_missing_mask={d.on_missing_mask} must be error or empty.",
        ),
        (0 < d.test_fraction < 1, f"dataset.test_fraction={d.test_fraction} must be between 0 and 1."),
        (
            d.classes is None or len(set(d.classes)) == len(d.classes) >= 2,
            f"dataset.classes={d.classes} must name two or more classes, each once.",
        ),
    ]
    return [message for ok, message in rules if not ok]


def is_folder_name(name: str) -> bool:
    """Whether a name is that of one folder, not of a path."""
    return bool(name) and Path(name).name == name and name != ".."
