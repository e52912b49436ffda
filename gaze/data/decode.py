"""From an image file to uint8 pixels: what each mode becomes, and a split's files decoded in threads."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from gaze.data.audit import ALPHA, DEEP, DEEP_COLOUR, FRAMES, TURNED, Pixels, Record, pixel_digest
from gaze.files import open_regular

# What Pillow may take a file for, whatever its name says: of all that it knows, EPS would start a program. AVIF came
# with Pillow 11.3.
FORMATS = [
    name
    for name in ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000", "AVIF")
    if name != "AVIF" or find_spec("PIL.AvifImagePlugin")
]
MOST_BYTES = 1 << 30  # of an image file
REPORT_EVERY = 2000  # images between two progress lines
PERCENTILES = (0.005, 0.995)  # of the training images' pixels: what becomes 0 and 255 beyond 8 bits


class Half(NamedTuple):
    """One split in memory: ``images`` (N, C, S, S) uint8 and ``masks`` (N, 1, S, S) where there are any.

    ``records[i]`` is None where image i (or its mask) could not be read; ``bad`` says why. ``lasting`` is False where
    the reason was not the file's content, so that it may be gone the next time. ``notes`` say what is odd but usable.
    ``window`` is what became 0 and 255 in images beyond 8 bits, where it was not the whole range of 16.
    """

    images: Pixels
    records: list[Record | None]
    bad: list[str]
    masks: Pixels | None = None
    lasting: bool = True
    notes: Sequence[str] = ()
    window: list[int] | None = None


class Decoded(NamedTuple):
    """An image file: ``pixels`` (C, S, S) uint8; digest and size (W, H) before resizing; Pillow's mode; what is odd."""

    pixels: Pixels
    digest: bytes
    size: tuple[int, int]
    mode: str
    remarks: tuple[str, ...]


def deep_values(image: Image.Image) -> NDArray[np.uint16]:
    """Values (H, W) of a greyscale image beyond 8 bits, as they are in the file.

    Raises:
        ValueError: beyond 0..65535.
    """
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("whole-number pixels beyond 0..65535; save the image with 8 or 16 bits")
    return values.astype(np.uint16)


