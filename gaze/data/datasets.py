"""Where images come from: Kaggle, a folder of class folders, or the phantom; and their lesion masks.

:func:`load_dataset` checks what it finds, says what is wrong in one :class:`~gaze.errors.DataError`, takes the
images out of the cache or decodes them into it (:mod:`gaze.data.decode`, :mod:`gaze.data.cache`), and audits what came
(:mod:`gaze.data.audit`). Network code is imported only when something is really downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor

from gaze.cam import pool
from gaze.choices import SOURCES
from gaze.config.data import DatasetConfig, Window
from gaze.data import decode, dicom, masks
from gaze.data.audit import DEEP, Audit, Pixels, Record, file_and_frame, first_few, make_audit, pixel_digest
from gaze.data.cache import Entry, Request, Say, cache_folder, cached
from gaze.data.decode import Half, count_frames, find_window, read_images
from gaze.data.masks import add_masks, check_seen
from gaze.data.sources import phantom, ultrasound
from gaze.data.sources.folders import local_root
from gaze.data.sources.kaggle import WAYS_OUT, download
from gaze.data.sources.listing import Listing, list_splits
from gaze.data.sources.phantom import CLASSES, make_phantom
from gaze.data.splits import drawn_part, group_names, groups_of
from gaze.errors import DataError
from gaze.names import printable

MOST_FRAMES = 10_000  # of a file


class Split(NamedTuple):
    """Images (N, C, S, S) uint8; targets (N,) int64; N paths below the root, for people to read (``printable``); masks
    (N, 1, S, S) uint8 or None."""

    images: Tensor
    targets: Tensor
    paths: list[str]
    masks: Tensor | None = None


@dataclass(frozen=True)
class ImageData:
    """A loaded data set. ``classes`` are in alphabetical order; a target is an index into them."""

    classes: tuple[str, ...]
    train: Split
    test: Split
    audit: Audit
    validation: Split | None = None  # None where the test images are what each epoch is judged by

    @property
    def evaluated(self) -> Split:
        """The images that each epoch is judged by."""
        return self.test if self.validation is None else self.validation


def load_dataset(config: DatasetConfig, progress: Say | None = None) -> ImageData:
    """Find, check, decode and audit a data set.

    Args:
        config: checked group ``dataset``.
        progress: called with a line now and then while a large set is downloaded or read.

    Raises:
        DataError: the set cannot be found, downloaded, read or trusted.
    """
    say = progress or (lambda line: None)
    data = SOURCES[config.kind].function(config, say)
    assert isinstance(data, ImageData)
    return data


def load_phantom(config: DatasetConfig, say: Say) -> ImageData:
    """The phantom, drawn or out of the cache."""
    assert config.train_images and config.test_images  # the phantom's settings have numbers
    counts = {"train": config.train_images, "test": config.test_images}
    wanted = {"kind": "phantom", "seed": config.seed, "image_size": config.image_size, "counts": counts}
    made_from = {"source": _source(phantom), "numpy": np.__version__}

    def build() -> Entry:
        drawn = {name: make_phantom(n, config.image_size, seed=config.seed, split=name) for name, n in counts.items()}
        return _packed({name: half_of(name, *(part.numpy() for part in each)) for name, each in drawn.items()})

    request = Request("phantom", wanted, lambda: made_from)
    halves = _unpacked(cached(cache_folder(config.cache), request, build, say, "drew"))
    if config.channels > 1:
        halves = {name: h._replace(images=np.repeat(h.images, config.channels, 1)) for name, h in halves.items()}
    return assemble(None, CLASSES, halves["train"], halves["test"], config)


def load_folders(config: DatasetConfig, say: Say) -> ImageData:
    """Class folders below a training and a test folder, on this machine or from Kaggle."""
    place, remedy = _root(config, f"Give the folder that holds {config.train_dir}/ and {config.test_dir}/.", say)
    remedy = remedy or "Compare dataset.root, dataset.train_dir and dataset.test_dir with what is there."
    listing = list_splits(place, config, remedy)
    return _loaded(listing, config, say, lambda halves: halves)


def load_ultrasound(config: DatasetConfig, say: Say) -> ImageData:
    """Breast ultrasound: all images are decoded and kept at once, and divided afterwards: equal ones are known only
    then."""
    place, remedy = _root(config, ultrasound.WANTED, say)
    listing = ultrasound.list_pairs(place, config, remedy or ultrasound.WANTED)
    return _loaded(listing, config, say, lambda halves: ultrasound.divide(halves["all"], config))


def _loaded(
    listing: Listing, config: DatasetConfig, say: Say, divide: Callable[[dict[str, Half]], dict[str, Half]]
) -> ImageData:
    """The images of a listing. Where some are beyond 8 bits and ``dataset.window`` is auto, all are decoded again,
    through the window of those that are trained on: which these are is known only then."""

    if config.frames == "all":
        listing = _framed(listing)

    def assembled(halves: dict[str, Half]) -> ImageData:
        parts = divide(halves)
        return assemble(listing.root, listing.classes, parts["train"], parts["test"], config)

    halves = _decoded(listing, config, say)
    if config.window == "auto" and any(r and DEEP in r.remarks for half in halves.values() for r in half.records):
        parts = divide(halves)
        trained = _divided(parts["train"], parts["test"], listing.classes, config).records("train")
        halves = _decoded(listing, config, say, [r.path for r in trained if DEEP in r.remarks])
    return _with_remarks(assembled(halves), halves, listing)


def _root(config: DatasetConfig, wanted: str, say: Say) -> tuple[Path, str]:
    """The local copy, or the downloaded one and what to do where something is wrong with it."""
    if config.root is not None:
        return local_root(config, wanted), ""
    root = download(config.handle or "", say)
    return root, f"Delete the folder {root} and run again: the download is damaged or has changed. {WAYS_OUT}"


def _framed(listing: Listing) -> Listing:
    """With an image for each frame of the files that hold several, as ``FILE#NUMBER``."""
    paths = [path for folder in listing.folders.values() for path, _ in folder.labelled()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = dict(zip(paths, pool.map(lambda path: count_frames(listing.root / path), paths), strict=True))

    if many := [path for path, count in counts.items() if count > MOST_FRAMES]:
        raise DataError(
            f"{listing.root / many[0]} says that it has {counts[many[0]]:,} frames: at most {MOST_FRAMES:,}."
        )

    def images(path: str) -> list[str]:
        return [path] if counts[path] == 1 else [f"{path}#{number}" for number in range(counts[path])]

    folders = {
        split: folder._replace(files={name: [i for p in own for i in images(p)] for name, own in folder.files.items()})
        for split, folder in listing.folders.items()
    }
    return listing._replace(folders=folders)


def _decoded(
    listing: Listing, config: DatasetConfig, say: Say, window_of: Sequence[str] | None = None
) -> dict[str, Half]:
    """A set's images, and their masks where there are any: out of the cache, or decoded into it. ``window_of`` are the
    files that a window is found from."""
    root, folders, found, _ = listing
    wanted = {
        "root": os.path.realpath(root),
        "folders": [folder.name for folder in folders.values()],
        "image_size": config.image_size,
        "channels": config.channels,
        "on_bad_image": config.on_bad_image,
        "window": config.window,
        "window_of": window_of,
        "orient": config.orient,
    }
    source = {"source": _source(decode) + _source(dicom), "pillow": PIL.__version__}
    if found is not None:
        wanted |= {"masks": os.path.realpath(found.root), "classes": listing.classes}
        source |= {"masks": _source(masks), "pool": _source(pool)}

    def made_from() -> Any:
        images = [
            [path, *_stamp(root, file_and_frame(path)[0])]
            for folder in folders.values()
            for path, _ in folder.labelled()
        ]
        if found is None:
            return {**source, "files": images}
        stamps = [[path, file, *_stamp(found.root, file)] for path, files in found.files.items() for file in files]
        return {**source, "files": images, "mask_files": stamps}

    def build() -> Entry:
        return _packed(_read_folders(listing, config, say, window_of))

    return _unpacked(cached(cache_folder(config.cache), Request(config.name, wanted, made_from), build, say))


def _with_remarks(data: ImageData, halves: dict[str, Half], listing: Listing) -> ImageData:
    """What was left out or is odd, written into the audit."""
    notes = [line for half in halves.values() for line in half.notes]
    data.audit.unreadable.extend(printable(line) for half in halves.values() for line in half.bad)
    data.audit.ignored.extend(map(printable, listing.ignored))
    data.audit.warnings.extend([*listing.warnings, *first_few(notes)])
    return data


def _read_folders(
    listing: Listing, config: DatasetConfig, say: Say, window_of: Sequence[str] | None
) -> dict[str, Half]:
    """Decode all folders; refuse what cannot be trained on, so that it is not kept in the cache."""
    root, folders, found, _ = listing

    window: Window = config.window
    if window == "auto":  # a first look, at which nothing needs to be seen, or the one that counts
        window = "image" if window_of is None else find_window([root / path for path in window_of])
    size = config.channels, config.image_size
    halves = {
        split: read_images(
            root, folder.name or root.name, folder.labelled(), split, *size, say, window, bool(config.orient)
        )
        for split, folder in folders.items()
    }
    if found is not None:
        halves = {split: add_masks(half, found, say, bool(config.orient)) for split, half in halves.items()}
        check_seen(found.root, halves.values())
    bad = [line for half in halves.values() for line in half.bad]
    if bad and config.on_bad_image == "error":
        listed = "\n  ".join(first_few(bad))
        raise DataError(
            f"Unreadable images in {root}: {len(bad)}\n  {listed}\n"
            "Replace them, or leave them out with dataset.on_bad_image=skip."
        )
    if "all" not in halves:
        _check_classes_left(
            root, listing.classes, [r for half in halves.values() for r in half.records if r is not None]
        )
    return halves


# ---- to and from the cache


def _source(module: Any) -> str:
    """Text of a module: what it makes may change with it."""
    try:
        return Path(module.__file__).read_text(encoding="utf-8")
    except OSError:  # installed without its source; then it does not change either
        return ""


def _stamp(root: Path, path: str) -> tuple[int, ...]:
    """What changes when a file's content does: size and times; nothing where there is no file."""
    try:
        found = os.stat(f"{root}/{path}")  # noqa: PTH116 - no Path made for each of thousands
    except OSError:
        return ()
    # The second time tells of a file that was replaced by one of equal size and date, as from an archive.
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _packed(halves: dict[str, Half]) -> Entry:
    arrays, facts = {}, {}
    for split, half in halves.items():
        arrays[split] = half.images
        if half.masks is not None:
            arrays[f"{split}_masks"] = half.masks
        rows = [None if r is None else r._replace(digest=r.digest.hex()) for r in half.records]  # type: ignore[arg-type]
        facts[split] = {"records": rows, "bad": half.bad, "notes": list(half.notes), "window": half.window}
    images = sum(r is not None for half in halves.values() for r in half.records)
    return Entry(arrays, facts, images, all(half.lasting for half in halves.values()))


def _unpacked(entry: Entry) -> dict[str, Half]:
    halves = {}
    for split, facts in entry.facts.items():
        records = [None if row is None else _record(*row) for row in facts["records"]]
        kept, more = entry.arrays.get(f"{split}_masks"), {"notes": facts["notes"], "window": facts["window"]}
        halves[split] = Half(entry.arrays[split], records, facts["bad"], kept, **more)
    return halves


def _record(path: str, split: str, label: int, digest: str, size: list[int], mode: str, remarks: list[str]) -> Record:
    return Record(path, split, label, bytes.fromhex(digest), (size[0], size[1]), mode, tuple(remarks))


def half_of(split: str, images: Pixels, targets: NDArray[np.int64], masks: Pixels | None = None) -> Half:
    """A split of images that are in memory.

    Args:
        split: "train" or "test".
        images: (N, C, S, S) uint8, C 1 or 3.
        targets: (N,), indices of classes.
        masks: (N, 1, S, S) uint8, 0 or 1, where there are any.
    """
    pixels = images[:, 0] if images.shape[1] == 1 else np.moveaxis(images, 1, -1)
    size, mode = (images.shape[3], images.shape[2]), "L" if images.shape[1] == 1 else "RGB"
    records: list[Record | None] = [
        Record(f"{split}/{i:05d}", split, label, pixel_digest(pixels[i]), size, mode)
        for i, label in enumerate(targets.tolist())
    ]
    return Half(images, records, [], masks)


def assemble(root: Path | None, classes: tuple[str, ...], train: Half, test: Half, config: DatasetConfig) -> ImageData:
    """A data set of its two halves: what could not be read is left out and, if so configured, what leaked and what is
    too many; what is in use is audited.

    Raises:
        DataError: images leaked where none may; a class has no image left.
    """
    divided = _divided(train, test, classes, config)
    used = [r for split in divided.places for r in divided.records(split)]
    _check_classes_left(root, classes, used)
    place = None if root is None else printable(str(root))
    audit = make_audit(config.name, place, classes, used, list(divided.dropped))
    audit.warnings = divided.remarks
    audit.window = train.window if any(DEEP in r.remarks for r in used) or train.window == "file" else None
    kept = {split: _keep(divided.halves[split], own) for split, own in divided.places.items()}
    return ImageData(classes, kept["train"], kept["test"], audit, kept.get("validation"))


class Divided(NamedTuple):
    """Which image of which half stands in which split, what leaked and is left out, what is to be said."""

    halves: dict[str, Half]
    places: dict[str, list[int]]
    dropped: set[Record]
    remarks: list[str]

    def records(self, split: str) -> list[Record]:
        """Of a split's images."""
        return _records(self.halves[split], self.places[split])


def _divided(train: Half, test: Half, classes: tuple[str, ...], config: DatasetConfig) -> Divided:
    leaked, shared, remarks = _leaked(train, test, config)
    dropped = leaked if config.on_leak != "warn" else set()
    if dropped and config.on_leak == "error":
        listed = "\n  ".join(first_few(sorted(r.path for r in dropped)))
        groups = f", or whose group (dataset.group) does: {shared} groups," if shared else ":"
        raise DataError(
            f"Training images of {config.name} that also stand in the test set{groups} {len(dropped)}\n  {listed}\n"
            "Remove them, or leave them out with dataset.on_leak=drop."
        )
    places = {
        "train": _chosen(train, dropped, config.train_images, config.seed),
        "test": _chosen(test, set(), config.test_images, config.seed),
    }
    if config.validation != "test":
        places["train"], places["validation"] = _parted(train, places["train"], classes, config)
        train = _of_part(train, places["validation"], "validation")
    return Divided({"train": train, "test": test, "validation": train}, places, dropped, remarks)


def _leaked(train: Half, test: Half, config: DatasetConfig) -> tuple[set[Record], int, list[str]]:
    """Training images that stand in the test set, or whose group does; how many such groups; what is to be said."""
    here, there = ([r for r in half.records if r is not None] for half in (train, test))
    names = group_names([r.path for r in [*here, *there]], config.group)
    pixels, groups = {r.digest for r in there}, {name for name in names[len(here) :] if name is not None}
    own = list(zip(here, names, strict=False))
    shared = {name for _, name in own if name in groups}
    leaked = {r for r, name in own if r.digest in pixels or name in shared}
    if config.group is None:
        return leaked, 0, []
    alone = names.count(None)
    remarks = [f"{alone} of {len(names)} file names do not match dataset.group={config.group}: each a group of its own"]
    remarks = remarks if alone else []
    if shared:
        did = "dropped there" if config.on_leak == "drop" else "dataset.on_leak=drop removes their training images"
        remarks.append(f"{len(shared)} of {len(set(names) - {None})} groups stand in train and in test; {did}")
    return leaked, len(shared), remarks


def _parted(half: Half, places: list[int], classes: Sequence[str], config: DatasetConfig) -> list[list[int]]:
    """Places of what is left for training, and of the validation part drawn from them."""
    records, what = _records(half, places), f"dataset.validation={config.validation:g}"
    groups = groups_of(records, group_names([r.path for r in records], config.group))
    labels = np.array([r.label for r in records], dtype=np.int64)
    drawn = set(
        drawn_part(labels, groups, float(config.validation), (config.split_seed or 0) % 2**32, classes, what).tolist()
    )
    return [[place for i, place in enumerate(places) if (i in drawn) == chosen] for chosen in (False, True)]


def _of_part(half: Half, places: Sequence[int], split: str) -> Half:
    """A half some of whose images are those of another split."""
    chosen = set(places)
    records = [r._replace(split=split) if r and i in chosen else r for i, r in enumerate(half.records)]
    return half._replace(records=records)


def _chosen(half: Half, dropped: set[Record], most: int | None, seed: int) -> list[int]:
    """Places of the images in use."""
    kept = [i for i, r in enumerate(half.records) if r is not None and r not in dropped]
    labels = np.array([r.label for r in _records(half, kept)], dtype=np.int64)
    return [kept[i] for i in balanced_choice(labels, len(kept) if most is None else most, seed)]


def balanced_choice(target: NDArray[np.int64], most: int, seed: int = 0) -> NDArray[np.int64]:
    """Places of ``most`` images (all, if there are no more), in order, with as many of each class as there are."""
    if most >= len(target):
        return np.arange(len(target))
    order = np.random.default_rng(seed).permutation(len(target))
    turn = np.empty(len(target), dtype=np.int64)  # the how-many-th of its class each image is
    for label in np.unique(target):
        own = order[target[order] == label]
        turn[own] = np.arange(len(own))
    first = np.lexsort((np.argsort(order), turn))  # all classes' first images, then all second ones
    return np.sort(first[:most])


def _records(half: Half, places: Sequence[int]) -> list[Record]:
    return [r for r in (half.records[i] for i in places) if r is not None]


def _check_classes_left(root: Path | None, classes: tuple[str, ...], used: list[Record]) -> None:
    for split in dict.fromkeys(("train", "test", *(r.split for r in used))):
        empty = set(range(len(classes))) - {r.label for r in used if r.split == split}
        if empty:
            names = ", ".join(classes[i] for i in sorted(empty))
            raise DataError(
                f"{split} in {root} has no image left of: {names}. Unreadable images, those that "
                f"dataset.on_leak=drop removes and those beyond dataset.{split}_images are left out; mend the images "
                "or set dataset.on_leak=warn."
            )


def _keep(half: Half, places: list[int]) -> Split:
    """A half without what is left out; only then its images are copied, else they may stay in the cache's file."""
    rows = slice(None) if len(places) == len(half.records) else places
    records = _records(half, places)
    targets = torch.tensor([r.label for r in records], dtype=torch.int64)
    own = None if half.masks is None else torch.from_numpy(half.masks[rows])
    return Split(torch.from_numpy(half.images[rows]), targets, [printable(r.path) for r in records], own)
