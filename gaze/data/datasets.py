"""Where images come from: Kaggle, class folders, a table, a file of MedMNIST, the phantom; and their lesion masks.

:func:`load_dataset` checks what it finds, says what is wrong in one :class:`~gaze.errors.DataError`, takes the
images out of the cache or decodes them into it (:mod:`gaze.data.decode`, :mod:`gaze.data.cache`), and audits what came
(:mod:`gaze.data.audit`). Network code is imported only when something is really downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor

from gaze.cam import pool
from gaze.choices import SOURCES
from gaze.config.data import DatasetConfig, MarkerConfig, Window
from gaze.data import decode, dicom, masks
from gaze.data.audit import DEEP, Audit, Pixels, Record, file_and_frame, first_few, make_audit, pixel_digest
from gaze.data.cache import Entry, Request, Say, cache_folder, cached
from gaze.data.decode import Half, count_frames, find_window, read_images
from gaze.data.human import Human, read_fixations, with_human
from gaze.data.marker import draw_markers
from gaze.data.masks import add_masks, check_seen, guide_masks
from gaze.data.sources import npz, phantom, table, ultrasound
from gaze.data.sources.folders import local_root
from gaze.data.sources.kaggle import WAYS_OUT, download
from gaze.data.sources.listing import Listing, list_splits, used_parts
from gaze.data.sources.phantom import CLASSES, make_phantom
from gaze.data.splits import VALIDATION, drawn_part, fold_part, group_names, groups_of
from gaze.errors import DataError
from gaze.names import printable, shown_name

MOST_FRAMES = 10_000  # of a file
PARTS = ("train", "validation", "test")
SAID = {"train": "Training", "validation": "Validation"}


class Split(NamedTuple):
    """Images (N, C, S, S) uint8; targets (N,) int64; N paths below the root, for people to read (``printable``); masks
    (N, 1, S, S) uint8 or None; N groups (patients), None for an image that is alone, or None where there are none;
    where markers are (N, 1, S, S) uint8, or None without ``dataset.marker``; widths and heights
    before resizing, where known; what people looked at, where somebody did."""

    images: Tensor
    targets: Tensor
    paths: list[str]
    masks: Tensor | None = None
    groups: list[str | None] | None = None
    markers: Tensor | None = None
    sizes: list[tuple[int, int]] | None = None
    human: Human | None = None

    @property
    def marker_groups(self) -> Tensor:
        """Class x marker of each image (N,), see :mod:`gaze.data.marker`."""
        return 2 * self.targets + (0 if self.markers is None else self.markers.flatten(1).any(1))


@dataclass(frozen=True)
class ImageData:
    """A loaded data set. ``classes`` are in alphabetical order, numbers in their own; a target is an index into
    them. ``private`` says that it knows patients, by its files' names or a table."""

    classes: tuple[str, ...]
    train: Split
    test: Split
    audit: Audit
    validation: Split | None = None  # None where the test images are what each epoch is judged by
    private: bool = False

    def shown(self, split: Split) -> list[str]:
        """What its images are called, see :func:`gaze.names.shown_name`."""
        return [shown_name(path, place, self.private) for place, path in enumerate(split.paths)]

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
    fixations = read_fixations(config) if config.fixations else []
    data = SOURCES[config.kind].function(config, say)
    assert isinstance(data, ImageData)
    if config.guide_dir is not None:
        data = replace(data, train=data.train._replace(masks=guide_masks(config, data.train.paths)))
    if config.has_readers:
        data = with_human(data, config, fixations)
    return data if config.marker is None else _marked(data, config.marker, config.seed)


def _marked(data: ImageData, marker: MarkerConfig, seed: int) -> ImageData:
    parts = {name: getattr(data, name) for name in PARTS if getattr(data, name) is not None}
    drawn = {
        name: own._replace(markers=draw_markers(own.images, own.targets, own.paths, data.classes, marker, name, seed))
        for name, own in parts.items()
    }
    return replace(data, **drawn)


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


def load_table(config: DatasetConfig, say: Say) -> ImageData:
    """What a table names, or the metadata files in a folder."""
    return _loaded(table.list_table(local_root(config, table.WANTED), config, ""), config, say, lambda halves: halves)


def load_npz(config: DatasetConfig, say: Say) -> ImageData:
    """A file of MedMNIST, resized, or out of the cache."""
    file = Path(config.root or "").expanduser()
    parts = used_parts(str(file), npz.parts_of(file), config)
    wanted: dict[str, Any] = {"root": os.path.realpath(file), "parts": parts}
    wanted |= {"kind": "npz", "image_size": config.image_size, "channels": config.channels} | _resized(config)
    made_from = {"source": _source(npz) + _source(decode), "pillow": PIL.__version__}

    def build() -> Entry:
        return _packed({part: npz.read_part(file, part, config) for part in parts})

    request = Request(config.name, wanted, lambda: {**made_from, "file": _stamp(file.parent, file.name)})
    halves = _unpacked(cached(cache_folder(config.cache), request, build, say))
    classes = npz.classes_of(str(file), halves)
    return assemble(file, classes, halves["train"], halves.get("test"), config, halves.get("validation"))


