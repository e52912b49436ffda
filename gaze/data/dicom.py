"""DICOM files: the values of one frame, and what the file itself would have shown of them (pydicom; extra ``medical``).

Of the header only what says how pixels are read is looked at; nothing of it is kept, logged or copied.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gaze.errors import ConfigError

if TYPE_CHECKING:
    from pydicom import Dataset

INSTALL = "DICOM files need the extra medical: pip install 'gaze-consistency[medical]'"
DEFLATED = "1.2.840.10008.1.2.1.99"  # the whole file as one zlib stream, which pydicom inflates without a bound
TAGS = (
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter",
    "WindowWidth", "VOILUTFunction", "VOILUTSequence", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
EMPTY = ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth")  # may be there without a value


class Dicom(NamedTuple):
    """A frame behind its modality LUT or rescale (CT: Hounsfield units).

    Attributes:
        values: (H, W), whole numbers or floats, of either sign.
        whole: the lowest and the highest value that its bits can hold; None for floating pixels.
        own: (H, W) in 0..1, where the file has a VOI LUT or window (the first of several), which is looked at alone
            where it is asked for.
        inverted: MONOCHROME1: the lowest value is white.
        deep: more than 8 bits, or values other than the stored ones.
        mode: such as "MONOCHROME2, 12 bits".
        frames: in the file.
    """

    values: NDArray[Any]
    whole: tuple[float, float] | None
    own: NDArray[np.float64] | None
    inverted: bool
    deep: bool
    mode: str
    frames: int


def is_dicom(file: BinaryIO) -> bool:
    """Whether a file has the mark of DICOM behind its preamble. It is put back to its start."""
    mark = file.read(132)[128:]
    file.seek(0)
    return mark == b"DICM"


def read_header(file: BinaryIO, frame: int = 0) -> Dataset:
    """What of the header says how pixels are read: of an enhanced file, as it is for that frame.

    Raises:
        ConfigError: pydicom is not installed.
        ValueError: no pixels, several samples per pixel, colours from a palette, a transfer syntax that is not read.
    """
    try:
        from pydicom import dcmread
        from pydicom.filereader import read_dataset
        from pydicom.pixels import get_decoder
    except ImportError:
        raise ConfigError(INSTALL) from None
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # what it raises is said; its log has tracebacks
    file.seek(132)  # group 2, which stands first, alone
    syntax = read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2).get(
        "TransferSyntaxUID"
    )
    if syntax is None:
        raise ValueError("a DICOM file that names no transfer syntax")
    if syntax == DEFLATED:
        raise ValueError(_unread(syntax))
    file.seek(0)
    header = dcmread(file, stop_before_pixels=True, specific_tags=list(TAGS))
    file.seek(0)
    if not (header.get("Rows") and header.get("Columns")):
        raise ValueError("a DICOM file without pixels")
    samples, kind = header.get("SamplesPerPixel", 1), header.get("PhotometricInterpretation")
    if samples != 1 or kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(
            f"a DICOM file with colours ({kind}, samples per pixel: {samples}): only MONOCHROME1 and MONOCHROME2 are "
            "read; export colours as PNG"
        )
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise ValueError(_unread(syntax))
    _check_size(header)
    return _of_frame(header, frame)


def _unread(syntax: Any) -> str:
    return (
        f"compressed as {syntax.name} ({syntax}), which no decoder here reads; decompress it, as DCMTK's dcmdjpeg, "
        "dcmdjpls and dcmconv +te do"
    )


def _check_size(header: Dataset) -> None:
    """Pillow's bound on the pixels of an image."""
    most, pixels = Image.MAX_IMAGE_PIXELS, header.Rows * header.Columns
    if most is not None and pixels > 2 * most:
        raise ValueError(f"{pixels:,} pixels, and at most {2 * most:,} are read")


