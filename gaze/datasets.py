"""Where images come from: Kaggle, a folder of class folders, or the phantom. Decoded once, to uint8.

:func:`load_dataset` checks what it finds, says what is wrong in one :class:`~gaze.config.DataError`, and
audits what came (:mod:`gaze.audit`). Network code is imported only when something is really downloaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from gaze.audit import Audit, Pixels, Record, first_few, make_audit, pixel_digest
from gaze.config import DataError, DatasetConfig
from gaze.phantom import CLASSES, make_phantom

Say = Callable[[str], None]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
CLUTTER = ("__macosx", "thumbs.db", "desktop.ini")  # what other systems leave behind; compared in lower case
REPORT_EVERY = 2000  # images between two progress lines
WAYS_OUT = (
    "Two ways on: dataset.root=PATH uses a copy on this machine, in the folders that Kaggle delivers; "
    "dataset=phantom draws its images and needs no download."
)


class Split(NamedTuple):
    """Images (N, C, S, S) uint8; targets (N,) int64; N paths below the root; masks (N, 1, S, S) uint8 or None."""

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


class _Folder(NamedTuple):
    """One split on disk: class name -> image files, as paths below the root; and what else lay there."""

    name: str
    files: dict[str, list[str]]
    ignored: list[str]

    @property
    def counts(self) -> dict[str, int]:
        return {name: len(files) for name, files in self.files.items()}


def load_dataset(config: DatasetConfig, progress: Say | None = None) -> ImageData:
    """Find, check, decode and audit a data set.

    Args:
        config: checked group ``dataset``.
        progress: called with a line now and then while a large set is downloaded or read.

    Raises:
        DataError: the set cannot be found, downloaded, read or trusted.
    """
    say = progress or (lambda line: None)
    return _load_phantom(config) if config.kind == "phantom" else _load_folders(config, say)


def _load_phantom(config: DatasetConfig) -> ImageData:
    splits: list[Split] = []
    records: list[Record] = []
    for name, count in (("train", config.train_images), ("test", config.test_images)):
        drawn = make_phantom(count, config.image_size, seed=config.seed, split=name)
        paths = [f"{name}/{i:05d}" for i in range(count)]
        size = (config.image_size, config.image_size)
        for path, label, image in zip(paths, drawn.targets.tolist(), drawn.images, strict=True):
            records.append(Record(path, name, label, pixel_digest(image[0].numpy()), size, "L"))
        images = drawn.images.repeat(1, config.channels, 1, 1)
        splits.append(Split(images, drawn.targets, paths, drawn.masks))
    return ImageData(CLASSES, splits[0], splits[1], make_audit(config.name, None, CLASSES, records))


def _load_folders(config: DatasetConfig, say: Say) -> ImageData:
    if config.root is None:
        root = download(config.handle or "", say)
        remedy = f"Delete the folder {root} and run again: the download is damaged or has changed. {WAYS_OUT}"
    else:
        root = _local_root(config)
        remedy = "Compare dataset.root, dataset.train_dir and dataset.test_dir with what is there."
    root = _find_splits(root, config, remedy)
    train, test = (_list_folder(root, name) for name in (config.train_dir, config.test_dir))
    warnings = _check_folders(root, train, test, config, remedy)
    halves = [_read_folder(root, f, s, config, say) for f, s in ((train, "train"), (test, "test"))]
    bad = [line for half in halves for line in half.bad]
    if bad and config.on_bad_image == "error":
        listed = "\n  ".join(first_few(bad))
        raise DataError(
            f"Unreadable images in {root}: {len(bad)}\n  {listed}\n"
            "Replace them, or leave them out with dataset.on_bad_image=skip."
        )
    data = _assemble(root, tuple(train.files), halves[0], halves[1], config)
    data.audit.unreadable.extend(bad)
    data.audit.ignored.extend(train.ignored + test.ignored)
    data.audit.warnings.extend(warnings)
    return data


# ---- decoding


def convert_image(image: Image.Image, channels: int) -> Image.Image:
    """An 8-bit image of mode L (``channels`` 1) or RGB (3), at its own size.

    - Greyscale with 16 bits: value / 257, rounded, so that 0..65535 becomes 0..255. There is no stretching: 12-bit
      data stay dark.
    - Transparency is dropped, not blended: a transparent pixel shows the colour stored under it. Palettes and CMYK
      become RGB. Grey is Pillow's 0.299 R + 0.587 G + 0.114 B.
    - An EXIF orientation is not applied: the pixels stay as stored, as torchvision's ImageFolder reads them. Of
      several frames the first counts.

    Raises:
        ValueError: pixels without a known range: floating point, or whole numbers beyond 16 bits.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range; save the image with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("whole-number pixels beyond 0..65535; save the image with 8 or 16 bits")
        image = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    elif image.mode == "P":
        image = image.convert("RGBA").convert("RGB")  # straight to RGB warns when the palette has transparency
    elif image.mode not in ("1", "L", "RGB"):
        image = image.convert("RGB")
    return image.convert("L" if channels == 1 else "RGB")


