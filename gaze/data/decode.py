"""From an image file to uint8 pixels: what each mode becomes, and a split's files decoded in threads."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError

from gaze.config.data import Window
from gaze.data import dicom
from gaze.data.audit import ALPHA, DEEP, DEEP_COLOUR, FRAMES, TURNED, Pixels, Record, file_and_frame, pixel_digest
from gaze.data.dicom import frames_of, is_dicom, read_dicom, read_header
from gaze.errors import ConfigError
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
MOST_VALUES = 1 << 24  # floating pixels that a window is found from
MERGED_AT_ONCE = 64  # images
PERCENTILES = (0.005, 0.995)  # of the training images' pixels: what becomes 0 and 255 beyond 8 bits


class Half(NamedTuple):
    """One split in memory: ``images`` (N, C, S, S) uint8 and ``masks`` (N, 1, S, S) where there are any.

    ``records[i]`` is None where image i (or its mask) could not be read; ``bad`` says why. ``lasting`` is False where
    the reason was not the file's content, so that it may be gone the next time. ``notes`` say what is odd but usable.
    ``window`` is what became 0 and 255 in images beyond 8 bits, where it was not the whole range.
    """

    images: Pixels
    records: list[Record | None]
    bad: list[str]
    masks: Pixels | None = None
    lasting: bool = True
    notes: Sequence[str] = ()
    window: Window = None


class Decoded(NamedTuple):
    """An image file: ``pixels`` (C, S, S) uint8; digest and size (W, H) before resizing; Pillow's mode; what is odd."""

    pixels: Pixels
    digest: bytes
    size: tuple[int, int]
    mode: str
    remarks: tuple[str, ...]


class Frame(NamedTuple):
    """One image as its file holds it: Pillow's ``image``, or ``values`` (H, W) whose range is not that of 8 bits.

    ``values`` are :func:`plain_values`; ``deep`` says whether a window is needed to show them; ``whole`` is the range
    that the file declares, None where it declares none; ``own``, ``inverted``: :class:`gaze.data.dicom.Dicom`.
    """

    mode: str
    remarks: tuple[str, ...]
    image: Image.Image | None = None
    values: NDArray[Any] | None = None
    deep: bool = False
    whole: tuple[float, float] | None = None
    own: NDArray[np.float64] | None = None
    inverted: bool = False


def plain_values(values: NDArray[Any]) -> NDArray[Any]:
    """The same numbers in one form, whatever file they come from: uint16 where that holds them, int64 where they are
    whole, else floating.

    Raises:
        ValueError: some are no finite numbers, or there is none.
    """
    if not np.isfinite(values).all():
        raise ValueError("pixels that are no numbers (NaN or infinite)")
    if values.dtype.kind == "f":
        if not (abs(values).max() < 2**53 and (values == np.rint(values)).all()):
            return values
        values = values.astype(np.int64)
    return values.astype(np.uint16 if values.min() >= 0 and values.max() <= 65535 else np.int64)


def limits(values: NDArray[Any], counts: NDArray[Any] | None = None) -> list[int] | list[float]:
    """The :data:`PERCENTILES` of some values: low < high; whole numbers where all are.

    Args:
        values: any shape, at least one.
        counts: how often each value occurs, of the same shape; None for once.
    """
    order = np.argsort(values, axis=None, kind="stable")
    ordered = values.ravel()[order]
    upto = np.arange(1, ordered.size + 1) if counts is None else counts.ravel()[order].cumsum()
    low, high = ordered[np.searchsorted(upto, np.array(PERCENTILES) * upto[-1])].tolist()
    if low == high:  # almost all pixels are alike
        low, high = ordered[[0, -1]].tolist()
    return [low, high if high > low else low + 1]


def grey_image(frame: Frame, window: Window = None) -> Image.Image:
    """A frame with values as an 8-bit image of mode L: ``low`` becomes 0 and ``high`` 255, rounded, what is outside is
    cut off; where the file says so, inverted then.

    Args:
        frame: with ``values``.
        window: [low, high]; "file": what the file says, else its whole range; "image": :func:`limits` of its own;
            None: the whole range, 0..65535 where the file declares none. It counts where the frame is ``deep``; "file"
            always.

    Raises:
        ValueError: values without a known range.
    """
    assert frame.values is not None
    if window == "file" and frame.own is not None:
        scaled = frame.own * 255
    else:
        low, high = _range_of(frame, window if frame.deep else None)
        scaled = (frame.values.astype(np.float64) - low) / (high - low) * 255
    image = Image.fromarray(np.rint(scaled.clip(0, 255)).astype(np.uint8))
    return ImageOps.invert(image) if frame.inverted else image