def _of_frame(header: Dataset, frame: int) -> Dataset:
    """Enhanced files say for all frames, or for each, what others say at the top."""
    groups = [*header.get("SharedFunctionalGroupsSequence", [])[:1]]
    groups += header.get("PerFrameFunctionalGroupsSequence", [])[frame : frame + 1]
    for group in groups:
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in group.get(name, [])[:1]:
                header.update({element.tag: element for element in item if element.keyword in TAGS})
    for name in EMPTY:
        if header.get(name, "") in (None, ""):
            header.pop(name, None)
    return header


def frames_of(header: Dataset) -> int:
    """Number of frames in a file."""
    return max(1, int(header.get("NumberOfFrames") or 1))


def is_deep(header: Dataset) -> bool:
    """As :class:`Dicom`."""
    rescaled = (float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))) != (1, 0)
    bits = int(header.get("BitsStored") or 64)  # floating pixels have none
    return bits > 8 or bool(header.get("PixelRepresentation")) or rescaled or "ModalityLUTSequence" in header


def read_dicom(file: BinaryIO, frame: int = 0, own: bool = False) -> Dicom:
    """One frame of a DICOM file.

    Args:
        file: at its start.
        frame: its number, from 0.
        own: whether the file's VOI is asked for.

    Raises:
        ConfigError, ValueError: as :func:`read_header`.
        Exception: whatever pydicom raises for a file that is damaged.
    """
    header = read_header(file, frame)
    from pydicom.pixels import apply_modality_lut, pixel_array

    try:
        stored = pixel_array(file, index=frame)
    except AttributeError as error:
        raise ValueError("a DICOM file without pixels" if "no pixel data" in str(error) else str(error)) from error
    except ValueError as error:
        raise ValueError(f"a DICOM file with damaged pixels: {error}") from error
    except RuntimeError as error:  # of a decoder: JPEG of 12 bits, say, or damaged data
        raise ValueError(f"{_unread(header.file_meta.TransferSyntaxUID)} ({error})") from error
    bits, signed = header.get("BitsStored"), bool(header.get("PixelRepresentation"))
    ends = None
    if stored.dtype.kind in "iu" and bits:
        ends = np.array([-(1 << bits - 1), (1 << bits - 1) - 1] if signed else [0, (1 << bits) - 1])
        stored = stored.astype(np.int64).clip(*ends)  # int64: pydicom counts the places in a LUT in the pixels' type
    values = apply_modality_lut(stored, header)
    whole = None if ends is None else _whole(ends, header)
    kind = str(header.PhotometricInterpretation)
    mode = f"{kind}, {bits} bits" if bits else f"{kind}, floating"
    shown = _own(values, header) if own else None
    return Dicom(values, whole, shown, kind == "MONOCHROME1", is_deep(header), mode, frames_of(header))


def _whole(ends: NDArray[np.int64], header: Dataset) -> tuple[float, float]:
    from pydicom.pixels import apply_modality_lut

    if "ModalityLUTSequence" in header:
        return 0.0, float((1 << header.ModalityLUTSequence[0].LUTDescriptor[2]) - 1)
    low, high = sorted(apply_modality_lut(ends, header).tolist())
    if not low < high:
        raise ValueError(f"a DICOM file whose rescale slope is {header.RescaleSlope}: no range of values is left")
    return low, high


def _own(values: NDArray[Any], header: Dataset) -> NDArray[np.float64] | None:
    """The file's VOI LUT, else its window, to 0..1; None where it has neither."""
    from pydicom.pixels import apply_voi, apply_windowing

    if header.get("VOILUTSequence"):
        table = header.VOILUTSequence[0]
        entries, first, bits = table.LUTDescriptor
        table.LUTDescriptor = [entries, first, 16]  # with 8, pydicom (3.0) counts the places in bytes
        return apply_voi(np.rint(values).astype(np.int64), header) / ((1 << bits) - 1)
    if "WindowCenter" not in header or "WindowWidth" not in header:
        return None
    # pydicom scales to what the stored bits hold: the two ends tell how.
    with np.errstate(over="ignore"):
        shown = apply_windowing(np.append(values.astype(np.float64), [-1e12, 1e12]), header)
    low, high = sorted(shown[-2:])
    return ((shown[:-2] - low) / (high - low)).reshape(values.shape)
