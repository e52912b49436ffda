"""From an image file to uint8 pixels: what each mode becomes, and a split's files decoded in threads."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from gaze.data.audit import Pixels, Record, pixel_digest

REPORT_EVERY = 2000  # images between two progress lines


class Half(NamedTuple):
    """One split in memory: ``images`` (N, C, S, S) uint8 and ``masks`` (N, 1, S, S) where there are any.

    ``records[i]`` is None where image i (or its mask) could not be read; ``bad`` says why. ``lasting`` is False where
    the reason was not the file's content, so that it may be gone the next time. ``notes`` say what is odd but usable.
    """

    images: Pixels
    records: list[Record | None]
    bad: list[str]
    masks: Pixels | None = None
    lasting: bool = True
    notes: Sequence[str] = ()


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


def read_images(
    root: Path,
    folder: str,
    files: Sequence[tuple[str, int]],
    split: str,
    channels: int,
    image_size: int,
    say: Callable[[str], None],
) -> Half:
    """Decode one split in threads (Pillow decodes outside the interpreter's lock).

    Args:
        root: what the files' paths are relative to.
        folder: name of the split's folder, for the lines of progress.
        files: path and label of each image, at least one.
        split: "train" or "test".
        channels: 1 grey, 3 RGB.
        image_size: height and width S that images are resized to.
        say: called with a line now and then.
    """
    images = np.zeros((len(files), channels, image_size, image_size), np.uint8)
    bad: list[str] = []
    passing = False

    def read(i: int) -> Record | Exception:
        path, label = files[i]
        try:
            images[i], digest, size, mode = decode_image(root / path, channels, image_size)
        except MemoryError:
            raise
        except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error and more
            return error
        return Record(path, split, label, digest, size, mode)

    records: list[Record | None] = []
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for done, result in enumerate(pool.map(read, range(len(files))), start=1):
            records.append(None if isinstance(result, Exception) else result)
            if isinstance(result, Exception):
                bad.append(f"{files[done - 1][0]}: {cause_of(result)}")
                # The system's error, not the decoder's; a file that is missing is seen to be from outside.
                passing |= isinstance(result, OSError) and result.errno not in (None, errno.ENOENT)
            if done % REPORT_EVERY == 0:
                say(f"{folder}: {done:,} of {len(files):,} images read")
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest
    return Half(images, records, bad, lasting=not passing)


def cause_of(error: Exception) -> str:
    """One short line. Pillow's own text for an unknown format repeats the path and nothing more."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow can read"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    return text[:300] or type(error).__name__