def _range_of(frame: Frame, window: Window) -> Sequence[float]:
    assert frame.values is not None
    if window == "image":
        return limits(frame.values)
    if window is not None and not isinstance(window, str):
        return window
    if frame.whole is None and frame.values.dtype != np.uint16:
        what = "floating-point" if frame.values.dtype.kind == "f" else "whole-number"
        raise ValueError(
            f"{what} pixels beyond 0..65535 have no fixed range: give it by dataset.window=[low,high], or take "
            "dataset.window=image, or save the image with 8 or 16 bits"
        )
    return frame.whole or (0, 65535)


def convert_image(image: Image.Image, channels: int) -> Image.Image:
    """An 8-bit image of mode L (``channels`` 1) or RGB (3), at its own size.

    Transparency is dropped, not blended: a transparent pixel shows the colour stored under it. Palettes and CMYK become
    RGB. Grey is Pillow's 0.299 R + 0.587 G + 0.114 B.
    """
    if image.mode == "P":
        image = image.convert("RGBA").convert("RGB")  # straight to RGB warns when the palette has transparency
    elif image.mode not in ("1", "L", "RGB"):
        image = image.convert("RGB")
    return image.convert("L" if channels == 1 else "RGB")


@contextmanager
def opened_image(file: BinaryIO) -> Iterator[ImageFile.ImageFile]:
    """An image of :data:`FORMATS`; only its head is read.

    Args:
        file: opened, since a TIFF file given by its name is mapped into memory, where Pillow (13.0) mixes up the sides
            of turned ones.

    Raises:
        Exception: whatever Pillow raises for a file that is damaged or not an image.
    """
    with Image.open(file, formats=FORMATS) as opened:
        yield opened


def upright(opened: Image.Image, orient: bool = True) -> tuple[Image.Image, bool]:
    """A file's image as a viewer shows it (its EXIF orientation applied), and whether that turned it. Of several frames
    the first.

    Args:
        opened: not loaded yet.
        orient: False leaves it as it is stored, but for a TIFF file, which Pillow turns.

    Raises:
        Exception: whatever Pillow raises for a file that is damaged or truncated.
    """
    before = _oriented(opened)  # of a TIFF file it is gone once the file is loaded, which turns it
    opened.load()  # raises on truncated data
    after = _oriented(opened) and orient  # of a PNG file it may stand behind the pixels
    return (ImageOps.exif_transpose(opened) if after else opened), after or (before and opened.format == "TIFF")


def _oriented(image: Image.Image) -> bool:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    except Exception:  # damaged EXIF data, which say nothing
        return False


def read_frame(path: Path, orient: bool = True, own: bool = False) -> Frame:
    """The first image of a file, or the one of ``FILE#NUMBER``.

    Args:
        path: of :data:`FORMATS`, or DICOM.
        orient: whether its EXIF orientation is applied.
        own: whether a DICOM file's own VOI is asked for.

    Raises:
        Exception: whatever the decoder raises for a file that is missing, damaged, truncated or not an image.
    """
    name, number = file_and_frame(str(path))
    with open_regular(Path(name), MOST_BYTES) as file:
        if is_dicom(file):
            found = read_dicom(file, number or 0, own)
            said = {DEEP: found.deep, FRAMES: found.frames > 1 and number is None}
            remarks = tuple(key for key, holds in said.items() if holds)
            values = plain_values(found.values)
            return Frame(found.mode, remarks, None, values, found.deep, found.whole, found.own, found.inverted)
        with opened_image(file) as opened:
            return _read_frame(opened, orient, number)


def _read_frame(opened: ImageFile.ImageFile, orient: bool, number: int | None) -> Frame:
    several = number is None and getattr(opened, "is_animated", False) and opened.format != "MPO"  # other: previews
    if number is not None:
        opened.seek(number)
    deep_colour = any(";16" in str(tile) for tile in opened.tile) and not opened.mode.startswith("I")
    source, turned = upright(opened, orient)
    deep, mode = _is_deep(opened), opened.mode
    flat = source.has_transparency_data and shape_in_alpha(source)
    said = {DEEP: deep, TURNED: turned, FRAMES: several, ALPHA: flat, DEEP_COLOUR: deep_colour}
    remarks = tuple(key for key, holds in said.items() if holds)
    if mode[0] not in "IF":
        return Frame(mode, remarks, source)
    values = np.asarray(source)
    if mode == "I" and _unsigned(opened):
        values = values.view(np.uint32)
    return Frame(mode, remarks, None, plain_values(values), deep)


def _unsigned(opened: Image.Image) -> bool:
    """Whether a TIFF file has whole numbers of 32 bits without a sign, of which Pillow has the sign alone."""
    tags = getattr(opened, "tag_v2", {})
    return tags.get(TiffImagePlugin.BITSPERSAMPLE) == (32,) and tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,)) == (1,)