def decode_image(path: Path, channels: int, image_size: int) -> tuple[Pixels, bytes, tuple[int, int], str]:
    """Pixels (C, S, S) uint8 resized (bilinear, antialiased), digest and size (W, H) before resizing, and mode.

    Raises:
        Exception: whatever Pillow raises for a file that is missing, damaged, truncated or not an image.
    """
    with Image.open(path) as opened:
        opened.load()  # raises on truncated data
        image, mode = convert_image(opened, channels), opened.mode
    digest = pixel_digest(np.asarray(image))
    resized = np.asarray(image.resize((image_size, image_size), Image.Resampling.BILINEAR))
    return resized.reshape(image_size, image_size, channels).transpose(2, 0, 1), digest, image.size, mode


class _Half(NamedTuple):
    """One split in memory. ``records[i]`` is None where image i could not be read; ``bad`` says why."""

    images: Tensor
    records: list[Record | None]
    bad: list[str]


def _read_folder(root: Path, folder: _Folder, split: str, config: DatasetConfig, say: Say) -> _Half:
    """Decode one split in threads (Pillow decodes outside the interpreter's lock)."""
    files = [(path, label) for label, paths in enumerate(folder.files.values()) for path in paths]
    images = np.zeros((len(files), config.channels, config.image_size, config.image_size), np.uint8)
    bad: list[str] = []

    def read(i: int) -> Record | str:
        path, label = files[i]
        try:
            images[i], digest, size, mode = decode_image(root / path, config.channels, config.image_size)
        except MemoryError:
            raise
        except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error and more
            return f"{path}: {_cause(error)}"
        return Record(path, split, label, digest, size, mode)

    records: list[Record | None] = []
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for done, result in enumerate(pool.map(read, range(len(files))), start=1):
            records.append(None if isinstance(result, str) else result)
            if isinstance(result, str):
                bad.append(result)
            if done % REPORT_EVERY == 0:
                say(f"{folder.name}: {done:,} of {len(files):,} images read")
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest
    return _Half(torch.from_numpy(images), records, bad)


def _cause(error: Exception) -> str:
    """One short line. Pillow's own text for an unknown format repeats the path and nothing more."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow can read"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    return text[:300] or type(error).__name__


def _assemble(root: Path, classes: tuple[str, ...], train: _Half, test: _Half, config: DatasetConfig) -> ImageData:
    """Leave out what could not be read and, if so configured, what leaked; then audit what is in use."""
    in_test = {r.digest for r in test.records if r is not None} if config.drop_leaked else set()
    dropped = {r for r in train.records if r is not None and r.digest in in_test}
    used = [r for r in (*train.records, *test.records) if r is not None and r not in dropped]
    for split in ("train", "test"):
        empty = set(range(len(classes))) - {r.label for r in used if r.split == split}
        if empty:
            names = ", ".join(classes[i] for i in sorted(empty))
            raise DataError(
                f"{split} in {root} has no image left of: {names}. Unreadable images and those that "
                "dataset.drop_leaked removes are left out; mend the images or set dataset.drop_leaked=false."
            )
    audit = make_audit(config.name, str(root), classes, used, list(dropped))
    return ImageData(classes, _keep(train, dropped), _keep(test, set()), audit)


def _keep(half: _Half, dropped: set[Record]) -> Split:
    kept = [(i, r) for i, r in enumerate(half.records) if r is not None and r not in dropped]
    whole = len(kept) == len(half.records)
    images = half.images if whole else half.images[[i for i, _ in kept]]
    return Split(images, torch.tensor([r.label for _, r in kept], dtype=torch.int64), [r.path for _, r in kept])


# ---- folders


def _local_root(config: DatasetConfig) -> Path:
    root = Path(config.root or "").expanduser()
    wanted = f"Give the folder that holds {config.train_dir}/ and {config.test_dir}/."
    if not root.exists():
        raise DataError(f"dataset.root={root} does not exist. {wanted}")
    if not root.is_dir():
        raise DataError(f"dataset.root={root} is not a folder. {wanted}")
    if not _entries(root):
        raise DataError(f"dataset.root={root} is empty. {wanted}")
    return root


def _find_splits(root: Path, config: DatasetConfig, remedy: str) -> Path:
    """The folder that holds both splits: the root, or the only such folder directly below it.

    Kaggle delivers some sets inside a further folder (chest_xray/train), and people give either one.
    """
    names = (config.train_dir, config.test_dir)
    folders = [entry for entry in _entries(root) if entry.is_dir()]
    fits = [place for place in (root, *folders) if all((place / name).is_dir() for name in names)]
    if fits and (fits[0] == root or len(fits) == 1):
        return fits[0]
    if fits:
        found = ", ".join(place.name for place in fits)
        raise DataError(f"{root} holds several data sets: {found}. Set dataset.root to one of them.")
    missing = " and ".join(f"{name}/" for name in names if not (root / name).is_dir())
    there = ", ".join(first_few([entry.name for entry in _entries(root)], 10)) or "nothing"
    raise DataError(f"{root} has no folder {missing}. It holds: {there}. {remedy}")


def _entries(folder: Path) -> list[Path]:
    """What stands in a folder, sorted by name, without hidden files and clutter."""
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror}.") from error
    return [entry for entry in found if not entry.name.startswith(".") and entry.name.lower() not in CLUTTER]


def _walk(folder: Path, seen: set[str]) -> Iterator[Path]:
    """All files below a folder, through symbolic links, each folder once: links may run in a circle."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _walk(entry, seen)
        else:
            yield entry


