"""Lesion masks: what becomes of their pixels.

A mask is decoded at its own size to 0 and 1: a pixel is 1 where it has at least half of the file's largest value, so
that masks of 0/255, of 0/1 (with 8 bits or more) and with soft edges read alike; a black file is an empty mask. Where a
file is of one colour, its opacity counts instead. An EXIF orientation is applied, as to images. Several files of one
image are united. Then it is stretched to S x S, as its image is: each target pixel gets the share of its area that the
lesion covers (exact areas), and is 1 where that is a half or more. Image and mask share one frame from edge to
edge, so they stay aligned at every size.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gaze.cam.pool import pool_to_grid
from gaze.config.data import DatasetConfig
from gaze.data.audit import Pixels, Record
from gaze.data.decode import REPORT_EVERY, Half, cause_of, convert_image, read_frame, shape_in_alpha
from gaze.data.sources.listing import MaskFiles, bare
from gaze.errors import ConfigError, DataError

COVERED = 0.5 - 1e-9  # share of a pixel that makes it lesion, but for rounding
GUIDES = "Masks stand there as training images do, PATH.png for PATH.*: review=RUN review.images=train makes such."
SHAPE_TOLERANCE = 0.02  # aspects of mask and image may differ by that share, which rounding of sizes explains


def decode_mask(paths: Sequence[Path], image_size: int, orient: bool = True) -> tuple[Pixels, tuple[int, int], bool]:
    """The union of one image's masks: (1, S, S) uint8 of 0 and 1, its size (W, H) before resizing, and whether any
    pixel was set before resizing.

    Raises:
        ValueError: masks of one image that differ in size.
        Exception: whatever Pillow raises for a file that is missing, damaged or not an image.
    """
    layers = []
    for path in paths:
        frame = read_frame(path, orient)
        values = mask_values(frame.image) if frame.image is not None else np.asarray(frame.values)
        layers.append((values > 0) & (values >= values.max() / 2))
    sizes = sorted({(layer.shape[1], layer.shape[0]) for layer in layers})
    if len(sizes) > 1:
        raise ValueError(f"masks of one image differ in size: {', '.join(f'{w}x{h}' for w, h in sizes)}")
    union = np.logical_or.reduce(layers)
    # Pillow's box filter takes whole pixels only, by their centres, and would move edges by up to half of one.
    share = pool_to_grid(torch.from_numpy(union[None]).double(), image_size)  # (1, S, S)
    return (share >= COVERED).numpy().astype(np.uint8), sizes[0], bool(union.any())


def mask_values(image: Image.Image) -> NDArray[Any]:
    """What the threshold of a mask of 8 bits is about, (H, W): opacity where all else is of one colour, else grey
    values. Beyond 8 bits it is about the file's own values."""
    if image.has_transparency_data and shape_in_alpha(image):
        return np.asarray(image.convert("RGBA").getchannel("A"))
    return np.asarray(convert_image(image, 1))


def check_seen(root: Path, halves: Iterable[Half]) -> None:
    """Raise DataError where the masks of a whole set are empty, though there are some."""
    masks = [half.masks for half in halves if half.masks is not None]
    if masks and not any(mask.any() for mask in masks):
        raise DataError(
            f"Every mask in {root} is empty at this dataset.image_size. A mask is white, 1 or opaque on the lesion and "
            "black, 0 or transparent elsewhere. Mend the masks, or leave dataset.mask_dir out."
        )


