"""What lies in a data set's folders: its class folders, the images in them, and what is odd about them.

Nothing is decoded here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gaze.choices import SOURCES
from gaze.config.data import DatasetConfig
from gaze.data.audit import FRAME, first_few
from gaze.data.dicom import is_dicom
from gaze.errors import DataError
from gaze.files import open_regular

SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp", ".avif", ".jp2",
    ".dcm", ".dicom",
)  # fmt: skip
# What other systems, network drives and tools leave behind; compared in lower case.
CLUTTER = (
    "__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "lost+found", "#recycle",
    "#snapshot", "@eadir", "@recycle", "@recently-snapshot", "@tmp", "__pycache__",
)  # fmt: skip


DRAW_IT = " Where there is no test part yet, dataset.test=0.2 draws that share of the images for one."


class Folder(NamedTuple):
    """One split on disk: class name -> image files, as paths below the root; and what else lay there."""

    name: str
    files: dict[str, list[str]]
    ignored: list[str]

    @property
    def counts(self) -> dict[str, int]:
        """Images of each class."""
        return {name: len(files) for name, files in self.files.items()}

    def labelled(self) -> list[tuple[str, int]]:
        """Path and class index of each image."""
        return [(path, label) for label, paths in enumerate(self.files.values()) for path in paths]


def local_root(config: DatasetConfig, wanted: str) -> Path:
    """``dataset.root`` as a folder that holds something.

    Args:
        config: group ``dataset``.
        wanted: a sentence on what to give, which ends each error.

    Raises:
        DataError: it does not exist, is no folder or is empty.
    """
    own = Path(config.table).parent if config.root is None and config.table is not None else Path(config.root or "")
    root = own.expanduser()
    if not root.exists():
        raise DataError(f"dataset.root={root} does not exist. {wanted}")
    if not root.is_dir():
        raise DataError(f"dataset.root={root} is not a folder. {wanted}")
    if not entries(root):
        raise DataError(f"dataset.root={root} is empty. {wanted}")
    return root


def find_splits(root: Path, config: DatasetConfig, remedy: str) -> Path:
    """The folder that holds both splits: the root, or the only such folder directly below it. Where ``dataset.test``
    or ``dataset.folds`` draws the test images, the root, or the one that holds the training folder.

    Kaggle delivers some sets inside a further folder (chest_xray/train), and people give either one.
    """
    names = (config.train_dir, config.test_dir) if not config.draws_test else (config.train_dir,)
    folders = [entry for entry in entries(root) if entry.is_dir()]
    fits = [place for place in (root, *folders) if all((place / name).is_dir() for name in names)]
    if fits and (fits[0] == root or len(fits) == 1):
        return fits[0]
    if fits:
        found = ", ".join(place.name for place in fits)
        raise DataError(f"{root} holds several data sets: {found}. Set dataset.root to one of them.")
    if config.draws_test:
        return root
    missing = " and ".join(f"{name}/" for name in names if not (root / name).is_dir())
    there = ", ".join(first_few([entry.name for entry in entries(root)], 10)) or "nothing"
    raise DataError(f"{root} has no folder {missing}. It holds: {there}. {remedy}{_draw_it(config)}")


def _draw_it(config: DatasetConfig) -> str:
    return DRAW_IT if SOURCES[config.kind].reads("test") else ""


def entries(folder: Path) -> list[Path]:
    """What stands in a folder, sorted by name, without hidden files and clutter."""
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror}.") from error
    return [entry for entry in found if not entry.name.startswith(".") and entry.name.lower() not in CLUTTER]


def walk(folder: Path, seen: set[str]) -> Iterator[Path]:
    """All files below a folder, through symbolic links, each folder once: links may run in a circle."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    for entry in entries(folder):
        if entry.is_dir():
            yield from walk(entry, seen)
        else:
            yield entry


def is_image_file(file: Path) -> bool:
    """Whether a file counts as an image: by its suffix, or as DICOM whose name has none (IM0001, 1.2.840.10008.5)."""
    suffix = file.suffix.lower()
    if suffix in SUFFIXES or not (suffix[1:].isdigit() or not suffix) or FRAME.fullmatch(file.name):
        return suffix in SUFFIXES
    try:
        with open_regular(file) as opened:
            return is_dicom(opened)
    except OSError:
        return False


def list_folder(root: Path, name: str) -> Folder:
    """Class folders and images of one split, in order of their names; ``name`` "" is the root itself."""
    listing = Folder(name, {}, [])
    for entry in entries(root / name):
        if not entry.is_dir():
            listing.ignored.append(entry.relative_to(root).as_posix())  # an image here has no class
            continue
        files = listing.files.setdefault(entry.name, [])
        for file in walk(entry, set()):
            goal = files if is_image_file(file) else listing.ignored
            goal.append(file.relative_to(root).as_posix())
    return listing


def check_folders(root: Path, parts: dict[str, Folder], config: DatasetConfig, remedy: str) -> list[str]:
    """Refuse classes that cannot be trained on. Returns what is odd but usable, one line each."""
    train, test = parts["train"], parts.get("test")
    for other in parts.values():
        if train.files.keys() != other.files.keys():
            only = [
                f"only in {a.name}/: {', '.join(first_few(sorted(a.files.keys() - b.files.keys())))}"
                for a, b in ((train, other), (other, train))
                if a.files.keys() - b.files.keys()
            ]
            raise DataError(f"Class folders differ in {root}: {'; '.join(only)}. Both splits need the same classes.")
    empty = [f"{f.name}/{name}" for f in parts.values() for name, files in f.files.items() if not files]
    if empty:
        raise DataError(f"No image ({', '.join(SUFFIXES)}) in {root} in: {', '.join(first_few(empty))}. {remedy}")
    differences = [
        line
        for folder, published in ((train, config.train_counts), (test, config.test_counts))
        if folder is not None
        for line in unlike_published(root, folder, published, remedy)
    ]
    if len(train.files) < 2:
        found = ", ".join(train.files) or "none"
        raise DataError(f"{root / train.name} needs two or more class folders; found: {found}. {remedy}")
    if differences and config.root is None:
        raise DataError(f"{config.handle} is not the published set: {'; '.join(differences)}. {remedy}")
    return differences


def unlike_published(root: Path, folder: Folder, published: dict[str, int] | None, remedy: str) -> list[str]:
    """Classes whose number of images is not the published one, a line each; nothing where none is published.

    Raises:
        DataError: other classes than the published ones.
    """
    if published is None:
        return []
    if folder.files.keys() != published.keys():
        raise DataError(
            f"{root / folder.name} holds the classes {', '.join(folder.files) or 'none'}, "
            f"but {', '.join(sorted(published))} are expected. {remedy}"
        )
    where = f"{folder.name}/" if folder.name else ""
    return [
        f"{where}{name} holds {count} images, the published set {published[name]}"
        for name, count in folder.counts.items()
        if count != published[name]
    ]
