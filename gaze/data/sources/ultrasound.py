"""Breast ultrasound images (BUSI, Al-Dhabyani et al. 2020): masks beside the images, and a split of our own.

    ROOT/Dataset_BUSI_with_GT/CLASS/NAME.png, NAME_mask.png, and for further lesions NAME_mask_1.png, NAME_mask_2.png

The set comes without training and test folders. Every fifth image of each class, in natural order of names
("benign (2)" before "benign (10)"), is for testing, as the project's reference has it: one in
``round(1 / test_fraction)``. Images with equal pixels may then stand on both sides; the audit says which, and
``dataset.on_leak=drop`` takes them out of training.

With ``dataset.split_seed`` a number, another split is drawn, in which they do not:

- Images with equal pixels form a group, across classes too; a group is never divided.
- Groups are put in the order of SHA-256 of ``"<split_seed>/<CLASS>/<NAME>.png"``, the smallest of a group's images.
- In that order a group goes to the test set where it fits, until each class has ``round(test_fraction * n)`` images
  there (at least 1, at most n - 1). All others are for training.

Either is stratified and the same on every machine, wherever the copy lies.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from natsort import natsorted

from gaze.config.data import DatasetConfig
from gaze.data.audit import Record, first_few
from gaze.data.decode import Half
from gaze.data.sources.folders import Folder, entries, list_folder, unlike_published
from gaze.data.sources.listing import Listing, bare, checked_masks
from gaze.errors import DataError

INNER = "Dataset_BUSI_with_GT"
MASK_NAME = re.compile(r"(?P<image>.+)_mask(_\d+)?")
WANTED = f"Give the folder that holds {INNER}/, or that one itself: class folders with NAME.png and NAME_mask.png."


def list_pairs(place: Path, config: DatasetConfig, remedy: str) -> Listing:
    """Images and masks of the classes in ``dataset.classes``, or of all class folders where it is null.

    Args:
        place: see :data:`WANTED`.
        config: group ``dataset``.
        remedy: a sentence on what to do, which ends an error.

    Raises:
        DataError: a class that is missing or empty, images without a mask, other counts after a download.
    """
    root = place / INNER if (place / INNER).is_dir() else place
    listing = list_folder(root, "")
    classes = sorted(listing.files if config.classes is None else config.classes)
    absent = [name for name in classes if name not in listing.files]
    if absent or len(classes) < 2:
        there = ", ".join(first_few([entry.name for entry in entries(root)], 10)) or "nothing"
        wanted = f"no class folder {', '.join(absent)}" if absent else "fewer than two class folders"
        raise DataError(f"{root} has {wanted}. It holds: {there}. {remedy}")
    images, masks = Folder("", {}, listing.ignored), defaultdict[str, list[str]](list)
    for name in classes:
        images.files[name] = [path for path in listing.files[name] if _image_of(path) is None]
        for path in listing.files[name]:
            if (image := _image_of(path)) is not None:
                masks[image].append(path)
    if empty := [name for name, files in images.files.items() if not files]:
        raise DataError(f"No image in {root} in: {', '.join(empty)}. {remedy}")
    by_name = {bare(path): path for path, _ in images.labelled()}
    alone = [path for image, paths in masks.items() if image not in by_name for path in paths]
    warnings = [f"masks without an image: {len(alone)} ({', '.join(first_few(alone, 3))})"] if alone else []
    warnings += _unlike(root, images, config, remedy)
    files = {path: masks.get(name, []) for name, path in by_name.items()}
    return Listing(root, {"all": images}, checked_masks(root, list(files), files, config), warnings)


def _unlike(root: Path, images: Folder, config: DatasetConfig, remedy: str) -> list[str]:
    published = {name: config.counts[name] for name in images.files if name in config.counts} if config.counts else None
    lines = unlike_published(root, images, published, remedy)
    if lines and config.root is None:
        raise DataError(f"{config.handle} is not the published set: {'; '.join(lines)}. {remedy}")
    return lines


def divide(half: Half, config: DatasetConfig) -> dict[str, Half]:
    """The training and the test half of all decoded images; those that could not be read are in neither.

    Args:
        half: all images, with their masks.
        config: ``test_fraction`` and ``split_seed``.
    """
    records = [(i, record) for i, record in enumerate(half.records) if record is not None]
    test = _every_fifth(records, config) if config.split_seed is None else _drawn(records, config)
    halves = {}
    for split in ("train", "test"):
        rows = [(i, record._replace(split=split)) for i, record in records if (i in test) == (split == "test")]
        places = [i for i, _ in rows]
        masks = None if half.masks is None else half.masks[places]
        kept: list[Record | None] = [record for _, record in rows]
        halves[split] = half._replace(images=half.images[places], records=kept, bad=[], masks=masks, notes=())
    return halves


def _every_fifth(records: Sequence[tuple[int, Record]], config: DatasetConfig) -> set[int]:
    step = max(2, round(1 / config.test_fraction))
    by_class: defaultdict[int, list[tuple[int, Record]]] = defaultdict(list)
    for i, record in natsorted(records, key=lambda pair: pair[1].path):
        by_class[record.label].append((i, record))
    return {i for members in by_class.values() for i, _ in members[step - 1 :: step]}


def _drawn(records: Sequence[tuple[int, Record]], config: DatasetConfig) -> set[int]:
    groups: defaultdict[bytes, list[tuple[int, Record]]] = defaultdict(list)
    for i, record in records:
        groups[record.digest].append((i, record))
    counts = Counter(record.label for _, record in records)
    room = {label: min(max(1, round(config.test_fraction * n)), n - 1) for label, n in counts.items()}
    chosen: set[int] = set()
    for group in sorted(groups.values(), key=lambda g: min(_order(r.path, config.split_seed or 0) for _, r in g)):
        needed = Counter(record.label for _, record in group)
        if all(room[label] >= n for label, n in needed.items()):
            chosen |= {i for i, _ in group}
            room = {label: left - needed[label] for label, left in room.items()}
    return chosen


def _order(path: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{path}".encode(errors="surrogateescape")).digest()


def _image_of(path: str) -> str | None:
    """Path without suffix of the image that a mask belongs to; None for a file that is no mask."""
    found = MASK_NAME.fullmatch(bare(path))
    return found["image"] if found else None
