"""Where one should look, drawn by people: COCO and Label Studio JSON to masks as ``dataset.mask_dir`` has them.

What a JSON says of files is only compared with the images that are there: no path of it is opened or written.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gaze.choices import shown
from gaze.data.decode import read_frame
from gaze.data.sources.folders import SUFFIXES
from gaze.errors import ConfigError, DataError
from gaze.files import atomic_path, read_bytes_of, write_json

MASKS, COCO = "masks", "annotations.json"  # what is written, in one folder
MOST_BYTES = 1 << 28
UNKNOWN, OUTSIDE, UNREADABLE = "of no image there", "without a pixel of their image", "that are no boxes or polygons"


class Shape(NamedTuple):
    """A box or polygon on an image.

    Attributes:
        file: the image's path as somebody wrote it.
        annotator: who drew it.
        corners: (P, 2), x and y from the upper left corner in shares of the image's width and height; a part beyond
            0..1 lies outside.
    """

    file: str
    annotator: str
    corners: NDArray[np.float64]


def fill(corners: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels (H, W) whose centre lies in a polygon, by the even-odd rule.

    Args:
        corners: (P, 2) in shares of width and height.
        size: W, H.
    """
    width, height = size
    (x, y), rows = corners.T * [[width], [height]], np.arange(height) + 0.5
    crossed = np.zeros((height, width + 1), np.int64)
    for x0, y0, x1, y1 in zip(x, y, np.roll(x, -1), np.roll(y, -1), strict=True):
        at = np.flatnonzero((rows >= min(y0, y1)) & (rows < max(y0, y1)))
        across = x0 + (rows[at] - y0) * (x1 - x0) / (y1 - y0 or 1.0)
        np.add.at(crossed, (at, np.clip(np.ceil(across - 0.5), 0, width).astype(np.int64)), 1)
    return crossed[:, :-1].cumsum(1) % 2 == 1


