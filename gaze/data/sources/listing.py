"""Which files a set consists of: images by split and class, and their masks. Nothing is decoded here."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from gaze.choices import SOURCES, either
from gaze.config.data import DatasetConfig
from gaze.data.audit import first_few
from gaze.data.sources.folders import DRAW_IT, SUFFIXES, Folder, check_folders, find_splits, list_folder, local_root
from gaze.data.sources.kaggle import downloaded
from gaze.data.splits import VALIDATION
from gaze.errors import DataError
from gaze.names import printable


class MaskFiles(NamedTuple):
    """``files`` maps an image's path to its mask files, paths below ``root``; who has none has an empty mask."""

    root: Path
    files: dict[str, list[str]]


class Listing(NamedTuple):
    """A set on disk.

    Attributes:
        root: what its images' paths are relative to.
        folders: "train" and "test", and "validation" where the set's own is used; without "test" where it is drawn of
            train; or "all" where they are divided later.
        masks: of its images, or None.
        warnings: what is odd but usable, a line each.
        groups: what each image belongs to by its path (a patient, say); an image that is not in it is alone. None where
            nothing says so.
    """

    root: Path
    folders: dict[str, Folder]
    masks: MaskFiles | None
    warnings: list[str]
    groups: dict[str, str] | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the class folders, in order, printable."""
        return tuple(map(printable, next(iter(self.folders.values())).files))

    @property
    def ignored(self) -> list[str]:
        """Files that are no images."""
        return [path for folder in self.folders.values() for path in folder.ignored]

    def facts(self) -> dict[str, Any]:
        """Classes, images of each split, and the SHA-256 of names, sizes in bytes and labels of all files."""
        rows = [
            [split, label, path, _bytes(self.root / path)]
            for split, folder in self.folders.items()
            for path, label in folder.labelled()
        ]
        if self.masks is not None:
            own = self.masks
            rows += [[image, file, _bytes(own.root / file)] for image, files in own.files.items() for file in files]
        rows += [["group", path, group] for path, group in (self.groups or {}).items()]
        lines = "\n".join(sorted(map(json.dumps, rows)))
        counts = {split: len(folder.labelled()) for split, folder in self.folders.items()}
        return {"classes": list(self.classes), **counts, "sha256": hashlib.sha256(lines.encode()).hexdigest()}


def _bytes(path: Path) -> int | None:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - thousands of them
    except OSError:
        return None


def files_at_hand(config: DatasetConfig) -> dict[str, Any] | None:
    """:meth:`Listing.facts` of a data set as it lies on disk now, without a download; None where it does not, or where
    its images are not files. ``{"error": ...}`` where it can no longer be used.
    """
    lister = SOURCES[config.kind].lister
    if lister is None:
        return None
    try:
        kept = config.root is None and config.handle is not None
        place = downloaded(config.handle or "") if kept else local_root(config, "")
    except DataError:
        return None
    try:
        return None if place is None else lister(place, config, "").facts()
    except DataError as error:
        return {"error": str(error).strip()}


def list_splits(place: Path, config: DatasetConfig, remedy: str) -> Listing:
    """Class folders below a training and a test folder, and a validation folder where ``dataset.validation`` asks for
    it, with masks where ``dataset.mask_dir`` says so. Where ``dataset.test`` draws the test images, class folders may
    stand in the root itself.

    Args:
        place: the folder that holds both, or the one above it.
        config: group ``dataset``.
        remedy: a sentence on what to do, which ends an error.

    Raises:
        DataError: no such folders, classes that differ or are empty, images without a mask.
    """
    root = find_splits(place, config, remedy)
    names = {"train": config.train_dir, "validation": config.val_dir, "test": config.test_dir}
    there = [part for part, name in names.items() if (root / name).is_dir()]
    if "validation" not in there and config.val_dir != DatasetConfig.model_fields["val_dir"].default:
        raise DataError(f"{root} has no folder {config.val_dir}/ (dataset.val_dir). {remedy}")
    if config.draws_test and not {"train", "test"} & set(there):
        names, there = {"train": ""}, ["train"]
    parts = {part: list_folder(root, names[part]) for part in used_parts(str(root), there, config)}
    warnings = check_folders(root, parts, config, remedy)
    return Listing(root, parts, mirrored_masks(root, list(parts.values()), config), warnings)


def used_parts(where: str, there: Collection[str], config: DatasetConfig) -> list[str]:
    """Which of a set's own parts are used: "train", "validation" where ``dataset.validation`` asks for it, "test".

    Args:
        where: the set lies, for an error.
        there: the parts that it has.
        config: group ``dataset``.

    Raises:
        DataError: a part that is missing, or a test part that is there and is to be drawn as well.
    """
    if "train" not in there:
        raise DataError(f"{where} has no training images: its parts are {either(there)}.")
    if "test" not in there and not config.draws_test:
        raise DataError(f"{where} has no test part.{DRAW_IT}")
    if "test" in there and config.test is not None:
        raise DataError(f"dataset.test={config.test:g} draws test images, and {where} has some: leave it out.")
    if "validation" not in there and config.validation in ("split", "folder"):
        raise DataError(
            f"dataset.validation={config.validation}, and {where} has no validation part. A share of the training "
            f"images: dataset.validation={VALIDATION}."
        )
    own = ("train", "validation", "test") if config.validation in ("auto", "split", "folder") else ("train", "test")
    return [part for part in own if part in there]


# ---- masks


def mirrored_masks(root: Path, folders: Sequence[Folder], config: DatasetConfig) -> MaskFiles | None:
    """Masks that stand below ``dataset.mask_dir`` as their images stand below ``root``; None where it is null.

    The mask of ``train/cat/7.jpg`` is ``mask_dir/train/cat/7.png``, or 7 with another suffix of images. Where images
    may lack masks, whole folders may, such as the test images'.

    Raises:
        DataError: no such folder, or images without a mask.
    """
    if config.mask_dir is None:
        return None
    mask_root = root / Path(config.mask_dir).expanduser()  # an absolute path stays as it is
    there = [folder.name for folder in folders if (mask_root / folder.name).is_dir()]
    missing = [folder.name for folder in folders if folder.name not in there]
    if missing and (config.on_missing_mask == "error" or not there):
        named = " and ".join(f"{name}/" for name in missing)
        raise DataError(
            f"dataset.mask_dir={config.mask_dir}: {mask_root} has no folder {named}. "
            "Masks stand there as their images do: SPLIT/CLASS/NAME.png."
        )
    found: dict[str, list[str]] = {}
    for name in there:
        for path, _ in list_folder(mask_root, name).labelled():
            found.setdefault(bare(path), []).append(path)
    images = [path for folder in folders for path, _ in folder.labelled()]
    return checked_masks(mask_root, images, {path: found.get(bare(path), []) for path in images}, config)


def checked_masks(root: Path, images: Sequence[str], files: dict[str, list[str]], config: DatasetConfig) -> MaskFiles:
    """The masks, or one error that names the images without one (``dataset.on_missing_mask``).

    Raises:
        DataError: images without a mask file, unless they are to have an empty one.
    """
    missing = [path for path in images if not files.get(path)]
    if missing and config.on_missing_mask == "error":
        raise DataError(
            f"Images without a mask in {root}: {len(missing)} of {len(images)}\n  "
            + "\n  ".join(first_few(missing))
            + "\nAdd their masks, or give them empty ones with dataset.on_missing_mask=empty."
        )
    return MaskFiles(root, {path: files[path] for path in images if files.get(path)})


def bare(path: str) -> str:
    """A path without its suffix of an image."""
    found = PurePosixPath(path)
    return found.with_suffix("").as_posix() if found.suffix.lower() in SUFFIXES else path