def decode_image(
    path: Path,
    channels: int,
    image_size: int,
    window: Window = None,
    orient: bool = True,
    interpolation: str = "bilinear",
) -> Decoded:
    """Decode, convert (:func:`grey_image`, :func:`convert_image`) and resize (antialiased) one file.

    ``window`` is for files whose format does not say what their values mean: a PGM file has its own range.

    Raises:
        Exception: whatever the decoder raises for a file that is missing, damaged, truncated or not an image.
    """
    frame = read_frame(path, orient, own=window == "file")
    plain = frame.image if frame.values is None else grey_image(frame, window)
    assert plain is not None
    image = convert_image(plain, channels)
    resized = np.asarray(image.resize((image_size, image_size), Image.Resampling[interpolation.upper()]))
    pixels = resized.reshape(image_size, image_size, channels).transpose(2, 0, 1)
    return Decoded(pixels, pixel_digest(_compared(frame, image, channels)), image.size, frame.mode, frame.remarks)


def _compared(frame: Frame, image: Image.Image, channels: int) -> NDArray[Any]:
    """What two images must share to count as one: what is seen of 8 bits, beyond them the values."""
    if frame.values is None:
        return np.asarray(image)
    if not frame.deep and frame.whole is not None:  # DICOM of 8 bits, as if it had been saved as PNG
        return np.asarray(convert_image(grey_image(frame), channels))
    return plain_values(sum(frame.whole or (0, 0)) - frame.values) if frame.inverted else frame.values


def count_frames(path: Path) -> int:
    """Images in a file; 1 where it cannot be read, which is said when it is decoded. Only its head is read."""
    try:
        with open_regular(path, MOST_BYTES) as file:
            if is_dicom(file):
                return frames_of(read_header(file))
            with opened_image(file) as opened:
                return 1 if opened.format == "MPO" else int(getattr(opened, "n_frames", 1))  # whose others are previews
    except ConfigError:
        raise
    except Exception:
        return 1


def is_deep(path: Path) -> bool:
    """Whether a file is greyscale beyond 8 bits whose format does not say which value is white, as PGM does. Only its
    head is read."""
    try:
        with open_regular(path, MOST_BYTES) as file:
            if is_dicom(file):
                return dicom.is_deep(read_header(file))
            with opened_image(file) as opened:
                return _is_deep(opened)
    except Exception:  # what is wrong with it is said when it is decoded
        return False


def _is_deep(opened: Image.Image) -> bool:
    return opened.mode == "F" or (opened.mode.startswith("I") and opened.format != "PPM")


def shape_in_alpha(image: Image.Image) -> bool:
    """Whether an image with transparency is of one colour, so that all it shows is where it is transparent."""
    values = np.asarray(image.convert("RGBA")).reshape(-1, 4)
    alike = values.min(0) == values.max(0)
    return bool(alike[:3].all() and not alike[3])


def find_window(files: Sequence[Path]) -> list[int] | list[float] | None:
    """The :data:`PERCENTILES` of all pixels of ``files``, low < high; None where there is no file. Exact for whole
    numbers; of floating ones each image gives a share of :data:`MOST_VALUES`, at even ranks.

    A window for each image would make them alike where their brightness is what tells classes apart.

    Args:
        files: images for which :func:`is_deep` holds, and which can be read.
    """
    most = max(1000, MOST_VALUES // max(1, len(files)))

    def counted(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
        values = read_frame(path).values
        assert values is not None
        if values.dtype.kind == "f" and values.size > most:
            values, share = np.sort(values, axis=None), values.size / most
            return values[((np.arange(most) + 0.5) * share).astype(np.int64)], np.full(most, share)
        return np.unique(values, return_counts=True)

    kept: list[tuple[NDArray[Any], NDArray[Any]]] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, each in enumerate(pool.map(counted, files), 1):
            kept.append(each)
            if number % MERGED_AT_ONCE == 0:
                kept = [_merged(kept)]
    return limits(*_merged(kept)) if kept else None


def _merged(parts: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Distinct values, and how often each occurs."""
    values, counts = (np.concatenate(each) for each in zip(*parts, strict=True))
    distinct, place = np.unique(values, return_inverse=True)
    return distinct, np.bincount(place, counts)


def read_images(
    root: Path,
    folder: str,
    files: Sequence[tuple[str, int]],
    split: str,
    channels: int,
    image_size: int,
    say: Callable[[str], None],
    window: Window = None,
    orient: bool = True,
    interpolation: str = "bilinear",
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
        window, orient, interpolation: as in :func:`decode_image`.
    """
    images = np.zeros((len(files), channels, image_size, image_size), np.uint8)
    bad: list[str] = []
    passing = False

    def read(i: int) -> Record | Exception:
        path, label = files[i]
        try:
            found = decode_image(root / path, channels, image_size, window, orient, interpolation)
        except (MemoryError, ConfigError):
            raise
        except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error and more
            return error
        images[i] = found.pixels
        return Record(path, split, label, *found[1:])

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