def load_ultrasound(config: DatasetConfig, say: Say) -> ImageData:
    """Breast ultrasound: all images are decoded and kept at once, and divided afterwards: equal ones are known only
    then."""
    place, remedy = _root(config, ultrasound.WANTED, say)
    listing = ultrasound.list_pairs(place, config, remedy or ultrasound.WANTED)

    def divide(halves: dict[str, Half]) -> dict[str, Half]:
        return {"train": halves["all"]} if config.folds else ultrasound.divide(halves["all"], config)

    return _loaded(listing, config, say, divide)


def _loaded(
    listing: Listing, config: DatasetConfig, say: Say, divide: Callable[[dict[str, Half]], dict[str, Half]]
) -> ImageData:
    """The images of a listing. Where some are beyond 8 bits and ``dataset.window`` is auto, all are decoded again,
    through the window of those that are trained on: which these are is known only then."""

    if config.frames == "all":
        listing = _framed(listing)

    def assembled(halves: dict[str, Half]) -> ImageData:
        parts, own = divide(halves), (listing.classes, listing.groups)
        train, test = parts["train"], parts.get("test")
        return assemble(listing.root, own[0], train, test, config, parts.get("validation"), own[1])

    halves = _decoded(listing, config, say)
    if config.window == "auto" and any(r and DEEP in r.remarks for half in halves.values() for r in half.records):
        parts = divide(halves)
        trained = _divided(parts, listing.classes, config, listing.groups).records("train")
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
    root, folders, found, *_ = listing
    wanted = {
        "root": os.path.realpath(root),
        "folders": [folder.name for folder in folders.values()],
        "image_size": config.image_size,
        "channels": config.channels,
        "on_bad_image": config.on_bad_image,
        "window": config.window,
        "window_of": window_of,
        "orient": config.orient,
    } | _resized(config)
    source = {"source": _source(decode) + _source(dicom), "pillow": PIL.__version__}
    if found is not None:
        wanted |= {"masks": os.path.realpath(found.root), "classes": listing.classes}
        source |= {"masks": _source(masks), "pool": _source(pool)}

    def made_from() -> Any:
        images = [
            [split, path, label, *_stamp(root, file_and_frame(path)[0])]
            for split, folder in folders.items()
            for path, label in folder.labelled()
        ]
        if found is None:
            return {**source, "files": images}
        stamps = [[path, file, *_stamp(found.root, file)] for path, files in found.files.items() for file in files]
        return {**source, "files": images, "mask_files": stamps}

    def build() -> Entry:
        return _packed(_read_folders(listing, config, say, window_of))

    return _unpacked(cached(cache_folder(config.cache), Request(config.name, wanted, made_from), build, say))


def _resized(config: DatasetConfig) -> dict[str, str]:
    """What older entries of the cache do not have: they are bilinear."""
    return {} if config.resampling == "bilinear" else {"interpolation": config.resampling}


def _with_remarks(data: ImageData, halves: dict[str, Half], listing: Listing) -> ImageData:
    """What was left out or is odd, written into the audit."""
    bad = [line for half in halves.values() for line in half.bad]
    notes = [line for half in halves.values() for line in half.notes]
    ignored = listing.ignored
    if data.private:
        bad, notes, ignored = _unnamed(bad, listing), _unnamed(notes, listing), ["a file"] * len(ignored)
    data.audit.unreadable.extend(map(printable, bad))
    data.audit.ignored.extend(map(printable, ignored))
    data.audit.warnings.extend([*listing.warnings, *first_few(notes)])
    return data


def _unnamed(lines: Sequence[str], listing: Listing) -> list[str]:
    """Lines ``PATH: what`` and ``mask of PATH: what`` with the file's place among those that are listed."""
    if not lines:
        return []
    files = {
        path: f"{split} file {place}"
        for split, folder in listing.folders.items()
        for place, (path, _) in enumerate(folder.labelled())
    }
    found = []
    for line in lines:
        mask = "mask of " if line.startswith("mask of ") else ""
        words = line.removeprefix(mask).split(": ")
        heads = {": ".join(words[:n]): ": ".join(words[n:]) for n in range(1, len(words))}
        path = next((head for head in heads if head in files), "")
        what = heads.get(path, "")
        what = "cannot be read" if not what or "/" in what or Path(path).stem in what else what  # it repeats a name
        found.append(f"{mask}{files.get(path, 'a file')}: {what}")
    return found


