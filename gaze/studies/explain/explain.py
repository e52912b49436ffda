"""Where does the network of a run look in images of one's own, and in which of them elsewhere than in their class?

Files are decoded, converted and resized as the run's training images were. The measure is the thesis's deviation (Eq.
9, squared) of a map from the mean gaze of its class over the run's correct evaluation images.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from gaze.consistency.deviation import gaze_deviation
from gaze.data.audit import DEEP, first_few, window_text
from gaze.data.decode import cause_of, decode_image
from gaze.data.sources.folders import SUFFIXES, is_image_file, walk
from gaze.data.sources.ultrasound import MASK_NAME
from gaze.errors import ConfigError, DataError
from gaze.names import printable
from gaze.runs.class_gaze import read_run_maps
from gaze.studies.opened import Looked, Opened, check_images, evaluation_images
from gaze.terminal import progress_bar, say

UNKNOWN = -1  # class of an image whose folder names none


class Shown(NamedTuple):
    """Images to explain.

    Attributes:
        source: folder or file they come from, or "evaluation images of the run".
        names: paths, below the folder where there is one (N); of evaluation images of patients their numbers.
        pixels: as the network gets them (N, C, S, S) uint8.
        target: true classes (N,), :data:`UNKNOWN` where nothing tells.
        sizes, modes: of the files before conversion (N): (width, height) and Pillow's mode; None where drawn.
        masks: (N, 1, S, S) or None.
        unreadable: files left out, with the reason, a line each.
        notes: what is odd about the files, a line each.
    """

    source: str
    names: list[str]
    pixels: Tensor
    target: NDArray[np.int64]
    sizes: list[tuple[int, int] | None]
    modes: list[str | None]
    masks: Tensor | None
    unreadable: list[str]
    notes: Sequence[str] = ()


class Typical(NamedTuple):
    """Mean gaze of each class (K, H, W) and the correct images behind it (K,); sorted deviations of those per class (an
    empty array where the evaluation images were not at hand). ``note`` says so."""

    gaze: NDArray[np.float32]
    counts: NDArray[np.int64]
    deviations: list[NDArray[np.float32]]
    note: str | None


def find_images(one: Opened, where: str | None, console: Console) -> Shown:
    """Images below a path, or the run's evaluation images.

    A file that cannot be read is left out and named, whatever the run's ``dataset.on_bad_image`` says: that is about
    what a network may be trained on.

    Args:
        one: the run.
        where: a folder (any depth), a file, or None.
        console: for progress.

    Raises:
        DataError: no such path, no image there, or none that can be read.
    """
    if where is None:
        check_images([one.run])
        images = evaluation_images(one.dataset, None, partial(say, console))
        one.check_classes(images.classes)
        split, number = images.data.data.evaluated, len(images.target)
        source = "evaluation images of the run"
        names, nothing = images.data.data.shown(split), [None] * number
        return Shown(source, names, split.images, images.target, [*nothing], [*nothing], split.masks, [])
    path = Path(where).expanduser()
    files, others = _files(one, path)
    if one.dataset.private:
        say(console, "note: manifest, overlays and page carry the files' names, which may hold patients' ids.")
    found = _decoded(one, path, files, console)
    if others:
        left = f"{len(others)} other files are left out, which are no images that are read: "
        found = found._replace(notes=[*found.notes, left + ", ".join(first_few(others))])
    for line in found.notes:
        say(console, f"note: {line}")
    if found.unreadable:
        lines = "\n  ".join(first_few(found.unreadable))
        say(console, f"note: {len(found.unreadable)} of {len(files)} files cannot be read and are left out:\n  {lines}")
    return found


def _files(one: Opened, path: Path) -> tuple[list[Path], list[str]]:
    """Images, and the names of other files."""
    suffixes = f"({', '.join(SUFFIXES)})"
    if not path.exists():
        raise DataError(f"images={path} does not exist. Give a folder of images {suffixes} or one of them.")
    if path.is_file():
        return [path], []
    found = list(walk(path, set()))
    files = [file for file in found if is_image_file(file)]
    others = [file.relative_to(path).as_posix() for file in found if file not in set(files)]
    if one.dataset.kind == "ultrasound":  # its masks lie beside the images
        files = [file for file in files if not MASK_NAME.fullmatch(file.stem)]
    if not files:
        there = f" It holds {', '.join(first_few(others))}." if others else ""
        raise DataError(f"images={path} holds no image {suffixes}, at any depth.{there}")
    return files, others


def _decoded(one: Opened, path: Path, files: Sequence[Path], console: Console) -> Shown:
    d = one.dataset
    window = None if d.window == "auto" else d.window  # a run that never saw its images

    def read(file: Path) -> Any:
        try:
            return decode_image(file, d.channels, d.image_size, window, bool(d.orient), d.resampling)
        except (MemoryError, ConfigError):
            raise
        except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error and more
            return error

    root = path if path.is_dir() else path.parent
    pixels, names, sizes, modes, labels, bad = [], [], [], [], [], []
    remarks: Counter[str] = Counter()
    with progress_bar(console, f"reading {len(files)} images") as progress, ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, (file, found) in enumerate(zip(files, pool.map(read, files), strict=True), 1):
            name = printable(file.relative_to(root).as_posix())
            if isinstance(found, Exception):
                bad.append(f"{name}: {cause_of(found)}")
            else:
                pixels.append(torch.from_numpy(found.pixels.copy()))
                names.append(name)
                sizes.append(found.size)
                modes.append(found.mode)
                remarks.update(found.remarks)
                labels.append(class_of(file, root, one.classes))
            progress(number / len(files))
    if not names:
        raise DataError(f"images={path}: none of {len(files)} files can be read.\n  " + "\n  ".join(first_few(bad)))
    whose = "dataset.window of the run" if window else "the run has no dataset.window"
    more = {DEEP: f", {window_text(window)} ({whose})"}
    notes = [f"{n} of {len(names)} images: {remark}{more.get(remark, '')}" for remark, n in remarks.items()]
    return Shown(printable(str(path)), names, torch.stack(pixels), np.array(labels), sizes, modes, None, bad, notes)


def class_of(file: Path, root: Path, classes: Sequence[str]) -> int:
    """Class that the nearest folder above a file names, up to and with ``root``; :data:`UNKNOWN` where none does."""
    for folder in file.parents:
        if printable(folder.name) in classes:
            return list(classes).index(printable(folder.name))
        if folder == root:
            break
    resolved = printable(root.resolve().name)  # images=. and images=..
    return list(classes).index(resolved) if resolved in classes else UNKNOWN


def typical_gaze(one: Opened, console: Console) -> Typical:
    """The classes' mean gazes, and how far the evaluation images of each class are from them.

    From the run's evaluation images; where these cannot be read (any more), the means that it drew last serve, and
    nothing says how far is far.

    Raises:
        DataError: neither is there.
    """
    number = len(one.classes)
    try:
        check_images([one.run])
        images = evaluation_images(one.dataset, None, lambda line: None)
    except DataError as error:
        kept = read_run_maps(one.run)
        if kept is None or list(kept.classes) != one.classes:
            raise
        why, file = str(error).splitlines()[0], one.run.maps_file.name
        note = f"The run's evaluation images are not at hand ({why}): class means are those of its {file}."
        return Typical(kept.gaze, kept.counts, [np.empty(0, np.float32)] * number, note)
    with progress_bar(console, f"mean gazes over {len(images.target)} evaluation images") as progress:
        looked = one.look(images.data.data.evaluated.images, torch.from_numpy(images.target), progress)
    return typical_of(looked, images.target, number)


def typical_of(looked: Looked, target: NDArray[np.int64], number: int) -> Typical:
    """Mean gazes over the correct images, as ``gaze.metrics.consistency.ClassGaze``; deviations over those whose map
    is not zero.

    Args:
        looked: at the true classes.
        target: true classes (N,).
        number: of classes.
    """
    correct = (looked.probabilities.argmax(1) == target) & np.isfinite(looked.cams).all((1, 2))
    means, counts, deviations = [], [], []
    for label in range(number):
        own = looked.cams[correct & (target == label)]
        mean = own.mean(0, dtype=np.float64) if len(own) else np.zeros(looked.cams.shape[1:])
        seen = own[own.max((1, 2)) > 0] if len(own) else own
        far = gaze_deviation(torch.from_numpy(seen), torch.from_numpy(mean).float())
        means.append(mean.astype(np.float32))
        counts.append(len(own))
        deviations.append(np.sort(far.numpy()))
    return Typical(np.stack(means), np.array(counts), deviations, None)


def explain(one: Opened, images: Shown, typical: Typical, console: Console) -> tuple[pd.DataFrame, NDArray[np.float32]]:
    """Look at every image, and hold its map against its class.

    The true class is explained where it is known, else the predicted one.

    Returns:
        The manifest, worst first (see :func:`ranked`), and the maps (N, H, W) in the order of ``images``; the
        manifest's column ``index`` leads from one to the other.
    """
    with progress_bar(console, f"maps of {len(images.names)} images") as progress:
        known = images.target != UNKNOWN
        if known.all():
            looked = one.look(images.pixels, torch.from_numpy(images.target), progress)
        else:
            guessed = one.look(images.pixels, None).probabilities.argmax(1)
            explained = np.where(known, images.target, guessed)
            looked = one.look(images.pixels, torch.from_numpy(explained), progress)
    predicted = looked.probabilities.argmax(1)
    explained = np.where(known, images.target, predicted)
    deviation = gaze_deviation(torch.from_numpy(looked.cams), torch.from_numpy(typical.gaze[explained])).numpy()
    rows = []
    for i, name in enumerate(images.names):
        label, guess, empty = int(explained[i]), int(predicted[i]), not looked.cams[i].any()
        none = empty or typical.counts[label] == 0
        far = math.nan if none else float(deviation[i])
        rows.append(
            {
                "path": name,
                "explained": one.classes[label],
                "because": "true class" if known[i] else "predicted class",
                "true": one.classes[label] if known[i] else None,
                "predicted": one.classes[guess],
                "probability": float(looked.probabilities[i, label]),
                **{f"probability of {c}": float(p) for c, p in zip(one.classes, looked.probabilities[i], strict=True)},
                "correct": bool(guess == label) if known[i] else None,
                "deviation": far,
                **_scale(far, typical.deviations[label]),
                "empty_map": empty,
                "index": i,
                **_conversion(images, i),
            }
        )
    return ranked(pd.DataFrame(rows)), looked.cams


def ranked(manifest: pd.DataFrame) -> pd.DataFrame:
    """Rows by deviation, the largest first, with ``rank`` from 1; those without a deviation (no gaze) last,
    unranked."""
    order = manifest.sort_values("deviation", ascending=False, kind="stable", na_position="last", ignore_index=True)
    rank = pd.Series(range(1, len(order) + 1), dtype="Int64").where(order["deviation"].notna())
    order.insert(0, "rank", rank)
    return order


def _scale(far: float, typical: NDArray[np.float32]) -> dict[str, float]:
    """Share (%) of the class's correct evaluation images that deviate less or as much; times their median."""
    if math.isnan(far) or not typical.size:
        return {"percentile": math.nan, "times_median": math.nan}
    below = np.searchsorted(typical, far * (1 + 1e-5), side="right")  # rounding: an evaluation image meets itself
    median = float(np.median(typical))
    return {
        "percentile": 100.0 * float(below) / typical.size,
        "times_median": far / median if median > 0 else math.nan,
    }


def _conversion(images: Shown, i: int) -> dict[str, Any]:
    """What the file was, and what was made of it."""
    size, mode, (channels, side) = images.sizes[i], images.modes[i], images.pixels.shape[1:3]
    wanted = "L" if channels == 1 else "RGB"
    if size is None:
        return {"width": None, "height": None, "mode": None, "changed": ""}
    changes = [f"resized to {side}x{side}"] if size != (side, side) else []
    changes += [f"{mode} to {wanted}"] if mode != wanted else []
    return {"width": size[0], "height": size[1], "mode": mode, "changed": ", ".join(changes)}