def mask_of(shapes: Sequence[Shape], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels (H, W) that at least half of the annotators who drew on the image have in one of their shapes."""
    by_annotator = defaultdict(list)
    for shape in shapes:
        by_annotator[shape.annotator].append(fill(shape.corners, size))
    votes = np.sum([np.any(own, axis=0) for own in by_annotator.values()], axis=0)
    return np.asarray(2 * votes >= len(by_annotator))


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image's file as it is read, its EXIF orientation applied."""
    frame = read_frame(path, True)
    return frame.image.size if frame.image is not None else frame.values.shape[1::-1]  # type: ignore[union-attr]


def write_masks(
    shapes: Sequence[Shape], goal: Path, size_of: Callable[[str], tuple[int, int]]
) -> tuple[dict[str, tuple[int, int]], Counter[str]]:
    """Masks of 0 and 255 as ``goal/masks/PATH.png``, in place of those of an earlier time.

    Args:
        shapes: on images whose paths are known to lie below the root.
        goal: a folder.
        size_of: width and height of an image by its path.

    Returns:
        Sizes of the images that have a mask now, and how many shapes were left out, by why.

    Raises:
        ConfigError: ``goal/masks`` holds files that are of something else.
    """
    folder, left, sizes = goal / MASKS, Counter[str](), dict[str, tuple[int, int]]()
    if folder.is_dir() and any(folder.iterdir()):
        if not (goal / COCO).is_file():
            raise ConfigError(
                f"{folder} is there, and not of an earlier export. Name another folder: hydra.run.dir=PATH."
            )
        shutil.rmtree(folder)
    of_image = defaultdict(list)
    for shape in shapes:
        of_image[shape.file].append(shape)
    for file, own in of_image.items():
        size = size_of(file)
        inside = [shape for shape in own if fill(shape.corners, size).any()]
        left[OUTSIDE] += len(own) - len(inside)
        if inside and (mask := mask_of(inside, size)).any():
            path = folder / PurePosixPath(file).with_suffix(".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as part:
                Image.fromarray(mask.astype(np.uint8) * 255).save(part, "PNG")
            sizes[file] = size
    return sizes, left


def write_coco(
    path: Path, shapes: Sequence[Shape], sizes: Mapping[str, tuple[int, int]], classes: Mapping[str, str]
) -> None:
    """Shapes as COCO's JSON (detection), in pixels; ``annotator`` counts annotators from 1.

    Args:
        path: of the file.
        shapes: those on images that ``sizes`` has are written.
        sizes: width and height by image.
        classes: of each image, a category.
    """
    files, people = list(sizes), list(dict.fromkeys(shape.annotator for shape in shapes))
    names = sorted({classes[file] for file in files})
    annotations: list[dict[str, Any]] = []
    for shape in shapes:
        if shape.file in sizes:
            points = shape.corners * sizes[shape.file]
            (x, y), (low, high) = points.T, (points.min(0), points.max(0))
            annotations.append({
                "id": len(annotations) + 1, "image_id": files.index(shape.file) + 1, "iscrowd": 0,
                "category_id": names.index(classes[shape.file]) + 1, "segmentation": [points.ravel().round(2).tolist()],
                "bbox": [*low.round(2).tolist(), *(high - low).round(2).tolist()],
                "area": round(abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2, 2),
                "annotator": people.index(shape.annotator) + 1,
            })  # fmt: skip
    images = [
        {"id": i, "file_name": file, "width": sizes[file][0], "height": sizes[file][1]}
        for i, file in enumerate(files, 1)
    ]
    categories = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    write_json(path, {"images": images, "annotations": annotations, "categories": categories})


def read_shapes(path: Path) -> tuple[list[Shape], Counter[str]]:
    """Boxes and polygons of COCO's JSON, or of Label Studio's export (JSON, not JSON-MIN), and what was left out.

    Raises:
        DataError: the file is neither, or cannot be read.
    """
    try:
        data = json.loads(read_bytes_of(path, MOST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {shown(getattr(error, 'strerror', None) or error)}") from error
    if isinstance(data, dict) and isinstance(data.get("images"), list) and isinstance(data.get("annotations"), list):
        found = _coco(data)
    elif isinstance(data, list) and any(isinstance(task, dict) and "annotations" in task for task in data):
        found = _label_studio(data)
    else:
        raise DataError(
            f"{path} is neither COCO (images, annotations) nor Label Studio's JSON (tasks with annotations)."
        )
    shapes, left = list[Shape](), Counter[str]()
    for one in found:
        if (
            isinstance(one, Shape)
            and one.corners.ndim == 2
            and one.corners.shape[0] > 2
            and np.isfinite(one.corners).all()
        ):
            shapes.append(one)
        else:
            left[UNREADABLE] += 1
    return shapes, left


MALFORMED = (KeyError, ValueError, TypeError, AttributeError, ZeroDivisionError, OverflowError)


def _coco(data: Mapping[str, Any]) -> Iterator[Shape | None]:
    images = {}
    for own in data["images"]:
        try:
            images[own["id"]] = str(own["file_name"]), np.array([own["width"], own["height"]], dtype=np.float64)
        except MALFORMED:
            continue
    for own in data["annotations"]:
        try:
            name, size = images[own["image_id"]]
            parts = own.get("segmentation") or [_box(*own["bbox"])]
            if isinstance(parts, dict):  # run lengths
                raise TypeError
            for part in parts:
                yield Shape(name, "", np.reshape(np.array(part, dtype=np.float64), (-1, 2)) / size)
        except MALFORMED:
            yield None


def _label_studio(tasks: Sequence[Any]) -> Iterator[Shape | None]:
    for task in tasks:
        try:
            name = next(_path_in(text) for text in task["data"].values() if isinstance(text, str) and "." in text)
            given = [own for own in task["annotations"] if not own.get("was_cancelled")]
        except (*MALFORMED, StopIteration):
            yield None
            continue
        for number, own in enumerate(given):
            who = str(own.get("completed_by", number)) if isinstance(own, dict) else ""
            for result in own.get("result") or []:
                try:
                    value = result["value"]
                    size = np.array([result["original_width"], result["original_height"]], dtype=np.float64)
                    if "points" in value:
                        corners = np.reshape(np.array(value["points"], dtype=np.float64), (-1, 2)) / 100
                    elif "width" in value:
                        corners = _turned(value, size)
                    else:  # a choice, a text, a brush
                        raise KeyError
                    yield Shape(name, who, corners)
                except MALFORMED:
                    yield None


def _turned(value: Mapping[str, Any], size: NDArray[np.float64]) -> NDArray[np.float64]:
    """Label Studio's box, in percent, turned about its upper left corner by degrees clockwise, in pixels."""
    x, y, width, height = (float(value[name]) / 100 for name in ("x", "y", "width", "height"))
    angle = np.deg2rad(float(value.get("rotation") or 0))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    start = np.array([x, y]) * size
    around = np.reshape(_box(0, 0, width, height), (-1, 2)) * size @ turn
    return (start + around) / size


def _box(x: float, y: float, width: float, height: float) -> list[float]:
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def _path_in(text: str) -> str:
    """The path in a link of Label Studio, such as ``/data/local-files/?d=train/cat/7.jpg``."""
    parts = urlsplit(text)
    return parse_qs(parts.query).get("d", [unquote(parts.path)])[0]


def import_masks(source: Path, root: Path, goal: Path) -> tuple[int, Counter[str]]:
    """Masks in ``goal/masks`` of the images below ``root`` that a JSON of annotations has shapes on.

    An image is found by its path below the root or the end of it, Label Studio's eight digits before an uploaded name
    left out; one that several images could be is none.

    Returns:
        How many images have a mask, and how many shapes were left out, by why.

    Raises:
        GazeError: the JSON or the root cannot be read; nothing in it is on these images.
    """
    if not root.is_dir():
        raise ConfigError(f"images={root} is no folder: name the root of the images, dataset.root in training.")
    shapes, left = read_shapes(source)
    by_name = defaultdict(list)
    for folder, _, names in os.walk(root):
        for name in names:
            if Path(name).suffix.lower() in SUFFIXES:
                by_name[name].append((Path(folder) / name).relative_to(root).as_posix())
    known = []
    for shape in shapes:
        file = _found(shape.file, by_name)
        if file is None:
            left[UNKNOWN] += 1
        else:
            known.append(shape._replace(file=file))
    sizes, outside = write_masks(known, goal, lambda file: image_size(root / file))
    left.update(outside)
    if not sizes:
        raise DataError(f"{source}: no shape lies on an image below {root}: {said(left) or 'there is none'}.")
    write_coco(goal / COCO, known, sizes, {file: PurePosixPath(file).parent.name or "image" for file in sizes})
    return len(sizes), left


def said(left: Mapping[str, int]) -> str:
    """What was left out, in words; "" where nothing was."""
    return ", ".join(f"{count} shapes {why}" for why, count in left.items() if count)


def _found(written: str, by_name: Mapping[str, Sequence[str]]) -> str | None:
    parts = PurePosixPath(written.replace("\\", "/")).parts
    last = parts[-1] if parts else ""
    for name in (last, last[9:] if last[8:9] == "-" else last):
        there = by_name.get(name, [])
        best = max((_alike(file, (*parts[:-1], name)) for file in there), default=0)
        nearest = [file for file in there if _alike(file, (*parts[:-1], name)) == best]
        if len(nearest) == 1:
            return nearest[0]
    return None


def _alike(file: str, parts: Sequence[str]) -> int:
    """Parts that two paths have in common, from their ends."""
    ends = zip(PurePosixPath(file).parts[::-1], parts[::-1], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends))