def add_masks(half: Half, masks: MaskFiles, say: Callable[[str], None], orient: bool = True) -> Half:
    """A decoded split with its masks (N, 1, S, S). An image whose mask cannot be read counts as one that cannot.

    Args:
        half: decoded images, without masks.
        masks: of its images, by their paths.
        say: called with a line now and then.
        orient: as the images were.
    """
    size = half.images.shape[2]
    pixels = np.zeros((len(half.records), 1, size, size), np.uint8)

    def read(i: int) -> str | Exception | None:
        record = half.records[i]
        files = [] if record is None else masks.files.get(record.path, [])
        if record is None or not files:
            return None
        try:
            pixels[i], mask_size, seen = decode_mask([masks.root / file for file in files], size, orient)
        except (MemoryError, ConfigError):
            raise
        except Exception as error:  # as in gaze.data.decode
            return error
        return _odd(record, mask_size, seen and not pixels[i].any())

    records, bad, notes, passing = list(half.records), list(half.bad), list(half.notes), False
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for i, result in enumerate(pool.map(read, range(len(records)))):
            record = records[i]
            if isinstance(result, Exception) and record is not None:
                records[i] = None
                bad.append(f"mask of {record.path}: {cause_of(result)}")
                passing |= isinstance(result, OSError) and result.errno not in (None, errno.ENOENT)
            elif isinstance(result, str):
                notes.append(result)
            if (i + 1) % REPORT_EVERY == 0:
                say(f"masks: {i + 1:,} of {len(records):,} read")
    finally:
        pool.shutdown(cancel_futures=True)
    return half._replace(records=records, bad=bad, masks=pixels, lasting=half.lasting and not passing, notes=notes)


def file_beside(root: Path, path: str, suffixes: Sequence[str]) -> Path | None:
    """The file below ``root`` that stands there as an image does below its own: the first suffix that there is."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts:
        return None
    return next((file for suffix in suffixes if (file := root / f"{bare(path)}{suffix}").is_file()), None)


def guide_masks(config: DatasetConfig, paths: Sequence[str]) -> Tensor:
    """Masks (N, 1, S, S) uint8 in ``dataset.guide_dir`` of training images, by their paths; who has none there has an
    empty one.

    Raises:
        DataError: no such folder, a mask that cannot be read, or none of these images that is not empty.
    """
    root, size = Path(str(config.guide_dir)).expanduser(), config.image_size
    named = f"dataset.guide_dir={config.guide_dir}"
    if not root.is_dir():
        raise DataError(f"{named}: {root} is no folder. {GUIDES}")
    masks = torch.zeros(len(paths), 1, size, size, dtype=torch.uint8)
    for mask, path in zip(masks, paths, strict=True):
        if (file := file_beside(root, path, [".png"])) is None:
            continue
        try:
            mask[:] = torch.from_numpy(decode_mask([file], size, bool(config.orient))[0])
        except (MemoryError, ConfigError):
            raise
        except Exception as error:  # as in gaze.data.decode
            raise DataError(f"{named}: {file} is no mask: {cause_of(error)}. {GUIDES}") from error
    if not masks.any():
        raise DataError(f"{named}: no training image of {config.name} has a mask there. {GUIDES}")
    return masks


def draw_annotated(seen: Tensor, targets: Tensor, share: float, seed: int) -> Tensor:
    """Which images' masks are used (N,) bool: a share of each class's images that have one, one at least, drawn by the
    seed. A larger share holds the images of a smaller one.

    Args:
        seen: whether an image has a mask that is not empty (N,).
        targets: classes (N,).
        share: above 0, up to 1.
        seed: 0 or more.
    """
    used = torch.zeros_like(seen)
    draw = torch.Generator().manual_seed(seed)
    for label in targets.unique():
        own = (seen & (targets == label)).nonzero()[:, 0]
        order = own[torch.randperm(len(own), generator=draw)]
        used[order[: max(1, round(share * len(own)))]] = True
    return used


def _odd(record: Record, size: tuple[int, int], vanished: bool) -> str | None:
    """What a reader should look at: a mask of another shape than its image, or one that became empty."""
    (width, height), (w, h) = record.size, size
    if abs(w * height - h * width) > SHAPE_TOLERANCE * h * width:
        return f"{record.path}: image of {width}x{height} pixels, mask of {w}x{h}"
    return f"{record.path}: the lesion is too small for dataset.image_size, its mask is empty" if vanished else None