def convert_image(image: Image.Image, channels: int, window: Sequence[int] | None = None) -> Image.Image:
    """An 8-bit image of mode L (``channels`` 1) or RGB (3), at its own size.

    - Greyscale beyond 8 bits: ``window`` (low, high) becomes 0..255, rounded; what is outside is cut off. None is
      0..65535, so value / 257.
    - Transparency is dropped, not blended: a transparent pixel shows the colour stored under it. Palettes and CMYK
      become RGB. Grey is Pillow's 0.299 R + 0.587 G + 0.114 B.

    Raises:
        ValueError: pixels without a known range: floating point, or whole numbers beyond 16 bits.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range; save the image with 8 or 16 bits")
    if image.mode.startswith("I"):
        low, high = window or (0, 65535)
        scaled = (deep_values(image).astype(np.float64) - low) / (high - low) * 255
        image = Image.fromarray(np.rint(scaled.clip(0, 255)).astype(np.uint8))
    elif image.mode == "P":
        image = image.convert("RGBA").convert("RGB")  # straight to RGB warns when the palette has transparency
    elif image.mode not in ("1", "L", "RGB"):
        image = image.convert("RGB")
    return image.convert("L" if channels == 1 else "RGB")


@contextmanager
def opened_image(path: Path) -> Iterator[ImageFile.ImageFile]:
    """An image of :data:`FORMATS` in a regular file, or behind a link to one; only its head is read.

    Raises:
        OSError: there is none, or it is no regular file.
        Exception: whatever Pillow raises for a file that is damaged or not an image.
    """
    # A TIFF file given by its name is mapped into memory, where Pillow (13.0) mixes up the sides of turned ones.
    with open_regular(path, MOST_BYTES) as file, Image.open(file, formats=FORMATS) as opened:
        yield opened


def upright(opened: Image.Image) -> tuple[Image.Image, bool]:
    """A file's image as a viewer shows it (its EXIF orientation applied), and whether that turned it. Of several frames
    the first.

    Raises:
        Exception: whatever Pillow raises for a file that is damaged or truncated.
    """
    before = _oriented(opened)  # of a TIFF file it is gone once the file is loaded, which turns it
    opened.load()  # raises on truncated data
    after = _oriented(opened)  # of a PNG file it may stand behind the pixels
    return (ImageOps.exif_transpose(opened) if after else opened), before or after


def _oriented(image: Image.Image) -> bool:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    except Exception:  # damaged EXIF data, which say nothing
        return False


def decode_image(path: Path, channels: int, image_size: int, window: Sequence[int] | None = None) -> Decoded:
    """Decode, convert (:func:`convert_image`) and resize (bilinear, antialiased) one file.

    ``window`` is for files whose format does not say what their values mean: a PGM file has its own range.

    Raises:
        Exception: whatever Pillow raises for a file that is missing, damaged, truncated or not an image.
    """
    with opened_image(path) as opened:
        several = getattr(opened, "is_animated", False) and opened.format != "MPO"  # whose others are previews
        deep_colour = any(";16" in str(tile) for tile in opened.tile) and not opened.mode.startswith("I")
        source, turned = upright(opened)
        deep, mode = _is_deep(opened), opened.mode
        image = convert_image(source, channels, window if deep else None)
        values = deep_values(source) if mode.startswith("I") else np.asarray(image)
        flat = source.has_transparency_data and shape_in_alpha(source)
    said = {DEEP: deep, TURNED: turned, FRAMES: several, ALPHA: flat, DEEP_COLOUR: deep_colour}
    resized = np.asarray(image.resize((image_size, image_size), Image.Resampling.BILINEAR))
    pixels = resized.reshape(image_size, image_size, channels).transpose(2, 0, 1)
    return Decoded(pixels, pixel_digest(values), image.size, mode, tuple(key for key, holds in said.items() if holds))


def is_deep(path: Path) -> bool:
    """Whether a file is greyscale beyond 8 bits whose format does not say which value is white, as PGM does. Only its
    head is read."""
    try:
        with opened_image(path) as opened:
            return _is_deep(opened)
    except Exception:  # what is wrong with it is said when it is decoded
        return False


def _is_deep(opened: Image.Image) -> bool:
    return opened.mode.startswith("I") and opened.format != "PPM"


def shape_in_alpha(image: Image.Image) -> bool:
    """Whether an image with transparency is of one colour, so that all it shows is where it is transparent."""
    values = np.asarray(image.convert("RGBA")).reshape(-1, 4)
    alike = values.min(0) == values.max(0)
    return bool(alike[:3].all() and not alike[3])


def find_window(files: Sequence[Path]) -> list[int] | None:
    """The :data:`PERCENTILES` of all pixels of ``files``, whole numbers low < high; None where there is no file.

    A window for each image would make them alike where their brightness is what tells classes apart.

    Args:
        files: images for which :func:`is_deep` holds, and which can be read.
    """
    counts, lock = np.zeros(65536, np.int64), Lock()

    def add(path: Path) -> None:
        with opened_image(path) as opened:
            opened.load()
            own = np.bincount(deep_values(opened).ravel(), minlength=65536)
        with lock:
            counts[:] += own

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(add, files))
    if not counts.any():
        return None
    low, high = (int(np.searchsorted(counts.cumsum(), share * counts.sum())) for share in PERCENTILES)
    if low == high:  # almost all pixels are alike
        low, high = int(np.flatnonzero(counts)[0]), int(np.flatnonzero(counts)[-1])
    return [low, max(high, low + 1)]


def read_images(
    root: Path,
    folder: str,
    files: Sequence[tuple[str, int]],
    split: str,
    channels: int,
    image_size: int,
    say: Callable[[str], None],
    window: list[int] | None = None,
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
        window: as in :func:`decode_image`.
    """
    images = np.zeros((len(files), channels, image_size, image_size), np.uint8)
    bad: list[str] = []
    passing = False

    def read(i: int) -> Record | Exception:
        path, label = files[i]
        try:
            images[i], digest, size, mode, remarks = decode_image(root / path, channels, image_size, window)
        except MemoryError:
            raise
        except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error and more
            return error
        return Record(path, split, label, digest, size, mode, remarks)

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
    return Half(images, records, bad, lasting=not passing, window=window)


def cause_of(error: Exception) -> str:
    """One short line. Pillow's own text for an unknown format repeats the path and nothing more."""
    if isinstance(error, UnidentifiedImageError):
        return "no image of a format that is read"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    return text[:300] or type(error).__name__