def _read_folders(
    listing: Listing, config: DatasetConfig, say: Say, window_of: Sequence[str] | None
) -> dict[str, Half]:
    """Decode all folders; refuse what cannot be trained on, so that it is not kept in the cache."""
    root, folders, found, *_ = listing

    window: Window = config.window
    if window == "auto":  # a first look, at which nothing needs to be seen, or the one that counts
        window = "image" if window_of is None else find_window([root / path for path in window_of])
    how = config.channels, config.image_size, say, window, bool(config.orient), config.resampling
    halves = {
        split: read_images(root, folder.name or root.name, folder.labelled(), split, *how)
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
            root, listing.classes, [r for half in halves.values() for r in half.records if r is not None], halves
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


def assemble(
    root: Path | None,
    classes: tuple[str, ...],
    train: Half,
    test: Half | None,
    config: DatasetConfig,
    validation: Half | None = None,
    groups: Mapping[str, str] | None = None,
) -> ImageData:
    """A data set of its parts: what could not be read is left out and, if so configured, what leaked and what is
    too many; what is in use is audited.

    Args:
        root: where the images lie.
        classes: their names.
        train: images, of which ``dataset.test`` or ``dataset.folds`` draws the test images where ``test`` is None.
        test: images.
        config: group ``dataset``.
        validation: the set's own part, where it is used.
        groups: what images belong to, by their paths.

    Raises:
        DataError: images leaked where none may; a class has no image left.
    """
    parts = {"train": train, "validation": validation, "test": test}
    divided = _divided({name: half for name, half in parts.items() if half is not None}, classes, config, groups)
    used = [r for split in divided.places for r in divided.records(split)]
    _check_classes_left(root, classes, used, divided.places)
    where = None if root is None else printable(str(root))
    private, dropped = config.group is not None or bool(groups), list(divided.dropped)
    called = dict.fromkeys(dropped, "left out") if private else {}
    for split in divided.places if private else ():
        called |= {r: shown_name(r.path, i, private, split) for i, r in enumerate(divided.records(split))}
    audit = make_audit(config.name, where, classes, used, dropped, called)
    audit.warnings = divided.remarks
    audit.window = train.window if any(DEEP in r.remarks for r in used) or train.window == "file" else None
    kept = {split: _keep(divided.halves[split], own, config, groups) for split, own in divided.places.items()}
    return ImageData(classes, kept["train"], kept["test"], audit, kept.get("validation"), private)


class Divided(NamedTuple):
    """Which image of which half stands in which split, what leaked and is left out, what is to be said."""

    halves: dict[str, Half]
    places: dict[str, list[int]]
    dropped: set[Record]
    remarks: list[str]

    def records(self, split: str) -> list[Record]:
        """Of a split's images."""
        return _records(self.halves[split], self.places[split])


def _divided(
    halves: dict[str, Half], classes: tuple[str, ...], config: DatasetConfig, groups: Mapping[str, str] | None = None
) -> Divided:
    halves = dict(halves)
    folded = config.folds is not None and "test" in halves  # else the fold held out is the test part
    if "test" not in halves:
        train = halves["train"]
        readable = [i for i, r in enumerate(train.records) if r is not None]
        what = f"dataset.test={config.test}"
        kept, drawn = _parted(train, readable, config.test, what, classes, config, groups)
        halves |= {"train": _only(train, kept, "train"), "test": _only(train, drawn, "test")}
    leaked, remarks = _leaked(halves, config, groups)
    dropped = leaked if config.on_leak != "warn" else set()
    most = {"train": config.train_images, "test": config.test_images}
    places = {split: _chosen(half, dropped, most.get(split), config.seed) for split, half in halves.items()}
    if config.validation in ("split", "folder") and "validation" not in halves:
        raise DataError(
            f"dataset.validation={config.validation}, and {config.name} has no validation part. A share of the "
            f"training images: dataset.validation={VALIDATION}."
        )
    if folded and "validation" in halves:
        raise DataError(
            f"dataset.folds makes the validation part, and {config.name} has one: dataset.validation=test "
            "leaves it out."
        )
    if folded or (config.validation != "test" and "validation" not in halves):
        share = None if folded else VALIDATION if isinstance(config.validation, str) else config.validation
        what, train = f"dataset.validation={share}", halves["train"]
        places["train"], places["validation"] = _parted(train, places["train"], share, what, classes, config, groups)
        halves["validation"] = halves["train"] = _of_part(train, places["validation"], "validation")
    return Divided(halves, {split: places[split] for split in PARTS if split in places}, dropped, remarks)


def _leaked(
    halves: dict[str, Half], config: DatasetConfig, groups: Mapping[str, str] | None
) -> tuple[set[Record], list[str]]:
    """Training images that also stand in the validation or test part, or whose group does, and such validation images
    of the test part; what is to be said of groups.

    Raises:
        DataError: there are some, and ``dataset.on_leak`` is error.
    """
    own = {split: [r for r in halves[split].records if r is not None] for split in PARTS if split in halves}
    names = {split: group_names([r.path for r in records], config.group, groups) for split, records in own.items()}
    remarks, leaked, taken = [], set[Record](), set[str | bytes]()
    every = [name for part in names.values() for name in part]
    if alone := every.count(None) if config.group is not None or groups is not None else 0:
        remarks.append(_alone(alone, len(every), config))
    for split in reversed(own):  # test first: what stands there counts
        pairs = list(zip(own[split], names[split], strict=True))
        found = {r for r, name in pairs if r.digest in taken or name in taken}
        shared = {name for _, name in pairs if name in taken}
        leaked |= found
        where = "test" if split == "validation" or "validation" not in own else "validation or test"
        if found and config.on_leak == "error":
            listed = "\n  ".join(first_few(sorted(r.path for r in found)))
            of = "dataset.group" if config.group is not None else "patient"
            also = f", or whose group ({of}) does: {len(shared)} groups," if shared else ":"
            raise DataError(
                f"{SAID[split]} images of {config.name} that also stand in the {where} set{also} {len(found)}\n  "
                f"{listed}\nRemove them, or leave them out with dataset.on_leak=drop."
            )
        if shared:
            did = "dropped there" if config.on_leak == "drop" else "dataset.on_leak=drop removes their training images"
            count = len(set(every) - {None})
            remarks.append(f"{len(shared)} of {count} groups stand in {split} and in {where}; {did}")
        taken |= {r.digest for r in own[split]} | {name for name in names[split] if name is not None}
    return leaked, remarks


def _alone(count: int, of: int, config: DatasetConfig) -> str:
    if config.group is None:
        return f"{count} of {of} images have no group (patient) in the table: each a group of its own"
    return f"{count} of {of} file names do not match dataset.group={config.group}: each a group of its own"


def _parted(
    half: Half,
    places: list[int],
    share: float | None,
    what: str,
    classes: Sequence[str],
    config: DatasetConfig,
    names: Mapping[str, str] | None,
) -> list[list[int]]:
    """Places of what is left, and of the part drawn from them: a share, or fold ``dataset.fold``."""
    records = _records(half, places)
    groups = groups_of(records, group_names([r.path for r in records], config.group, names))
    labels = np.array([r.label for r in records], dtype=np.int64)
    seed = (config.split_seed or 0) % 2**32
    if share is None:
        part = fold_part(labels, groups, config.folds or 0, config.fold or 0, seed, classes)
    else:
        part = drawn_part(labels, groups, share, seed, classes, what)
    drawn = set(part.tolist())
    return [[place for i, place in enumerate(places) if (i in drawn) == chosen] for chosen in (False, True)]


def _only(half: Half, places: Sequence[int], split: str) -> Half:
    """A half's images at some places, as those of a split."""
    chosen = set(places)
    records = [r._replace(split=split) if r and i in chosen else None for i, r in enumerate(half.records)]
    return half._replace(records=records)


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


def _check_classes_left(root: Path | None, classes: tuple[str, ...], used: list[Record], splits: Iterable[str]) -> None:
    for split in splits:
        empty = set(range(len(classes))) - {r.label for r in used if r.split == split}
        if empty:
            names = ", ".join(first_few([classes[i] for i in sorted(empty)]))
            raise DataError(
                f"{split} in {root} has no image left of: {names}. Unreadable images, those that "
                f"dataset.on_leak=drop removes and those beyond dataset.{split}_images are left out; mend the images "
                "or set dataset.on_leak=warn."
            )


def _keep(half: Half, places: list[int], config: DatasetConfig, groups: Mapping[str, str] | None) -> Split:
    """A half without what is left out; only then its images are copied, else they may stay in the cache's file."""
    rows = slice(None) if len(places) == len(half.records) else places
    records = _records(half, places)
    targets = torch.tensor([r.label for r in records], dtype=torch.int64)
    own = None if half.masks is None else torch.from_numpy(half.masks[rows])
    names = [name and printable(name) for name in group_names([r.path for r in records], config.group, groups)]
    paths = [printable(r.path) for r in records]
    groups_of_rows = names if any(names) else None
    sizes = [r.size for r in records]
    return Split(torch.from_numpy(half.images[rows]), targets, paths, own, groups_of_rows, sizes=sizes)