def _list_folder(root: Path, name: str) -> _Folder:
    listing = _Folder(name, {}, [])
    for entry in _entries(root / name):
        if not entry.is_dir():
            listing.ignored.append(entry.relative_to(root).as_posix())  # an image here has no class
            continue
        files = listing.files.setdefault(entry.name, [])
        for file in _walk(entry, set()):
            goal = files if file.suffix.lower() in SUFFIXES else listing.ignored
            goal.append(file.relative_to(root).as_posix())
    return listing


def _check_folders(root: Path, train: _Folder, test: _Folder, config: DatasetConfig, remedy: str) -> list[str]:
    """Refuse classes that cannot be trained on. Returns what is odd but usable, one line each."""
    if train.files.keys() != test.files.keys():
        only = [
            f"only in {a.name}/: {', '.join(sorted(a.files.keys() - b.files.keys()))}"
            for a, b in ((train, test), (test, train))
            if a.files.keys() - b.files.keys()
        ]
        raise DataError(f"Class folders differ in {root}: {'; '.join(only)}. Both splits need the same classes.")
    empty = [f"{f.name}/{name}" for f in (train, test) for name, files in f.files.items() if not files]
    if empty:
        raise DataError(f"No image ({', '.join(SUFFIXES)}) in {root} in: {', '.join(first_few(empty))}. {remedy}")
    differences = [
        line
        for folder, published in ((train, config.train_counts), (test, config.test_counts))
        for line in _differences(root, folder, published, remedy)
    ]
    if len(train.files) < 2:
        found = ", ".join(train.files) or "none"
        raise DataError(f"{root / train.name} needs two or more class folders; found: {found}. {remedy}")
    if differences and config.root is None:
        raise DataError(f"{config.handle} is not the published set: {'; '.join(differences)}. {remedy}")
    return differences


def _differences(root: Path, folder: _Folder, published: dict[str, int] | None, remedy: str) -> list[str]:
    if published is None:
        return []
    if folder.files.keys() != published.keys():
        raise DataError(
            f"{root / folder.name} holds the classes {', '.join(folder.files) or 'none'}, "
            f"but {', '.join(sorted(published))} are expected. {remedy}"
        )
    return [
        f"{folder.name}/{name} holds {count} images, the published set {published[name]}"
        for name, count in folder.counts.items()
        if count != published[name]
    ]


# ---- Kaggle


def download(handle: str, say: Say) -> Path:
    """Folder of a Kaggle data set, downloaded into kagglehub's cache unless it is there already.

    One process downloads, others wait: kagglehub itself has no lock. A finished download needs no network.

    Args:
        handle: with its version pinned, ``owner/name/versions/N``.
        say: called with a line when a download starts or waits.

    Raises:
        DataError: names the set, the cause and the ways around it.
    """
    match = re.fullmatch(r"([\w-]+)/([\w-]+)/versions/(\d+)", handle)
    if not match:
        raise DataError(f"dataset.handle={handle!r} must pin a version: owner/name/versions/N.")
    owner, name, version = match.groups()
    cache = Path(os.environ.get("KAGGLEHUB_CACHE", Path.home() / ".cache" / "kagglehub"))
    place = cache / "datasets" / owner / name
    folder = place / "versions" / version
    if (place / f"{version}.complete").exists() and folder.is_dir():
        return folder  # kagglehub's own test; it works without a lock, so on a cache that is read-only too
    try:
        return _download_alone(handle, cache / f"gaze-{owner}-{name}-{version}.lock", say)
    except Exception as error:  # kagglehub raises its own, requests', OSError, BadZipFile and more
        raise DataError(
            f"Cannot download {handle} from Kaggle: {type(error).__name__}: {_cause(error)}. "
            f"If it fails again, delete {place}. {WAYS_OUT}"
        ) from error


def _download_alone(handle: str, lock_file: Path, say: Say) -> Path:
    from filelock import FileLock, Timeout

    lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"Another process downloads {handle}; waiting for it ({lock_file})")
        lock.acquire()
    try:
        import kagglehub  # type: ignore[import-untyped]

        say(f"Downloading {handle} to {lock_file.parent} (nothing is fetched if it is complete there)")
        return Path(kagglehub.dataset_download(handle))
    finally:
        lock.release()
